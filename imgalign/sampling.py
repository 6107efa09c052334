"""Reading an image between its pixels: nearest, bilinear and cubic B-spline, each with its own gradient.

The derivative of a sample with respect to its position is the image's own gradient, read by the same
kernel at the same place. So the backward pass is `upstream * sampled gradient`, for every kernel, and
needs no graph through the arithmetic of the forward pass (Jaderberg et al. 2015, eq. 6-7, states it for
the bilinear kernel). Levenberg-Marquardt reads the same samples and gradients without autograd.

Cubic sampling is interpolation by a cubic B-spline with prefilter (Unser, Aldroubi and Eden 1993), and reads
four bilinear samples instead of sixteen taps: neighbouring weights have one sign, so that two taps are one
linear read between them (Sigg and Hadwiger 2005, GPU Gems 2, chapter 20; true of the derivative's weights too).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nn
from torch import Tensor
from torch.autograd import Function

from imgalign._types import Image, Matrix, Points, Samples, Valid
from imgalign.coords import grid_sample_coordinates, mapped_grid
from imgalign.errors import OptionError, ShapeError

KERNELS = ("nearest", "bilinear", "cubic")
_POLE = 3**0.5 - 2  # of the cubic B-spline's inverse filter
_PAD = 2  # spline taps reach two pixels past the border


def sample(image: Image, points: Points, kernel: str = "bilinear") -> tuple[Samples, Valid]:
    """Read `image` at continuous pixel positions. Differentiable in both arguments.

    With `bilinear` the derivative in `points` jumps where a point crosses a row or column of pixel centres;
    with `cubic` it is smooth; with `nearest` it is the image's central difference (one-sided at the border)
    at the nearest pixel, the gradient of the picture behind the samples rather than of the staircase.

    Args:
        image: `(B, C, H, W)` intensities, any unit, float.
        points: `(B, N, 2)` positions in pixels, `(x, y)`.
        kernel: `nearest`, `bilinear` or `cubic`.

    Returns:
        `(B, C, N)` samples in the unit of `image` (beyond the border the nearest border value), and `(B, N)`
        `valid`: true within the outermost pixel centres (for `nearest`: within the outermost pixels).

    Raises:
        ShapeError: If the shapes do not fit, or the image has an axis shorter than two pixels.
        OptionError: If there is no such kernel.
    """
    _check(image, points, kernel)
    samples: Tensor = _Sample.apply(image, points, kernel)  # type: ignore[no-untyped-call]
    return samples, inside(points, (image.shape[-2], image.shape[-1]), 0.5 if kernel == "nearest" else 0.0)


def sample_with_gradient(image: Image, points: Points, kernel: str = "bilinear") -> tuple[Samples, Tensor, Valid]:
    """`sample`, and the samples' derivative in x and y, `(B, C, N, 2)`, without autograd."""
    _check(image, points, kernel)
    values, dx, dy = _read(image, points, kernel, gradient=True)
    valid = inside(points, (image.shape[-2], image.shape[-1]), 0.5 if kernel == "nearest" else 0.0)
    return values, torch.stack([dx, dy], -1), valid


def sample_grid(
    image: Image, moving_from_fixed: Matrix, size_hw: tuple[int, int], kernel: str = "bilinear"
) -> tuple[Image, Tensor]:
    """`sample` at where `(B, 3, 3)` matrices take every pixel of an image of `size_hw`.

    Returns:
        `(B, C, H, W)` warped image, and `(B, 1, H, W)` `valid`.
    """
    points = mapped_grid(moving_from_fixed, size_hw, image.dtype)
    values, valid = sample(image, points.flatten(1, 2), kernel)
    return values.unflatten(2, size_hw), valid.reshape(-1, 1, *size_hw)


def inside(points: Tensor, size_hw: tuple[int, int], margin: float = 0.0) -> Tensor:
    """True where a point lies within the outermost pixel centres, plus `margin` pixels: `(..., 2)` to `(...)`."""
    h, w = size_hw
    # Half the last bit of a float32 coordinate is forgiven, so that the identity keeps its last row and column.
    slack = margin + 1e-7 * max(h, w)
    x, y = points[..., 0], points[..., 1]
    return (x >= -slack) & (x <= w - 1 + slack) & (y >= -slack) & (y <= h - 1 + slack)


