"""Tiles of an output grid, and where a matrix takes them on the picture behind it. NumPy, double precision.

A point is on the picture where it lies within half a pixel of the outermost pixel centres.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgalign.decompose import Float, corners_of, mapped

SLACK = 1e-6
"""In pixels: rounding in a matrix must not cost a row."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of the output."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """To cut it out of the output."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def corners(self, margin: float = 0.0) -> Float:
        """The centres of its corner pixels, `(4, 2)`, moved outwards by `margin` pixels."""
        x0, y0 = self.left - margin, self.top - margin
        x1, y1 = self.left + self.width - 1 + margin, self.top + self.height - 1 + margin
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def tiles(size_hw: tuple[int, ...], side: int) -> Iterator[Tile]:
    """The tiles of an output, row by row, smaller at its right and bottom."""
    h, w = size_hw
    for top in range(0, h, side):
        for left in range(0, w, side):
            yield Tile(top, left, min(side, h - top), min(side, w - left))


def positions(matrix: Float, tile: Tile) -> tuple[Float, Float]:
    """Where a tile's pixels land, in float64: `(h, w)` x and y; infinite behind the horizon."""
    column = np.arange(tile.left, tile.left + tile.width, dtype=float)
    row = np.arange(tile.top, tile.top + tile.height, dtype=float)[:, None]
    x = matrix[0, 0] * column + (matrix[0, 1] * row + matrix[0, 2])
    y = matrix[1, 0] * column + (matrix[1, 1] * row + matrix[1, 2])
    if not matrix[2, :2].any() and matrix[2, 2] == 1:
        return x, y
    depth = matrix[2, 0] * column + (matrix[2, 1] * row + matrix[2, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(depth > 1e-9, x / depth, np.inf), np.where(depth > 1e-9, y / depth, np.inf)


def is_on(x: Float, y: Float, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """True where points lie on a picture of this size."""
    h, w = size_hw
    slack = 0.5 + SLACK
    return (x >= -slack) & (x <= w - 1 + slack) & (y >= -slack) & (y <= h - 1 + slack)


def covered_pixels(matrix: Float, tile: Tile, size_hw: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Which pixels of a tile the picture covers; None for all of them, as the corners tell without a look at each."""
    (h, w), slack, (x, y, depth) = size_hw, 0.5 + SLACK, matrix
    edges = [x + slack * depth, (w - 1 + slack) * depth - x, y + slack * depth, (h - 1 + slack) * depth - y]
    if depth[:2].any() or depth[2] != 1:
        edges.append(depth - [0, 0, 1e-9])
    # Each edge of the picture is a line in the output, and a line that all corners are beyond cuts nothing off.
    corners = tile.corners()
    cutting = [(a, b, c) for a, b, c in edges if (corners @ (a, b) + c).min() < 0]
    if not cutting:
        return None
    column = np.arange(tile.left, tile.left + tile.width, dtype=float)
    row = np.arange(tile.top, tile.top + tile.height, dtype=float)[:, None]
    inside = np.ones((tile.height, tile.width), bool)
    for a, b, c in cutting:
        inside &= a * column >= -(b * row + c)
    return inside


def misses(matrix: Float, tile: Tile, size_hw: tuple[int, int]) -> bool:
    """True where a tile surely lies beside the picture: all of its corners are beyond one edge."""
    landed = mapped(matrix, tile.corners())
    if not np.isfinite(landed).all():
        return False
    low, high = landed.min(0), landed.max(0)
    h, w = size_hw
    return bool((high < -0.5 - SLACK).any() or low[0] > w - 0.5 + SLACK or low[1] > h - 0.5 + SLACK)


def box_of(matrix: Float, grid: Tile, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns of the picture that a grid reads: top, left, bottom, right, the last two exclusive."""
    h, w = size_hw
    landed = mapped(matrix, grid.corners())
    if not np.isfinite(landed).all():  # the horizon runs through the grid: find out pixel by pixel
        x, y = positions(matrix, grid)
        inside = is_on(x, y, size_hw)
        landed = np.stack([x[inside], y[inside]], -1) if inside.any() else np.zeros((1, 2))
    low = np.clip(np.floor(landed.min(0)), 0, [w - 1, h - 1]).astype(int)
    high = np.clip(np.ceil(landed.max(0)), 0, [w - 1, h - 1]).astype(int)
    return int(low[1]), int(low[0]), int(high[1]) + 1, int(high[0]) + 1


def whole_shift(matrix: Float, size_hw: tuple[int, int]) -> tuple[int, int] | None:
    """The shift (x, y) where a matrix is one by whole pixels, to a millionth of a pixel all over the output."""
    corners = corners_of(size_hw)
    moved = mapped(matrix, corners) - corners
    if not np.isfinite(moved).all() or np.abs(moved - np.rint(moved[0])).max() > SLACK:
        return None
    return int(np.rint(moved[0, 0])), int(np.rint(moved[0, 1]))
