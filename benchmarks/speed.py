"""Time and error together, beside the peers, on the same pairs and cores in one run.

    python -m benchmarks.speed                                    # 0.06 to 4 megapixels, three models
    python -m benchmarks.speed --megapixels 1,4,16,64 --models affine --peers imgalign,opencv_ecc_pyramid
    python -m benchmarks.speed --busy 1 --peers imgalign --rounds 20  # beside a process that holds a core
    python -m benchmarks.speed --process                          # start-up and a whole run, files in and out
    python -m benchmarks.speed --memory                           # peak memory and time of a 100 megapixel pair

Decoded arrays in, matrix out, warm; medians of several rounds, in each of which the aligners take
turns, with a rest between them. Pairs are sums of plane waves with the spectrum of photographs,
evaluated at true transformed coordinates, with noise, in 8 bits. Writes speed.json, speed.md and two
pictures to `--output-dir`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers, scenes
from benchmarks.geometry import Matrix3, about, centre, corner_error, corners, homography_through, project, rotation

MODELS = ("translate", "affine", "homography")
SIZES = (0.0625, 0.25, 1.0, 4.0, 16.0, 64.0)
RIVALS = (
    *("opencv_ecc_pyramid", "opencv_ecc_multiscale", "opencv_sift", "sitk_linear", "itk_elastix", "greedy"),
    *("kornia_default", "pystackreg", "skimage_phase"),
)
_REST_S = 0.2  # until idle threads of the aligner before no longer spin: OpenBLAS's do for a tenth of a second


@dataclass(frozen=True)
class Timing:
    """One aligner on one pair."""

    model: str
    megapixels: float
    peer: str
    seconds: float  # median
    error_px: float
    stages: dict[str, float]  # imgalign's own, median round
    why: str


def small_motion(model: str, size_hw: tuple[int, int]) -> Matrix3:
    """What a pyramid of four levels still reaches: 2 degrees, 2 %, a shift of 1.2 % of the side."""
    linear = np.eye(2)
    if model != "translate":
        linear = 1.02 * rotation(np.radians(2)) @ np.array([[1.01, 0.005], [-0.004, 0.992]])
    shift = 0.012 * size_hw[1] * np.array([1.0, -0.6]) + [0.31, 0.17]
    matrix = about(linear, centre(size_hw), centre(size_hw) + shift)
    if model == "homography":
        push = 0.008 * size_hw[1] * np.array([[1, -0.6], [-0.5, 0.8], [0.4, 0.7], [-0.9, -0.4]])
        matrix = homography_through(corners(size_hw), project(matrix, corners(size_hw)) + push)
    return matrix


def _look(scene: scenes.Waves, matrix: Matrix3, size_hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """8 bit picture with noise, made in strips so that 64 megapixels fit."""
    out = np.empty(size_hw, np.uint8)
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // size_hw[1])
    for top in range(0, size_hw[0], step):
        strip = (min(step, size_hw[0] - top), size_hw[1])
        light = scene.picture(matrix @ peers.shift_by(0, top), strip)
        noisy = light + 3 * rng.standard_normal(strip, np.float32)
        out[top : top + strip[0]] = np.clip(np.round(noisy), 0, 255)
    return out


def make_pair(model: str, megapixels: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Matrix3]:
    """Fixed, moving, truth. A homography is no product of two waves, so it has fewer of them to sum."""
    side = round(np.sqrt(megapixels * 1e6))
    truth = small_motion(model, (side, side))
    scene = scenes.natural(np.random.default_rng(4), waves=48 if model == "homography" else 300)
    fixed = _look(scene, np.eye(3), (side, side), 1)
    return fixed, _look(scene, np.linalg.inv(truth), (side, side), 2), truth


def race(model: str, megapixels: float, names: list[str], rounds: int, slowest_s: float) -> Iterator[Timing]:
    """Time some aligners on one pair, taking turns; one that is too slow runs once."""
    fixed, moving, truth = make_pair(model, megapixels)
    side = min(256, *fixed.shape)
    for name in names:
        peers.solve(name, fixed[:side, :side], moving[:side, :side], model)  # imports, thread pools, code paths
    answers: dict[str, list[peers.Answer]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            if not answers[name] or answers[name][0].seconds < slowest_s / 3:
                time.sleep(_REST_S)
                answers[name].append(peers.solve(name, fixed, moving, model))
    for name, some in answers.items():
        seconds = statistics.median(a.seconds for a in some)
        middle = min(some, key=lambda a: abs(a.seconds - seconds))
        error = corner_error(middle.matrix, truth, (fixed.shape[0], fixed.shape[1]))
        stages = dict(getattr(middle.details, "seconds", {}))
        yield Timing(model, megapixels, name, seconds, error, stages, middle.why)


def tables(timings: list[Timing]) -> Iterator[str]:
    """Markdown: every timing, then imgalign against the fastest peer that is as exact, then its stages."""
    yield "| model | megapixels | aligner | ms | corner error px |\n|---|---|---|---|---|"
    for t in timings:
        yield f"| {t.model} | {t.megapixels:g} | {t.peer} | {1e3 * t.seconds:.0f} | {t.error_px:.4f} |"
    ours = [t for t in timings if t.peer == "imgalign"]
    if ours:
        yield "\n| model | megapixels | fastest as exact | times as fast | stages, ms |\n|---|---|---|---|---|"
    for t in ours:
        same = [o for o in timings if (o.model, o.megapixels) == (t.model, t.megapixels) and o is not t]
        equal = sorted((o for o in same if o.error_px <= t.error_px), key=lambda o: o.seconds)
        best = f"{equal[0].peer} | {equal[0].seconds / t.seconds:.2f}" if equal else "none | "
        stages = ", ".join(f"{k} {1e3 * v:.0f}" for k, v in t.stages.items())
        yield f"| {t.model} | {t.megapixels:g} | {best} | {stages} |"
    for model in dict.fromkeys(t.model for t in ours):
        by_size = {t.megapixels: t.seconds for t in ours if t.model == model}
        if {1.0, 64.0} <= by_size.keys():
            yield f"\n{model}: from 1 to 64 megapixels {by_size[64.0] / by_size[1.0]:.1f} times as long."


def draw(timings: list[Timing], folder: Path) -> None:
    """Time against size, time against error."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(t.model for t in timings))
    sizes = sorted({t.megapixels for t in timings})
    for path, label in (("speed_size.png", "megapixels"), ("speed_error.png", "corner error, px")):
        figure, axes = plt.subplots(
            1, len(models), figsize=(4 * len(models), 3.6), sharey=True, layout="constrained", squeeze=False
        )
        for axis, model in zip(axes[0], models, strict=True):
            for name in dict.fromkeys(t.peer for t in timings):
                mine = [t for t in timings if t.model == model and t.peer == name and np.isfinite(t.error_px)]
                across = [t.megapixels if label == "megapixels" else t.error_px for t in mine]
                thick = {"color": "black", "lw": 2.4} if name == "imgalign" else {"lw": 1.0}
                line = "o-" if label == "megapixels" else "o"
                axis.plot(across, [t.seconds for t in mine], line, ms=4, label=name, **thick)
            axis.set(xscale="log", yscale="log", title=model, xlabel=label)
            if label == "megapixels":
                axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
                axis.minorticks_off()
            axis.grid(alpha=0.3)
        axes[0, 0].set_ylabel("seconds")
        axes[0, -1].legend(fontsize=6)
        figure.savefig(folder / path, dpi=130)
        plt.close(figure)


