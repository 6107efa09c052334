"""Reading an image between its pixels: nearest, bilinear and cubic B-spline, each with its own gradient.

The derivative of a sample with respect to its position is the image's own gradient, read by the same
kernel at the same place. So the backward pass is `upstream * sampled gradient`, for every kernel, and
needs no graph through the arithmetic of the forward pass (Jaderberg et al. 2015, eq. 6-7, states it for
the bilinear kernel). Levenberg-Marquardt reads samples alone, without autograd (`Reader`): its gradients are
those of the fixed picture.

Cubic sampling is interpolation by a cubic B-spline with prefilter (Unser, Aldroubi and Eden 1993), and reads
four bilinear samples instead of sixteen taps: neighbouring weights have one sign, so that two taps are one
linear read between them (Sigg and Hadwiger 2005, GPU Gems 2, chapter 20; true of the derivative's weights too).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Tensor
from torch.autograd import Function

from imgalign._types import Image, Matrices, Matrix, Points, Samples, Valid, Weight
from imgalign.coords import grid_sample_coordinates, interleaved, mapped_grid, mapped_planes
from imgalign.errors import OptionError, ShapeError
from imgalign.numerics import shifted
from imgalign.numerics.masks import mask_or_none
from imgalign.numerics.splines import MARGIN, cubic_slopes, cubic_weights, spline_coefficients

KERNELS = ("nearest", "bilinear", "cubic")
# The share of its second derivative that is added to the cubic B-spline. Kernels of this kind keep the spline's support
# and order (Blu, Thevenaz and Unser 2001, "MOMS: maximal-order interpolation of minimal support"). Up to a quarter of a
# cycle a pixel this one errs by a third to a quarter of the spline's phase, which is what moves an answer.
MOMS_BEND = 0.04
_BENDS = {"cubic": 0.0, "moms": MOMS_BEND}
_SLACK = 1e-7  # of the longer side: half the last bit of a float32 coordinate, so that the identity keeps its borders
_IN_CACHE = 1 << 16  # points that are read in one go
_WORTH_SHARING = 4096  # points a thread, below which another thread only costs


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


def sample_grid(
    image: Image, moving_from_fixed: Matrix, size_hw: tuple[int, int], kernel: str = "bilinear"
) -> tuple[Image, Tensor]:
    """`sample` at where `(B, 3, 3)` matrices, on any device, take every pixel of an image of `size_hw`.

    Returns:
        `(B, C, H, W)` warped image, and `(B, 1, H, W)` `valid`.
    """
    points = mapped_grid(moving_from_fixed, size_hw, image.dtype, image.device)
    values, valid = sample(image, points.flatten(1, 2), kernel)
    return values.unflatten(2, size_hw), valid.reshape(-1, 1, *size_hw)


def inside(points: Tensor, size_hw: tuple[int, int], margin: float = 0.0) -> Tensor:
    """True where a point lies within the outermost pixel centres, plus `margin` pixels: `(..., 2)` to `(...)`."""
    h, w = size_hw
    slack = margin + _SLACK * max(h, w)
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
    return _read_spline(spline_coefficients(image), points, gradient=gradient)


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


def _read_spline(coefficients: Image, points: Points, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate a cubic B-spline (`spline_coefficients`) at `(B, N, 2)` points inside the image; see `_read`."""
    base = points.floor()
    t = points - base
    value_taps = _paired_taps(*cubic_weights(t))
    values = _four_reads(coefficients, base, value_taps, value_taps)
    if not gradient:
        return values, values, values
    slope_taps = _paired_taps(*cubic_slopes(t))
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
            at = torch.stack([base[..., 0] + offset_x[..., 0], base[..., 1] + offset_y[..., 1]], -1) + MARGIN
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
        plane: `(1 or B, C, H', W')` picture, or coefficients of the curved kernels, perhaps oversampled and padded.
        mask: `(1 or B, 1, H, W)` weights, or None where all pixels count.
        size_hw: Rows and columns of the picture as points see it.
        kernel: `bilinear`, `cubic` (B-spline) or `moms` (see `MOMS_BEND`).
        oversampling: Pixels of `plane` per pixel of the picture.
        pad: Pixels of `plane` before the first pixel of the picture.
        margin: Pixels at the border that do not count, because a filter reached past them, and
        ramp: pixels behind them over which weights rise to one.
    """

    plane: Image
    mask: Tensor | None
    size_hw: tuple[int, int]
    kernel: str = "bilinear"
    oversampling: float = 1
    pad: int = 0
    margin: float = 0.0
    ramp: float = 0.0
    _last: dict[str, tuple[Matrices, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, image: Image, weight: Weight | None = None) -> "Reader":
        """The bilinear reader of a picture with its mask; None for a picture that counts everywhere."""
        return cls(image, None if weight is None else mask_or_none(weight), (image.shape[-2], image.shape[-1]))

    def on_grid(self, matrices: Matrices, size_hw: tuple[int, int]) -> tuple[Image, Weight]:
        """Samples `(B, C, h, w)` and weights `(B, 1, h, w)` where `(B, 3, 3)` matrices take the pixels of a grid.

        The last samples are kept, not to be written to: what one step ends with, the next begins with.
        """
        x, y = mapped_planes(matrices, size_hw, self.plane.dtype, self.plane.device)
        last = self._last.get("values")
        if last is not None and last[1].shape[-2:] == size_hw and np.array_equal(last[0], matrices):
            return last[1], self.weights(x, y)
        along = None
        if self.kernel in _BENDS:
            along = shifted.axes(matrices, size_hw, self.size_hw, self.oversampling, self.pad)
        values = self.values(x, y) if along is None else shifted.read(self.plane, *along, _BENDS[self.kernel])
        self._last["values"] = matrices.copy(), values
        return values, self.weights(x, y)

    def values(self, x: Tensor, y: Tensor) -> Tensor:
        """`(B, C, h, w)` samples at points given as planes `(B, h, w)`; outside the picture they mean nothing."""
        h, w = self.size_hw
        at = torch.stack([t.clamp(0, n - 1) for t, n in ((x, w), (y, h))]).mul_(self.oversampling).add_(self.pad)
        read = _bilinear_reads if self.kernel == "bilinear" else partial(_curved_reads, bend=_BENDS[self.kernel])
        return _read_planes(self.plane, at, read)

    def weights(self, x: Tensor, y: Tensor) -> Tensor:
        """`(B, 1, h, w)` weights: the mask where the picture is, zero elsewhere."""
        h, w = self.size_hw
        # About the centre one comparison does for both borders.
        slack = _SLACK * max(h, w) - self.margin
        along_x, along_y = ((t - (n - 1) / 2).abs_() for t, n in ((x, w), (y, h)))
        if self.ramp > 0:
            along_x, along_y = ((n - 1) / 2 + slack - t for t, n in ((along_x, w), (along_y, h)))
            valid = torch.minimum(along_x, along_y).mul_(1 / self.ramp).clamp_(0, 1)[:, None]
        else:
            along_x, along_y = (t <= (n - 1) / 2 + slack for t, n in ((along_x, w), (along_y, h)))
            valid = along_x.logical_and_(along_y)[:, None].to(self.plane.dtype)
        if self.mask is None:
            return valid
        at = torch.stack([x.clamp(0, w - 1), y.clamp(0, h - 1)])
        return valid.mul_(_read_planes(self.mask, at, _bilinear_reads))


def _read_planes(image: Image, at: Tensor, read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Read `(1 or B, C, H, W)` at points in its own pixels, x and y planes `(2, B, h, w)`: `(B, C, h, w)`.

    `grid_sample` reads one channel with vector instructions but several without, and shares the work among threads
    by rows of the batch only. So channels and groups of points become rows. What passes through in one go stays in
    the processor's cache.
    """
    b, h, w = at.shape[1:]
    groups, channels = image.shape[:2]
    threads, points = torch.get_num_threads(), b * h * w
    if groups * channels == 1 and points % threads == 0 and points >= _WORTH_SHARING * threads:
        groups = threads
    rows = image.expand(groups, -1, -1, -1).transpose(0, 1).reshape(groups * channels, 1, *image.shape[-2:])
    at = at.reshape(2, groups, -1)
    parts = at.split(max(1, _IN_CACHE // groups), -1) if image.device.type == "cpu" else (at,)
    out = torch.cat([read(rows, part) for part in parts], 1) if len(parts) > 1 else read(rows, parts[0])
    return out.reshape(channels, b, h, w).transpose(0, 1).contiguous()


def _bilinear_reads(rows: Tensor, at: Tensor) -> Tensor:
    """Read `(R, 1, H, W)` at `(2, G, N)` points inside, `(R, N)`; each run of `G` rows at the same points."""
    return _grid_reads(rows, *_to_grid(rows, at.clone()))


def _curved_reads(rows: Tensor, at: Tensor, bend: float) -> Tensor:
    """`_bilinear_reads` by a kernel of four taps from its coefficients, at points two pixels inside.

    The kernel is the cubic B-spline and `bend` times its second derivative; two linear reads an axis are its four taps.
    """
    base = at.floor()
    t = at - base
    # The share of the taps at -1 and 0, and where between them the lower read lies; so above.
    share = _polynomial(t, 5 / 6 - bend, 2 * bend - 1 / 2, -1 / 2, 1 / 3)
    low = _polynomial(t, 2 / 3 - 2 * bend, 3 * bend, -1, 1 / 2).div_(share).add_(base).sub_(1)
    high = t.square().add_(6 * bend).mul_(t).div_(torch.sub(6, share, alpha=6)).add_(base).add_(1)
    (x_low, y_low), (x_high, y_high) = _to_grid(rows, low), _to_grid(rows, high)
    if len(rows) > at.shape[1]:
        share = share.repeat(1, len(rows) // at.shape[1], 1)
    share_x, share_y = share
    below, above = (
        torch.lerp(_grid_reads(rows, x_high, y), _grid_reads(rows, x_low, y), share_x) for y in (y_low, y_high)
    )
    return torch.lerp(above, below, share_y)


def _polynomial(t: Tensor, c0: float, c1: float, c2: float, c3: float) -> Tensor:
    """`c0 + c1 t + c2 t^2 + c3 t^3`, in as few passes as there are."""
    one, two, three = _numbers((c0, c1, c2), t.dtype, t.device)
    return torch.addcmul(one, torch.addcmul(two, torch.add(three, t, alpha=c3), t), t)


@lru_cache(maxsize=16)
def _numbers(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants that are already on the device, so that nobody waits for them."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def _to_grid(rows: Tensor, at: Tensor) -> Tensor:
    """Bring points `(2, G, N)` to the coordinates of `coords.grid_sample_coordinates`, in place."""
    for axis, n in zip(at, rows.shape[:1:-1], strict=True):
        axis.mul_(2 / n).add_(1 / n - 1)
    return at


def _grid_reads(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    grid = interleaved(x, y)
    grid = grid.expand(len(rows) // len(x), *grid.shape).reshape(len(rows), -1, 1, 2)
    return nn.grid_sample(rows, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0, :, 0]
