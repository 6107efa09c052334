"""Shifting a batch of images, each by its own (x, y), with a gradient of its own.

Convention: the content moves by `offset`, as seen on the screen: `shifted(p) = image(p - offset)` in pixels, x to
the right and y down. Where no image lies under `p - offset`, the result is 0.

A translation is the one transform whose sampling is separable and the same for every pixel: whole pixels are a
slice, and the rest is one short filter along each axis. Its derivative is the image's own gradient, shifted alike:

    d loss / d offset = - sum over pixels, channels of upstream(p) * gradient(p - offset)

so that the backward pass needs neither a graph nor a grid of points. This is the principle of
`sampling`, with the grid taken out of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from imgalign._types import Image, SamplerName
from imgalign.errors import OptionError, ShapeError
from imgalign.gradients import central_differences
from imgalign.numerics.splines import MARGIN, cubic_slopes, cubic_weights, spline_coefficients

Offset: TypeAlias = Annotated[Tensor, "B 2"]
Slopes = Literal["central", "kernel"]

_X, _Y = -1, -2


def shift(image: Image, offset: Offset, *, kernel: SamplerName = "nearest", slopes: Slopes | None = None) -> Image:
    """Move each image of a batch by its own offset. Differentiable in both arguments.

    The derivative in `image`, computed only if asked for, is the exact transpose of the shift. The derivative in
    `offset` is the image's gradient read at the shifted place, of one of two kinds:

    * `central`: central differences, one-sided at the border, shifted by the same kernel. The gradient of the
      picture behind the pixels: it vanishes at the top of a peak that lies between pixels. The default for
      `nearest`, whose own slope is zero everywhere, and for `bilinear`, whose own slope has no zero but jumps
      over it at a pixel.
    * `kernel`: the derivative of the interpolated image itself, as autograd would give. The default for `cubic`.

    Pixels with a gradient that is not finite (NaN in the image) take no part in the sum.

    Args:
        image: `(B, C, H, W)`, at least 2 x 2 pixels, any unit. A batch of one is moved by every offset.
        offset: `(B, 2)` px, `(x, y)`; the content moves right and down.
        kernel: `nearest`, `bilinear` or `cubic` (cubic B-spline with prefilter, mirrored borders).
        slopes: `central` or `kernel`; `None` chooses by the kernel.

    Returns:
        `(B, C, H, W)` in the unit of `image`; 0 where a pixel's source lies beyond the outermost pixel centres (for
        `nearest`: beyond the outermost pixels).

    Raises:
        ShapeError: If shapes or dtypes do not fit.
        OptionError: If an option has a value that cannot work, or an offset is not finite.
    """
    if kernel not in get_args(SamplerName):
        raise OptionError(f"kernel must be one of {', '.join(get_args(SamplerName))}, got {kernel!r}")
    slopes = slopes or ("kernel" if kernel == "cubic" else "central")
    if slopes not in get_args(Slopes) or (slopes == "kernel" and kernel == "nearest"):
        raise OptionError(f"slopes must be central, or kernel for bilinear and cubic, got {slopes!r} for {kernel}")
    _check(image, offset)
    return cast("Tensor", _Shift.apply(image, offset, kernel, slopes))  # type: ignore[no-untyped-call]


class _Shift(Function):
    """Forward: slice and filter. Backward: upstream times the shifted gradient, summed over the image."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, offset: Tensor, kernel: str, slopes: str) -> Tensor:
        source, margin = _source(image, kernel)
        # For all but cubic, source is image; cubic keeps its coefficients, for they cost more than all the rest.
        ctx.save_for_backward(image, offset, source if kernel == "cubic" and slopes == "kernel" else image)
        ctx.kernel, ctx.slopes = kernel, slopes
        shifted = image.new_zeros(offset.shape[0], *image.shape[1:])
        for row, (x, y) in _rows(offset, image, kernel):
            window = _window(source[row % source.shape[0]], x, y, margin)
            _inside(shifted[row], x, y).copy_(_filtered(window, x.taps, y.taps))
        return shifted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        image, offset, source = ctx.saved_tensors
        by_image = _image_gradient(image, offset, upstream, ctx.kernel) if ctx.needs_input_grad[0] else None
        by_offset = None
        if ctx.needs_input_grad[1]:
            by_offset = _offset_gradient(image, source, offset, upstream, kernel=ctx.kernel, slopes=ctx.slopes)
        return by_image, by_offset, None, None


@dataclass(frozen=True)
class _Axis:
    """One axis of one shift: outputs `start` to `start + count` read `taps` from `first` on, one pixel apart."""

    start: int
    count: int
    first: int
    taps: tuple[float, ...]
    slopes: tuple[float, ...] | None  # None at the kink of the bilinear kernel, on a pixel


def _rows(offset: Tensor, image: Tensor, kernel: str) -> Iterator[tuple[int, tuple[_Axis, _Axis]]]:
    """The images of the batch that keep anything, with what happens along x and y."""
    for row, (x, y) in enumerate(offset.tolist()):
        axes = _axis(-x, image.shape[_X], kernel), _axis(-y, image.shape[_Y], kernel)
        if min(axes[0].count, axes[1].count) > 0:
            yield row, axes


def _axis(motion: float, size: int, kernel: str) -> _Axis:
    """The shift that reads at `p + motion`, for the outputs `p` whose source lies in the image."""
    # Half a pixel is rounded up, as the nearest sampler of `sampling` does.
    whole = math.floor(motion + 0.5) if kernel == "nearest" else math.floor(motion)
    t = motion - whole
    taps, slopes, before = _taps(kernel, t)
    start = max(0, -whole)
    # The last source is size - 1; a fraction needs the pixel after it.
    stop = min(size, size - whole - (kernel != "nearest" and t > 0))
    return _Axis(start, max(0, stop - start), start + whole - before, taps, slopes)


