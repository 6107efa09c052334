"""`imgalign batch` over 200 pairs of photographs, beside a shell loop and OpenCV's pyramid ECC in a pool of processes.

    python -m benchmarks.batch --folder benchmarks/out/batch                all tables
    python -m benchmarks.batch --folder benchmarks/out/batch --memory 2000  peak memory at 100 and at 2,000 pairs too

Everybody decodes two PNG files and encodes one; everybody uses two cores. Errors are the mean distance of the four
corners from where the truth takes them.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from benchmarks import photos
from benchmarks.peers import opencv_ecc_pyramid
from imgalign.decompose import corners_of, mapped

PYTHON = [sys.executable, "-m", "imgalign"]
SIDE = 512
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def motion(rng: np.random.Generator) -> NDArray[Any]:
    """A small affine motion: up to 10 px, 2 degrees, 2 % scale and shear, about the middle."""
    angle, shear = np.deg2rad(rng.uniform(-2, 2)), rng.uniform(-0.02, 0.02)
    scale = rng.uniform(0.98, 1.02, 2)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(scale)
    linear = linear @ np.array([[1, shear], [0, 1]])
    centre = np.full(2, (SIDE - 1) / 2)
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = centre + rng.uniform(-10, 10, 2) - linear @ centre
    return out


def make(folder: Path, count: int) -> None:
    """Write the pairs, their truth and their manifest; what is there is kept."""
    if (folder / f"pairs{count}.csv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in photos.PHOTOS if min(photos.photo(name).shape[:2]) >= 400]
    truths = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        scene = photos.photo(names[number % len(names)])
        height, width = scene.shape[:2]
        zoom = min(height, width) / (1.15 * SIDE)  # scene pixels a picture pixel
        place = np.array([[zoom, 0, (width - zoom * SIDE) / 2], [0, zoom, (height - zoom * SIDE) / 2], [0, 0, 1]])
        moving_from_fixed = motion(rng)
        for role, matrix in (("fixed", place), ("moving", place @ np.linalg.inv(moving_from_fixed))):
            picture = photos.render(scene, matrix, (SIDE, SIDE)) + rng.normal(0, 1, (SIDE, SIDE, 1))
            pixels = np.clip(np.round(picture), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{role}{number:04}.png", compress_level=1)
        truths[f"moving{number:04}"] = moving_from_fixed.tolist()
    (folder / f"truth{count}.json").write_text(json.dumps(truths), "utf-8")
    write_manifest(folder / f"pairs{count}.csv", folder, count, count)


def write_manifest(path: Path, folder: Path, count: int, distinct: int) -> None:
    """A manifest over the pairs, from the beginning again where there are fewer."""
    rows = [
        f"{folder}/fixed{k % distinct:04}.png,{folder}/moving{k % distinct:04}.png,moving{k:04}" for k in range(count)
    ]
    path.write_text("\n".join(["fixed,moving,id", *rows]) + "\n", "utf-8")


def median_error(found: dict[str, Any], truths: dict[str, Any]) -> float:
    """Median over the pairs of the mean corner error, px."""
    at = corners_of((SIDE, SIDE))
    errors = [
        np.linalg.norm(mapped(np.array(found[name]), at) - mapped(np.array(truths[name]), at), axis=1).mean()
        for name in found
    ]
    return float(np.median(errors))


def _hold_to_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def batch(manifest: Path, out: Path, *options: str, one_core: bool = False) -> tuple[float, dict[str, Any]]:
    """Seconds of a whole `imgalign batch`, start included, and what it found; perhaps held to one core."""
    shutil.rmtree(out, ignore_errors=True)
    command = [*PYTHON, "batch", str(manifest), "--model", "affine", "--output-dir", str(out), "-q", *options]
    began = time.perf_counter()
    subprocess.run(command, check=False, stderr=subprocess.DEVNULL, preexec_fn=_hold_to_one_core if one_core else None)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    return seconds, {line["id"]: line["moving_from_fixed"] for line in lines if line["verdict"] != "failed"}


def loop(folder: Path, out: Path, count: int) -> float:
    """Seconds a pair of a shell loop."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    script = (
        f"for k in $(seq -f %04g 0 {count - 1}); do "
        f"{' '.join(PYTHON)} affine {folder}/fixed$k.png {folder}/moving$k.png -q --output-dir {out}; done"
    )
    began = time.perf_counter()
    subprocess.run(["bash", "-c", script], check=False, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - began) / count


