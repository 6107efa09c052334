"""On which grid the output lies: the fixed picture's, grown to hold both, or cut to what both show. NumPy only.

A pixel covers half a pixel around its centre; a grid pixel is covered where its centre falls on the moving picture.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from imgalign.decompose import Float
from imgalign.errors import OptionError

Canvas: TypeAlias = Literal["fixed", "union", "intersection"]

_SLACK = 1e-6  # px: rounding in a matrix must not cost a row
_LARGEST = 2_000_000_000  # pixels: a union beyond this is a wrong alignment, not a picture


@dataclass(frozen=True)
class Grid:
    """An output grid: its size, and where its first pixel lies in the fixed picture."""

    size_hw: tuple[int, int]
    offset_xy: tuple[int, int] = (0, 0)

    @property
    def fixed_from_canvas(self) -> Float:
        """`(3, 3)`: canvas pixel to fixed pixel, a shift by whole pixels."""
        out = np.eye(3)
        out[:2, 2] = self.offset_xy
        return out


def grid_of(
    canvas: Canvas, moving_from_fixed: Float, fixed_size_hw: tuple[int, int], moving_size_hw: tuple[int, int]
) -> Grid:
    """The output grid of a canvas.

    Args:
        canvas: `fixed`; `union`: the least that holds both pictures; `intersection`: the largest rectangle of the fixed
            picture that the moving one covers without a gap.
        moving_from_fixed: 3 x 3.
        fixed_size_hw: Height and width of the fixed picture.
        moving_size_hw: Height and width of the moving picture.

    Raises:
        OptionError: If there is no such canvas, the pictures do not overlap, or their union has no end.
    """
    if canvas == "fixed":
        return Grid(fixed_size_hw)
    if canvas == "union":
        return _union(moving_from_fixed, fixed_size_hw, moving_size_hw)
    if canvas == "intersection":
        return _intersection(moving_from_fixed, fixed_size_hw, moving_size_hw)
    raise OptionError(f"unknown canvas {canvas!r}; choose fixed, union or intersection")


def _union(matrix: Float, fixed_hw: tuple[int, int], moving_hw: tuple[int, int]) -> Grid:
    h, w = moving_hw
    outline = np.array([[-0.5, -0.5, 1], [w - 0.5, -0.5, 1], [w - 0.5, h - 0.5, 1], [-0.5, h - 0.5, 1]])
    # The inverse up to a positive factor, so that the sign of the depth says on which side of the horizon a point is.
    inverse = np.linalg.inv(matrix)
    landed = outline @ inverse.T
    middle = inverse @ np.array([(w - 1) / 2, (h - 1) / 2, 1])
    depth = landed[:, 2] * np.sign(middle[2])
    if (depth <= 1e-9 * abs(middle[2])).any():
        raise OptionError("the union has no end: the moving picture reaches beyond the horizon; use --canvas fixed")
    corners = landed[:, :2] / landed[:, 2:]
    low = np.minimum(np.ceil(corners.min(0) - _SLACK), 0)
    high = np.maximum(np.floor(corners.max(0) + _SLACK), np.array(fixed_hw[::-1]) - 1)
    width, height = (high - low + 1).tolist()
    if width * height > _LARGEST:
        raise OptionError(f"the union would be {width:.0f} x {height:.0f} pixels; use --canvas fixed")
    return Grid((int(height), int(width)), (int(low[0]), int(low[1])))


def _intersection(matrix: Float, fixed_hw: tuple[int, int], moving_hw: tuple[int, int]) -> Grid:
    """The overlap is convex, so that a rectangle lies in it when its four corners do: search its left and right."""
    constraints = _half_planes(matrix, moving_hw)
    height, width = fixed_hw
    step = max(1, math.ceil(width / 512))
    columns = np.unique(np.r_[np.arange(0, width, step), width - 1])
    left, right = _widest(columns, columns, constraints, height)
    if step > 1:  # whole columns near the best of the coarse search
        near = np.arange(-2 * step, 2 * step + 1)
        left, right = _widest(
            np.unique(np.clip(left + near, 0, width - 1)),
            np.unique(np.clip(right + near, 0, width - 1)),
            constraints,
            height,
        )
    top, bottom = _span(np.array([left, right]), constraints, height)
    y0, y1 = int(top.max()), int(bottom.min())
    if y1 < y0 or right < left:
        raise OptionError("the pictures do not overlap, so that there is no intersection; use --canvas fixed")
    return Grid((y1 - y0 + 1, int(right - left + 1)), (int(left), y0))


def _widest(lefts: Float, rights: Float, constraints: Float, height: int) -> tuple[int, int]:
    """The left and right column of the largest rectangle, among these."""
    top_l, bottom_l = _span(lefts, constraints, height)
    top_r, bottom_r = _span(rights, constraints, height)
    rows = np.minimum(bottom_l[:, None], bottom_r) - np.maximum(top_l[:, None], top_r) + 1
    columns = rights - lefts[:, None] + 1
    area = np.where((rows > 0) & (columns > 0), rows * columns, 0)
    best = np.unravel_index(int(np.argmax(area)), area.shape)
    return int(lefts[best[0]]), int(rights[best[1]])


def _half_planes(matrix: Float, moving_hw: tuple[int, int]) -> Float:
    """`(5, 3)` rows (a, b, c): a fixed pixel is covered where all a x + b y + c >= 0."""
    h, w = moving_hw
    x, y, depth = matrix / np.abs(matrix[2]).max()
    slack = 0.5 + _SLACK
    return np.stack(
        [x + slack * depth, (w - 1 + slack) * depth - x, y + slack * depth, (h - 1 + slack) * depth - y, depth]
    )


def _span(columns: Float, constraints: Float, height: int) -> tuple[Float, Float]:
    """The first and last covered row of each column; last < first where there is none."""
    top, bottom = np.zeros(len(columns)), np.full(len(columns), height - 1.0)
    for a, b, c in constraints:
        rest = a * columns + c
        if abs(b) < 1e-15:
            bottom = np.where(rest < 0, -1, bottom)
        elif b > 0:
            top = np.maximum(top, np.ceil(-rest / b))
        else:
            bottom = np.minimum(bottom, np.floor(-rest / b))
    return top, bottom
