"""Where two aligned pictures show different things: something lies over the scene in one of them.

A robust cost alone does not let go of what is bright and large: it takes part in the mean and the contrast by which
the pictures are brought to one gain and bias, and in the mean picture and its noise. So it is found first, by regions
and on small pictures, and left out of all that is learnt from the two.
"""

import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.neighbours import around, least
from imgalign.sums import mean

_BLOCK = 4  # pixels a side: neither noise nor a transform that is a pixel off changes the mean over them much
_WHOLE = 0.95  # of a block that must be seen: nobody knows what lies under a mask
_REGION = 3  # blocks a side
_SAMPLES = 1000  # blocks from which medians are taken: the residual's own error is then 4 %
_FEW = 50  # of them say nothing
_CHANCE = 0.3  # correlation over a region that says nothing
_MOST_VOTES = 10.0  # of a region, where the usual one has one
_USUAL = 3 * 1.4826  # median absolute residuals, three standard deviations, that are no sign of anything
_NOTHING = 0.01  # of the contrast: a residual below is rounding
_ALIKE, _UNLIKE = 1.0, 2.0  # residual over common power, at correlations of 0.6 and of a third; none gives 4
_MOST = 0.5  # share that must agree: else nobody knows which of the two is the scene


def alike(fixed: Image, warped: Image, valid: Weight) -> Weight | None:
    """1 where two pictures show the same thing, 0 where they do not, and between; None where they do everywhere.

    A region is let go where the power of the residual is beyond what is usual in the picture and beyond that of what
    the pictures have in common: so strong structure that fits a little worse stays.

    Args:
        fixed: `(1, 1, H, W)`.
        warped: The moving picture on the same pixels, about aligned, at any gain and bias.
        valid: `(1, 1, H, W)` where both are seen.
    """
    f, m, below = (_blocks(x) for x in (fixed, warped, valid))
    seen = (below > _WHOLE * below.max()).to(f.dtype)
    stride = max(1, int((seen.numel() / _SAMPLES) ** 0.5))
    part_f, part_m, there = (x[..., ::stride, ::stride].flatten() for x in (f, m, seen))
    part_f, part_m = part_f[there > 0], part_m[there > 0]
    if len(part_f) < _FEW:
        return None
    # Without their means squares are exact.
    mean_f, mean_m = part_f.mean(), part_m.mean()
    f, m = (f - mean_f) * seen, (m - mean_m) * seen
    gain = _gain(f, m, seen)
    part = gain * (part_m - mean_m) - (part_f - mean_f)
    bias = part.median()
    usual = (_USUAL * (part - bias).abs().median()) ** 2 + _NOTHING**2 * part_f.var()
    m = gain * m - bias
    residual, common = m - f, 0.5 * (f + m)
    common = common - mean(common, seen)
    summed = around(torch.cat([residual * residual * seen, common * common * seen, seen]))
    excess = summed[:1] / (summed[1:2] + usual * summed[2:]).clamp_min(1e-20)
    weight = ((_UNLIKE - excess) / (_UNLIKE - _ALIKE)).clamp_(0, 1)
    share = float(mean(weight, seen))
    if share < _MOST or share == 1:
        return None
    # What is let go has an edge, which blurs and filters spread by some pixels.
    weight = least(torch.where(seen > 0, weight, 1.0), 1)
    up = nn.interpolate(weight, scale_factor=_BLOCK, mode="bilinear")
    h, w = valid.shape[-2:]
    return nn.pad(up, (0, w - up.shape[-1], 0, h - up.shape[-2]), mode="replicate")


def _gain(fixed: Image, warped: Image, seen: Weight) -> Tensor:
    """What brings the moving picture to contrast and sign of the fixed one: the median of what single regions say.

    They count by the structure that they show in both pictures: what lies over one of them, however bright, shows none.
    """
    stride = max(1, seen.numel() // (_REGION**2 * _SAMPLES))  # of rows
    stack = torch.stack([seen, fixed, warped, fixed * fixed, warped * warped, fixed * warped])
    whole, mean_f, mean_m, ff, mm, fm = nn.avg_pool2d(stack[:, 0], _REGION)[:, ::stride].flatten(1)
    var_f, var_m = ff - mean_f * mean_f, mm - mean_m * mean_m
    var_f, var_m = (v.clamp_min(1e-9 * v.max() + 1e-30) for v in (var_f, var_m))
    # The lesser of both and not without bounds: an occluder's own edge may be stronger than all that there is else.
    structure = torch.minimum(*(v / v.median() for v in (var_f, var_m))).sqrt().clamp_max(_MOST_VOTES) * (whole > 0.99)
    likeness = (fm - mean_f * mean_m) * (var_f * var_m).rsqrt()
    sign = torch.where((likeness * structure).sum() < 0, -1.0, 1.0)
    ratio, order = (var_f / var_m).sort()
    votes = (((sign * likeness - _CHANCE).clamp_min(0) + 1e-6) * structure)[order].cumsum(0)
    return sign * ratio[(votes < 0.5 * votes[-1]).sum().clamp_max(len(ratio) - 1)].sqrt()


def _blocks(image: Image) -> Image:
    """Mean over the two middle rows of blocks; rows and columns that fill no block are dropped."""
    h, w = (n - n % _BLOCK for n in image.shape[-2:])
    rows = image[..., 1:h:_BLOCK, :w] + image[..., 2:h:_BLOCK, :w]
    return rows.unflatten(-1, (-1, _BLOCK)).sum(-1).mul_(0.5 / _BLOCK)
