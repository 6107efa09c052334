"""The number that stands for "no data" in a file: what it marks becomes NaN in floats and transparent in integers.

So that everything else has two kinds of hole to know, and not three. Written pictures get the number back.

Source: GDAL's GeoTIFF driver, tag 42113 (GDAL_NODATA): a number as text, one for all channels.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

TAG = 42113


def declared(text: object, dtype: "np.dtype[Any]") -> float | None:
    """The number in a tag; None where it says none, or none that pixels of this dtype can hold."""
    said = str(text).strip("\0 ")
    try:
        # A float does not hold all whole numbers of 64 bits.
        number = int(said) if said.lstrip("+-").isdecimal() else float(said)
    except ValueError:
        return None
    if dtype.kind == "f":
        return number if math.isnan(number) or abs(number) < 1.001 * float(np.finfo(dtype).max) else None
    if dtype.kind not in "iu" or not math.isfinite(number) or number != int(number):
        return None
    return int(number) if np.iinfo(dtype).min <= number <= np.iinfo(dtype).max else None


def marked(pixels: NDArray[Any], number: float | None, *, has_alpha: bool) -> tuple[NDArray[Any], bool, float | None]:
    """Pixels with their holes made NaN or transparent, whether they have alpha now, and the number to write again.

    Integers that have alpha of their own keep it, and say by it alone what is there.
    """
    if number is None:
        return pixels, has_alpha, None
    if pixels.dtype.kind == "f":
        there = pixels == _as(number, pixels.dtype)
        if has_alpha:
            there[..., -1] = False
        return np.where(there, pixels.dtype.type(math.nan), pixels) if there.any() else pixels, has_alpha, number
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = planes[..., :-1] if has_alpha else planes
    holes = _missing(colours, number)
    kept = None if has_alpha else number
    if not holes.any():
        return pixels, has_alpha, kept
    alpha = np.where(holes, 0, planes[..., -1] if has_alpha else np.iinfo(pixels.dtype).max)
    return np.concatenate([colours, alpha[..., None].astype(pixels.dtype)], -1), True, kept


def _missing(colours: NDArray[Any], number: float) -> NDArray[np.bool_]:
    """`(H, W)` true where integers hold nothing: in all channels at once, for one may be that dark or bright."""
    same: NDArray[np.bool_] = colours == number
    return same if same.ndim == 2 else np.logical_and.reduce(same, -1)


def with_number(pixels: NDArray[Any], number: float, *, has_alpha: bool) -> tuple[NDArray[Any], bool]:
    """The number in place of NaN, or of what integers hold half transparent or more; whether alpha is left.

    An integer that interpolation has brought to the number makes room for it by one.
    """
    if pixels.dtype.kind == "f":
        return np.where(np.isnan(pixels), _as(number, pixels.dtype), pixels), has_alpha
    top = np.iinfo(pixels.dtype).max
    out = pixels[..., :-1].copy() if has_alpha else pixels.copy()
    out = out[..., 0] if out.ndim == 3 and out.shape[2] == 1 else out
    out[_missing(out, number)] = number + 1 if number < top else number - 1
    if has_alpha:
        out[pixels[..., -1] <= top // 2] = number
    return out, False


def _as(number: float, dtype: "np.dtype[Any]") -> Any:
    """As a pixel: the largest float is written with fewer digits than it has, and may come out larger."""
    limit = float(np.finfo(dtype).max)
    return dtype.type(min(max(number, -limit), limit))
