"""First derivatives of images, their magnitude, and total variation.

Every derivative is in the image's own unit per pixel: on the plane `a x + b y` each operator gives
exactly `(a, b)`, at the border too. Axes are `(x, y)`: the first result is along a row (rightwards),
the second down a column. All functions keep dtype and device and can be differentiated.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from imgalign._types import Image
from imgalign.errors import OptionError, ShapeError
from imgalign.wanted import check_number

Operator = Literal["central", "sobel", "scharr", "gaussian"]

# Smoothing across the direction of the derivative: (side, middle, side), summing to 1.
_ACROSS = {"sobel": (0.25, 0.5, 0.25), "scharr": (3 / 16, 10 / 16, 3 / 16)}
_X, _Y = -1, -2


def central_differences(image: Image) -> tuple[Image, Image]:
    """First derivatives by central differences, one-sided in the first and last row and column.

    The same numbers as `numpy.gradient(..., edge_order=1)`. (Padding with zeros and convolving,
    the common recipe, reads an edge of the height of the picture itself along the border.)

    Args:
        image: `(B, C, H, W)`, at least two pixels along each axis, any unit.

    Returns:
        d/dx and d/dy, each `(B, C, H, W)`, unit of `image` per px.

    Raises:
        ShapeError: If the image is not a floating `(B, C, H, W)` of at least 2 x 2 pixels.
    """
    _check(image)
    return _along(image, _X), _along(image, _Y)


def derivatives(image: Image, *, operator: Operator = "central", sigma_px: float = 1.0) -> tuple[Image, Image]:
    """First derivatives by a choice of operators, all in true units and exact on planes.

    Args:
        image: `(B, C, H, W)`, at least two pixels along each axis, any unit.
        operator: `central`; `sobel` and `scharr` (central differences smoothed across by 1-2-1 or
            3-10-3, edge pixels repeated); `gaussian` (derivative of a Gaussian).
        sigma_px: Standard deviation of the Gaussian, in px; the other operators do not use it.

    Returns:
        d/dx and d/dy, each `(B, C, H, W)`, unit of `image` per px.

    Raises:
        ShapeError: If the image is not a floating `(B, C, H, W)` of at least 2 x 2 pixels.
        OptionError: If the operator is unknown or `sigma_px` is not above zero.
    """
    _check(image)
    if operator == "central":
        return _along(image, _X), _along(image, _Y)
    if operator in _ACROSS:
        taps = image.new_tensor(_ACROSS[operator])
        return _smooth3(_along(image, _X), taps, _Y), _smooth3(_along(image, _Y), taps, _X)
    if operator == "gaussian":
        window, offsets = _gaussian(image, sigma_px)
        # A constant has no slope, but in float32 its rounding would; hence without the mean.
        image = image - image.detach().mean(dim=(2, 3), keepdim=True)
        d_dx = _local_slope(_local_mean(image, window, _Y), window, offsets, _X)
        d_dy = _local_slope(_local_mean(image, window, _X), window, offsets, _Y)
        return d_dx, d_dy
    raise OptionError(f"operator must be one of {', '.join(get_args(Operator))}, got {operator!r}")


def gradient_magnitude(
    image: Image, *, operator: Operator = "central", sigma_px: float = 1.0, eps: float = 0.0
) -> Image:
    """Length of the gradient, per channel, in the unit of `image` per px.

    Args:
        image: `(B, C, H, W)`, at least two pixels along each axis.
        operator: See `derivatives`.
        sigma_px: See `derivatives`.
        eps: 0 for maps (exact); above 0 for training, see `magnitude`. Unit of `image` per px.

    Returns:
        `(B, C, H, W)`, never negative.

    Raises:
        ShapeError: If the image is not a floating `(B, C, H, W)` of at least 2 x 2 pixels.
        OptionError: If an option has a value that cannot work.
    """
    return magnitude(*derivatives(image, operator=operator, sigma_px=sigma_px), eps=eps)


def magnitude(d_dx: Tensor, d_dy: Tensor, *, eps: float = 0.0) -> Tensor:
    """Length of the vectors `(d_dx, d_dy)`, with a derivative that is finite everywhere.

    The plain square root has an infinite derivative at zero, and infinity times the zero that
    comes down the chain is NaN: one flat pixel spoils every parameter. Here

    * `eps > 0` gives `sqrt(m^2 + eps^2) - eps`: smooth, exactly 0 at `m = 0` with derivative 0,
      and below the true length `m` by less than `eps` everywhere else;
    * `eps = 0` gives the exact length, with derivative 0 at `m = 0` (a subgradient). Its derivative
      jumps there, so that it suits maps and not training.

    Neither overflows for lengths that the dtype can hold.

    Raises:
        OptionError: If `eps` is negative or not finite.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise OptionError(f"eps must be zero or above, got {eps}; take about a hundredth of a typical gradient")
    if eps == 0:
        flat = (d_dx == 0) & (d_dy == 0)
        return torch.where(flat, 0.0, torch.hypot(torch.where(flat, 1.0, d_dx), d_dy))
    # m^2 / (sqrt(m^2 + eps^2) + eps): the same function without the cancellation at small m.
    floor = torch.full_like(d_dx, eps)
    denominator = torch.hypot(torch.hypot(d_dx, floor), d_dy) + eps
    return d_dx * (d_dx / denominator) + d_dy * (d_dy / denominator)


