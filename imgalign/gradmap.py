"""Gradient-magnitude maps of pictures, as numbers and as something to look at."""

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as nn
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Image, Pixels
from imgalign.errors import OptionError, ShapeError
from imgalign.gradients import Operator, gradient_magnitude
from imgalign.upsample import upsample_bilinear
from imgalign.wanted import check_number

Channels = Literal["max", "luminance"]
Colormap = Literal["gray", "heat", "cubehelix"]

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


def gradmap(
    image: Pixels,
    *,
    operator: Operator = "central",
    sigma_px: float = 1.0,
    channels: Channels = "max",
    level: int = 0,
    has_alpha: bool | None = None,
) -> NDArray[np.floating[Any]]:
    """Length of the gradient at every pixel, in grey levels per pixel.

    With `central` the same numbers as `numpy.hypot(*numpy.gradient(image))`, border included. NaN and infinite pixels,
    and those whose gradient would need one, are NaN.

    Args:
        image: `(H, W)` or `(H, W, C)`, any real dtype, at least 2 x 2 pixels.
        operator: `central`, `sobel`, `scharr`, or `gaussian` (derivative of a Gaussian).
        sigma_px: Standard deviation of that Gaussian, in px.
        channels: Of a colour picture the largest of the channels' magnitudes, or the magnitude of the luminance.
        level: See the picture at this pyramid level, each level half the size of the one before; the map comes back
            at full size, its unit still grey levels per full-size pixel.
        has_alpha: The last channel is alpha and left out; None: where there are 2 or 4 channels.

    Returns:
        `(H, W)`; float32, or float64 where the dtype of the picture needs it.

    Raises:
        ShapeError: If the picture has another shape, no colours for a luminance, or fewer than 2 x 2 pixels at that
            level.
        OptionError: If an option has a value that cannot work.
    """
    if channels not in get_args(Channels):
        raise OptionError(f"channels must be one of {', '.join(get_args(Channels))}, got {channels!r}")
    if operator not in tuple(get_args(Operator)):
        raise OptionError(f"operator must be one of {', '.join(get_args(Operator))}, got {operator!r}")
    check_number("level", level, whole=True)
    if level < 0:
        raise OptionError(f"level must be 0 (full size) or above, got {level}")
    batch = _colours(_as_batch(np.asarray(image), has_alpha), channels)
    finite = torch.isfinite(batch)
    filled = torch.where(finite, batch, 0.0) if not bool(finite.all()) else batch
    lengths = _at_level(filled, level, operator, sigma_px).amax(dim=1, keepdim=True)
    if filled is not batch:
        lengths[_near(~finite.all(dim=1, keepdim=True), _reach(operator, sigma_px) << level)] = math.nan
    result: NDArray[np.floating[Any]] = lengths[0, 0].numpy()
    return result


def as_picture(
    lengths: NDArray[np.floating[Any]],
    *,
    full_scale: float | None,
    bits: int | None = 8,
    normalize: bool = False,
    colormap: Colormap | None = None,
) -> Pixels:
    """Turn a map into pixels to be written.

    Args:
        lengths: `(H, W)` map; NaN becomes 0 where integers are made.
        full_scale: The length that becomes white: the range of the picture's dtype, so that maps of different
            pictures compare. None where that range is unknown (floating pictures).
        bits: 8, 16, or None for floats: true units, or 0 to 1 with `normalize`.
        normalize: Make the largest length white instead.
        colormap: Colours in place of grey, 8 bit; `gray` is none.

    Returns:
        `(H, W)` uint8, uint16 or floats, or `(H, W, 3)` uint8 with colours.

    Raises:
        OptionError: If colours are asked for in other than 8 bit.
        ShapeError: If the scale is unknown.
    """
    scale = largest(lengths) or 1.0 if normalize else full_scale
    coloured = colormap is not None and colormap != "gray"
    if coloured and bits != 8:
        raise OptionError("a colormap gives 8 bit pictures; leave out the colormap, or ask for 8 bit")
    if bits is None:
        return lengths / np.asarray(scale, lengths.dtype) if normalize else lengths
    if scale is None:
        raise ShapeError("a floating picture has no full scale; add --normalize, or write a .tif in true units")
    top = (1 << bits) - 1
    whole = (np.nan_to_num(lengths / scale).clip(0, 1) * top + 0.5).astype(np.uint8 if bits == 8 else np.uint16)
    return colour_table(colormap)[whole] if coloured and colormap else whole


