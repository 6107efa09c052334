"""Reading a picture on a grid that lies along its own rows and columns, as a shift leaves it.

All points of a row then lie at one place between two rows of the picture, and points that are whole pixels apart at one
place between two columns. So the kernel's taps are weighed slices, first of rows, then of columns: a quarter of the
time of reading point by point.
"""

import math
from typing import NamedTuple

from torch import Tensor

from imgalign._types import Image, Matrices
from imgalign.numerics.splines import cubic_weights

_MOST_PHASES = 2  # different places between two pixels along an axis; more slices cost more than points
_WHOLE = 1e-10  # pixels a step may differ from a whole number of them: over a picture that is nothing


class Axis(NamedTuple):
    """Points along one axis, in pixels of the plane that is read.

    Attributes:
        first: The first point.
        step: From one point to the next.
        points: How many.
        lowest: Points below are read there, and
        highest: those above there.
    """

    first: float
    step: float
    points: int
    lowest: float
    highest: float

    @property
    def phases(self) -> int:
        """At how many places between two pixels points lie; 0 for too many."""
        fitting = (k for k in range(1, _MOST_PHASES + 1) if abs(k * self.step - round(k * self.step)) < _WHOLE)
        return next(fitting, 0) if self.step > 0 else 0


def axes(
    matrices: Matrices, grid_hw: tuple[int, int], size_hw: tuple[int, int], oversampling: float, pad: int
) -> tuple[Axis, Axis] | None:
    """Where one matrix takes the rows and the columns of a grid in an oversampled and padded plane.

    None if it does not take them to rows and columns of it, at few enough places between them.
    """
    if len(matrices) != 1:
        return None
    matrix = matrices[0] / matrices[0, 2, 2]
    if matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1]:
        return None
    along = [
        Axis(
            float(matrix[axis, 2]) * oversampling + pad,
            float(matrix[axis, axis]) * oversampling,
            count,
            pad,
            (size - 1) * oversampling + pad,
        )
        for axis, count, size in ((1, grid_hw[0], size_hw[0]), (0, grid_hw[1], size_hw[1]))
    ]
    return (along[0], along[1]) if all(a.phases for a in along) else None


def read(plane: Image, rows: Axis, columns: Axis, bend: float) -> Image:
    """Read `(..., H, W)` coefficients at all crossings of rows and columns.

    The kernel is the cubic B-spline and `bend` times its second derivative. All four taps have to lie in the plane.
    """
    return _along(_along(plane, rows, -2, bend), columns, -1, bend)


def _along(plane: Tensor, axis: Axis, dim: int, bend: float) -> Tensor:
    shape = list(plane.shape)
    shape[dim] = axis.points
    out = plane.new_zeros(shape)
    start = max(0, math.ceil((axis.lowest - axis.first) / axis.step))
    stop = min(axis.points, math.floor((axis.highest - axis.first) / axis.step) + 1)
    if start >= stop:
        return out
    stride = round(axis.step * axis.phases)
    for begin in range(start, min(start + axis.phases, stop)):
        at = axis.first + begin * axis.step
        base = math.floor(at)
        count = len(range(begin, stop, axis.phases))
        read = _every(out, dim, begin, axis.phases, count)
        for tap, weight in enumerate(_weights(at - base, bend)):
            read.add_(_every(plane, dim, base - 1 + tap, stride, count), alpha=weight)
    _every(out, dim, 0, 1, start).copy_(_every(out, dim, start, 1, 1))
    _every(out, dim, stop, 1, axis.points - stop).copy_(_every(out, dim, stop - 1, 1, 1))
    return out


def _every(x: Tensor, dim: int, first: int, stride: int, count: int) -> Tensor:
    """So many rows or columns, each a stride after the one before."""
    chosen = slice(first, first + (count - 1) * stride + 1 if count else first, stride)
    return x[..., chosen] if dim == -1 else x[..., chosen, :]


def _weights(t: float, bend: float) -> tuple[float, float, float, float]:
    """Of the taps at -1, 0, 1 and 2, for a point `t` after tap 0."""
    before, here, after, beyond = cubic_weights(t)
    # With the spline's second derivative at the same places.
    return before + bend * (1 - t), here + bend * (3 * t - 2), after + bend * (1 - 3 * t), beyond + bend * t
