"""Where two aligned pictures show different things: something lies over the scene in one of them.

A robust cost alone does not let go of what is bright and large: it takes part in the mean and the contrast by which
the pictures are brought to one gain and bias, and in the mean picture and its noise. So it is found first, by regions
and on small pictures, and left out of all that is learnt from the two. Where all else is noise, single pixels then
draw its edge.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.numerics.neighbours import around, largest, least
from imgalign.numerics.residuals import MAD_TO_SIGMA
from imgalign.numerics.sums import mean

_BLOCK = 4  # pixels a side: neither noise nor a transform that is a pixel off changes the mean over them much
_WHOLE = 0.95  # of a block that must be seen: nobody knows what lies under a mask
_REGION = 3  # blocks a side
_SAMPLES = 1000  # blocks from which medians are taken: the residual's own error is then 4 %
_FEW = 50  # of them say nothing, nor do pictures that are narrower than a region
_CHANCE = 0.3  # correlation over a region that says nothing
_MOST_VOTES = 10.0  # of a region, where the usual one has one
_USUAL = 3 * MAD_TO_SIGMA  # median absolute residuals, three standard deviations, that are no sign of anything
_NOTHING = 0.01  # of the contrast: a residual below is rounding
_ALIKE, _UNLIKE = 1.0, 2.0  # residual over common power, at correlations of 0.6 and of a third; none gives 4
_SURELY = 0.999  # weight of what is shared for certain
_PIXELS = 8000  # enough for their median
_FITS = 2.0  # times the usual power of the residual, over 5 x 5 pixels, that differ by chance
_STRUCTURE = 0.3  # share of the structure there that may fit worse
_ALIKE_ALL_OVER = 0.95  # share of the shared pixels that must fit: else what is left there is more than noise
_GROWN, _STEP = 8, 2  # pixels that blocks may have left out too much, and how many are taken in at once
_MOST = 0.5  # share that must agree: else nobody knows which of the two is the scene


class Compared(NamedTuple):
    """How far regions of two pictures differ beyond what is usual and what they have in common, by blocks.

    Attributes:
        uneven: Excess under light that may change over the picture: a region's offset counts by the brightness that
            both have there, and all else by the structure inside the region.
        even: The same under one gain and one bias: an offset is then something that lies there.
        seen: Whether a block is seen in both.
        size_hw: Of the pictures.
    """

    uneven: Tensor
    even: Tensor
    seen: Tensor
    size_hw: tuple[int, int]

    def alike(self, *, even: bool = False) -> Weight | None:
        """1 where both show the same thing, 0 where they do not, and between; None where they do everywhere."""
        excess = self.even if even else self.uneven
        weight = ((_UNLIKE - excess) / (_UNLIKE - _ALIKE)).clamp_(0, 1)
        share = float(mean(weight, self.seen))
        if share < _MOST or share == 1:
            return None
        # What is let go has an edge, which blurs and filters spread by some pixels.
        weight = least(torch.where(self.seen > 0, weight, 1.0), 1)
        up = nn.interpolate(weight, scale_factor=_BLOCK, mode="bilinear")
        h, w = self.size_hw
        return nn.pad(up, (0, w - up.shape[-1], 0, h - up.shape[-2]), mode="replicate")


def compared(fixed: Image, warped: Image, valid: Weight) -> Compared:
    """Look for regions where something lies over the scene.

    A region is let go where the power of the residual is beyond what is usual in the picture and beyond that of what
    the pictures have in common: so strong structure that fits a little worse stays.

    Args:
        fixed: `(1, 1, H, W)`.
        warped: The moving picture on the same pixels, about aligned, at any gain and bias.
        valid: `(1, 1, H, W)` where both are seen.
    """
    size_hw = (valid.shape[-2], valid.shape[-1])
    if min(size_hw) < _REGION * _BLOCK:
        nowhere = valid.new_zeros(1, 1, 1, 1)
        return Compared(nowhere, nowhere, nowhere, size_hw)
    f, m, below = (_blocks(x) for x in (fixed, warped, valid))
    seen = (below > _WHOLE * below.max()).to(f.dtype)
    stride = max(1, int((seen.numel() / _SAMPLES) ** 0.5))
    part_f, part_m, there = (x[..., ::stride, ::stride].flatten() for x in (f, m, seen))
    part_f, part_m = part_f[there > 0], part_m[there > 0]
    if len(part_f) < _FEW:
        return Compared(torch.zeros_like(seen), torch.zeros_like(seen), seen, size_hw)
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
    r, c = residual * seen, common * seen
    rr, cc, r, c, count = around(torch.cat([r * residual, c * common, r, c, seen], 1)).split(1, 1)
    chance, whole = usual * count, count.clamp_min(1)
    structure = (cc - c * c / whole + chance).clamp_min_(1e-20)
    uneven = torch.maximum(rr / (cc + chance).clamp_min_(1e-20), (rr - r * r / whole) / structure)
    return Compared(uneven, rr / structure, seen, size_hw)


def regrown(there: Weight, fixed: Image, warped: Image) -> Weight:
    """What blocks leave out too much of, and too little, by single pixels: `(1, 1, H, W)`, 0 to 1.

    Blocks reach some pixels beyond what lies there, and a part of the scene's information with them. From what is
    shared on, pixels around which the residual is no more than usual are taken in again; others are let go for good.
    Only where what is left is noise: what two modalities do not share is not to be told from an occluder so finely, and
    to keep what happens to fit would make an answer sure of itself.

    Args:
        there: What `Compared.alike` gives.
        fixed: `(1, 1, H, W)`.
        warped: The moving picture on the same pixels, aligned, at gain and bias of the fixed one.
    """
    residual, common = fixed - warped, 0.5 * (fixed + warped)
    shared = (there >= _SURELY).to(there.dtype)
    stride = max(1, int((there.numel() / _PIXELS) ** 0.5))
    some = residual[..., ::stride, ::stride][shared[..., ::stride, ::stride] > 0]
    usual = (MAD_TO_SIGMA * some.abs().median()) ** 2
    planes = torch.cat([torch.ones_like(common), residual.square_(), common, common * common], 1)
    count, power, mean_, square = around(around(planes)).split(1, 1)
    structure = square / count - (mean_ / count).square()
    fits = (power / count < _FITS * usual + _STRUCTURE * structure).to(there.dtype)
    if float(mean(fits, shared)) < _ALIKE_ALL_OVER:
        return there
    grown = shared
    for _ in range(_GROWN // _STEP):
        grown = torch.maximum(grown, largest(grown, _STEP) * fits)
    return torch.maximum(grown, there * fits)


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
