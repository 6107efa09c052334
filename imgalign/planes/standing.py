"""What stands still with the camera in both pictures, over a scene that moves: dust, a sensor's pattern, a reflection.

It agrees to the bit where nothing is moved, so that every start, every level and the verdict would rather have it so.
Where the pictures lie on each other unmoved it cancels, and what is left is the scene, less the scene as the other
picture sees it. Another transform that lays the scene on itself explains that, and chance does not.

pictures unmoved -> do most parts differ? -> what they share is taken off -> place -> does it explain the difference?
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Floats, Image, Matrix3, Weight
from imgalign.numerics.devices import gathered
from imgalign.numerics.spectral import RadialResponse, Spectrum, ring_sums, spectrum
from imgalign.numerics.sums import mean
from imgalign.planes.levels import Masked
from imgalign.pyramid import masked_blur
from imgalign.sampling import Reader

_NOISE, _LIGHT = 2.0, 8.0  # pixels: what is finer is mostly noise, what is coarser may be another light
_DIFFER = 0.15  # share of the detail of most parts that is not alike: with less nothing has moved
_EXPLAINS = 0.25  # correlation in most parts that no wrong place reaches
_RINGS = 48  # of frequencies
_STANDS_OUT = 9.0  # times the usual power of its ring
_SAME = 0.2  # of its power by which such a wave may differ
_ALIKE = 0.9999  # correlation from which there is nothing to part
_TILES = 6  # a side
_SEEN = 0.3  # of a tile's pixels, for it to count


def differ(fixed: Masked, moving: Masked) -> bool:
    """Whether in most parts two pictures of one size, `(1, 1, H, W)` with masks, show different things as they lie."""
    (f, wf), (m, wm) = _detail(*fixed), _detail(*moving)
    return 1 - _likeness(f, m, wf * wm) ** 2 > _DIFFER


def parted(fixed: Masked, moving: Masked) -> tuple[Masked, Masked]:
    """Two pictures of one size, of each so much of the other taken off that they do not correlate as they lie.

    Of what stands still little is left then. Of a scene that moves each picture shows that of its own, and less of it
    where the other one has it. How much is taken off is told ring by ring of frequencies: dust is coarse, what a sensor
    adds to each pixel is fine, and so is the detail of a scene.
    """
    weight = fixed[1] * moving[1]
    f, m = (spectrum(image - mean(image, weight), weight) for image, _ in (fixed, moving))
    of_moving, of_fixed = _taken_off(f, m)
    first = replace(f, values=f.values - of_moving * m.values)
    second = replace(m, values=m.values - of_fixed * f.values)
    return (first.image(), weight), (second.image(), weight)


def _taken_off(fixed: Spectrum, moving: Spectrum) -> tuple[Tensor, Tensor]:
    """Shares of the moving picture that are taken off the fixed one, and of the fixed one off the other, by frequency.

    All of it where a wave stands out and is the same in both: grids and lines are few frequencies.
    """
    f, m = fixed.values[0, 0], moving.values[0, 0]
    power_f, power_m, power_left = (_power(x) for x in (f, m, f - m))
    planes = [torch.ones_like(power_f), power_f, power_m, power_left]
    count, *sums = ring_sums(planes, fixed.frame_hw, _RINGS)
    usual_f, usual_m, left = (x / np.maximum(count, 1) + 1e-30 for x in sums)
    both = np.sqrt(usual_f * usual_m)
    correlation = (0.5 * (usual_f + usual_m - left) / both).clip(-_ALIKE, _ALIKE)
    share, gain = correlation / (1 + np.sqrt(1 - correlation**2)), np.sqrt(usual_f / usual_m)

    def on(rings: Floats) -> Tensor:
        return RadialResponse(rings).on(fixed)

    whole = on(gain)
    stands_out = (power_f > _STANDS_OUT * on(usual_f)) & (power_m > _STANDS_OUT * on(usual_m))
    same = stands_out & (_power(f - whole * m) < _SAME * power_f)
    return torch.where(same, whole, on(share * gain)), torch.where(same, 1 / whole, on(share / gain))


def _power(values: Tensor) -> Tensor:
    return values.real.square() + values.imag.square()


def explains(fixed: Masked, moving: Masked, moving_from_fixed: Matrix3) -> bool:
    """Whether a transform explains what two pictures of one size differ by as they lie.

    Of a scene that is `S` in the fixed and `S'` in the moving picture, behind an `F` that stands still, they differ by
    `S - S'`. Laid by the transform the moving picture shows `S`, laid by its inverse the fixed one `S'`, each with `F`
    from elsewhere, which has nothing to do with that.

    Args:
        fixed: Picture `(1, 1, H, W)` and mask.
        moving: The other.
        moving_from_fixed: In pixels of both.
    """
    (f, wf), (m, wm) = _detail(*fixed), _detail(*moving)
    onto_fixed, seen = _laid(m, wm, moving_from_fixed)
    onto_moving, also_seen = _laid(f, wf, np.asarray(np.linalg.inv(moving_from_fixed), float))
    return _likeness(f - m, onto_fixed - onto_moving, wf * wm * seen * also_seen) > _EXPLAINS


def _detail(image: Image, weight: Weight) -> Masked:
    """A picture without its noise and its light, and its mask."""
    return masked_blur(image, weight, _NOISE) - masked_blur(image, weight, _LIGHT), weight


def _laid(image: Image, weight: Weight, matrix: Matrix3) -> Masked:
    """A picture and its mask, read where a matrix takes the pixels of another one of its size."""
    return Reader.of(image, weight).on_grid(matrix[None], (image.shape[-2], image.shape[-1]))


def _likeness(one: Image, other: Image, weight: Weight) -> float:
    """Median over tiles of the correlation of two pictures; 0 where too few tiles are seen."""
    h, w = weight.shape[-2:]
    tile = max(1, h // _TILES), max(1, w // _TILES)
    planes = (weight, *(x * weight for x in (one, other, one * one, other * other, one * other)))
    count, *sums = gathered(*(nn.avg_pool2d(x, tile)[0, 0] for x in planes))
    there = count > _SEEN
    if there.sum() < _TILES:
        return 0.0
    x, y, xx, yy, xy = (plane[there] / count[there] for plane in sums)
    spread = np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0)
    return float(np.median((xy - x * y) / np.sqrt(np.maximum(spread, 1e-30))))
