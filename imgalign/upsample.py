"""Exact bilinear expansion by a whole factor, as a transposed convolution.

Convention: pixel centres, as in `coords`: output pixel `X` of an expansion by `f` lies at `(X + 0.5) / f - 0.5` of
the input, and the nearest edge pixel continues the input beyond its border.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from imgalign._types import Image
from imgalign.errors import OptionError, ShapeError


def bilinear_kernel(factor: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """The triangle of bilinear interpolation, read at the output's pixels: a square of side `2 f - f mod 2`.

    An odd factor has outputs on the input's pixel centres, an even one has them on both sides; so the number of
    outputs under a triangle two input pixels wide is odd or even as well.

    Args:
        factor: Outputs to an input pixel along each axis, at least 1.
        dtype: Of the kernel.
        device: Of the kernel.

    Returns:
        `(side, side)`; its entries sum to `factor` squared.

    Raises:
        OptionError: If the factor is not a whole number of at least 1.
    """
    _check_factor(factor)
    side = 2 * factor - factor % 2
    offsets = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    triangle = 1 - offsets.abs() / factor
    return torch.outer(triangle, triangle).to(dtype=dtype, device=device)


def upsample_bilinear(image: Image, factor: int) -> Image:
    """Expand an image `factor` times by bilinear interpolation, right up to the border; differentiable.

    Args:
        image: `(B, C, H, W)`, float, any unit.
        factor: A whole number of at least 1.

    Returns:
        `(B, C, factor H, factor W)`; a constant image stays constant.

    Raises:
        ShapeError: If the image is not a floating `(B, C, H, W)`.
        OptionError: If the factor is not a whole number of at least 1.
    """
    _check_image(image)
    kernel = bilinear_kernel(factor, dtype=image.dtype, device=image.device)
    # Channels in the batch: one kernel for all of them, none mixed.
    flat = image.reshape(-1, 1, *image.shape[2:])
    expanded = _expand(flat, kernel[None, None], factor, groups=1)
    return expanded.view(*image.shape[:2], *expanded.shape[2:])


class BilinearUpsample2d(nn.Module):
    """Expansion that starts as exact bilinear interpolation and can be trained from there.

    One kernel a channel, `weight` of shape `(channels, 1, side, side)`, and no mixing of channels. The input is
    continued by its edge pixels before the transposed convolution: without that, as in the usual recipe, outputs
    within `factor / 2` of the border miss the share of a pixel that is not there, and the picture gets a dark rim.

    Args:
        channels: Channels of the images.
        factor: Outputs to an input pixel along each axis, a whole number of at least 1.

    Raises:
        OptionError: If `channels` or `factor` cannot work.

    Source:
        Long, Shelhamer and Darrell (2015), Fully convolutional networks for semantic segmentation, section 3.3:
        deconvolution initialised to bilinear interpolation.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise OptionError(f"channels must be a whole number of at least 1, got {channels}; 3 for RGB")
        self.channels, self.factor = channels, factor
        self.weight = nn.Parameter(bilinear_kernel(factor).repeat(channels, 1, 1, 1))

    def forward(self, image: Image) -> Image:
        """Expand `(B, channels, H, W)` to `(B, channels, factor H, factor W)`."""
        _check_image(image)
        if image.shape[1] != self.channels:
            raise ShapeError(
                f"image must have {self.channels} channels, got {image.shape[1]}; build BilinearUpsample2d for those"
            )
        return _expand(image, self.weight, self.factor, groups=self.channels)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{self.channels}, factor={self.factor}"


def _expand(image: Tensor, weight: Tensor, factor: int, *, groups: int) -> Tensor:
    continued = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    # Cut off the expanded extra pixel (factor) and half of what the kernel reaches beyond it.
    cut = factor + factor // 2
    return functional.conv_transpose2d(continued, weight, stride=factor, padding=cut, groups=groups)


def _check_factor(factor: int) -> None:
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise OptionError(f"factor must be a whole number of at least 1, got {factor}; resample for others")


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.numel() == 0 or not image.is_floating_point():
        raise ShapeError(
            f"image must be a float tensor (B, C, H, W), got {image.dtype} {tuple(image.shape)}; "
            "add the missing axes or convert with .float()"
        )