def _taps(kernel: str, t: float) -> tuple[tuple[float, ...], tuple[float, ...] | None, int]:
    """Weights and slopes of neighbouring pixels for a source `t` beyond a pixel, and how many lie before that one."""
    if kernel == "nearest" or (kernel == "bilinear" and t == 0):
        return (1.0,), None, 0
    if kernel == "bilinear":
        return (1 - t, t), (-1.0, 1.0), 0
    return cubic_weights(t), cubic_slopes(t), 1


def _source(image: Tensor, kernel: str) -> tuple[Tensor, int]:
    """What the taps weigh, and how many pixels it has beyond the image on each side."""
    return (spline_coefficients(image), MARGIN) if kernel == "cubic" else (image, 0)


def _window(source: Tensor, x: _Axis, y: _Axis, margin: int) -> Tensor:
    """The part of `(C, H, W)` that one shift reads."""
    rows = slice(y.first + margin, y.first + margin + y.count + len(y.taps) - 1)
    columns = slice(x.first + margin, x.first + margin + x.count + len(x.taps) - 1)
    return source[:, rows, columns]


def _inside(image: Tensor, x: _Axis, y: _Axis) -> Tensor:
    """The part of `(C, H, W)` that one shift writes."""
    return image[:, y.start : y.start + y.count, x.start : x.start + x.count]


def _filtered(window: Tensor, taps_x: tuple[float, ...], taps_y: tuple[float, ...]) -> Tensor:
    for axis, taps in ((_X, taps_x), (_Y, taps_y)):
        if len(taps) > 1:
            count = window.shape[axis] - len(taps) + 1
            blend = window.narrow(axis, 0, count) * taps[0]
            for index in range(1, len(taps)):
                blend.add_(window.narrow(axis, index, count), alpha=taps[index])
            window = blend
    return window


def _spread(values: Tensor, taps_x: tuple[float, ...], taps_y: tuple[float, ...]) -> Tensor:
    """The transpose of `_filtered`."""
    for axis, taps in ((_Y, taps_y), (_X, taps_x)):
        count = values.shape[axis]
        shape = list(values.shape)
        shape[axis] += len(taps) - 1
        window = values.new_zeros(shape)
        for index, tap in enumerate(taps):
            window.narrow(axis, index, count).add_(values, alpha=tap)
        values = window
    return values


def _offset_gradient(
    image: Tensor, source: Tensor, offset: Tensor, upstream: Tensor, *, kernel: str, slopes: str
) -> Tensor:
    margin = MARGIN if kernel == "cubic" else 0
    gradient = torch.zeros_like(offset)
    differences: tuple[Tensor, Tensor] | None = None
    for row, (x, y) in _rows(offset, image, kernel):
        here = row % image.shape[0]
        arriving = _inside(upstream[row], x, y)
        for index, axis in enumerate((x, y)):
            if slopes == "central" or axis.slopes is None:
                if differences is None or image.shape[0] > 1:
                    differences = central_differences(image[here : here + 1])
                moved, extra = _source(differences[index], kernel)
                slope = _filtered(_window(moved[0], x, y, extra), x.taps, y.taps)
            else:
                window = _window(source[here], x, y, margin)
                taps = (axis.slopes, y.taps) if index == 0 else (x.taps, axis.slopes)
                slope = _filtered(window, *taps)
            gradient[row, index] = -_finite_sum(arriving * slope)
    return gradient


def _finite_sum(values: Tensor) -> Tensor:
    total = values.sum()
    return total if bool(total.isfinite()) else values.nan_to_num(0.0, 0.0, 0.0).sum()


def _image_gradient(image: Tensor, offset: Tensor, upstream: Tensor, kernel: str) -> Tensor:
    with torch.enable_grad():
        leaf = image.detach().requires_grad_()
        source, margin = _source(leaf, kernel)
    gradient = torch.zeros_like(source)
    for row, (x, y) in _rows(offset, image, kernel):
        spread = _spread(_inside(upstream[row], x, y), x.taps, y.taps)
        _window(gradient[row % image.shape[0]], x, y, margin).add_(spread)
    return gradient if source is leaf else torch.autograd.grad(source, leaf, gradient)[0]


def _check(image: Tensor, offset: Tensor) -> None:
    if image.ndim != 4 or min(image.shape[:2]) < 1 or min(image.shape[2:]) < 2 or not image.is_floating_point():
        raise ShapeError(
            f"image must be a float tensor (B, C, H, W) of at least 2 x 2 pixels, got {image.dtype} "
            f"{tuple(image.shape)}; add the missing axes or convert with .float()"
        )
    if offset.ndim != 2 or offset.shape[1] != 2 or image.shape[0] not in {1, offset.shape[0]} or len(offset) < 1:
        raise ShapeError(
            f"offset must be (B, 2) with the image's batch {image.shape[0]}, got {tuple(offset.shape)}; "
            "give one (x, y) an image"
        )
    if not offset.is_floating_point():
        raise ShapeError(f"offset must be of a floating dtype, got {offset.dtype}; convert it with .float()")
    if not bool(offset.detach().isfinite().all()):
        raise OptionError(f"offset must be finite, got {offset.detach().tolist()}; an earlier step has gone wrong")
