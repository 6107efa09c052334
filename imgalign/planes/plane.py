"""What is aligned: one plane of grey values and a mask, at any whole reduction.

The picture is converted a band of rows at a time, so that a large one that is aligned at a coarse level is never held
in float at full size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as nn
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.numerics.masks import full_weight, is_whole
from imgalign.planes.impulses import REACH, Impulses, found, usual
from imgalign.pyramid import halve, reduce

BAND_SAMPLES = 1 << 19  # converted in one go: what fits into the processor's cache
WIDE = (torch.float64, torch.int32, torch.int64)  # float32 does not hold all of their values

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SAMPLES = 64  # along each axis: the first look for single pixels far beyond all others
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

    def holds(self, values: Tensor) -> Tensor:
        """Where values are known ones."""
        return (values > self.low) & (values < self.high)


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
        rows = max(_LEAST_ROWS, BAND_SAMPLES // reduction // max(1, self.pixels[0].numel()))
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
        values = (part.float() if part.dtype in WIDE else part).to(self.device)
        scale = 1.0 if known is not None else 1 / float(torch.iinfo(values.dtype).max)
        values = values.float()
        count = values.shape[-1] - self.alpha
        colours = values[..., :count]
        weight: Tensor | None = None
        seen = None if known is None or known.whole else known.holds(colours).all(-1)
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
        rows = max(_LEAST_ROWS, BAND_SAMPLES // max(1, self.pixels[0].numel()))
        for top in range(0, h, rows):
            bottom = min(top + rows, h)
            above, below = min(REACH, top), min(REACH, h - bottom)
            frame = (0, 0, REACH - above, REACH - below)
            yield top, nn.pad(self.seen(top - above, bottom + below), frame, value=math.nan)


def _lowered(colours: Tensor, clamp: tuple[float, float], offset: float) -> Tensor:
    """Values less the offset, as float32: taken off where all their digits are there yet."""
    exact = colours.double() if colours.dtype in WIDE else colours.float()
    return (exact.clamp(*clamp) - offset).float()


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
