"""Plane geometry of the benchmarks: draw a transform of a model, measure corner errors and overlap.

A matrix `moving_from_fixed` takes fixed pixels `(x, y)` to moving pixels, pixel centres at integers.
Independent of imgalign on purpose: it judges imgalign.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix3 = NDArray[Any]
MODELS = ("translate", "rigid", "similarity", "affine", "homography")


def project(matrix: Matrix3, points: NDArray[Any]) -> NDArray[np.float64]:
    """`(N, 2)` points through a 3 x 3 matrix."""
    mapped = np.c_[np.asarray(points, float), np.ones(len(points))] @ np.asarray(matrix, float).T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def corners(size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """`(4, 2)` centres of the corner pixels: TL, TR, BR, BL."""
    height, width = size_hw
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def centre(size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """`(2,)` the middle of a picture."""
    return np.array([(size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2])


def corner_error(estimate: Matrix3 | None, truth: Matrix3, size_hw: tuple[int, int]) -> float:
    """Mean distance in px of the fixed corners mapped by both; infinite where there is no finite answer."""
    if estimate is None or not np.isfinite(estimate).all():
        return float("inf")
    with np.errstate(all="ignore"):
        apart = np.linalg.norm(project(estimate, corners(size_hw)) - project(truth, corners(size_hw)), axis=1).mean()
    return float(apart) if np.isfinite(apart) else float("inf")


def overlap(moving_from_fixed: Matrix3, fixed_hw: tuple[int, int], moving_hw: tuple[int, int]) -> float:
    """Share of the fixed picture seen in the moving one."""
    x, y = np.meshgrid(np.linspace(0, fixed_hw[1] - 1, 40), np.linspace(0, fixed_hw[0] - 1, 40))
    there = project(moving_from_fixed, np.c_[x.ravel(), y.ravel()])
    inside = (there >= 0).all(1) & (there[:, 0] <= moving_hw[1] - 1) & (there[:, 1] <= moving_hw[0] - 1)
    return float(inside.mean())


def rotation(angle_rad: float) -> NDArray[np.float64]:
    """2 x 2 rotation."""
    return np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])


def about(linear: NDArray[Any], here: NDArray[Any], there: NDArray[Any]) -> Matrix3:
    """3 x 3 matrix of `x -> there + linear (x - here)`."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.asarray(there) - linear @ np.asarray(here)
    return matrix


def homography_through(here: NDArray[Any], there: NDArray[Any]) -> Matrix3:
    """The homography that takes four points to four points."""
    rows, right = [], []
    for (x, y), (u, v) in zip(here, there, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(right)), 1.0).reshape(3, 3)


def nearest(model: str, here: NDArray[Any], there: NDArray[Any]) -> Matrix3:
    """Least-squares member of a model up to affine that takes points to points."""
    a, b = here - here.mean(0), there - there.mean(0)
    if model == "translate":
        linear = np.eye(2)
    elif model in ("rigid", "similarity"):
        turn, cross = (a * b).sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
        norm = np.hypot(turn, cross) if model == "rigid" else (a**2).sum()
        linear = np.array([[turn, -cross], [cross, turn]]) / norm
    else:
        linear = np.linalg.lstsq(a, b, rcond=None)[0].T
    return about(linear, here.mean(0), there.mean(0))


@dataclass(frozen=True)
class Range:
    """How far a transform may go. Lengths are shares of the fixed picture's side."""

    shift: float
    rotation_deg: float
    log_scale: float
    shear: float
    perspective: float
    least_overlap: float


RANGES = {
    "easy": Range(0.06, 3.0, 0.03, 0.02, 0.03, 0.85),
    "medium": Range(0.16, 15.0, 0.18, 0.08, 0.08, 0.65),
    "hard": Range(0.42, 180.0, float(np.log(2.0)), 0.20, 0.25, 0.33),
}


def _far_or_near(rng: np.random.Generator, limit: float, near: float, far_share: float) -> float:
    """A number within `limit`, most of the time within `near`."""
    reach = limit if rng.random() < far_share else min(near, limit)
    return float(rng.uniform(-reach, reach))


def draw_linear(rng: np.random.Generator, model: str, reach: Range) -> NDArray[np.float64]:
    """2 x 2 part of a random member of a model (homography: of its affine part)."""
    if model == "translate":
        return np.eye(2)
    linear = rotation(np.radians(_far_or_near(rng, reach.rotation_deg, 40.0, 0.35)))
    if rng.random() < 0.1 and reach.rotation_deg == 180:
        linear = rotation(np.pi + rng.uniform(-0.1, 0.1))
    if model != "rigid":
        linear = linear * np.exp(_far_or_near(rng, reach.log_scale, 0.3, 0.55))
    if model in ("affine", "homography"):
        linear = linear @ (np.eye(2) + rng.uniform(-reach.shear, reach.shear, (2, 2)) * [[0.7, 1.0], [0.3, 0.7]])
    return linear


def draw_transform(
    rng: np.random.Generator, model: str, reach: Range, fixed_hw: tuple[int, int], moving_hw: tuple[int, int]
) -> Matrix3:
    """A random `moving_from_fixed` of a model, within its range and its least overlap.

    For scales far from 1, and for sizes that differ, no overlap of a third of the fixed picture may
    exist, so the overlap asked for is that of whichever picture sees less, as a share of what
    concentric pictures would have.
    """
    side = min(fixed_hw)
    concentric = about(np.eye(2), centre(fixed_hw), centre(moving_hw))
    most = max(overlap(concentric, fixed_hw, moving_hw), overlap(np.linalg.inv(concentric), moving_hw, fixed_hw))
    least = reach.least_overlap * most
    while True:
        linear = draw_linear(rng, model, reach)
        size = np.sqrt(abs(np.linalg.det(linear)))
        shift = rng.uniform(-reach.shift, reach.shift, 2) * side * size
        matrix = about(linear, centre(fixed_hw), centre(moving_hw) + shift)
        if model == "homography":
            moved = project(matrix, corners(fixed_hw))
            push = rng.uniform(-1, 1, (4, 2)) * reach.perspective / np.sqrt(2) * side * size
            matrix = homography_through(corners(fixed_hw), moved + push)
        if not _is_tame(matrix, fixed_hw, moving_hw):
            continue
        seen = overlap(matrix, fixed_hw, moving_hw)
        back = overlap(np.linalg.inv(matrix), moving_hw, fixed_hw)
        if max(seen, back) >= least and min(seen, back) >= 0.6 * least:
            unit: Matrix3 = matrix / matrix[2, 2]
            return unit


def _is_tame(matrix: Matrix3, fixed_hw: tuple[int, int], moving_hw: tuple[int, int]) -> bool:
    """Neither picture comes near the other's horizon."""
    for forward, size_hw in ((matrix, fixed_hw), (np.linalg.inv(matrix), moving_hw)):
        depth = np.c_[corners(size_hw), np.ones(4)] @ forward[2]
        if depth.min() * depth.max() <= 0 or np.abs(depth).max() > 2.5 * np.abs(depth).min():
            return False
    return bool(np.linalg.det(matrix) > 0)
