"""Squared differences after the best gain and bias, plain and bounded."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from imgalign._types import Image, Weight
from imgalign.gradients import central_differences, magnitude
from imgalign.losses.overlap import ROUNDING, Overlap, noise_floor, overlap_of
from imgalign.numerics.histograms import regular_subset, weighted_quantile

# Geman-McClure's constant for 95 % efficiency on Gaussian noise (solved numerically from the two moments of psi) of
# standard deviation 1; with the scale below, two thirds of that, it is 87 %.
_GEMAN_MCCLURE = 3.787
# Where the scale of the residual is read: occluders with strong edges of their own may hold two thirds of what tells.
# Tried on pairs with a fifth hidden: a share of 0.5 fails by 0.3 px, 0.25 fails on text 1.4 px off its place.
_FITTING_SHARE, _SPREAD = 0.35, 1.4826


def ssd(fixed: Image, warped: Image, weight: Weight | None = None) -> Tensor:
    """Squared difference after the best gain and bias of each channel, as a share of the fixed image's variance.

    Gain and bias are solved in closed form inside the loss; with one channel this is one minus the squared
    correlation, so that a negative gain (inverted contrast) fits as well.

    Args:
        fixed: `(B, C, H, W)`, any unit; a batch of one serves all rows.
        warped: `(B, C, H, W)` in a unit of its own.
        weight: `(B, 1, H, W)`, 0 to 1.

    Returns:
        `(B,)`: 0 to 1; 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    overlap = overlap_of(fixed, warped, weight)
    f, g = overlap.fixed - overlap.mean(overlap.fixed), overlap.warped - overlap.mean(overlap.warped)
    gain = overlap.mean(f * g) / (overlap.mean(g.square()) + noise_floor(overlap.warped))
    floor = noise_floor(overlap.fixed).flatten()
    unexplained = overlap.mean((f - gain * g).square()).mean(dim=(1, 2, 3))
    return overlap.judged((unexplained + floor) / (overlap.mean(f.square()).mean(dim=(1, 2, 3)) + floor))


class RobustFit(NamedTuple):
    """What `robust` holds fixed while it is differentiated."""

    gain: Tensor  # (B, C)
    bias: Tensor  # (B, C), unit of fixed
    scale: Tensor  # (B,) size of the residual's inliers, unit of fixed


def robust(fixed: Image, warped: Image, weight: Weight | None = None, *, fit: RobustFit | None = None) -> Tensor:
    """Like `ssd`, but a pixel that does not belong (occluder, cloud, moving person) costs a bounded amount.

    The Geman-McClure function of the residual, with gain, bias and the scale of the residual from `robust_fit`.
    These are held constant under differentiation: for gain and bias the derivative is zero at their optimum
    anyway, and a scale that could be driven would be driven up.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        fit: What `robust_fit` gave; `None` fits anew.

    Returns:
        `(B,)`: about `ssd` without outliers, less with them; 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.

    Source:
        Geman and McClure (1987), Statistical methods for tomographic image reconstruction. Their bound is
        multiplied by the squared scale, so that the loss falls when the whole residual shrinks.
    """
    overlap = overlap_of(fixed, warped, weight)
    fit = robust_fit(fixed, warped, weight) if fit is None else fit
    residual = fit.gain[..., None, None] * overlap.warped + fit.bias[..., None, None] - overlap.fixed
    square = residual.square()
    bound = (_GEMAN_MCCLURE * fit.scale[:, None, None, None]).square()
    contrast = overlap.mean((overlap.fixed - overlap.mean(overlap.fixed)).square()).mean(dim=(1, 2, 3))
    floor = noise_floor(overlap.fixed).flatten()
    cost = overlap.mean(square * (bound / (bound + square))).mean(dim=(1, 2, 3))
    return overlap.judged((cost + floor) / (contrast + floor))


def robust_fit(fixed: Image, warped: Image, weight: Weight | None = None, *, rounds: int = 10) -> RobustFit:
    """Gain and bias per channel, and the residual's scale, that outliers do not move; without derivatives.

    Iteratively reweighted least squares with Geman-McClure weights from 1 (plain least squares) on. The scale is
    1.4826 times the 35 % quantile of the absolute residuals of all channels, anew in each round (two thirds of the
    standard deviation of Gaussian noise without outliers), and at least a thousandth of the fixed image's contrast.
    In that quantile a pixel counts by the length of the fixed image's gradient: on a page of text the white paper
    always fits, and by it every misplaced letter would be an outlier. Uses a regular subset of about 65,000 pixels of
    larger images.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        rounds: How many times to reweight.

    Returns:
        Gain and bias `(B, C)`, scale `(B,)`.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    with torch.no_grad():
        overlap = overlap_of(fixed, warped, weight)
        parts = (overlap.fixed, overlap.warped, overlap.weight, _telling(overlap))
        f, g, w, told = (regular_subset(part) for part in parts)  # (B, C, N)
        w = w.expand_as(f)
        gain, bias = _line(f, g, w)
        least = 1e-3 * _weighted_mean(w, (f - _weighted_mean(w, f)).square()).mean(dim=(1, 2)).sqrt()
        least = least.clamp_min(torch.finfo(f.dtype).tiny ** 0.5)
        scale = least
        for _ in range(rounds):
            residual = gain * g + bias - f
            spread = _SPREAD * weighted_quantile(residual.abs().flatten(1), told.flatten(1), _FITTING_SHARE)
            scale = torch.maximum(spread, least)
            inlier = 1 / (1 + (residual / (_GEMAN_MCCLURE * scale[:, None, None])).square()).square()
            gain, bias = _line(f, g, w * inlier)
        return RobustFit(gain[..., 0], bias[..., 0], scale)


def _telling(overlap: Overlap) -> Tensor:
    """Weights by what a pixel tells about the place, `(B, C, H, W)`; plain weights where the image is too small."""
    if min(overlap.fixed.shape[2:]) < 2:
        return overlap.weight.expand_as(overlap.fixed)
    inner = -functional.max_pool2d(-overlap.weight, 3, stride=1, padding=1)
    lengths = inner * magnitude(*central_differences(overlap.fixed))
    # A trace of the plain weight, so that an image without any gradient has a median too.
    trace = 1e-3 * lengths.amax(dim=(1, 2, 3), keepdim=True) + torch.finfo(lengths.dtype).tiny
    return lengths + trace * overlap.weight


def _weighted_mean(weight: Tensor, values: Tensor) -> Tensor:
    return (weight * values).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(
        torch.finfo(values.dtype).tiny
    )


def _line(f: Tensor, g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias `(B, C, 1)` that bring `g` nearest to `f` in weighted least squares."""
    mean_f, mean_g = _weighted_mean(weight, f), _weighted_mean(weight, g)
    variance = _weighted_mean(weight, (g - mean_g).square())
    floor = (ROUNDING * g.abs().amax(-1, keepdim=True)).square() + torch.finfo(f.dtype).tiny
    gain = _weighted_mean(weight, (f - mean_f) * (g - mean_g)) / (variance + floor)
    return gain, mean_f - gain * mean_g
