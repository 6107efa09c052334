"""What all losses share: checked images, means over their overlap, and what counts as constant."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.errors import OptionError, ShapeError

Loss = Callable[[Image, Image, Weight | None], Tensor]

NO_OVERLAP = 2.0
# A contrast under a millionth of the brightness is rounding, in float32 and after interpolation.
ROUNDING = 1e-6
# Share of the picture at which the overlap term takes half of the loss.
_FEW = 0.01


@dataclass(frozen=True)
class Overlap:
    """Checked images in which masked pixels are zero, so that NaN under a mask reaches nothing."""

    fixed: Image
    warped: Image
    weight: Weight

    @property
    def total(self) -> Tensor:
        """Sum of the weights, `(B,)`."""
        return self.weight.sum(dim=(1, 2, 3))

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the pixels, per channel: `(B, C, 1, 1)`; 0 where there is no weight."""
        tiny = torch.finfo(values.dtype).tiny
        total = self.weight.sum(dim=(2, 3), keepdim=True).clamp_min(tiny)
        return (self.weight * values).sum(dim=(2, 3), keepdim=True) / total

    def judged(self, loss: Tensor) -> Tensor:
        """The loss `(B,)` drawn towards `NO_OVERLAP` where hardly any weight is left."""
        share = self.total / self.weight[0].numel()
        keep = share * (1 + _FEW) / (share + _FEW)
        return keep * loss + (1 - keep) * NO_OVERLAP


def overlap_of(fixed: Image, warped: Image, weight: Weight | None) -> Overlap:
    """The images ready to be compared: one batch size, masked pixels zero.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    check_images(fixed, warped, weight)
    fixed = fixed.expand(warped.shape[0], -1, -1, -1)
    if weight is None:
        weight = warped.new_ones(warped.shape[0], 1, *warped.shape[2:])
    weight = weight.to(warped.dtype).expand(warped.shape[0], -1, -1, -1)
    usable = (fixed.isfinite() & warped.isfinite()).all(dim=1, keepdim=True) & (weight > 0)
    zero = warped.new_zeros(())
    return Overlap(
        torch.where(usable, fixed, zero), torch.where(usable, warped, zero), torch.where(usable, weight, zero)
    )


def check_images(fixed: Tensor, warped: Tensor, weight: Tensor | None) -> None:
    """Refuse images that cannot be compared.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    if warped.ndim != 4 or fixed.shape[1:] != warped.shape[1:] or fixed.shape[0] not in {1, warped.shape[0]}:
        raise ShapeError(
            f"fixed and warped must be (B, C, H, W) of one shape, got {tuple(fixed.shape)} and {tuple(warped.shape)}; "
            "warp onto the fixed grid and convert to the same channels first"
        )
    if not warped.is_floating_point() or fixed.dtype != warped.dtype:
        raise ShapeError(
            f"fixed and warped must share a floating dtype, got {fixed.dtype} and {warped.dtype}; convert with .float()"
        )
    if warped.numel() == 0:
        raise ShapeError(f"fixed and warped must hold pixels, got {tuple(warped.shape)}; check the crop before")
    wanted = (warped.shape[0], 1, *warped.shape[2:])
    if weight is not None and (tuple(weight.shape[1:]) != wanted[1:] or weight.shape[0] not in {1, wanted[0]}):
        raise ShapeError(f"weight must be {wanted}, got {tuple(weight.shape)}; one weight serves all channels")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a name that is none of the choices.

    Raises:
        OptionError: Naming them.
    """
    if value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def noise_floor(image: Image) -> Tensor:
    """Variance below which an image counts as constant, `(B, 1, 1, 1)`, without derivative."""
    peak = image.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    return (ROUNDING * peak).square() + torch.finfo(image.dtype).tiny


def standardised(overlap: Overlap, image: Image) -> tuple[Image, Tensor]:
    """Channels without their means, all divided by one standard deviation; and what the noise floor took, `(B,)`."""
    centred = image - overlap.mean(image)
    floor = noise_floor(image)
    variance = overlap.mean(centred.square()).mean(dim=1, keepdim=True) + floor
    return centred / variance.sqrt(), (floor / variance).flatten()
