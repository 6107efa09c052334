"""Shift a batch of images forwards and backwards: imgalign's own gradient against autograd through a grid.

The job is the inner loop of gradient descent on a translation: move 32 images of 256 x 256 pixels, each by its own
(x, y), compare them with another batch, and differentiate by the 32 offsets. The peer is `affine_grid` and
`grid_sample` in float32, as in spatial transformers, with autograd through both. Times are medians, the two
interleaved; memory is the growth of the process's peak, each measured in a process of its own.

    python benchmarks/shift_backward.py
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from imgalign.translation import shift

BATCH, HEIGHT, WIDTH = 32, 256, 256


def peer(mode: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What one writes without imgalign."""
    scale = torch.tensor([-2 / WIDTH, -2 / HEIGHT])
    identity = torch.eye(2).expand(BATCH, 2, 2)

    def move(image: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        theta = torch.cat([identity, (offset * scale)[:, :, None]], 2)
        grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
        return functional.grid_sample(image, grid, mode=mode, align_corners=False)

    return move


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "imgalign nearest": lambda image, offset: shift(image, offset, kernel="nearest"),
    "imgalign bilinear": lambda image, offset: shift(image, offset, kernel="bilinear"),
    "imgalign bilinear, kernel slopes": lambda image, offset: shift(image, offset, kernel="bilinear", slopes="kernel"),
    "imgalign cubic": lambda image, offset: shift(image, offset, kernel="cubic"),
    "affine_grid + grid_sample bilinear": peer("bilinear"),
    "affine_grid + grid_sample bicubic": peer("bicubic"),
}


def job(name: str) -> Callable[[], torch.Tensor]:
    """One step: forward, loss, backward; gives the gradient."""
    torch.manual_seed(0)
    image = functional.avg_pool2d(torch.rand(BATCH, 1, HEIGHT + 8, WIDTH + 8), 9, 1)
    target = image.roll((3, -5), (2, 3))
    start = 8 * torch.rand(BATCH, 2) - 4

    def step() -> torch.Tensor:
        offset = start.clone().requires_grad_()
        moved = METHODS[name](image, offset)
        # The upstream gradient is given, so that only the shift is measured.
        moved.backward(target)
        assert offset.grad is not None
        return offset.grad

    return step


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB (Linux)."""
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def memory(name: str) -> float:
    """What three steps need beside the images, at their peak, MiB; only meaningful in a fresh process (Linux)."""
    step = job(name)
    step()  # loads what is loaded once
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak so far is forgotten
    before = peak_mib()
    for _ in range(3):
        step()
    return peak_mib() - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        print(memory(given.memory_of))
        return
    steps = {name: job(name) for name in METHODS}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(given.rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    print(f"{BATCH} x {HEIGHT} x {WIDTH}, float32, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"| {'forward and backward':36} | {'ms':>6} | {'peak, MiB':>9} |\n|{'-' * 38}|{'-' * 8}|{'-' * 11}|")
    for name in METHODS:
        command = [sys.executable, __file__, "--memory-of", name]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {name:36} | {1e3 * statistics.median(times[name][2:]):6.1f} | {peak:9.1f} |")


if __name__ == "__main__":
    main()