def _ecc(names: tuple[str, str, str]) -> tuple[str, Any]:
    import cv2

    cv2.setNumThreads(1)
    fixed, moving = cv2.imread(names[0]), cv2.imread(names[1])
    stem = Path(names[1]).stem
    try:
        matrix = opencv_ecc_pyramid(fixed, moving, "affine")
    except Exception:  # noqa: BLE001  (it throws where it does not converge)
        return stem, None
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    cv2.imwrite(names[2], cv2.warpAffine(moving, matrix[:2], (SIDE, SIDE), flags=flags))
    return stem, matrix.tolist()


def ecc(folder: Path, out: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Seconds of OpenCV's pyramid ECC over the pairs in a pool of two processes, and what it found."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    jobs = [(f"{folder}/fixed{k:04}.png", f"{folder}/moving{k:04}.png", f"{out}/{k:04}.png") for k in range(count)]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = dict(pool.imap_unordered(_ecc, jobs))
    return time.perf_counter() - began, {name: matrix for name, matrix in found.items() if matrix is not None}


def _count(steps: int) -> int:
    return sum(k * k for k in range(steps))


def machine_scaling() -> float:
    """How much more two processes do than one where they share nothing but the machine."""
    seconds = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for processes in (2, 1, 2):  # the first for the start
            began = time.perf_counter()
            pool.map(_count, [10_000_000] * processes, chunksize=1)
            seconds.append(time.perf_counter() - began)
    return 2 * seconds[1] / seconds[2]


def _pss_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.Error:  # it has just ended
        return 0.0


def peak_mb(run: Callable[[], object]) -> float:
    """Peak memory of all processes that a call starts, shared pages counted once."""
    peak, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        me = psutil.Process()
        while not ended.wait(0.2):
            peak = max(peak, sum(_pss_mb(process) for process in me.children(recursive=True)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()
    return peak


def report(folder: Path, count: int, looped: int) -> None:
    """Pairs a second of everybody, with their errors."""
    truths = json.loads((folder / f"truth{count}.json").read_text("utf-8"))
    manifest, out = folder / f"pairs{count}.csv", folder / "results"
    two_s, two = batch(manifest, out, "--workers", "2")
    one_s, one = batch(manifest, out, "--workers", "1", "--threads", "1")
    # A worker decodes and writes beside its aligning: by itself it uses more than one core.
    core_s, on_core = batch(manifest, out, one_core=True)
    ecc_s, by_ecc = ecc(folder, out, count)
    loop_s = loop(folder, out, looped)
    rows = [
        ("imgalign batch, 2 workers", count / two_s, two),
        ("imgalign batch, 1 worker", count / one_s, one),
        ("imgalign batch, held to one core", count / core_s, on_core),
        ("OpenCV pyramid ECC, 2 processes", count / ecc_s, by_ecc),
    ]
    print(
        f"| {count} pairs of {SIDE} x {SIDE}, affine | pairs a second | median error, px | answers |\n|---|---|---|---|"
    )
    for name, speed, found in rows:
        print(f"| {name} | {speed:.2f} | {median_error(found, truths):.4f} | {len(found)} |")
    print(f"| shell loop over imgalign affine ({looped} pairs) | {1 / loop_s:.2f} | | |")
    gains = (
        f"over the loop {count / two_s * loop_s:.1f}, over ECC {ecc_s / two_s:.2f}, over 1 worker {one_s / two_s:.2f}, "
        f"over one core {core_s / two_s:.2f}"
    )
    print(f"\n{gains}; two processes of plain counting over one {machine_scaling():.2f}")


def memory(folder: Path, distinct: int, longest: int) -> None:
    """Peak memory at 100 pairs and at many."""
    print("| pairs | peak MB |\n|---|---|")
    for count in (100, longest):
        manifest = folder / f"memory{count}.csv"
        write_manifest(manifest, folder, count, distinct)
        peak = peak_mb(lambda manifest=manifest: batch(manifest, folder / "results", "--workers", "2"))  # type: ignore[misc]
        print(f"| {count} | {peak:.0f} |", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/out/batch"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--looped", type=int, default=10, help="pairs of the shell loop, which is slow")
    parser.add_argument(
        "--memory", type=int, metavar="PAIRS", help="measure memory at 100 and at so many pairs instead"
    )
    given = parser.parse_args()
    os.environ.update(ONE_THREAD)
    make(given.folder, given.count)
    if given.memory:
        memory(given.folder, given.count, given.memory)
    else:
        report(given.folder, given.count, given.looped)


if __name__ == "__main__":
    main()
