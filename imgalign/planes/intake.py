"""From what a caller has to a `Plane`: which of its numbers are values, and how float32 is to hold them.

Arrays, PIL images and tensors come in any dtype and channel count.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgalign.errors import ShapeError
from imgalign.planes.plane import BAND_SAMPLES, WIDE, Known, Plane
from imgalign.planes.weights import as_weights, shares

_TOO_LARGE = 1e18  # squares of more overflow float32
_MANY = 0.001  # share of the values that a number has to have to be taken for one that fills holes
_WHITE = (255.0, 65535.0)  # not taken for one, nor is anything from -1 to 1: drawings have such grounds
_SAMPLES = 64  # along each axis: the first look for numbers that fill holes
_ORDINARY = (2.0**-10, 2.0**40)  # largest values of pictures that are taken as they come
_FAINT = 1 / 64  # of the largest value: a smaller range has its offset taken off
_ROUNDED = {torch.float64: 1e-13, torch.int32: 0.0, torch.int64: 0.0}  # of it: rounding, and no range; else
_ROUNDED_SINGLE = 5e-7


def plane(picture: Any, mask: Any, device: torch.device, role: str) -> Plane:
    """Take a picture as it comes.

    Args:
        picture: NumPy `(H, W)` or `(H, W, C)`, PIL image, or tensor `(H, W)` or `(C, H, W)`. Two or four channels
            end in alpha, which counts as a mask; NaN and infinite values are masked, and so is what a masked array
            hides in any channel.
        mask: `(H, W)`, as `weights.as_weights` takes it, or None.
        role: `fixed` or `moving`, for messages.

    Raises:
        ShapeError: If it is no such thing, or has an axis of less than eight pixels.
    """
    pixels = _as_tensor(picture, role)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    h, w, channels = pixels.shape
    if min(h, w) < 8:
        raise ShapeError(f"{role} needs at least 8 x 8 pixels to be aligned, got {h} x {w}; use a larger picture")
    alpha = channels in (2, 4)
    weight = None if mask is None else torch.from_numpy(as_weights(mask, (h, w), role))
    if np.ma.is_masked(picture):
        hidden = np.ma.getmaskarray(picture).reshape(h, w, channels).any(-1)
        shown = torch.from_numpy(1 - hidden.astype(np.float32))
        weight = shown if weight is None else weight * shown
    if alpha and not pixels.is_floating_point() and pixels.dtype in WIDE:
        opacity = torch.from_numpy(shares(pixels[..., -1].numpy()))
        weight = opacity if weight is None else weight * opacity
        pixels, alpha = pixels[..., :-1], False
    if not pixels.is_floating_point() and pixels.dtype not in WIDE:
        return Plane(pixels, weight, alpha, device, None).without_impulses()
    colours = pixels[..., : channels - 1] if alpha else pixels
    seen = None if weight is None else weight.to(pixels.device) > 0
    if alpha:
        opaque = pixels[..., -1] > 0  # no NaN
        seen = opaque if seen is None else seen & opaque
    return Plane(pixels, weight, alpha, device, _known(colours, seen)).without_impulses()


def _known(colours: Tensor, seen: Tensor | None) -> Known:
    """Tell what a picture's values are: which are known, and where they lie.

    Heights in millimetres, millikelvin and counts of 32 bits may have a range of the last digits of float32, or less.

    Args:
        colours: `(H, W, C)` floats, or wide integers, which are all known.
        seen: `(H, W)`, by a mask; None for everywhere.
    """
    known, extent = (Known(-math.inf, math.inf, True, 1.0), None)
    if colours.is_floating_point():
        known, extent = _known_floats(colours)
        if seen is None and not _is_faint(*extent):
            return known
    least, most = _exact_extent(colours, known, seen)
    if not least <= most:
        return known
    largest = max(abs(least), abs(most))
    if not most - least > _ROUNDED.get(colours.dtype, _ROUNDED_SINGLE) * largest or not _is_faint(least, most):
        return known if extent else replace(known, scale=1 / (largest or 1.0), clamp=(least, most))
    scale = _scale(most - least) if extent else 1 / (most - least)
    return replace(known, scale=scale, offset=least, clamp=(least, most))


def _is_faint(least: float, most: float) -> bool:
    """Whether a range is small beside the values."""
    return most - least < _FAINT * max(abs(least), abs(most))


def _exact_extent(colours: Tensor, known: Known, seen: Tensor | None) -> tuple[float, float]:
    """The least and the largest known value that is seen, with all its digits; infinite where there is none."""
    least, most, top = math.inf, -math.inf, 0
    for band in _bands(colours):
        rows = colours[top : top + len(band)]
        there = known.holds(band)
        if seen is not None:
            there &= seen[top : top + len(band), :, None]
        top += len(band)
        exact = rows.double() if rows.dtype in WIDE else band
        least = min(least, float(torch.where(there, exact, math.inf).amin()))
        most = max(most, float(torch.where(there, exact, -math.inf).amax()))
    return least, most


def _known_floats(colours: Tensor) -> tuple[Known, tuple[float, float]]:
    """Tell the values of a float picture from what only fills its holes.

    What is not finite is no value, nor is a magnitude whose square overflows, nor a number that many pixels share and
    that lies beyond all others by more than their whole range: -9999 beside 0 to 1.

    Returns:
        That, and the least and the largest of the known values, in float32.
    """
    low, high, whole = _extent(colours, -_TOO_LARGE, _TOO_LARGE)
    below, above, inner_low, inner_high = _fillers(colours, low, high)
    bounds = low if below else -_TOO_LARGE, high if above else _TOO_LARGE
    scale, inner = _scale(max(abs(inner_low), abs(inner_high))), (inner_low, inner_high)
    return Known(*bounds, whole=whole and not below and not above, scale=scale, extent=inner), inner


def _scale(largest: float) -> float:
    """What brings values to about 1 that are not near it: a power of two, which costs no digits."""
    ordinary = _ORDINARY[0] <= largest <= _ORDINARY[1] or not 0 < largest < _TOO_LARGE
    return 1.0 if ordinary else 2.0 ** min(-math.frexp(largest)[1], 126)


def _fillers(colours: Tensor, low: float, high: float) -> tuple[bool, bool, float, float]:
    """Whether the least and the largest number only fill holes, and the least and the largest that do not.

    In most pictures a few samples come too near to both for that. Some hot pixels do not share one number, saturated
    ones lie next to others, and the even grounds of drawings and of cut-out objects are 0 or white.
    """
    neither = False, False, low, high
    h, w = colours.shape[:2]
    some = colours[:: -(-h // _SAMPLES), :: -(-w // _SAMPLES)].float()
    some = some[(some > low) & (some < high)]
    if some.numel():
        first, last = (float(x) for x in some.aminmax())
        if max(first - low, high - last) <= last - first:
            return neither
    first, last, _ = _extent(colours, low, high)
    if not first < last:
        return neither

    def fills(number: float, gap: float, least: float, most: float) -> bool:
        beyond = gap > most - least and abs(number) > max(1.0, abs(least), abs(most)) and number not in _WHITE
        return beyond and _count(colours, number) > _MANY * colours.numel()

    if fills(low, first - low, first, last) and fills(high, high - last, first, last):
        return True, True, first, last
    if fills(low, first - low, first, high):
        return True, False, first, high
    if fills(high, high - last, low, last):
        return False, True, low, last
    return neither


def _extent(colours: Tensor, low: float, high: float) -> tuple[float, float, bool]:
    """The least and the largest value between two numbers, and whether all values lie there."""
    least, most, whole = math.inf, -math.inf, True
    for band in _bands(colours):
        first, last = (float(x) for x in band.aminmax())
        if not (low < first and last < high):  # or NaN
            inside, whole = (band > low) & (band < high), False
            first = float(torch.where(inside, band, math.inf).amin())
            last = float(torch.where(inside, band, -math.inf).amax())
        least, most = min(least, first), max(most, last)
    return least, most, whole


def _count(colours: Tensor, number: float) -> int:
    return sum(int((band == number).sum()) for band in _bands(colours))


def _bands(colours: Tensor) -> Iterator[Tensor]:
    """Rows that fit into the cache, as float32."""
    rows = max(1, BAND_SAMPLES // max(1, colours[0].numel()))
    return (band.float() for band in colours.split(rows))


def _as_tensor(picture: Any, role: str) -> Tensor:
    if isinstance(picture, Tensor):
        if picture.ndim not in (2, 3):
            raise ShapeError(
                f"{role} tensor must be (H, W) or (C, H, W), got {tuple(picture.shape)}; select one picture"
            )
        if picture.is_complex() or 0 in picture.shape:
            raise ShapeError(f"{role} must hold real numbers, got {picture.dtype} {tuple(picture.shape)}; convert it")
        tensor = picture.detach()
        tensor = tensor.to(torch.uint8) * 255 if tensor.dtype == torch.bool else tensor
        tensor = tensor if tensor.ndim == 2 else tensor.permute(1, 2, 0)
        # Of wide integers the range is not used: there it is the numbers that tell what is white. And PyTorch does
        # next to nothing with unsigned ones of 16 bits.
        taken = tensor.is_floating_point() or (tensor.itemsize <= 2 and tensor.dtype != torch.uint16)
        return tensor if taken else _native(tensor.cpu().numpy())
    if hasattr(picture, "getbands"):  # PIL: modes with a palette or one bit hold indices, not intensities
        mode = picture.mode
        wanted = {"1": "L", "P": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
        picture = picture.convert(wanted[mode]) if mode in wanted else picture
    array = np.asarray(picture)
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ShapeError(
            f"{role} must be (H, W) or (H, W, C) real numbers, got {array.dtype} {array.shape}; convert it first"
        )
    return _native(array)


def _native(array: np.ndarray) -> Tensor:
    """The same values in a dtype and memory order that PyTorch takes."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = array.astype(np.float32) / 65535
    elif array.dtype == np.uint32:
        array = array.astype(np.int64)
    elif array.dtype == np.uint64:  # the last bit of the largest ones is less than they are rounded by
        array = (array >> np.uint64(array.max() >> np.uint64(63))).astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        with np.errstate(over="ignore"):  # to infinity, which counts as no data
            array = array.astype(np.float64 if array.itemsize > 4 else np.float32)
    array = np.ascontiguousarray(array)
    # PyTorch warns of memory that it must not write to, though nothing here does.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
