"""From what a caller has to what is aligned: one plane of grey values and a mask, at any whole reduction.

Arrays, PIL images and tensors come in any dtype and channel count. The picture is converted a band of rows at a
time, so that a large one that is aligned at a coarse level is never held in float at full size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.errors import ShapeError
from imgalign.impulses import REACH, Impulses, found, usual
from imgalign.masks import full_weight, is_whole
from imgalign.pyramid import halve, reduce
from imgalign.weights import as_weights, shares

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BAND_SAMPLES = 1 << 19  # converted in one go: what fits into the processor's cache
_TOO_LARGE = 1e18  # squares of more overflow float32
_MANY = 0.001  # share of the values that a number has to have to be taken for one that fills holes
_WHITE = (255.0, 65535.0)  # not taken for one, nor is anything from -1 to 1: drawings have such grounds
_SAMPLES = 64  # along each axis: the first look at a picture's values
_ORDINARY = (2.0**-10, 2.0**40)  # largest values of pictures that are taken as they come
_WIDE = (torch.float64, torch.int32, torch.int64)  # float32 does not hold all of their values
_FAINT = 1 / 64  # of the largest value: a smaller range has its offset taken off
_ROUNDED = {torch.float64: 1e-13, torch.int32: 0.0, torch.int64: 0.0}  # of it: rounding, and no range; else
_ROUNDED_SINGLE = 5e-7
_WEAK = 0.5  # largest weight up to which the others are taken as shares of it: a pixel of less is not looked at
_LEAST_ROWS = 12  # of a level made in one go, beside one more on either side


@dataclass(frozen=True)
class Known:
    """Which of a picture's values are known, those between two bounds that are not, and what becomes of them."""

    low: float
    high: float
    whole: bool
    """All of them."""
    scale: float
    """What brings tiny and huge pictures, and all wide integers, to about 1; of floats a power of two."""
    offset: float = 0.0
    """Taken off before a value becomes float32, which has no digits left for a small range far from 0."""
    clamp: tuple[float, float] | None = None
    """The least and the largest value that count: what lies under a mask may be anything. None: as they are."""
    extent: tuple[float, float] | None = None
    """Of the known values of floats."""