def total_variation(image: Image, *, isotropic: bool = False, eps: float = 1e-3) -> Tensor:
    """Mean absolute difference between neighbouring pixels, of each image of the batch.

    Anisotropic: the mean of `|right - here|` over its C H (W - 1) differences plus the mean of
    `|below - here|` over its C (H - 1) W; both parts weigh the same whatever the shape, and the
    ramp `a x + b y` has exactly `|a| + |b|`. Isotropic: `magnitude` of both differences (0 where
    a last row or column has no neighbour), over its C (H W - 1) pixels.

    Args:
        image: `(B, C, H, W)`, at least two pixels along each axis.
        isotropic: Whether the two differences of a pixel are joined as a length.
        eps: See `magnitude`; used by the isotropic form. Unit of `image` per px: the result is too
            small by less than this, and exact for a constant image (0).

    Returns:
        `(B,)`, unit of `image` per px; finite and with finite derivatives for every finite image.

    Raises:
        ShapeError: If the image is not a floating `(B, C, H, W)` of at least 2 x 2 pixels.
        OptionError: If `eps` is negative or not finite.

    Source:
        Rudin, Osher and Fatemi (1992), Nonlinear total variation based noise removal algorithms.
    """
    _check(image)
    right = image.diff(dim=_X)
    below = image.diff(dim=_Y)
    if not isotropic:
        return right.abs().mean(dim=(1, 2, 3)) + below.abs().mean(dim=(1, 2, 3))
    lengths = magnitude(functional.pad(right, (0, 1)), functional.pad(below, (0, 0, 0, 1)), eps=eps)
    channels, height, width = image.shape[1:]
    return lengths.sum(dim=(1, 2, 3)) / (channels * (height * width - 1))


def _check(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[0] < 1 or image.shape[1] < 1 or min(image.shape[2:]) < 2:
        raise ShapeError(
            f"image must be (B, C, H, W) with at least 2 x 2 pixels, got {tuple(image.shape)}; "
            "add the missing axes with image[None, None]"
        )
    if not image.is_floating_point():
        raise ShapeError(f"image must be of a floating dtype, got {image.dtype}; convert it with image.float()")


def _along(image: Tensor, axis: int) -> Tensor:
    size = image.shape[axis]
    step = image.diff(dim=axis)
    inner = (image.narrow(axis, 2, size - 2) - image.narrow(axis, 0, size - 2)) / 2
    return torch.cat([step.narrow(axis, 0, 1), inner, step.narrow(axis, size - 2, 1)], dim=axis)


def _smooth3(image: Tensor, taps: Tensor, axis: int) -> Tensor:
    size = image.shape[axis]
    padded = torch.cat([image.narrow(axis, 0, 1), image, image.narrow(axis, size - 1, 1)], dim=axis)
    return sum((taps[i] * padded.narrow(axis, i, size) for i in range(3)), torch.zeros_like(image))


def _gaussian(image: Tensor, sigma_px: float) -> tuple[Tensor, Tensor]:
    check_number("sigma_px", sigma_px)
    if not (math.isfinite(sigma_px) and sigma_px > 0):
        raise OptionError(f"sigma_px must be above zero, got {sigma_px}; 1 suits most pictures")
    # Four sigmas hold all but 6e-5 of the weight; a pixel more keeps a slope for tiny sigmas.
    radius = min(math.ceil(4 * sigma_px), max(image.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    window = torch.exp(-0.5 * (offsets / sigma_px) ** 2).clamp_min(torch.finfo(image.dtype).tiny ** 0.25)
    return window / window.sum(), offsets


def _correlate(image: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Sums of `image` weighted by `taps` about each pixel; nothing beyond the border."""
    radius = taps.numel() // 2
    kernel = taps.view(1, 1, 1, -1) if axis == _X else taps.view(1, 1, -1, 1)
    padding = (0, radius) if axis == _X else (radius, 0)
    flat = image.reshape(-1, 1, *image.shape[2:])
    return functional.conv2d(flat, kernel, padding=padding).view(image.shape)


def _local_mean(image: Tensor, window: Tensor, axis: int) -> Tensor:
    return _correlate(image, window, axis) / _correlate(_one_line(image, axis), window, axis)


def _local_slope(image: Tensor, window: Tensor, offsets: Tensor, axis: int) -> Tensor:
    """Slope of the straight line fitted by least squares under the Gaussian window.

    Away from the border this is the derivative of a Gaussian, normalised to be exact on ramps;
    at the border the fit uses the pixels that exist, and stays exact on ramps.
    """
    line = _one_line(image, axis)

    def moment(data: Tensor, power: int) -> Tensor:
        return _correlate(data, window * offsets**power, axis)

    first = moment(line, 1)
    centre = first / moment(line, 0)
    slope = moment(image, 1) - centre * moment(image, 0)
    return slope / (moment(line, 2) - centre * first)


def _one_line(image: Tensor, axis: int) -> Tensor:
    """Ones along `axis`, length 1 along the other: what a border takes from the window."""
    shape = (1, 1, 1, image.shape[_X]) if axis == _X else (1, 1, image.shape[_Y], 1)
    return image.new_ones(shape)
