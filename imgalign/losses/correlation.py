"""Correlation coefficients, of the whole overlap and in windows."""

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from imgalign._types import Image, Weight
from imgalign.errors import OptionError
from imgalign.losses.overlap import check_choice, overlap_of, standardised

# Local variance, as a share of the image's, that is added to each window's: flat windows are uncorrelated.
_FLAT = 1e-4


def ncc(fixed: Image, warped: Image, weight: Weight | None = None) -> Tensor:
    """One minus the correlation coefficient; a gain must be positive and is shared by the channels, biases are free.

    Computed as half the mean squared difference of the standardised images, which keeps its digits near a
    perfect fit, where `1 - correlation` has lost them.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.

    Returns:
        `(B,)`: 0 to 2 (inverted contrast); 2 without overlap, 1 where either image is constant.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    overlap = overlap_of(fixed, warped, weight)
    f, lost_f = standardised(overlap, overlap.fixed)
    g, lost_g = standardised(overlap, overlap.warped)
    return overlap.judged(0.5 * (overlap.mean((f - g).square()).mean(dim=(1, 2, 3)) + lost_f + lost_g))


def lncc(
    fixed: Image,
    warped: Image,
    weight: Weight | None = None,
    *,
    window: Literal["gaussian", "box"] = "gaussian",
    sigma_px: float = 2.5,
    signed: bool = False,
) -> Tensor:
    """One minus the mean squared correlation inside a small window about each pixel.

    Sees neither uneven light nor vignetting, nor (unless `signed`) contrast that is inverted in parts. Windows
    whose contrast is under a hundredth of the image's count as uncorrelated.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        window: `gaussian`, or a square `box` of the same standard deviation (rounded to an odd number of pixels).
        sigma_px: Standard deviation of the window along each axis, px.
        signed: Use the correlation itself instead of its square.

    Returns:
        `(B,)`: 0 to 1 (2 if `signed`); 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
        OptionError: If there is no such window, or `sigma_px` is not above zero.

    Source:
        Avants et al. (2008), Symmetric diffeomorphic image registration with cross-correlation, eq. 5, with soft
        masks by normalised convolution (Knutsson and Westin 1993).
    """
    overlap = overlap_of(fixed, warped, weight)
    taps = _window(window, sigma_px, overlap.fixed)
    below = _local_sum(overlap.weight, taps).clamp_min(1e-6)

    def local(values: Tensor) -> Tensor:
        return _local_sum(overlap.weight * values, taps) / below

    # Standardised first: the differences of second moments below would lose their digits in float32.
    f, g = standardised(overlap, overlap.fixed)[0], standardised(overlap, overlap.warped)[0]
    mean_f, mean_g = local(f), local(g)
    covariance = local(f * g) - mean_f * mean_g
    variance_f = (local(f.square()) - mean_f.square()).clamp_min(0) + _FLAT
    variance_g = (local(g.square()) - mean_g.square()).clamp_min(0) + _FLAT
    variances = variance_f * variance_g
    similarity = covariance / variances.sqrt() if signed else covariance.square() / variances
    return overlap.judged(overlap.mean(1 - similarity).mean(dim=(1, 2, 3)))


def _window(window: str, sigma_px: float, like: Tensor) -> Tensor:
    check_choice("window", window, ("gaussian", "box"))
    if not sigma_px > 0:
        raise OptionError(f"sigma_px must be above zero, got {sigma_px}; 2 to 3 suits most pictures")
    # A box of n pixels has variance (n^2 - 1) / 12.
    radius = round(3 * sigma_px) if window == "gaussian" else round(((12 * sigma_px**2 + 1) ** 0.5 - 1) / 2)
    offsets = torch.arange(-max(radius, 1), max(radius, 1) + 1, dtype=like.dtype, device=like.device)
    taps = torch.exp(-0.5 * (offsets / sigma_px) ** 2) if window == "gaussian" else torch.ones_like(offsets)
    return taps / taps.sum()


def _local_sum(image: Image, taps: Tensor) -> Image:
    """Sums weighted by symmetric `taps` along rows and columns about each pixel; nothing beyond the border."""
    return cast("Tensor", _LocalSum.apply(image, taps))  # type: ignore[no-untyped-call]


class _LocalSum(Function):
    """Additions of shifted images: several times as fast as a convolution of one channel, and its own transpose."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, taps: Tensor) -> Tensor:
        ctx.taps = taps
        for axis in (-1, -2):
            total = image * taps[taps.numel() // 2]
            for reach, tap in enumerate(taps[taps.numel() // 2 + 1 :].tolist(), start=1):
                rest = image.shape[axis] - reach
                if rest > 0:
                    total.narrow(axis, 0, rest).add_(image.narrow(axis, reach, rest), alpha=tap)
                    total.narrow(axis, reach, rest).add_(image.narrow(axis, 0, rest), alpha=tap)
            image = total
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return _local_sum(upstream, ctx.taps), None
