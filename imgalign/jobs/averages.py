"""The mean and the median of frames on one grid, leaving out what a frame does not reach."""

from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgalign.errors import ShapeError

Floats: TypeAlias = NDArray[np.floating[Any]]

_BAND_BYTES = 1 << 26  # of all frames together, while the median is taken


class Sum:
    """Adds frames up where they reach."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._total: NDArray[np.float64] | None = None
        self._count: NDArray[np.int64] | None = None

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Remember what the first frame is, and refuse one with other channels.

        Raises:
            ShapeError: If it has.
        """
        if not self.shape:
            self.shape, self.dtype = shape, dtype
        if shape != self.shape:
            raise ShapeError(f"has the shape {shape}, the frames before it {self.shape}; they have no common mean")

    def add(self, pixels: NDArray[Any], covered: NDArray[np.bool_]) -> None:
        """Count a frame in."""
        known = as_floats(pixels, covered)
        self.check(known.shape, pixels.dtype)
        if self._total is None or self._count is None:
            self._total, self._count = np.zeros(known.shape), np.zeros(known.shape, np.int64)
        there = np.isfinite(known)
        self._total[there] += known[there]
        self._count += there

    def mean(self) -> Floats:
        """What the frames are on average, NaN where none reaches.

        Raises:
            ShapeError: If there was no frame.
        """
        if self._total is None or self._count is None:
            raise ShapeError("not a single frame could be aligned, so there is no mean")
        return np.divide(
            self._total, self._count, out=np.full(self._total.shape, np.nan), where=self._count > 0
        ).astype(float_dtype(self.dtype))


def float_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The floats that hold every value of a dtype; of 64 bits what is to be had."""
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


def as_floats(pixels: NDArray[Any], covered: NDArray[np.bool_]) -> Floats:
    """Pixels as floats, NaN where nothing lies."""
    known = pixels.astype(float_dtype(pixels.dtype))
    known[~covered] = np.nan
    return known


def median(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Floats:
    """The median of the frames in a file, floats of the dtype, a band of rows at a time."""
    file.flush()
    if not shape:
        raise ShapeError("not a single frame could be aligned, so there is no median")
    frames = np.memmap(file, dtype, "r").reshape(-1, *shape)
    rows = max(1, _BAND_BYTES // max(1, frames[:, :1].nbytes))
    out = np.empty(shape, dtype)
    for top in range(0, shape[0], rows):
        band = np.array(frames[:, top : top + rows])
        band[~np.isfinite(band)] = np.nan
        band.sort(axis=0)  # NaN last
        count = np.isfinite(band).sum(axis=0, keepdims=True)
        low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(band) - 1)
        pair = [np.take_along_axis(band, index, axis=0)[0] for index in (low, high)]
        out[top : top + rows] = (pair[0] + pair[1]) / 2
    return out
