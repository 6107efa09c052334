"""Pairs per second on a CUDA device, beside kornia on the same device and the floor set by memory traffic.

    python -m benchmarks.gpu --sizes 256,512,1024 --batches 1,4,16,64,256,1024

Skips itself where there is no CUDA device. Batches are tensors on the device; every timing is a
median after a warm-up, with the device's queue emptied before the clock is read. The floor is the
time in which the device reads both pictures and writes one as often as a descent must at least:
`--passes` times at full resolution. Writes gpu.json and prints Markdown.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import precision, scenes
from benchmarks.geometry import Matrix3, corner_error


@dataclass(frozen=True)
class Rate:
    """One aligner on one batch."""

    aligner: str
    side: int
    batch: int
    pairs_per_second: float
    worst_error_px: float
    from_cpu_px: float  # largest corner distance to the same pairs aligned on the CPU
    floor_per_second: float
    peak_mb: float


def make_batch(side: int, count: int, model: str) -> tuple[Any, Any, list[Matrix3]]:
    """`(B, 1, H, W)` fixed and moving on the CPU in 0..255, and the truths; up to 32 pairs differ."""
    import torch

    fixed: list[Any] = []
    moving: list[Any] = []
    truths: list[Matrix3] = []
    for index in range(min(count, 32)):
        rng = np.random.default_rng([side, index])
        scene, size = scenes.natural(rng, waves=250), (side, side)
        truth = precision.small_transform(rng, model, size)
        for pictures, matrix in ((fixed, np.eye(3)), (moving, np.linalg.inv(truth))):
            pictures.append(scenes.noisy(rng, scene.picture(matrix, size), "gaussian", 3.0).astype(np.float32))
        truths.append(truth)
    again = [i % len(truths) for i in range(count)]
    stacks = (torch.from_numpy(np.stack(p))[again].unsqueeze(1).clamp(0, 255) for p in (fixed, moving))
    return next(stacks), next(stacks), [truths[i] for i in again]


def clock(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Median seconds and the last answer."""
    import torch

    answer, taken = work(), []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        answer = work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), answer


def bandwidth_bytes() -> float:
    """Bytes a second that the device copies, reads and writes both counted."""
    import torch

    block = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    seconds, _ = clock(lambda: other.copy_(block), 20)
    return 2 * block.numel() / seconds


def _imgalign(fixed: Any, moving: Any, model: str, device: str) -> list[Matrix3]:
    from imgalign import align

    found = align(fixed.to(device), moving.to(device), model=model, device=device)
    return [np.asarray(a.moving_from_fixed) for a in (found if isinstance(found, tuple) else (found,))]


def _kornia(fixed: Any, moving: Any, model: str) -> list[Matrix3]:
    """Kornia's registrator takes one model for a whole batch, so pairs go one by one."""
    import torch
    from kornia.geometry.transform import ImageRegistrator

    side = fixed.shape[-1]
    unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    kind = {"translate": "translation", "similarity": "similarity"}.get(model, "homography")
    matrices = []
    for a, b in zip(fixed / 255, moving / 255, strict=True):
        torch.manual_seed(0)
        engine = ImageRegistrator(kind, pyramid_levels=4).to(fixed.device)
        found = engine.register(b[None], a[None])[0].detach().double().cpu().numpy()
        matrix = np.linalg.inv(unit) @ found @ unit
        matrices.append(matrix / matrix[2, 2])
    return matrices


def worst(some: list[Matrix3], others: list[Matrix3], side: int) -> float:
    """Largest corner error between two lists."""
    return max(corner_error(a, b, (side, side)) for a, b in zip(some, others, strict=True))


def measure(side: int, batch: int, model: str, speed_bytes: float, options: argparse.Namespace) -> Iterator[Rate]:
    """All aligners on one batch."""
    import torch

    fixed, moving, truths = make_batch(side, batch, model)
    near, far = fixed.cuda(), moving.cuda()
    floor = speed_bytes / (options.passes * 3 * 4 * side * side)
    on_cpu = _imgalign(fixed[:4], moving[:4], model, "cpu")
    torch.cuda.reset_peak_memory_stats()
    seconds, found = clock(lambda: _imgalign(near, far, model, "cuda"), options.rounds)
    peak = torch.cuda.max_memory_allocated() / 2**20
    apart = worst(found[: len(on_cpu)], on_cpu, side)
    yield Rate("imgalign", side, batch, batch / seconds, worst(found, truths, side), apart, floor, peak)
    if batch <= options.kornia_batch:
        seconds, found = clock(lambda: _kornia(near, far, model), 1)
        yield Rate("kornia", side, batch, batch / seconds, worst(found, truths, side), float("nan"), floor, 0.0)


def main() -> None:
    """Run the batches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256,512,1024")
    parser.add_argument("--batches", default="1,4,16,64,256,1024")
    parser.add_argument("--model", default="affine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=4, help="full-resolution passes that the floor allows")
    parser.add_argument("--kornia-batch", type=int, default=4, help="kornia sits out larger batches")
    parser.add_argument("--largest", type=int, default=2**28, help="pixels in a batch; larger ones are left out")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/out"))
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured", file=sys.stderr)
        return
    speed = bandwidth_bytes()
    print(f"{torch.cuda.get_device_name()}, copies {speed / 1e9:.0f} GB/s, torch {torch.__version__}\n")
    print("| side | batch | aligner | pairs/s | floor pairs/s | worst error px | from CPU px | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    rates = []
    for side in (int(s) for s in options.sizes.split(",")):
        for batch in (int(b) for b in options.batches.split(",")):
            if batch * side * side > options.largest:
                continue
            for r in measure(side, batch, options.model, speed, options):
                rates.append(r)
                print(
                    f"| {side} | {batch} | {r.aligner} | {r.pairs_per_second:.1f} | {r.floor_per_second:.0f} "
                    f"| {r.worst_error_px:.4f} | {r.from_cpu_px:.5f} | {r.peak_mb:.0f} |",
                    flush=True,
                )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "gpu.json").write_text(json.dumps([asdict(r) for r in rates], indent=1), "utf-8")


if __name__ == "__main__":
    main()