class _Sample(Function):
    """Forward: read by a kernel. Backward: upstream times the image's gradient, read by the same kernel."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, points: Tensor, kernel: str) -> Tensor:
        ctx.save_for_backward(image, points)
        ctx.kernel = kernel
        return _read(image, points, kernel, gradient=False)[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, points = ctx.saved_tensors
        grad_image = grad_points = None
        if ctx.needs_input_grad[1]:
            _, dx, dy = _read(image, points, ctx.kernel, gradient=True)
            grad_points = torch.stack([(upstream * dx).sum(1), (upstream * dy).sum(1)], -1)
        if ctx.needs_input_grad[0]:
            # Reading is linear in the image: its transpose is what autograd makes of the plain read.
            with torch.enable_grad():
                leaf = image.detach().requires_grad_()
                values = _read(leaf, points.detach(), ctx.kernel, gradient=False)[0]
            (grad_image,) = torch.autograd.grad(values, leaf, upstream)
        return grad_image, grad_points, None


def _read(image: Tensor, points: Tensor, kernel: str, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Values and, if asked for, derivatives in x and y (else the values again), each `(B, C, N)`."""
    size_hw = (image.shape[-2], image.shape[-1])
    limit = points.new_tensor([size_hw[1] - 1, size_hw[0] - 1])
    points = torch.minimum(points.clamp_min(0), limit)
    if kernel == "nearest":
        return _read_nearest(image, points, gradient)
    if kernel == "bilinear":
        return _read_bilinear(image, points, gradient)
    return read_spline(spline_coefficients(image), points, gradient=gradient)