@dataclass(frozen=True)
class Plane:
    """One picture: `(H, W, C)` values as they came, an outside mask, and the planes made of them so far."""

    pixels: Tensor
    mask: Tensor | None
    alpha: bool
    device: torch.device
    known: Known | None
    """None where the values are integers of 8 or 16 bits."""
    impulses: Impulses | None = None
    """Single pixels that are not compared as they are."""
    _made: dict[int, tuple[Image, Weight]] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Image, weight: Weight) -> "Plane":
        """A plane made of grey values `(1, 1, H, W)`, about 0 to 1, and their weights."""
        mask = None if is_whole(weight) else weight[0, 0]
        return cls(image[0, 0, ..., None], mask, False, image.device, Known(-np.inf, np.inf, True, 1.0))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def within(self, inside: NDArray[np.bool_]) -> "Plane":
        """The same picture, of which only some counts: where `inside`, of any size, says so."""
        rows, columns = (np.arange(n) * k // n for n, k in zip(self.size_hw, inside.shape, strict=True))
        mask = torch.from_numpy(inside[rows][:, columns])
        mask = mask if self.mask is None else self.mask * mask
        return Plane(self.pixels, mask, self.alpha, self.device, self.known, self.impulses)

    def at(self, reduction: int) -> tuple[Image, Weight]:
        """Grey values, about 0 to 1, and weights, each `(1, 1, H // reduction, W // reduction)`, float32.

        Even reductions are the exact ones: means over plain blocks let fine detail come back as coarse.
        """
        if reduction not in self._made:
            self._made[reduction] = self._make(reduction)
        return self._made[reduction]

    def _make(self, reduction: int) -> tuple[Image, Weight]:
        h, w = (n // reduction for n in self.size_hw)
        image = torch.empty(1, 1, h, w, device=self.device)
        weight: Weight | None = None
        rows = max(_LEAST_ROWS, _BAND_SAMPLES // reduction // max(1, self.pixels[0].numel()))
        # Into planes that are there already: results kept from band to band would lie between the bands' own memory
        # and keep it from being used again, which on 100 megapixels cost 1 GB and half of the time.
        for top in range(0, h, rows):
            here = slice(top, min(top + rows, h))
            # From the picture itself, never from a level that happens to be there: answers must not depend on that.
            made = self._blocks(here, reduction) if reduction % 2 else self._halved(here, reduction)
            image[..., here, :], seen = made
            if weight is None and not is_whole(seen):
                weight = torch.ones_like(image)
            if weight is not None:
                weight[..., here, :] = seen
        if weight is None:
            return image, full_weight(image)
        # What is half transparent all over is seen all the same: weights tell parts of one picture apart.
        most = float(weight.max())
        return image, weight / most if 0 < most <= _WEAK else weight

    def _halved(self, rows: slice, reduction: int) -> tuple[Image, Weight]:
        """Some rows of an even reduction, from plain blocks of half of it."""
        above = min(1, rows.start)  # one more on either side, for what each takes from its neighbours
        blocks = slice(2 * (rows.start - above), min(2 * rows.stop + 2, self.size_hw[0] // (reduction // 2)))
        image, weight = halve(*self._blocks(blocks, reduction // 2))
        inner = slice(above, above + rows.stop - rows.start)
        return image[..., inner, :], weight[..., inner, :]

    def _blocks(self, rows: slice, side: int) -> tuple[Image, Weight]:
        """Some rows of plain blocks."""
        grey, seen = self._band(rows.start * side, rows.stop * side)
        return reduce(grey[None, None], full_weight(grey) if seen is None else seen[None, None], side)

    def _band(self, top: int, bottom: int) -> tuple[Tensor, Tensor | None]:
        """Grey values of some rows, and their weights where not all are one."""
        part, known = self.pixels[top:bottom], self.known
        # Here, for not every device has float64.
        values = (part.float() if part.dtype in _WIDE else part).to(self.device)
        scale = 1.0 if known is not None else 1 / float(torch.iinfo(values.dtype).max)
        values = values.float()
        count = values.shape[-1] - self.alpha
        colours = values[..., :count]
        weight: Tensor | None = None
        seen = None if known is None or known.whole else _between(colours, known.low, known.high).all(-1)
        if known is not None and known.clamp is not None:
            colours = _lowered(part[..., :count], known.clamp, known.offset).to(self.device)
        if seen is not None and not bool(seen.all()):
            weight = seen.to(values.dtype)
            colours = torch.where(seen[..., None], colours, 0.0)
        if self.alpha:
            weight = _times(weight, (values[..., -1] * scale).nan_to_num(0).clamp(0, 1))
        if self.mask is not None:
            weight = _times(weight, self.mask[top:bottom].to(self.device, torch.float32))
        grey = _grey(colours, scale if known is None else known.scale)
        if self.impulses is not None:
            self.impulses.taken_off(grey, top)
        return grey, weight

    def without_impulses(self) -> "Plane":
        """The same picture without single pixels far beyond all others."""
        down, right = (-(-n // _SAMPLES) for n in self.size_hw)
        width = self.size_hw[1]
        first = torch.arange(0, max(1, width - 1), max(2, right), device=self.pixels.device)
        columns = torch.stack([first, (first + 1).clamp_max(width - 1)], 1).flatten()
        mask = None if self.mask is None else self.mask[::down].index_select(1, columns)
        part = replace(self, pixels=self.pixels[::down].index_select(1, columns), mask=mask)
        most = usual(part.seen(0, part.size_hw[0]).reshape(-1, 2))
        bytes_hold = self.pixels.dtype == torch.uint8 and most.holds(0.0, 1.0)  # nearly always
        if bytes_hold or most.holds(*self._extent()):
            return self
        return replace(self, impulses=found(self._framed(), most))

    def seen(self, top: int, bottom: int) -> Tensor:
        """Grey values of some rows, NaN where nothing is seen."""
        grey, weight = self._band(top, bottom)
        return grey if weight is None else grey.masked_fill(weight <= 0, math.nan)

    def _extent(self) -> tuple[float, float]:
        """What no grey value lies beyond."""
        if self.known is None:
            full = torch.iinfo(self.pixels.dtype).max
            least, most = (float(x) / full for x in self.pixels.aminmax())
            return least, most
        ends = self.known.clamp or self.known.extent or (math.nan, math.nan)
        least, most = ((end - self.known.offset) * self.known.scale for end in ends)
        return least, most

    def _framed(self) -> Iterator[tuple[int, Tensor]]:
        """All rows, some at a time with those around them, as `impulses.found` takes them."""
        h = self.size_hw[0]
        rows = max(_LEAST_ROWS, _BAND_SAMPLES // max(1, self.pixels[0].numel()))
        for top in range(0, h, rows):
            bottom = min(top + rows, h)
            above, below = min(REACH, top), min(REACH, h - bottom)
            frame = (0, 0, REACH - above, REACH - below)
            yield top, nn.pad(self.seen(top - above, bottom + below), frame, value=math.nan)


def _lowered(colours: Tensor, clamp: tuple[float, float], offset: float) -> Tensor:
    """Values less the offset, as float32: taken off where all their digits are there yet."""
    exact = colours.double() if colours.dtype in _WIDE else colours.float()
    return (exact.clamp(*clamp) - offset).float()


def _between(values: Tensor, low: float, high: float) -> Tensor:
    return (values > low) & (values < high)


def _times(weight: Tensor | None, other: Tensor) -> Tensor:
    return other if weight is None else weight * other


def _grey(colours: Tensor, scale: float) -> Tensor:
    """One plane, `(H, W, C)` to `(H, W)`, times `scale`."""
    count = colours.shape[-1]
    shares = (1.0,) if count == 1 else _LUMINANCE if count == 3 else (1 / count,) * count
    # Plane by plane: several times as fast as sums over interleaved channels.
    grey = colours[..., 0] * (shares[0] * scale)
    for channel in range(1, count):
        grey.add_(colours[..., channel], alpha=shares[channel] * scale)
    return grey


def even_reduction(reduction: float) -> int:
    """The even number nearest to a reduction of more than one: even ones are the exact ones (`Plane.at`)."""
    return 2 * max(1, round(0.5 * reduction))


def plane(picture: Any, mask: Any, device: torch.device, role: str) -> Plane:
    """Take a picture as it comes.

    Args:
        picture: NumPy `(H, W)` or `(H, W, C)`, PIL image, or tensor `(H, W)` or `(C, H, W)`. Two or four channels
            end in alpha, which counts as a mask; NaN and infinite values are masked.
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
    if alpha and not pixels.is_floating_point() and pixels.dtype in _WIDE:
        weight = _times(weight, torch.from_numpy(shares(pixels[..., -1].numpy())))
        pixels, alpha = pixels[..., :-1], False
    if not pixels.is_floating_point() and pixels.dtype not in _WIDE:
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
        there = _between(band, known.low, known.high)
        if seen is not None:
            there &= seen[top : top + len(band), :, None]
        top += len(band)
        exact = rows.double() if rows.dtype in _WIDE else band
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
    rows = max(1, _BAND_SAMPLES // max(1, colours[0].numel()))
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
        # Of wide integers the range is not used: there it is the numbers that tell what is white.
        return tensor if tensor.is_floating_point() or tensor.itemsize <= 2 else _native(tensor.cpu().numpy())
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
