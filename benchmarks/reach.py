"""How far each aligner reaches, and whether it knows when it failed.

    python -m benchmarks.reach --count 100 --unrelated 300 --jobs 2
    python -m benchmarks.reach --peers imgalign --keep      # others from the last run's file

Pairs are rendered from photographs inside installed packages (see `pairs`), stratified in models and
easy, medium, hard; `--kinds` adds repetitive, stars and modal. Written to `--output-dir`: reach.json
(a record an attempt), reach.md (tables), reach_threshold.png, reach_geometry.png and
reach_calibration.png.

An answer is right under 1 px of mean corner error and wrong over 3 px. `false` are wrong answers
given without a word of doubt, `refused` right answers that were doubted, as shares of all pairs.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pairs, peers
from benchmarks.geometry import MODELS, centre, corner_error, project

RIVALS = (
    *("opencv_sift", "opencv_sift_ecc", "opencv_ecc_pyramid", "opencv_ecc_multiscale", "sitk_linear"),
    *("kornia_default", "pystackreg", "imreg_dft", "skimage_phase"),
)
RIGHT_PX, WRONG_PX = 1.0, 3.0


@dataclass(frozen=True)
class Attempt:
    """One aligner on one pair."""

    pair: str
    kind: str
    model: str
    difficulty: str
    tags: tuple[str, ...]
    peer: str
    error_px: float  # infinite: no answer, or nothing to find
    trusted: bool
    seconds: float
    probability: float  # that the aligner states; NaN where it states none
    sigma_px: float  # predicted corner error
    tolerance_px: float  # what the probability is about: 1 % of the diagonal, at most 3 px
    overlap: float
    rotation_deg: float
    scale: float
    why: str


def motion(pair: pairs.Pair) -> tuple[float, float]:
    """Rotation in degrees and scale of a pair at the middle of the fixed picture; NaN where unrelated."""
    if pair.moving_from_fixed is None:
        return float("nan"), float("nan")
    middle = centre((pair.fixed.shape[0], pair.fixed.shape[1]))
    ends = project(pair.moving_from_fixed, middle + np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]]))
    along, down = ends[0] - ends[1], ends[2] - ends[3]
    angle = np.degrees(np.arctan2(along[1] - down[0], along[0] + down[1]))
    return float(angle), float(np.sqrt(abs(along[0] * down[1] - along[1] * down[0])))


def attempt(pair: pairs.Pair, kind: str, peer: str) -> Attempt:
    """Align and score one pair."""
    answer = peers.solve(peer, pair.fixed, pair.moving, pair.model)
    size = (pair.fixed.shape[0], pair.fixed.shape[1])
    truth = pair.moving_from_fixed
    angle, scale = motion(pair)
    return Attempt(
        pair=pair.id,
        kind=kind,
        model=pair.model,
        difficulty=pair.difficulty,
        tags=pair.tags,
        peer=peer,
        error_px=float("inf") if truth is None else corner_error(answer.matrix, truth, size),
        trusted=answer.trusted,
        seconds=answer.seconds,
        probability=float(getattr(answer.details, "probability", float("nan"))),
        sigma_px=float(getattr(answer.details, "corner_sigma_px", float("nan"))),
        tolerance_px=min(WRONG_PX, 0.01 * float(np.hypot(*size))),
        overlap=pair.overlap,
        rotation_deg=angle,
        scale=scale,
        why=answer.why,
    )


def _job(task: tuple[str, int, int, tuple[str, ...]]) -> list[Attempt]:
    kind, index, seed, names = task
    pair = pairs.pair(kind, index, seed)
    return [attempt(pair, kind, n) for n in names if pair.model in peers.PEERS[n].models]


def run(tasks: list[tuple[str, int, int, tuple[str, ...]]], jobs: int) -> Iterator[Attempt]:
    """All attempts, in any order, with progress on stderr."""
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, part in enumerate(pool.imap_unordered(_job, tasks, chunksize=2), 1):
            yield from part
            if done % 20 == 0 or done == len(tasks):
                print(f"{done} of {len(tasks)} pairs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def figures(rows: list[Attempt]) -> dict[str, float]:
    """Shares and medians of one aligner over related pairs."""
    error = np.array([r.error_px for r in rows])
    trusted = np.array([r.trusted for r in rows])
    good = error[error < WRONG_PX]
    return {
        "n": len(rows),
        "right": float((error < RIGHT_PX).mean()),
        "near": float((error < WRONG_PX).mean()),
        "median_px": float(np.median(good)) if good.size else float("nan"),
        "false": float((trusted & (error > WRONG_PX)).mean()),
        "refused": float((~trusted & (error < RIGHT_PX)).mean()),
        "ms": 1e3 * float(np.median([r.seconds for r in rows])),
    }


def _line(name: str, group: str, rows: list[Attempt]) -> str:
    f = figures(rows)
    shares = [f"{100 * f[k]:.1f}" for k in ("right", "near", "false", "refused")]
    return (
        f"| {group} | {name} | {f['n']:.0f} | {shares[0]} | {shares[1]} | {f['median_px']:.3f} | {shares[2]} "
        f"| {shares[3]} | {f['ms']:.0f} |"
    )


HEADER = "| pairs | aligner | n | < 1 px % | < 3 px % | median px | false % | refused % | ms |"
HEADER += "\n" + "|---" * 9 + "|"


def tables(attempts: list[Attempt]) -> Iterator[str]:
    """Markdown: by kind, by model, unrelated pairs, calibration."""
    related = [a for a in attempts if a.kind != "unrelated"]
    names = list(dict.fromkeys(a.peer for a in attempts))
    kinds = [k for k in (*pairs.DIFFICULTIES, *pairs.KINDS) if any(a.kind == k for a in related)]
    yield HEADER
    for kind, name in itertools.product(kinds, names):
        if rows := [a for a in related if a.kind == kind and a.peer == name]:
            yield _line(name, kind, rows)
    yield f"\n{HEADER}"
    for model, kind, name in itertools.product(MODELS, pairs.DIFFICULTIES, names):
        if rows := [a for a in related if a.model == model and a.kind == kind and a.peer == name]:
            yield _line(name, f"{model} {kind}", rows)
    yield "\n| unrelated pairs | n | trusted |\n|---|---|---|"
    for name in names:
        if rows := [a for a in attempts if a.kind == "unrelated" and a.peer == name]:
            yield f"| {name} | {len(rows)} | {sum(a.trusted for a in rows)} |"
    yield "\n| stated probability | n | stated | observed |\n|---|---|---|---|"
    for low, count, stated, observed in calibration(attempts):
        yield f"| {low:.1f} to {low + 0.1:.1f} | {count} | {stated:.3f} | {observed:.3f} |"
    yield from _error_bar_table([a for a in related if a.trusted and np.isfinite(a.sigma_px)])


def _error_bar_table(known: list[Attempt]) -> Iterator[str]:
    plain = tuple(pairs.DIFFICULTIES)
    groups = {"all": {a.kind for a in known}, ", ".join(plain): set(plain)}
    groups |= {kind: {kind} for kind in pairs.KINDS if kind not in plain}
    yield "\n| pairs | trusted, with an error bar | within 3 sigma % | rank correlation |\n|---|---|---|---|"
    for title, kinds in groups.items():
        if rows := [a for a in known if a.kind in kinds]:
            yield "| {} | {} | {:.1f} | {:.2f} |".format(title, *error_bars(rows))


def error_bars(rows: list[Attempt]) -> tuple[int, float, float]:
    """How many, the share in per cent within three predicted sigmas, and Spearman's correlation of error and sigma."""
    error, sigma = (np.array([getattr(a, name) for a in rows]) for name in ("error_px", "sigma_px"))
    ranks = [np.argsort(np.argsort(x)) for x in (error, sigma)]
    return len(rows), 100 * float(np.mean(error < 3 * sigma)), float(np.corrcoef(*ranks)[0, 1])


