"""What is compared of one pair at the reductions asked for: each is made when first asked for, and kept."""

from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.appearance import edges, relief, smoothed
from imgalign.masks import is_whole
from imgalign.pyramid import shrink

Masked: TypeAlias = tuple[Image, Weight]
"""A picture, `(1, C, H, W)`, and its mask."""


def on_one_grid(fixed: Masked, moving: Masked) -> bool:
    """Whether two pictures are of one size and have all their pixels, so that these may be compared one by one."""
    return fixed[0].shape == moving[0].shape and is_whole(fixed[1]) and is_whole(moving[1])


class Level:
    """Two small pictures, one channel each, and their features."""

    def __init__(self, fixed: Masked, moving: Masked) -> None:
        (f, of_fixed), (m, of_moving) = fixed, moving
        self._weights = of_fixed, of_moving
        # On so few pixels a second picture takes little longer than one alone.
        together = on_one_grid(fixed, moving)
        self._pictures = [(torch.cat([f, m]), of_fixed)] if together else [fixed, moving]

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
        return [edges(smooth, weight) for smooth, (_, weight) in zip(self._smooth, self._pictures, strict=True)]

    def _each(self, batches: list[Tensor]) -> tuple[Masked, Masked]:
        fixed, moving = batches[0].split(1) if len(batches) == 1 else batches
        return (fixed, self._weights[0]), (moving, self._weights[1])


class Levels:
    """The levels of one pair of pictures, `(1, 1, H, W)` each."""

    def __init__(self, fixed: Masked, moving: Masked) -> None:
        self._fixed, self._moving = fixed, moving
        self._made: dict[tuple[float, float], Level] = {}

    @property
    def longest(self) -> int:
        """Pixels of the longest side of both."""
        return max(*self._fixed[0].shape[-2:], *self._moving[0].shape[-2:])

    @property
    def shortest(self) -> int:
        """Pixels of the shortest side of both."""
        return min(*self._fixed[0].shape[-2:], *self._moving[0].shape[-2:])

    def at(self, fixed_reduction: float, moving_reduction: float) -> Level:
        """Each picture reduced by a factor of its own."""
        key = fixed_reduction, moving_reduction
        if key not in self._made:
            self._made[key] = Level(shrink(*self._fixed, fixed_reduction), shrink(*self._moving, moving_reduction))
        return self._made[key]