def largest(lengths: NDArray[np.floating[Any]]) -> float:
    """The largest finite length; 0 where there is none."""
    return float(np.max(lengths, where=np.isfinite(lengths), initial=0.0))


def colour_table(name: Colormap) -> NDArray[np.uint8]:
    """`(256, 3)` RGB, from dark to light.

    Source:
        `cubehelix`: Green (2011), A colour scheme for the display of astronomical intensity images, with the
        constants proposed there (start 0.5, -1.5 rotations, hue 1, gamma 1). `heat`: red, then green, then blue.
    """
    t = np.linspace(0, 1, 256)[:, None]
    if name == "gray":
        rgb = np.repeat(t, 3, axis=1)
    elif name == "heat":
        rgb = 3 * t - np.arange(3)
    elif name == "cubehelix":
        angle = 2 * np.pi * (0.5 / 3 + 1 - 1.5 * t)
        hue = np.array([[-0.14861, -0.29227, 1.97294], [1.78277, -0.90649, 0.0]])
        rgb = t + t * (1 - t) / 2 * (np.cos(angle) * hue[0] + np.sin(angle) * hue[1])
    else:
        raise OptionError(f"colormap must be one of {', '.join(get_args(Colormap))}, got {name!r}")
    return (rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def full_scale(dtype: np.dtype[Any]) -> float | None:
    """Largest value of an integer dtype; None where the dtype does not say what is white."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else None


def _as_batch(image: Pixels, has_alpha: bool | None) -> Image:
    if image.ndim not in {2, 3} or 0 in image.shape or image.dtype.kind not in "biuf":
        raise ShapeError(f"image must be (H, W) or (H, W, C) of real numbers, got {image.shape} of {image.dtype}")
    wide = image.dtype.itemsize > (2 if image.dtype.kind in "iu" else 4)  # float32 holds 24 bits
    planes = image[..., None] if image.ndim == 2 else image
    if planes.shape[2] in {2, 4} if has_alpha is None else has_alpha:
        planes = planes[..., :-1]
    floats = np.ascontiguousarray(planes.transpose(2, 0, 1), dtype=np.float64 if wide else np.float32)
    return torch.from_numpy(floats)[None]


def _colours(batch: Image, channels: Channels) -> Image:
    if channels == "max" or batch.shape[1] == 1:
        return batch
    if batch.shape[1] != 3:
        raise ShapeError(f"luminance needs 3 colour channels, got {batch.shape[1]}; use the largest (max)")
    weights = batch.new_tensor(_LUMINANCE)
    return (batch * weights[:, None, None]).sum(dim=1, keepdim=True)


def _at_level(image: Image, level: int, operator: Operator, sigma_px: float) -> Image:
    """Magnitudes at a pyramid level, `(B, C, H, W)` at full size."""
    height, width = image.shape[-2:]
    if level > min(height, width).bit_length() - 2:  # however large, and so without the power of two
        raise ShapeError(f"level {level} of {width} x {height} pixels has less than 2 x 2 left; choose a lower level")
    factor = 1 << level
    if level == 0:
        return gradient_magnitude(image, operator=operator, sigma_px=sigma_px)
    whole = nn.pad(image, (0, -width % factor, 0, -height % factor), mode="replicate")
    small = nn.avg_pool2d(whole, factor)
    lengths = gradient_magnitude(small, operator=operator, sigma_px=sigma_px) / factor
    return upsample_bilinear(lengths, factor)[..., :height, :width]


def _reach(operator: Operator, sigma_px: float) -> int:
    """How far from a pixel its gradient looks, in px; of a Gaussian, where it still weighs something."""
    return math.ceil(3 * sigma_px) if operator == "gaussian" else 1


def _near(mask: Tensor, radius: int) -> Tensor:
    """Grow a `(B, 1, H, W)` mask by `radius` pixels, row by row, then column by column."""
    grown = mask.float()
    size = 2 * radius + 1
    grown = nn.max_pool2d(grown, (1, size), stride=1, padding=(0, radius))
    return nn.max_pool2d(grown, (size, 1), stride=1, padding=(radius, 0)) > 0
