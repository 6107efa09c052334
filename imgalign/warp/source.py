"""The picture behind a warp: cut out piece by piece, as floats, with weights for alpha and for what is not finite."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign.coords import level_from_full
from imgalign.decompose import Float
from imgalign.warp.tiles import Tile


@dataclass(frozen=True)
class Crop:
    """A piece of a picture and the pixels around it, mirrored where the picture ends."""

    planes: Tensor
    """`(C + weights, h, w)`: channels multiplied by their weight, then the weights."""
    weights: int
    """How many of the planes are weights: 0 (all are one), 1, or one a channel."""
    top: int
    left: int

    @property
    def from_picture(self) -> Float:
        """`(3, 3)`: pixels of the picture to pixels of the crop."""
        return np.array([[1, 0, -self.left], [0, 1, -self.top], [0, 0, 1.0]])

    def positions(self, local: Float, grid: Tile, size_hw: tuple[int, int]) -> Tensor:
        """Where a grid's pixels land in this crop of a picture, `(2, h, w)` x and y, moved onto the picture.

        Built in float64 about the crop, then rounded once.

        Args:
            local: 3 x 3: grid pixel to pixel of the crop.
            grid: The grid.
            size_hw: Of the picture.
        """
        dtype = self.planes.dtype
        column = torch.arange(grid.width, dtype=torch.float64)
        row = torch.arange(grid.height, dtype=torch.float64)
        points = torch.empty(2, grid.height, grid.width, dtype=dtype)

        def plane(line: list[float], out: Tensor) -> Tensor:
            a, b, c = line
            return torch.add((row * b + c).to(dtype)[:, None], (column * a).to(dtype), out=out)

        x, y = (plane(line, out) for line, out in zip(local[:2].tolist(), points, strict=True))
        if local[2, :2].any() or local[2, 2] != 1:
            depth = plane(local[2].tolist(), torch.empty_like(x))
            behind = depth <= 1e-9
            depth = depth.masked_fill_(behind, 1)
            points.div_(depth).masked_fill_(behind, 0)
        h, w = size_hw
        x.clamp_(-self.left, w - 1 - self.left)
        y.clamp_(-self.top, h - 1 - self.top)
        return points

    def shifted_inside(self, local: Float, grid: Tile, size_hw: tuple[int, int]) -> tuple[slice, slice] | None:
        """Rows and columns of a grid that lands a pixel apart on the picture; None where it does not.

        Args:
            local: As for `positions`.
            grid: The grid.
            size_hw: Of the picture.
        """
        if not np.array_equal(local[:, :2], np.eye(3)[:, :2]) or local[2, 2] != 1:
            return None
        spans = []
        for offset, start, size, count in zip(
            local[1::-1, 2].tolist(), (self.top, self.left), size_hw, (grid.height, grid.width), strict=True
        ):
            first, last = math.ceil(-start - offset), math.floor(size - 1 - start - offset)
            spans.append(slice(max(0, first), min(count, last + 1)))
        rows, columns = spans
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


@dataclass(frozen=True)
class Source:
    """A picture `(H, W, C)` to read from; `planes` replaces it where it was shrunk."""

    picture: NDArray[Any]
    has_alpha: bool = False
    reduction: int = 1
    planes: Tensor | None = None
    weights: int = 0

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        shape = self.picture.shape[:2] if self.planes is None else self.planes.shape[1:]
        return int(shape[0]), int(shape[1])

    @property
    def reduced_from_full(self) -> Float:
        """`(3, 3)`: pixels of the picture to pixels of the shrunk one."""
        return level_from_full(self.reduction)

    def crop(self, box: tuple[int, int, int, int], margin: int) -> Crop:
        """Cut out rows and columns (top, left, bottom, right) and a margin around them."""
        h, w = self.size_hw
        top, left, bottom, right = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
        if self.planes is not None:
            rows, columns = _mirrored(top, bottom, h), _mirrored(left, right, w)
            return Crop(self.planes[:, rows][:, :, columns], self.weights, top, left)
        piece = cut(cut(self.picture, 0, top, bottom), 1, left, right)
        planes, weights = _weighted(piece, has_alpha=self.has_alpha)
        return Crop(planes, weights, top, left)

    def reduced(self, factor: int) -> "Source":
        """Shrink by a whole factor: means over squares, band by band; weighted, so that no hole darkens its rim."""
        if factor <= 1:
            return self
        h, w, channels = self.picture.shape
        count = 1 if self.has_alpha else channels
        rows, columns = -(-h // factor), -(-w // factor)
        step = max(1, (1 << 24) // (w * factor * channels))
        bands, weighted = [], False
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            piece = self.picture[_repeated(top * factor, bottom * factor, h)][:, _repeated(0, columns * factor, w)]
            planes, weights = _weighted(piece, has_alpha=self.has_alpha)
            weighted |= weights > 0
            if not weights:
                ones = planes.new_ones(1, *planes.shape[1:]).expand(count, -1, -1)
                planes = torch.cat([planes, ones])
            bands.append(torch.nn.functional.avg_pool2d(planes[None], factor)[0])
        planes = torch.cat(bands, 1)
        planes = planes if weighted else planes[:-count]
        return Source(self.picture, self.has_alpha, factor, planes, count if weighted else 0)


def _weighted(piece: NDArray[Any], *, has_alpha: bool) -> tuple[Tensor, int]:
    """Planes `(C + weights, h, w)` of a piece `(h, w, C)`, without the alpha channel, and how many are weights."""
    channels = piece.shape[2] - has_alpha
    dtype = working_dtype(piece.dtype)
    planes = np.empty((channels, *piece.shape[:2]), dtype)
    for i in range(channels):  # one at a time: five times as fast as a transposed copy of all
        planes[i] = piece[..., i]
    weight: NDArray[Any] | None = None
    if has_alpha:
        one = np.iinfo(piece.dtype).max if piece.dtype.kind in "iu" else 1
        if (piece[..., -1] != one).any():
            weight = np.asarray(piece[..., -1] / dtype(one))[None]
    if piece.dtype.kind == "f" and not np.isfinite(planes.sum(dtype=np.float64)):
        finite = np.isfinite(planes)
        planes[~finite] = 0
        known = finite.all(0, keepdims=True) if has_alpha else finite
        weight = known.astype(dtype) if weight is None else np.asarray(np.nan_to_num(weight) * known)
    if weight is None:
        return torch.from_numpy(planes), 0
    weight = np.ascontiguousarray(weight, dtype)
    return torch.from_numpy(np.concatenate([planes * weight, weight])), len(weight)


def working_dtype(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """Single precision holds 16 bits and halves; everything wider is interpolated in double."""
    narrow = dtype.itemsize <= 2 or dtype == np.float32
    return np.float32 if narrow else np.float64


def cut(picture: NDArray[Any], axis: int, start: int, stop: int) -> NDArray[Any]:
    """Rows or columns from start to stop, as `_mirrored` numbers them."""
    size = picture.shape[axis]
    inner = slice(max(start, 0), min(stop, size))
    before, after = inner.start - start, stop - inner.stop
    lead = (slice(None),) * axis
    if not before and not after:
        return picture[(*lead, slice(start, stop))]
    if inner.stop - inner.start > max(before, after):  # ten times as fast as by index
        widths = [(before, after) if k == axis else (0, 0) for k in range(picture.ndim)]
        return np.pad(picture[(*lead, inner)], widths, mode="reflect")
    return picture[(*lead, _mirrored(start, stop, size))]


def _mirrored(start: int, stop: int, size: int) -> slice | NDArray[np.intp]:
    """Indices from start to stop, reflected about the outermost pixel centres; a slice where they lie inside."""
    if start >= 0 and stop <= size:
        return slice(start, stop)
    period = max(1, 2 * (size - 1))
    index = np.arange(start, stop) % period
    return np.minimum(index, period - index) if size > 1 else index * 0


def _repeated(start: int, stop: int, size: int) -> slice | NDArray[np.intp]:
    """Indices from start to stop, the last one repeated."""
    return slice(start, stop) if stop <= size else np.minimum(np.arange(start, stop), size - 1)