def calibration(attempts: Iterable[Attempt], bins: int = 10) -> Iterator[tuple[float, int, float, float]]:
    """Lower end, number, mean stated and observed share right, of each bin of the stated probability."""
    said = [a for a in attempts if np.isfinite(a.probability)]
    for k in range(bins):
        rows = [a for a in said if k / bins <= a.probability < (k + 1) / bins or (k == bins - 1 and a.probability == 1)]
        if rows:
            right = np.mean([a.error_px < a.tolerance_px for a in rows])
            yield k / bins, len(rows), float(np.mean([a.probability for a in rows])), float(right)


def load(path: Path) -> list[Attempt]:
    """Attempts of an earlier run."""
    records: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return [Attempt(**{**r, "tags": tuple(r["tags"])}) for r in records]


def main() -> None:
    """Run, write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="pairs of each kind")
    parser.add_argument("--kinds", default="easy,medium,hard")
    parser.add_argument("--unrelated", type=int, default=0, help="pairs that have nothing in common")
    parser.add_argument("--seed", type=int, default=2025, help="calibrate on other seeds than you score on")
    parser.add_argument("--peers", default=",".join(("imgalign", *RIVALS)))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the other aligners' attempts of the last run")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/out"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.jobs)))
    names = tuple(n for n in options.peers.split(",") if peers.available(n))
    counts = {**dict.fromkeys(options.kinds.split(","), options.count), "unrelated": options.unrelated}
    tasks = [(kind, i, options.seed, names) for kind, count in counts.items() for i in range(count)]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path = options.output_dir / "reach.json"
    kept = [a for a in load(path) if a.peer not in names] if options.keep and path.exists() else []
    attempts = [*run(tasks, options.jobs), *kept]
    order = ("imgalign", *RIVALS)
    attempts.sort(key=lambda a: (order.index(a.peer) if a.peer in order else len(order), a.pair))
    path.write_text(json.dumps([asdict(a) for a in attempts]), "utf-8")
    text = "\n".join(tables(attempts))
    (options.output_dir / "reach.md").write_text(text + "\n", "utf-8")
    print(text)
    from benchmarks import reach_pictures

    reach_pictures.draw(attempts, options.output_dir)


if __name__ == "__main__":
    main()
