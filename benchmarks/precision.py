"""How near each aligner comes to the Cramér-Rao bound, and whether imgalign's error bars are true.

    python -m benchmarks.precision --trials 200 --jobs 2
    python -m benchmarks.precision --cells "field0.4/*/affine" --peers imgalign,pystackreg
    python -m benchmarks.precision --cells "*/none/*" --trials 20          # without noise: errors in px

A cell is SCENE/NOISE/MODEL. Scenes: field0.15, field0.4, natural, spots (formulas, evaluated at true
transformed coordinates) and photo (300 x 300 cut from a photograph, through a lens that lets nothing
alias). Noise: g2, g10, g30 (Gaussian, grey levels at a contrast of 50), g30-5 and g5-30 (30 in the fixed
and 5 in the moving picture, and the reverse), p2, p10, p30 (photon noise of that strength at mean grey,
scenes raised until there is no light less than none), none; with
`+occluded` a sixth of the moving picture is hidden, with `+masked` it is hidden and masked, with `+striped` three
tenths of both are, in stripes at one place, as of a scanner with a broken part. `g0.5` and `g50` work as well.
Every trial has its own scene, sub-pixel transform, gain and noise.

Columns: `ratio` root mean square of error over bound (px of error without noise); `solved` share
under 1 px, over which the others are taken; `floor` least ratio for a Gaussian scene that is not
known beforehand; `nees` mean squared error in units of the stated covariance (1 is honest); `in 95 %`
share of truths inside the stated ellipse; `bias x`, `bias scale` mean error in units of its own standard
error.
"""

import argparse
import fnmatch
import itertools
import json
import multiprocessing
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers, scenes
from benchmarks.bound import corner_bound, directions, unknown_scene
from benchmarks.geometry import Matrix3, about, centre, corner_error, corners, project, rotation

SCENES = ("field0.15", "field0.4", "natural", "spots", "photo")
NOISES = ("none", "g2", "g10", "g30", "g30-5", "g5-30", "p10", "g10+occluded", "g10+masked", "g2+striped")
MODELS = ("translate", "rigid", "similarity", "affine")
RIVALS = ("opencv_ecc", "opencv_ecc_multiscale", "skimage_phase", "sitk_linear", "pystackreg")
CHI2_95 = {2: 5.991, 3: 7.815, 4: 9.488, 6: 12.592}
INSET = 1.0  # pixels of border that no interpolation can use


@dataclass(frozen=True)
class Trial:
    """One pair and what can be known about it beforehand."""

    model: str
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    masks: dict[str, NDArray[np.float32]]  # by what `imgalign.align` calls them
    truth: Matrix3
    bound: NDArray[np.float64] | None  # (8, 8) px^2, None without noise
    floor: float  # least error over that bound if the scene is not known beforehand


@dataclass(frozen=True)
class Outcome:
    """One aligner on one trial."""

    cell: str
    peer: str
    error_px: float  # mean corner distance
    ratio: float  # root mean square corner error over the bound; the error itself without noise
    floor: float
    shift_x: float  # of the centre, px
    log_scale: float
    nees: float
    inside: bool
    seconds: float


def small_transform(rng: np.random.Generator, model: str, size_hw: tuple[int, int]) -> Matrix3:
    """Sub-pixel shift, and a rotation, scale and shear that move the corners by about half a pixel."""
    reach = 0.5 / (max(size_hw) / 2)
    linear = np.eye(2)
    if model != "translate":
        linear = rotation(rng.uniform(-reach, reach))
    if model in ("similarity", "affine"):
        linear = linear * np.exp(rng.uniform(-reach, reach))
    if model == "affine":
        linear = linear @ (np.eye(2) + rng.uniform(-reach, reach, (2, 2)))
    return about(linear, centre(size_hw), centre(size_hw) + rng.uniform(-0.5, 0.5, 2))


def strengths(noise: str) -> tuple[float, float]:
    """Standard deviations in the fixed and the moving picture that a code stands for: `g10`, `g30-5`, `none`."""
    if noise == "none":
        return 0.0, 0.0
    of_fixed, _, of_moving = noise[1:].partition("-")
    return float(of_fixed), float(of_moving or of_fixed)


