"""The cubic B-spline: its coefficients for a picture, and the weights of the four of them around a point.

Source: Unser, Aldroubi and Eden (1993), B-spline signal processing.
"""

from typing import TypeVar

import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image

MARGIN = 2  # pixels that coefficients have more on each side: so far past the border reach the weights

_Number = TypeVar("_Number", float, Tensor)


def cubic_weights(t: _Number) -> tuple[_Number, _Number, _Number, _Number]:
    """Weights of the coefficients at -1, 0, 1 and 2 for a point at `t`, 0 to 1."""
    return (1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6


def cubic_slopes(t: _Number) -> tuple[_Number, _Number, _Number, _Number]:
    """Their derivatives in `t`."""
    return -((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2


def spline_coefficients(image: Image) -> Image:
    """Cubic B-spline coefficients of an image with mirrored borders, two pixels larger on each side.

    The inverse filter is applied in the frequency domain: on the even (cosine) extension it is a division by
    `(2 + cos w) / 3`, exact for mirrored borders, and faster here than the recursive filter.
    """
    for axis in (-1, -2):
        image = _inverse_filter(image, axis)
    return nn.pad(image, (MARGIN,) * 4, mode="reflect") if min(image.shape[-2:]) > MARGIN else _pad_small(image)


def _inverse_filter(image: Tensor, axis: int) -> Tensor:
    n = image.shape[axis]
    mirrored = torch.cat([image, image.flip(axis).narrow(axis, 1, n - 2)], axis) if n > 2 else image
    spectrum = torch.fft.rfft(mirrored, dim=axis)
    frequency = torch.arange(spectrum.shape[axis], dtype=image.dtype, device=image.device) / mirrored.shape[axis]
    response = (2 + torch.cos(2 * torch.pi * frequency)) / 3
    shape = [1] * image.ndim
    shape[axis] = -1
    return torch.fft.irfft(spectrum / response.reshape(shape), n=mirrored.shape[axis], dim=axis).narrow(axis, 0, n)


def _pad_small(image: Tensor) -> Tensor:
    """Mirror an image with an axis of two pixels: `pad` refuses to mirror more than it has."""
    for axis in (-1, -2):
        n = image.shape[axis]
        period = 2 * (n - 1)
        index = torch.arange(-MARGIN, n + MARGIN, device=image.device) % period
        image = image.index_select(axis, torch.where(index < n, index, period - index))
    return image