def write(timings: list[Timing], folder: Path) -> None:
    """Record, tables and pictures."""
    record: list[dict[str, Any]] = [asdict(t) for t in timings]
    (folder / "speed.json").write_text(json.dumps(record, indent=1), "utf-8")
    text = "\n".join(tables(timings))
    (folder / "speed.md").write_text(text + "\n", "utf-8")
    print(text)
    draw(timings, folder)


@contextmanager
def _beside(processes: int) -> Iterator[None]:
    """So many processes that each hold a core."""
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", default="0.0625,0.25,1,4")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--peers", default=",".join(("imgalign", *RIVALS)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slowest", type=float, default=60.0, help="seconds; a slower aligner sits out larger sizes")
    parser.add_argument("--busy", type=int, default=0, help="processes that count beside it, as on a machine of others")
    parser.add_argument("--process", action="store_true", help="time whole processes instead")
    parser.add_argument("--memory", action="store_true", help="100 megapixels instead")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/out"))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if options.process or options.memory:
        from benchmarks import speed_process

        speed_process.report(startup=options.process, memory=options.memory)
        return
    print(f"{os.cpu_count()} cores, {peers.THREADS} threads", file=sys.stderr)
    names = [n for n in options.peers.split(",") if peers.available(n)]
    timings: list[Timing] = []
    with _beside(options.busy):
        for model in options.models.split(","):
            slow: set[str] = set()
            for megapixels in sorted(float(m) for m in options.megapixels.split(",")):
                able = [n for n in names if model in peers.PEERS[n].models and n not in slow]
                for timing in race(model, megapixels, able, options.rounds, options.slowest):
                    print(timing, file=sys.stderr, flush=True)
                    timings.append(timing)
                    if timing.seconds * 4 > options.slowest:
                        slow.add(timing.peer)
    write(timings, options.output_dir)


if __name__ == "__main__":
    main()
