"""What is compared of one pair at the reductions asked for: each is made when first asked for, and kept."""

import math
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.numerics.masks import is_whole
from imgalign.planes.appearance import edges, relief, smoothed
from imgalign.pyramid import blur, shrink

Masked: TypeAlias = tuple[Image, Weight]
"""A picture, `(1, C, H, W)`, and its mask."""

_FINE_PIXELS = 288  # of the longer side of the pictures of which fine edges are taken
_WIDE = 1.0  # pixels of a level by which they are blurred there, as its own are


def on_one_grid(fixed: Masked, moving: Masked) -> bool:
    """Whether two pictures are of one size and have all their pixels, so that these may be compared one by one."""
    return fixed[0].shape == moving[0].shape and is_whole(fixed[1]) and is_whole(moving[1])


class Level:
    """Two small pictures, one channel each, and their features; with edges of their own, or with given ones.

    Attributes:
        pictures: Grey values of both, with their masks.
    """

    def __init__(self, fixed: Masked, moving: Masked, given: tuple[Image, Image] | None = None) -> None:
        self.pictures = fixed, moving
        (f, of_fixed), (m, of_moving) = fixed, moving
        self._weights = of_fixed, of_moving
        # On so few pixels a second picture takes little longer than one alone.
        together = on_one_grid(fixed, moving)
        self._pictures = [(torch.cat([f, m]), of_fixed)] if together else [fixed, moving]
        self._given = None if given is None else [torch.cat(given)] if together else list(given)

    @cached_property
    def edges(self) -> tuple[Masked, Masked]:
        """Orientation of edges, two channels (`appearance.edges`)."""
        return self._each(self._edges)

    @cached_property
    def features(self) -> tuple[Masked, Masked]:
        """Local contrast and orientation of edges, three channels: what hypotheses are refined on."""
        reliefs = (relief(*picture, smooth) for picture, smooth in zip(self._pictures, self._smooth, strict=True))
        return self._each([torch.cat(channels, 1) for channels in zip(reliefs, self._edges, strict=True)])

    @cached_property
    def _smooth(self) -> list[Image]:
        return [smoothed(*picture) for picture in self._pictures]

    @cached_property
    def _edges(self) -> list[Image]:
        if self._given is not None:
            return self._given
        return [edges(smooth, weight) for smooth, (_, weight) in zip(self._smooth, self._pictures, strict=True)]

    def _each(self, batches: list[Tensor]) -> tuple[Masked, Masked]:
        fixed, moving = batches[0].split(1) if len(batches) == 1 else batches
        return (fixed, self._weights[0]), (moving, self._weights[1])


class Levels:
    """The levels of one pair of pictures, `(1, 1, H, W)` each.

    Args:
        fixed: The picture that stays, and its mask.
        moving: The other, and its mask.
        fine: Whether the edges of a level are those of finer pictures, averaged. Which way grain, fibres and texture
            run tells of a place where nothing of these is left on a level, and two modalities may share it alone.
    """

    def __init__(self, fixed: Masked, moving: Masked, *, fine: bool = False) -> None:
        self._pictures, self._wants_fine = (fixed, moving), fine
        self._made: dict[tuple[float, float], Level] = {}

    @property
    def longest(self) -> int:
        """Pixels of the longest side of both."""
        return max(max(image.shape[-2:]) for image, _ in self._pictures)

    @property
    def shortest(self) -> int:
        """Pixels of the shortest side of both."""
        return min(min(image.shape[-2:]) for image, _ in self._pictures)

    @property
    def fixed_hw(self) -> tuple[int, int]:
        """Rows and columns of the fixed picture."""
        return self._pictures[0][0].shape[-2], self._pictures[0][0].shape[-1]

    @staticmethod
    def reductions(reduction: float, scale: float) -> tuple[float, float]:
        """Of the fixed and of the moving picture, the finer of the two reduced to about the other's density.

        Args:
            reduction: Of the coarser one.
            scale: Moving pixels per fixed pixel; half an octave more or less makes no other level.
        """
        nominal = 2 ** (round(2 * math.log2(scale)) / 2)
        return reduction * max(1.0, 1 / nominal), reduction * max(1.0, nominal)

    def at(self, fixed_reduction: float, moving_reduction: float) -> Level:
        """Each picture reduced by a factor of its own."""
        key = fixed_reduction, moving_reduction
        if key not in self._made:
            fixed, moving = (shrink(*p, reduction) for p, reduction in zip(self._pictures, key, strict=True))
            given = (self._averaged(0, key[0], fixed), self._averaged(1, key[1], moving)) if self._wants_fine else None
            self._made[key] = Level(fixed, moving, given)
        return self._made[key]

    def _averaged(self, role: int, reduction: float, there: Masked) -> Image:
        """Fine edges of the fixed (0) or the moving (1) picture over the pixels of a level."""
        own, (field, weight) = self._fine[role]
        if reduction <= own:
            return edges(smoothed(*there), there[1])  # those of such a level are as fine themselves
        size_hw = there[0].shape[-2], there[0].shape[-1]
        return blur(shrink(field, weight, reduction / own, size_hw)[0], _WIDE)

    @cached_property
    def _fine(self) -> list[tuple[float, Masked]]:
        """For either picture the reduction at which its fine edges are taken, and they, each pixel by itself."""
        out = []
        for picture in self._pictures:
            reduction = max(1.0, max(picture[0].shape[-2:]) / _FINE_PIXELS)
            image, weight = shrink(*picture, reduction)
            out.append((reduction, (edges(smoothed(image, weight), weight, sigma=0.0), weight)))
        return out