def make_trial(cell: str, index: int, side: int) -> Trial:
    """The pair of that number in a cell."""
    name, noise, model = cell.split("/")
    noise, _, hiding = noise.partition("+")
    kind, sigmas = ("poisson" if noise[0] == "p" else "gaussian"), strengths(noise)
    rng = np.random.default_rng([zlib.crc32(cell.encode()), index])
    size_hw = (300, 300) if name == "photo" else (side, side)
    scene = scenes.make(name, rng, size_hw)
    truth = small_transform(rng, model, size_hw)
    look = about(np.eye(2), np.zeros(2), rng.uniform(0, 1, 2))
    gain = rng.uniform(0.9, 1.1)
    clean = scene.picture(look, size_hw)
    there = scene.picture(look @ np.linalg.inv(truth), size_hw)
    if kind == "poisson":
        # There is no light less than none, and a field cut there would have kinks that no pixels can hold.
        lift = max(0.0, -float(min(clean.min(), there.min())))
        clean, there = clean + lift, there + lift
    there = there * gain
    fixed, moving = (scenes.noisy(rng, p, kind, sigma) for p, sigma in zip((clean, there), sigmas, strict=True))
    of_fixed, of_moving = scenes.variance(clean, kind, sigmas[0]), scenes.variance(there, kind, sigmas[1])
    variance = of_moving + gain**2 * of_fixed
    hidden = np.zeros(size_hw, bool)
    if hiding == "striped":
        y, x = np.indices(size_hw)
        hidden = (x + 0.3 * y) % 40 < 12
        fixed[hidden] = rng.uniform(0, 255)
    elif hiding:
        low = rng.integers(0, side * 6 // 10, 2)
        hidden[low[1] : low[1] + side * 4 // 10, low[0] : low[0] + side * 4 // 10] = True
    if hiding:
        moving[hidden] = rng.uniform(0, 255)
        variance[hidden] = 1e12
    masked = {"masked": ("moving_mask",), "striped": ("mask", "moving_mask")}.get(hiding, ())
    bound, floor = None, 1.0
    if any(sigmas):
        slopes = gain * scene.slopes(look, size_hw)
        bound = corner_bound(model, gain * clean, slopes, variance, truth, size_hw, size_hw, inset=INSET)
        floor = unknown_scene(clean, float(np.median(of_fixed)), float(np.median(of_moving)) / gain**2)
    return Trial(
        model,
        fixed.astype(np.float32),
        moving.astype(np.float32),
        {name: (~hidden).astype(np.float32) for name in masked},
        truth,
        bound,
        floor,
    )


def honesty(covariance: NDArray[Any] | None, estimate: Matrix3, trial: Trial) -> tuple[float, bool]:
    """Squared error per free number in units of the stated covariance, and whether its 95 % ellipse holds the truth.

    The eight corner coordinates of a model with fewer free numbers are dependent, so both are
    taken in the model's own numbers.
    """
    if covariance is None or trial.model not in ("translate", "rigid", "similarity", "affine"):
        return float("nan"), False
    ends = project(trial.truth, corners(trial.fixed.shape[:2]))
    error = (project(estimate, corners(trial.fixed.shape[:2])) - ends).ravel()
    to_numbers = np.linalg.pinv(directions(trial.model, ends, ends.mean(0)).reshape(8, -1))
    numbers, spread = to_numbers @ error, to_numbers @ np.asarray(covariance, float) @ to_numbers.T
    unit = np.sqrt(np.diag(spread))
    if not (np.isfinite(unit).all() and (unit > 0).all()):
        return float("nan"), False
    square = float((numbers / unit) @ np.linalg.solve(spread / np.outer(unit, unit), numbers / unit))
    return square / numbers.size, square <= CHI2_95[numbers.size]


def judge(cell: str, peer: str, trial: Trial) -> Outcome:
    """Run one aligner on one trial."""
    options: dict[str, Any] = {"precision": 1e-6} if peer == "imgalign" else {}  # never stop early
    if peer == "imgalign":
        options.update(trial.masks)
    answer = peers.solve(peer, trial.fixed, trial.moving, trial.model, **options)
    size_hw = trial.fixed.shape[:2]
    error = corner_error(answer.matrix, trial.truth, size_hw)
    if answer.matrix is None or not np.isfinite(error):
        return Outcome(
            cell, peer, float("inf"), float("inf"), trial.floor, 0.0, 0.0, float("nan"), False, answer.seconds
        )
    ends = corners(size_hw)
    away = project(answer.matrix, ends) - project(trial.truth, ends)
    ratio = np.sqrt((away**2).sum(1).mean())
    if trial.bound is not None:
        ratio /= np.sqrt(np.trace(trial.bound) / 4)
    residual = answer.matrix @ np.linalg.inv(trial.truth)
    middle = project(trial.truth, centre(size_hw)[None])
    shift_x = float((project(residual, middle) - middle)[0, 0])
    log_scale = 0.5 * float(np.log(abs(np.linalg.det(residual[:2, :2]))))
    nees, inside = honesty(getattr(answer.details, "corner_covariance", None), answer.matrix, trial)
    return Outcome(cell, peer, error, float(ratio), trial.floor, shift_x, log_scale, nees, inside, answer.seconds)


def _job(task: tuple[str, int, int, tuple[str, ...]]) -> list[Outcome]:
    cell, index, side, names = task
    trial = make_trial(cell, index, side)
    return [judge(cell, name, trial) for name in names if trial.model in peers.PEERS[name].models]


def summary(outcomes: list[Outcome]) -> dict[str, float]:
    """Figures of one aligner in one cell."""
    good = [o for o in outcomes if o.error_px < 1]
    nees = np.array([o.nees for o in good if np.isfinite(o.nees)])

    def bias(values: list[float]) -> float:
        v = np.array(values)
        return float(v.mean() / (v.std(ddof=1) / np.sqrt(v.size))) if v.size > 2 and v.std() > 1e-9 else float("nan")

    return {
        "ratio": float(np.sqrt(np.mean([o.ratio**2 for o in good]))) if good else float("nan"),
        "floor": float(np.sqrt(np.mean([o.floor**2 for o in outcomes]))),
        "solved": len(good) / len(outcomes),
        "nees": float(nees.mean()) if nees.size else float("nan"),
        "inside": float(np.mean([o.inside for o in good if np.isfinite(o.nees)])) if nees.size else float("nan"),
        "bias_x": bias([o.shift_x for o in good]),
        "bias_scale": bias([o.log_scale for o in good]),
        "ms": 1e3 * float(np.median([o.seconds for o in outcomes])),
    }


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| cell | aligner | n | solved | ratio | floor | nees | in 95 % | bias x | bias scale | ms |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for (cell, peer), group in itertools.groupby(outcomes, key=lambda o: (o.cell, o.peer)):
        rows = list(group)
        s = summary(rows)
        unit = f"{s['ratio']:.5f} px" if "/none/" in cell else f"{s['ratio']:.3f}"
        own = f"{s['nees']:.2f} | {100 * s['inside']:.0f}" if np.isfinite(s["nees"]) else " | "
        yield (
            f"| {cell} | {peer} | {len(rows)} | {100 * s['solved']:.0f} | {unit} | {s['floor']:.2f} | {own} "
            f"| {s['bias_x']:+.1f} | {s['bias_scale']:+.1f} | {s['ms']:.0f} |"
        )


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Error over bound, cell by cell."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cells = list(dict.fromkeys(o.cell for o in outcomes if "/none/" not in o.cell))
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.28 * max(1, len(cells))), layout="constrained")
    for name in dict.fromkeys(o.peer for o in outcomes):
        mine = [[o for o in outcomes if o.cell == c and o.peer == name] for c in cells]
        at = [summary(m)["ratio"] if m else np.nan for m in mine]
        axes.plot(at, range(len(cells)), "o" if name == "imgalign" else ".", label=name)
    axes.axvline(1, color="grey", lw=1)
    axes.set(xscale="log", xlabel="root mean square error / Cramér-Rao bound", yticks=range(len(cells)))
    axes.set_yticklabels(cells, fontsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def choose(patterns: str, noises: tuple[str, ...] = NOISES) -> list[str]:
    """Cells that match one of the comma-separated patterns, and those that are named in full."""
    every = ["/".join(c) for c in itertools.product(SCENES, noises, MODELS)]
    chosen = [c for c in every if any(fnmatch.fnmatch(c, p) for p in patterns.split(","))]
    named = [p for p in patterns.split(",") if p.count("/") == 2 and "*" not in p]
    return chosen + [c for c in named if c not in chosen]


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="field*/g*[02]/*,natural/g10/*,spots/g10/*,*/p10/similarity,field*/none/*")
    parser.add_argument("--peers", default=",".join(("imgalign", *RIVALS)))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--side", type=int, default=160, help="of the pictures, px")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/out"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = choose(options.cells)
    names = tuple(n for n in options.peers.split(",") if peers.available(n))
    print(f"{len(cells)} cells of {options.trials} trials; {', '.join(names)}", file=sys.stderr)
    outcomes: list[Outcome] = []
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for cell in cells:
            tasks = [(cell, i, options.side, names) for i in range(options.trials)]
            done = [o for part in pool.imap_unordered(_job, tasks, chunksize=4) for o in part]
            done.sort(key=lambda o: names.index(o.peer))
            outcomes += done
            print("\n".join(list(table(done))[0 if cell == cells[0] else 2 :]), flush=True)
    record = [asdict(o) for o in outcomes]
    (options.output_dir / "precision.json").write_text(json.dumps(record), "utf-8")
    draw(outcomes, options.output_dir / "precision.png")


if __name__ == "__main__":
    main()
