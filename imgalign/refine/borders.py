"""Which pixels beside a border, or a mask, are read as exactly as others.

A picture's continuation is a guess, and so is what fills a masked place; the spline through fine noise-free detail
feels it some pixels inward. How much is seen in the residuals themselves, by distance.
"""

import torch
from torch import Tensor

from imgalign._types import Image, Matrices, Weight
from imgalign.coords import mapped_planes
from imgalign.numerics.masks import mask_or_none
from imgalign.numerics.neighbours import least
from imgalign.sampling import Reader

_REACH = 8  # pixels from a border whose interpolation may be worse


def border_mask(error: Image, valid: Weight, matrix: Matrices, weight: Weight) -> Weight | None:
    """The moving picture's mask, less what interpolation errs near its border, and near what is masked.

    Args:
        error: Squared residual on the fixed picture's pixels, `(1, 1, h, w)`.
        valid: Weight of what both show there.
        matrix: `(1, 3, 3)`, fixed to moving pixels.
        weight: Mask of the moving picture, `(1, 1, H, W)`.

    Returns:
        `(1, 1, H, W)`; None where all pixels count.
    """
    h, w = weight.shape[-2:]
    x, y = mapped_planes(matrix, (error.shape[-2], error.shape[-1]), error.dtype, error.device)
    # Inwards.
    from_border = torch.minimum((w - 1) / 2 - (x - (w - 1) / 2).abs_(), (h - 1) / 2 - (y - (h - 1) / 2).abs_())
    mask, seen = mask_or_none(weight), valid > 0.5
    usual = _usual_error(error, seen & (from_border >= _REACH))
    if usual is None:
        return mask
    count_y, count_x = (torch.arange(n, device=weight.device) for n in (h, w))
    rows, columns = (torch.minimum(k, len(k) - 1 - k).clamp_max(_REACH) for k in (count_y, count_x))
    trusted = _trusted(from_border[None], seen, error, usual)[torch.minimum(rows[:, None], columns)]
    if mask is not None:
        depth = _depth(mask)
        from_mask = Reader.of(depth).values(x, y)
        trusted = trusted * _trusted(from_mask, seen, error, usual)[depth.long()]
    return mask_or_none(weight * trusted)


def _usual_error(error: Image, inner: Tensor) -> float | None:
    """Median squared residual well within a picture; None where hardly any of it is seen."""
    some = error[..., ::4, ::4][inner[..., ::4, ::4]]
    return float(some.median()) if len(some) >= 100 else None


def _trusted(distance: Tensor, seen: Tensor, error: Image, usual: float) -> Tensor:
    """Weight of a pixel of the moving picture by its distance from a border, `(_REACH + 1,)`.

    Args:
        distance: That of what lies under each pixel of the fixed picture, `(1, 1, h, w)`.
        seen: Which of these both show.
        error: Squared residual there.
        usual: That far from any border.
    """
    near = seen & (distance >= 0) & (distance < _REACH)
    rings, errors = torch.stack([distance[near], error[near]]).cpu()
    rings = rings.long()
    trust = []
    for d in range(_REACH):
        ring = errors[rings == d]
        # A third more than usual is what differs by chance; beyond, errors are alike along the border and count twice.
        trust.append(min(1.0, 1.3 * usual / max(float(ring.median()), 1e-30)) ** 2 if len(ring) > 20 else 1.0)
    return torch.tensor([*torch.cummax(torch.tensor(trust), 0).values, 1.0], dtype=error.dtype).to(error.device)


def _depth(mask: Weight) -> Tensor:
    """How many pixels each lies within what is not masked, up to `_REACH`, `(1, 1, H, W)`."""
    seen, depth = (mask > 0.5).to(mask.dtype), torch.zeros_like(mask)
    for _ in range(_REACH):
        seen = least(seen, 1)
        depth += seen
    return depth
