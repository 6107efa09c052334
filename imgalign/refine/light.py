"""Changes of light between two aligned pictures: a gain and a bias that vary slowly.

They vary over some twelve pixels, so they are computed on a lattice of half that spacing. Averaging blocks of pixels
down to it and interpolating up from it are a few small matrix products, right at the borders, where what is not seen
weighs nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.numerics.noise import LEAST_SCENE, noise_variance
from imgalign.numerics.problem import Problem
from imgalign.numerics.sums import mean
from imgalign.pyramid import blocks
from imgalign.refine.occluders import compared

_SIGMA = 12.0  # pixels over which light may change
_BLOCKS = 3.0  # blocks of pixels in that, which stand for their pixels
_BAND = 96  # pixels whose lattice points are a part of all
_FAINT = 1e-3  # least weight where the pictures differ: far inside there may be nothing but another light
_SEEN = 1e-3  # weight that sums on the lattice are divided by at least: where there is none they are none either
_WORTH = 0.9  # share of the residual that a changing gain must leave at most, to be solved


class View(NamedTuple):
    """Two pictures on the pixels of the fixed one, `(1, 1, H, W)` each, and the weight of what both show."""

    fixed: Image
    warped: Image
    valid: Weight


@dataclass(frozen=True)
class Light:
    """What brings the moving picture under the light of the fixed one, `(1, 1, H, W)` each.

    Attributes:
        gain: Contrast of the fixed over that of the moving picture.
        fixed_mean: Mean of the fixed picture around each pixel, and
        warped_mean: that of the moving one.
    """

    gain: Image
    fixed_mean: Image
    warped_mean: Image

    def on(self, view: View) -> View:
        """The pictures without their means, the moving one at the contrast of the fixed one."""
        return View(view.fixed - self.fixed_mean, self.gain * (view.warped - self.warped_mean), view.valid)

    def around(self, view: View) -> "Light":
        """The same gain for filtered pictures, with the means that are theirs.

        A filter that makes noise white leaves little of a scene, and a gain learnt from that would follow the noise.
        """
        fixed, warped, valid = view
        down, up = _lattice(valid, _SIGMA)
        below = down(valid).clamp_min(_SEEN)
        return replace(self, fixed_mean=up(down(fixed * valid) / below), warped_mean=up(down(warped * valid) / below))

    def solved(self, problem: Problem) -> Problem:
        """The same of pictures that are read again and again."""
        return replace(
            problem, fixed=problem.fixed - self.fixed_mean, gain=self.gain, offset=self.gain * self.warped_mean
        )


def changing_light(
    view: View,
    wanted: bool | None,
    there: Weight | None = None,
    *,
    noise: tuple[float, float] | None = None,
    spacing: int = 1,
) -> Light | None:
    """A light that changes over the picture, or None where one gain and one bias explain nearly as much.

    The gain is the regression of the fixed on the moving picture around each pixel, drawn to the global one where
    there is little to tell, and takes vignetting, gamma and tone curves along, local inversions by its sign.

    Args:
        view: The pictures, about aligned.
        wanted: Always, never, or (None) where it is worth it.
        there: 1 where both show the same; None for everywhere. What does not takes a faint part in the light, none in
            what it is worth.
        noise: Variance of either picture's noise; where it is None, as for white noise.
        spacing: Pixels of the pictures per pixel of the view.
    """
    if wanted is False:
        return None
    fixed, warped, valid = view
    down, up = _lattice(valid, _SIGMA / spacing)
    weight, valid = (valid, valid) if there is None else (valid * there.clamp_min(_FAINT), valid * there)
    below = down(weight).clamp_min(_SEEN)
    mean_f, mean_m = up(down(fixed * weight) / below), up(down(warped * weight) / below)
    f, m = fixed - mean_f, warped - mean_m
    seen = m * weight
    variance, covariance = down(m * seen) / below, down(f * seen) / below
    mean_variance, mean_covariance = mean(m * m, valid), mean(f * m, valid)
    one_gain = mean_covariance / mean_variance.clamp_min(1e-20)
    prior = 0.1 * mean_variance + 1e-20
    gain = up((covariance + prior * one_gain) / (variance + prior))
    one = fixed - one_gain * warped
    left_by_one = mean((one - mean(one, valid)).square_(), valid)
    left_by_many = mean((f - gain * m).square_(), valid)
    if wanted is None:
        if bool(left_by_many >= _WORTH * left_by_one):
            return None
        # Where there is only noise the regression leaves the moving picture out, and so halves the residual, under
        # any light. The fair measure is one gain, drawn to nothing in the same way. It is that of the scene, not of
        # noise, which one picture may have more of.
        of_fixed, of_moving = (noise_variance(fixed), noise_variance(warped)) if noise is None else noise
        power, moving_power = (
            (p - n).clamp_min(LEAST_SCENE * p) for p, n in ((mean(f * f, valid), of_fixed), (mean_variance, of_moving))
        )
        gain_alone = torch.sign(mean_covariance) * (power / moving_power.clamp_min(1e-20)).sqrt()
        shrunk = up(gain_alone * (1 - of_moving / variance.clamp_min(1e-20)).clamp(0, 1))
        alone = mean_f - gain_alone * mean_m
        alone = (alone - mean(alone, valid)).add_(f).addcmul_(shrunk, m, value=-1)
        if bool(left_by_many >= _WORTH * mean(alone.square_(), valid)):
            return None
    return Light(gain, mean_f, mean_m)


def lit(
    view: View, wanted: bool | None, robust: bool, *, noise: tuple[float, float] | None = None, spacing: int = 1
) -> tuple[Light | None, Weight | None]:
    """The changing light, and 1 where both pictures show the same under it (`occluders.Compared`), None for everywhere.

    Args:
        view: As in `changing_light`, like all that is not named here.
        robust: Whether occluders are looked for at all.
    """
    if not robust:
        return changing_light(view, wanted, noise=noise, spacing=spacing), None
    regions = compared(*view)
    there = regions.alike()
    found = changing_light(view, wanted, there, noise=noise, spacing=spacing)
    even = regions.alike(even=True)
    if found is None:
        return None, there if even is None else even
    # A thing of another tone over even ground may look like light: without it one gain is then enough.
    if wanted is None and even is not None and not changing_light(view, None, even, noise=noise, spacing=spacing):
        return None, even
    return found, compared(*found.on(view)).alike()


_Scaling = Callable[[Image], Image]


class _Axis(NamedTuple):
    """What averages and interpolates along one axis of `n` pixels and `k` lattice points.

    Attributes:
        down: `(k, blocks)` weights of blocks of pixels.
        up: `(n, k)` weights of lattice points.
        bands: Runs of pixels, and the lattice points that have any: each pixel needs four, so that most weights are
            nothing.
    """

    down: Tensor
    up: Tensor
    bands: list[tuple[slice, slice]]


def _lattice(like: Image, sigma: float) -> tuple[_Scaling, _Scaling]:
    """Functions that average pictures of this size down to the lattice, and interpolate up from it."""
    side = max(1, int(sigma / _BLOCKS))
    y, x = (_axis(n, sigma, side, like.dtype, like.device) for n in like.shape[-2:])

    def up(points: Image) -> Image:
        rows = y.up @ points
        return torch.cat([rows[..., some] @ x.up[run, some].T for run, some in x.bands], -1)

    return lambda image: y.down @ blocks(image, side) @ x.down.T, up


@lru_cache(maxsize=16)
def _axis(n: int, sigma: float, side: int, dtype: torch.dtype, device: torch.device) -> _Axis:
    """Gaussian weights of the pixels around each lattice point, by blocks, and cubic interpolation back."""
    step = sigma / 2
    count = max(2, math.ceil((n - 1) / step) + 1)
    middles = np.arange(-(-n // side)) * side + 0.5 * (side - 1)
    down = side * np.exp(-0.5 * ((middles - step * np.arange(count)[:, None]) / sigma) ** 2)
    pixels = np.arange(n)
    up = np.zeros((n, count))
    cell = np.minimum((pixels / step).astype(int), count - 2)
    t = pixels / step - cell
    # Catmull and Rom's cubic; beyond the ends the last point stands for the missing one.
    taps = (t * (t * (2 - t) - 1), t * t * (3 * t - 5) + 2, t * (t * (4 - 3 * t) + 1), t * t * (t - 1))
    for offset, weight in enumerate(taps):
        np.add.at(up, (pixels, np.clip(cell + offset - 1, 0, count - 1)), weight / 2)

    runs = [slice(first, first + _BAND) for first in range(0, n, _BAND)]
    bands = [(run, slice(max(0, int(cell[run][0]) - 1), int(cell[run][-1]) + 3)) for run in runs]
    weights_down, weights_up = (torch.as_tensor(weights, dtype=dtype).to(device) for weights in (down, up))
    return _Axis(weights_down, weights_up, bands)
