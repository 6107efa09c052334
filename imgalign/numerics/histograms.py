"""Soft joint histograms with a derivative, and weighted quantiles.

Rows of the batch are independent; nothing here knows that the values came from an image.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from imgalign.numerics.devices import precise
from imgalign.numerics.splines import cubic_slopes, cubic_weights


def joint_histogram(u: Tensor, v: Tensor, weight: Tensor, *, bins: int) -> Tensor:
    """Weighted counts of pairs of bin positions, linear in `u` and cubic B-spline in `v`; differentiable in all three.

    Args:
        u: `(B, N)` positions, 0 to bins - 1: 1.25 counts by three quarters in bin 1 and by a quarter in bin 2.
        v: `(B, N)` positions, 0 to bins - 1.
        weight: `(B, N)`.
        bins: Bins along each axis, at least 2.

    Returns:
        `(B, bins, bins + 3)`; position 0 of `v` is column 1, for cubic shares reach one bin below and two above.
    """
    counts: Tensor = _JointHistogram.apply(u, v, weight, bins)  # type: ignore[no-untyped-call]
    return counts


def weighted_quantile(values: Tensor, weight: Tensor, share: float) -> Tensor:
    """The first value of each row of `(B, N)` at which the weight up to it reaches `share` of the whole: `(B,)`."""
    ordered, order = values.sort(dim=1)
    weight_so_far = precise(weight.gather(1, order)).cumsum(1)
    index = torch.searchsorted(weight_so_far, share * weight_so_far[:, -1:]).clamp_max(values.shape[1] - 1)
    return ordered.gather(1, index)[:, 0]


def regular_subset(image: Tensor, *, size: int = 1 << 16) -> Tensor:
    """About `size` pixels of `(B, C, H, W)`, or all where there are fewer, evenly along the rows: `(B, C, N)`."""
    flat = image.flatten(2)
    # An odd stride, so that no column of an even picture is always taken and its neighbour never.
    stride = max(1, flat.shape[2] // size) | 1
    return flat[:, :, ::stride]


class _JointHistogram(Function):
    """Soft counts `(B, bins, bins + 3)` of pairs of bin positions; keeps three vectors instead of a graph of 8 taps."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, weight: Tensor, bins: int) -> Tensor:
        ctx.save_for_backward(u, v, weight)
        ctx.bins = bins
        columns = bins + 3  # cubic taps reach one bin below and two above
        rows, taps_u, taps_v = _taps(u, v, bins)
        counts = precise(u.new_zeros(u.shape[0] * bins * columns))
        for i in range(2):
            for j in range(4):
                share = precise((weight * taps_u[i] * taps_v[j]).flatten())
                counts += torch.bincount((rows + i * columns + j).flatten(), share, counts.numel())
        return counts.to(u.dtype).view(-1, bins, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        u, v, weight = ctx.saved_tensors
        rows, taps_u, taps_v = _taps(u, v, ctx.bins)
        slopes_v = cubic_slopes(v - v.floor().clamp_max(ctx.bins - 2))
        by_u, by_v, by_weight = torch.zeros_like(u), torch.zeros_like(v), torch.zeros_like(weight)
        flat = upstream.flatten()
        for i in range(2):
            for j in range(4):
                value = flat[rows + i * (ctx.bins + 3) + j]
                by_u += value * taps_v[j] if i else -value * taps_v[j]
                by_v += value * taps_u[i] * slopes_v[j]
                by_weight += value * taps_u[i] * taps_v[j]
        return by_u * weight, by_v * weight, by_weight, None


def _taps(u: Tensor, v: Tensor, bins: int) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Index of the first of the 2 x 4 bins that a pair falls in, in a flat batch of histograms, and the shares."""
    base_u, base_v = u.floor().clamp_max(bins - 2), v.floor().clamp_max(bins - 2)
    t, s = u - base_u, v - base_v
    first = torch.arange(u.shape[0], device=u.device)[:, None] * bins + base_u.long()
    return first * (bins + 3) + base_v.long(), (1 - t, t), cubic_weights(s)
