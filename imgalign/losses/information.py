"""Mutual information."""

import torch
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.errors import OptionError
from imgalign.losses.overlap import ROUNDING, overlap_of
from imgalign.numerics.histograms import joint_histogram, regular_subset, weighted_quantile


def mi(fixed: Image, warped: Image, weight: Weight | None = None, *, bins: int = 32) -> Tensor:
    """One minus the mutual information as a share of both entropies: for pictures of different modality.

    The joint histogram is soft (linear in the fixed image's grey levels, cubic B-spline in the warped one's), so
    that it can be differentiated. Bins span all but a thousandth of the grey levels at either end, over the
    overlap; the span is held constant under differentiation. Few pixels in many bins agree by chance, so the
    information is drawn to zero by `n / (n + 256)`. Channels are compared one by one and averaged.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        bins: Grey levels of the histogram along each axis, at least 4.

    Returns:
        `(B,)`: above 0 (0.2 to 0.5 for an image with itself) to 1; 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
        OptionError: If there are fewer than four bins.

    Source:
        Mattes et al. (2003), PET-CT image registration in the chest using free-form deformations, eq. 3-6 (with
        linear instead of box bins for the fixed image); normalised by the entropies as in Studholme, Hill and
        Hawkes (1999), An overlap invariant entropy measure of 3D medical image alignment.
    """
    if bins < 4:
        raise OptionError(f"bins must be at least 4, got {bins}; 32 suits most pictures")
    overlap = overlap_of(fixed, warped, weight)
    batch, channels = overlap.fixed.shape[:2]
    w = overlap.weight.expand_as(overlap.fixed).reshape(batch * channels, -1)
    u = _in_bins(overlap.fixed.reshape(w.shape), w, bins)
    v = _in_bins(overlap.warped.reshape(w.shape), w, bins)
    counts = joint_histogram(u, v, w, bins=bins)
    total = w.sum(1)
    joint = counts / total.clamp_min(torch.finfo(w.dtype).tiny)[:, None, None]
    tiny = 1e-12  # inside the logarithm, whose derivative is infinite at an empty bin
    rows, columns = joint.sum(2), joint.sum(1)
    independent = rows[:, :, None] * columns[:, None, :]
    information = (joint * ((joint + tiny) / (independent + tiny)).log()).sum(dim=(1, 2))
    entropies = -(rows * (rows + tiny).log()).sum(1) - (columns * (columns + tiny).log()).sum(1)
    shared = 2 * information / entropies.clamp_min(1e-6) * total / (total + 256)
    return overlap.judged(1 - shared.view(batch, channels).mean(1))


def _in_bins(values: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Grey levels `(B, N)` as bin positions 0 to bins - 1; what lies outside the span is put into the end bins."""
    with torch.no_grad():
        some, w = regular_subset(values[:, None, None])[:, 0], regular_subset(weight[:, None, None])[:, 0]
        low, high = weighted_quantile(some, w, 0.001)[:, None], weighted_quantile(some, w, 0.999)[:, None]
        width = high - low
        constant = width <= ROUNDING * torch.maximum(low.abs(), high.abs())
        width = torch.where(constant, torch.ones_like(width), width)
    position = ((values - low) / width * (bins - 1)).clamp(0, bins - 1)
    return torch.where(constant, torch.zeros_like(position), position)