def _read_nearest(image: Tensor, points: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    w = image.shape[-1]
    nearest = (points + 0.5).floor().long()
    index = (nearest[..., 1] * w + nearest[..., 0])[:, None].expand(-1, image.shape[1], -1)

    def pick(plane: Tensor) -> Tensor:
        return plane.flatten(2).gather(2, index)

    values = pick(image.expand(points.shape[0], -1, -1, -1))
    if not gradient:
        return values, values, values
    dy, dx = torch.gradient(image, dim=(2, 3))
    return values, pick(dx), pick(dy)


def _read_bilinear(image: Tensor, points: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    values = _grid_sample(image, points)
    if not gradient:
        return values, values, values
    # The derivative of the bilinear interpolant: the difference of reads at the two columns (rows) beside the point.
    h, w = image.shape[-2:]
    cell = torch.minimum(points.floor(), points.new_tensor([w - 2, h - 2]))

    def difference(axis: int) -> Tensor:
        low, high = points.clone(), points.clone()
        low[..., axis], high[..., axis] = cell[..., axis], cell[..., axis] + 1
        return _grid_sample(image, high) - _grid_sample(image, low)

    return values, difference(0), difference(1)


def spline_coefficients(image: Image) -> Image:
    """Cubic B-spline coefficients of an image with mirrored borders, two pixels larger on each side.

    The inverse filter is applied in the frequency domain: on the even (cosine) extension it is a division by
    `(2 + cos w) / 3`, exact for mirrored borders, and faster here than the recursive filter.
    """
    for axis in (-1, -2):
        image = _inverse_filter(image, axis)
    return nn.pad(image, (_PAD,) * 4, mode="reflect") if min(image.shape[-2:]) > _PAD else _pad_small(image)


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
        index = torch.arange(-_PAD, n + _PAD, device=image.device) % period
        image = image.index_select(axis, torch.where(index < n, index, period - index))
    return image


def read_spline(coefficients: Image, points: Points, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate a cubic B-spline (`spline_coefficients`) at `(B, N, 2)` points inside the image; see `_read`."""
    base = points.floor()
    t = points - base
    value_taps = _paired_taps(
        (1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6
    )
    values = _four_reads(coefficients, base, value_taps, value_taps)
    if not gradient:
        return values, values, values
    slope_taps = _paired_taps(-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2)
    return (
        values,
        _four_reads(coefficients, base, slope_taps, value_taps),
        _four_reads(coefficients, base, value_taps, slope_taps),
    )


_Taps = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def _paired_taps(w0: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> _Taps:
    """Offsets and weights of the two linear reads that stand for four taps at -1, 0, 1, 2."""
    low, high = w0 + w1, w2 + w3
    tiny = torch.finfo(w0.dtype).tiny
    return (w1 / (low - tiny if bool((low < 0).any()) else low + tiny) - 1, low), (w3 / (high + tiny) + 1, high)


def _four_reads(coefficients: Tensor, base: Tensor, taps_x: _Taps, taps_y: _Taps) -> Tensor:
    out: Tensor | None = None
    for offset_x, weight_x in taps_x:
        for offset_y, weight_y in taps_y:
            at = torch.stack([base[..., 0] + offset_x[..., 0], base[..., 1] + offset_y[..., 1]], -1) + _PAD
            term = _grid_sample(coefficients, at) * (weight_x[..., 0] * weight_y[..., 1])[:, None]
            out = term if out is None else out + term
    assert out is not None
    return out


def _grid_sample(image: Tensor, points: Tensor) -> Tensor:
    size_hw = (image.shape[-2], image.shape[-1])
    grid = grid_sample_coordinates(points, size_hw)[:, :, None]
    image = image.expand(points.shape[0], -1, -1, -1)
    return nn.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)[..., 0]


def _check(image: Tensor, points: Tensor, kernel: str) -> None:
    if kernel not in KERNELS:
        raise OptionError(f"unknown sampler {kernel!r}; choose one of {', '.join(KERNELS)}")
    if image.ndim != 4 or not image.is_floating_point():
        raise ShapeError(
            f"image must be a float tensor (B, C, H, W), got {image.dtype} {tuple(image.shape)}; add the missing axes"
        )
    if min(image.shape[-2:]) < 2:
        raise ShapeError(
            f"image needs at least 2 x 2 pixels, got {image.shape[-2]} x {image.shape[-1]}; use a larger one"
        )
    if points.ndim != 3 or points.shape[-1] != 2 or image.shape[0] not in (1, points.shape[0]):
        raise ShapeError(
            f"points must be (B, N, 2) with the image's batch, got {tuple(points.shape)} for an image of "
            f"{tuple(image.shape)}; reshape them"
        )


@dataclass(frozen=True)
class Reader:
    """A picture and its mask, prepared once and read many times, without autograd.

    Attributes:
        plane: `(1 or B, C, H', W')` picture, or its spline coefficients (`cubic`), perhaps oversampled and padded.
        mask: `(1 or B, 1, H, W)` weights, or None where all pixels count.
        size_hw: Rows and columns of the picture as points see it.
        kernel: `bilinear` or `cubic`.
        oversampling: Pixels of `plane` per pixel of the picture.
        pad: Pixels of `plane` before the first pixel of the picture.
        margin: Pixels at the border that do not count, because a filter reached past them.
    """

    plane: Image
    mask: Tensor | None
    size_hw: tuple[int, int]
    kernel: str = "bilinear"
    oversampling: int = 1
    pad: int = 0
    margin: float = 0.0

    def values(self, points: Tensor) -> Tensor:
        """`(B, C, h, w)` samples at `(B, h, w, 2)` points; outside the picture they mean nothing."""
        limit = points.new_tensor([self.size_hw[1] - 1.0, self.size_hw[0] - 1.0])
        at = torch.minimum(points.clamp_min(0), limit) * self.oversampling + self.pad
        return _fold(self.plane, at, _spline_values if self.kernel == "cubic" else _grid_sample)

    def weights(self, points: Tensor) -> Tensor:
        """`(B, 1, h, w)` weights: the mask where the picture is, zero elsewhere."""
        valid = inside(points, self.size_hw, -self.margin)[:, None].to(self.plane.dtype)
        return valid if self.mask is None else valid * _fold(self.mask, points, _grid_sample)


def _fold(image: Tensor, points: Tensor, read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Read at `(B, h, w, 2)` points; a shared image is read once at all rows' points, not copied for each."""
    b, h, w = points.shape[:3]
    if image.shape[0] == 1 and b > 1:
        flat = read(image, points.reshape(1, b * h * w, 2))
        return flat.reshape(-1, b, h, w).transpose(0, 1)
    return read(image, points.reshape(b, h * w, 2)).unflatten(2, (h, w))


def _spline_values(coefficients: Tensor, points: Tensor) -> Tensor:
    # `read_spline` adds the spline's own padding; a Reader has counted it in `pad`.
    return read_spline(coefficients, points - _PAD, gradient=False)[0]
