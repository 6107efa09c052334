"""What two pictures on one grid differ by: brought to one contrast, weighed, and told from noise by a sample."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Floats, Image, Weight
from imgalign.numerics.problem import Problem
from imgalign.numerics.sums import plane_sums

MAD_TO_SIGMA = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
_STEEP = 0.25  # share of the residual where the fixed picture is steep that it is taken to be everywhere
_MEDIAN_SAMPLES = 1500  # enough for a residual's median: its own error is then 3 %
_SEEN = 0.25  # weight of a pixel that has a part in it
_LEAST_YIELDING = 0.5  # so that no step is made more than twice as long


def normalised(
    fixed: Image, moving: Image, valid: Weight, contrast: float | None = None
) -> tuple[Image, Image, Tensor, Tensor]:
    """Both pictures at zero mean and unit contrast over the overlap; the fixed one's gain; the correlation.

    The moving picture takes the sign of the correlation, so that an inverted one fits as well. Where the `contrast` of
    the scene is given (`Problem`), it takes the fixed picture's gain times that.
    """
    pixels = plane_sums(valid)[..., None, None].clamp_min(1e-6)

    def mean(x: Tensor) -> Tensor:
        return plane_sums(x * valid)[..., None, None] / pixels

    f, m = fixed - mean(fixed), moving - mean(moving)
    gain_f, gain_m = mean(f * f).clamp_min(1e-12).rsqrt(), mean(m * m).clamp_min(1e-12).rsqrt()
    covariance = mean(f * m) * gain_f * gain_m
    sign = torch.where(covariance < 0, -1.0, 1.0).to(f.dtype)
    gain_m = gain_m if contrast is None else contrast * gain_f
    return f * gain_f, m * (gain_m * sign), gain_f, covariance.abs().mean((1, 2, 3))


class Sampled(NamedTuple):
    """What a lattice of pixels says of a batch's residuals, each `(B or 1, C, h, w)` or smaller.

    Attributes:
        size: Absolute residuals, in units of their spread.
        slope: Squared gradient of the fixed picture.
        weight: Of the pixels.
        there: Whether a pixel is seen in both pictures.
    """

    size: Tensor
    slope: Tensor
    weight: Tensor
    there: Tensor

    def scale(self) -> Tensor:
        """Robust standard deviation of each row's residual over its overlap, `(B,)`.

        No less than a share of what it is where the fixed picture is steep: the dark sky between stars says nothing of
        how well they fit.
        """
        slope = self.slope * self.there
        everywhere, steep = (
            torch.where(seen, self.size, torch.nan).flatten(1).nanmedian(1).values
            for seen in (self.there, slope > slope.mean((1, 2, 3), keepdim=True))
        )
        return (MAD_TO_SIGMA * torch.fmax(everywhere, _STEEP * steep)).nan_to_num(1.0).clamp_min(1e-4)

    def yielding(self, scale: Tensor, cutoff: float) -> Tensor:
        """See `State`: mean derivative of residual times weight, over mean weight, where the picture is steep."""
        if cutoff == math.inf:
            return torch.ones_like(scale)
        excess = (self.size / (cutoff * scale).reshape(-1, 1, 1, 1)).square_()
        power = self.slope * self.weight / (1 + excess)
        kept = (power * ((1 - excess) / (1 + excess))).sum((1, 2, 3)) / power.sum((1, 2, 3)).clamp_min(1e-30)
        return kept.clamp(_LEAST_YIELDING, 1)


def sampled(problem: Problem, residual: Image, valid: Weight) -> Sampled:
    """A lattice of about `_MEDIAN_SAMPLES` pixels."""
    stride = max(1, int((residual[0].numel() / _MEDIAN_SAMPLES) ** 0.5))
    part, weight, gx, gy = (
        x[..., ::stride, ::stride] for x in (residual, valid, problem.gradient_x, problem.gradient_y)
    )
    slope, there = gx * gx + gy * gy, weight
    if problem.spread is not None:
        spread = problem.spread[..., ::stride, ::stride]
        part, there = part / spread, weight * spread.square()
    return Sampled(part.abs(), slope, weight, there > _SEEN)


def robust(problem: Problem, residual: Image, valid: Weight, scale: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Weights of Cauchy's loss, `(B, C, h, w)`, and that loss summed over each row's pixels.

    A residual is large in units of its own noise: bright pixels are no outliers of a dark ground for their photons.
    """
    if cutoff == math.inf:
        return valid.expand_as(residual), plane_sums(valid * residual * residual).sum(1)
    width2 = (cutoff * scale).square().reshape(-1, 1, 1, 1)
    own = width2 if problem.spread is None else width2 * problem.spread.square()
    excess = 1 + residual * residual / own
    loss = excess.log() if problem.spread is None else excess.log() * problem.spread.square()
    return valid / excess, plane_sums(valid * loss).sum(1) * width2.flatten()


def unrelated_loss(scale: Floats, cutoff: float, channels: int) -> Floats:
    """The loss that two unrelated pictures would have: residuals of variance 2, here all of that size."""
    if cutoff == math.inf:
        return np.full_like(scale, 2.0 * channels)
    width2 = (cutoff * scale) ** 2
    return np.asarray(channels * width2 * np.log(1 + 2.0 / width2))
