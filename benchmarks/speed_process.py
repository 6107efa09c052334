"""Whole processes: start-up, one pair of files, and a 100 megapixel pair with its peak memory."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed import make_pair, small_motion

PYTHON = sys.executable
IMGALIGN = [PYTHON, "-m", "imgalign"]


def run(command: list[str]) -> tuple[float, float, int]:
    """Wall seconds, peak resident megabytes and exit status of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, process.returncode


def medians(commands: dict[str, list[str]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of some commands that take turns, after one round to warm the disk cache."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds, _, status = run(command)
            if status not in (0, 3):
                print(f"{name} ended with status {status}", file=sys.stderr)
            if number:
                taken[name].append(seconds)
    return {name: statistics.median(t) for name, t in taken.items()}


def _startup() -> None:
    """Ratios of start-up, and of one 512 x 512 pair with files in and out, to bare imports."""
    fixed, moving, _ = make_pair("affine", 512**2 / 1e6)
    with tempfile.TemporaryDirectory() as folder:
        a, b = f"{folder}/fixed.png", f"{folder}/moving.png"
        Image.fromarray(fixed).save(a)
        Image.fromarray(moving).save(b)
        whole = [*IMGALIGN, "affine", a, b, "--output-dir", folder, "--overwrite", "-q"]
        commands = {
            "import torch": [PYTHON, "-c", "import torch"],
            "imgalign affine, 512 x 512": whole,
            "import click": [PYTHON, "-c", "import click"],
            "imgalign --help": [*IMGALIGN, "--help"],
        }
        taken = medians(commands)
    print("| process | s | of |\n|---|---|---|")
    for name, base in (("imgalign affine, 512 x 512", "import torch"), ("imgalign --help", "import click")):
        print(f"| {base} | {taken[base]:.2f} | |")
        print(f"| {name} | {taken[name]:.2f} | {taken[name] / taken[base]:.2f} times `{base}` |")


def _large_pair(folder: Path, side: int) -> tuple[Path, Path]:
    """Two RGB files: a mosaic of tiles from a formula, each seen at its own coordinates."""
    from benchmarks import peers, scenes

    scene = scenes.natural(np.random.default_rng(4), waves=120, longest_px=side)
    truth = small_motion("affine", (side, side))
    paths = folder / "fixed.png", folder / "moving.png"
    for path, matrix in zip(paths, (np.eye(3), np.linalg.inv(truth)), strict=True):
        pixels = np.empty((side, side, 3), np.uint8)
        for top in range(0, side, 250):
            strip = scene.picture(matrix @ peers.shift_by(0, top), (min(250, side - top), side))
            for channel, gain in enumerate((1.0, 0.9, 0.8)):
                pixels[top : top + 250, :, channel] = np.clip(gain * strip, 0, 255)
        Image.fromarray(pixels).save(path, compress_level=1)
    return paths


def _memory(side: int = 10_000) -> None:
    """Peak memory and time of one large pair, and what decoding both and encoding one takes Pillow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed, moving = _large_pair(folder, side)
        plain = (
            "import sys\nfrom PIL import Image\nImage.MAX_IMAGE_PIXELS = None\n"
            "a, b = (Image.open(p) for p in sys.argv[1:3])\na.load()\nb.load()\nb.save(sys.argv[3])"
        )
        pillow_s, pillow_mb, _ = run([PYTHON, "-c", plain, str(fixed), str(moving), str(folder / "copy.png")])
        torch_s, _, _ = run([PYTHON, "-c", "import torch"])
        out = folder / "out"
        out.mkdir()
        ours_s, ours_mb, status = run([*IMGALIGN, "affine", str(fixed), str(moving), "--output-dir", str(out)])
    print("| 100 megapixels, RGB | s | peak MB |\n|---|---|---|")
    print(f"| Pillow: decode both, encode one | {pillow_s:.1f} | {pillow_mb:.0f} |")
    print(f"| import torch | {torch_s:.1f} | |")
    print(f"| imgalign affine (status {status}) | {ours_s:.1f} | {ours_mb:.0f} |")
    allowed_s = 2 * pillow_s + torch_s
    print(f"\nimgalign takes {ours_s / allowed_s:.2f} of twice Pillow's time and the import of torch.")


def report(*, startup: bool, memory: bool) -> None:
    """Print the tables that were asked for."""
    if startup:
        _startup()
    if memory:
        _memory()
