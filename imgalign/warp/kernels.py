"""Interpolation for the output: what lies between pixels, read for many points at once.

Every kernel here is separable and is read through PyTorch's bilinear `grid_sample`: two neighbouring taps of one sign
are one linear read between them (Sigg and Hadwiger 2005, GPU Gems 2, chapter 20), so that a cubic takes 4 reads instead
of 16 taps, and Lanczos 25 instead of 36.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as nn
from torch import Tensor

_BAND = 1 << 15  # points read at once: more leave the cache, fewer cost calls
_Reads = list[tuple[Tensor, Tensor | None]]  # positions and weights along both axes; None is what is left of one


@dataclass(frozen=True)
class Kernel:
    """How to interpolate, and how to average where a picture shrinks."""

    margin: int
    """Pixels that the kernel needs around the points it reads."""
    reads: Callable[[Tensor], _Reads]
    prepare: Callable[[Tensor], Tensor]
    radius: int
    """Reach of `window`, in output pixels."""
    window: Callable[[Tensor], Tensor]
    """Weight at a distance in output pixels, for averaging."""


def read(kernel: Kernel, image: Tensor, points: Tensor) -> Tensor:
    """Read an image at points.

    Args:
        kernel: One of `KERNELS`.
        image: `(C, H, W)` float, already `prepare`d.
        points: `(2, h, w)` x and y in pixels, within the image by the kernel's margin.

    Returns:
        `(C, h, w)`.
    """
    height, width = points.shape[1:]
    out = image.new_empty(image.shape[0], height, width)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        out[:, band] = _read_band(kernel, image, points[:, band])
    return out


def read_shifted(
    kernel: Kernel, image: Tensor, points: Tensor, corner: tuple[float, float], inner: tuple[slice, slice]
) -> Tensor:
    """`read` at points a pixel apart, as the image's own are: they share their taps, first in rows, then in columns.

    Args:
        kernel: One of `KERNELS`.
        image: As for `read`.
        points: As for `read`.
        corner: The first point, x and y in full precision.
        inner: Rows and columns of the points that lie so; the others were moved to the picture's edge.
    """
    rows, columns = inner
    out = image.new_empty(image.shape[0], *points.shape[1:])
    above, below = slice(0, rows.start), slice(rows.stop, None)
    before, after = slice(0, columns.start), slice(columns.stop, None)
    for some, along in ((above, slice(None)), (below, slice(None)), (rows, before), (rows, after)):
        beside = points[:, some, along]
        if beside.numel():
            out[:, some, along] = read(kernel, image, beside)
    first = torch.tensor([corner[0] + columns.start, corner[1] + rows.start], dtype=torch.float64)
    reads = kernel.reads(first[:, None, None])
    for axis, along, place in ((2, columns, 0), (1, rows, 1)):
        image = _weighed(image, axis, along.stop - along.start, _taps(reads, place))
    out[:, rows, columns] = image
    return out


def average(kernel: Kernel, fine: Tensor, factor: int, axis: int) -> Tensor:
    """Shrink an axis by a whole factor, weighting by the kernel's window.

    Args:
        kernel: One of `KERNELS`.
        fine: Values at spacing 1 / factor of an output pixel; `radius` output pixels more at both ends.
        factor: How many of them make an output pixel.
        axis: Which axis.
    """
    count = fine.shape[axis] // factor - 2 * kernel.radius
    taps = 2 * kernel.radius * factor
    # Tap k of output 0 lies (k + 0.5) / factor - radius from the middle of the pixel, after half a pixel's lead.
    lead = factor // 2
    at = (torch.arange(taps, dtype=torch.float64) + 0.5 + lead) / factor - kernel.radius - 0.5
    weights = kernel.window(at)
    weights = weights / weights.sum()
    out: Tensor | None = None
    for k, weight in enumerate(weights.tolist()):
        index: list[slice] = [slice(None)] * fine.ndim
        index[axis] = slice(lead + k, lead + k + (count - 1) * factor + 1, factor)
        part = fine[tuple(index)]
        out = part * weight if out is None else out.add_(part, alpha=weight)
    assert out is not None
    return out


def _prefiltered(image: Tensor) -> Tensor:
    """Cubic B-spline coefficients of `(C, H, W)`; wrong within 15 pixels of the border, which belong to the margin.

    The inverse of the spline's response (2 + cos w) / 3 is a product of three-tap filters of doubling reach, for
    1 / (1 + a cos w) = (1 - a cos w) / (1 - a^2 / 2) / (1 - a' cos 2w) with a' = a^2 / (2 - a^2): four of them leave an
    error of 1.4e-9, at less than half the cost of the usual recursion cut off at that error. Scaled to be exact for
    w = 0, they leave constants as they are, and twice that error at most.
    """
    # Two buffers in turns: fresh memory of this size costs page faults, which take longer than the filters.
    out, spare, scale = torch.empty_like(image), torch.empty_like(image), 1.0
    for axis in (1, 2):
        a = 0.5
        for reach in (1, 2, 4, 8):
            image = _three_taps(image, axis, reach, -a / 2, out)
            out, spare = spare, out
            scale /= 1 - a
            a = -a * a / (2 - a * a)
    return image.mul_(scale)


def _three_taps(image: Tensor, axis: int, reach: int, side: float, out: Tensor) -> Tensor:
    """Filter by (side, ..., 1, ..., side), `reach` pixels apart, into `out`; beyond the border is nothing."""
    inner = max(0, image.shape[axis] - reach)
    reach = image.shape[axis] - inner
    out.narrow(axis, 0, reach).copy_(image.narrow(axis, 0, reach))
    later, earlier = image.narrow(axis, reach, inner), image.narrow(axis, 0, inner)
    torch.add(later, earlier, alpha=side, out=out.narrow(axis, reach, inner))
    out.narrow(axis, 0, inner).add_(later, alpha=side)
    return out


def _taps(reads: _Reads, place: int) -> dict[int, float]:
    """Single pixels and their weights, of the reads of one point along one axis."""
    weights = [None if weight is None else float(weight[place]) for _, weight in reads]
    left = 1 - sum(weight for weight in weights if weight is not None)
    taps: dict[int, float] = {}
    for (at, _), weight in zip(reads, weights, strict=True):
        base = math.floor(float(at[place]))
        beyond, share = float(at[place]) - base, left if weight is None else weight
        for pixel, part in ((base, 1 - beyond), (base + 1, beyond)):
            taps[pixel] = taps.get(pixel, 0.0) + part * share
    return {pixel: weight for pixel, weight in taps.items() if weight}


def _weighed(image: Tensor, axis: int, size: int, taps: dict[int, float]) -> Tensor:
    """The sum of an image's parts of some size along an axis, each from its pixel on and by its weight."""
    (pixel, weight), *others = taps.items()
    out = image.narrow(axis, pixel, size) * weight
    for pixel, weight in others:
        out.add_(image.narrow(axis, pixel, size), alpha=weight)
    return out


def _read_band(kernel: Kernel, image: Tensor, points: Tensor) -> Tensor:
    reads = kernel.reads(points)
    places = [_normalised(at, image) for at, _ in reads]
    # A complex number is a pair: interleaving x and y this way takes a seventh of the time of torch.stack.
    grid = points.new_empty(len(reads), *points.shape[1:], 2)
    pairs = torch.view_as_complex(grid)
    rows: _Reads = []
    for (_, y), (_, weight) in zip(places, reads, strict=True):
        for (x, _), pair in zip(places, pairs, strict=True):
            torch.complex(x, y, out=pair)
        found = nn.grid_sample(
            image[None].expand(len(reads), -1, -1, -1),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        terms = [(values, None if w is None else w[0]) for values, (_, w) in zip(found, reads, strict=True)]
        rows.append((_weighted_sum(terms), None if weight is None else weight[1]))
    return _weighted_sum(rows)


def _weighted_sum(terms: _Reads) -> Tensor:
    """The sum of values times weights, in place of the first value."""
    first, weight = terms[0]
    if weight is None:
        assert len(terms) <= 2, "weights are missing"
        for value, share in terms[1:]:
            assert share is not None
            first.lerp_(value, share)
        return first
    first.mul_(weight)
    for value, weight in terms[1:]:
        assert weight is not None
        first.addcmul_(value, weight)
    return first


def _normalised(at: Tensor, image: Tensor) -> Tensor:
    """Pixels to what `grid_sample(align_corners=True)` wants: -1 and 1 are the centres of the outermost pixels."""
    h, w = image.shape[-2:]
    return at.mul(at.new_tensor([2 / max(w - 1, 1), 2 / max(h - 1, 1)])[:, None, None]).sub_(1)


def _linear_reads(at: Tensor) -> _Reads:
    return [(at, None)]


def _spline_reads(at: Tensor) -> _Reads:
    """Taps at -1 to 2 with weights (1 - t)^3, ..., t^3 over 6, the first and the last two each as one read."""
    base = at.floor()
    t = at - base
    u = 1 - t
    right = torch.rsub(t, 3, alpha=2).mul_(t).add_(3).mul_(t).add_(1)  # six times the weight of the last two
    at_left = torch.addcdiv(base, u.mul(u).mul_(u), 6 - right, value=-1)
    at_right = torch.addcdiv(base.add_(1), t.mul(t).mul_(t), right)
    return [(at_left, None), (at_right, right.div_(6))]


def _lanczos_reads(at: Tensor) -> _Reads:
    """Six taps at -2 to 3: the two in the middle, both positive, are one read; the others alternate in sign."""
    base = at.floor()
    t = at - base
    # sinc(d) sinc(d / 3) at d = t - k, up to a factor: its sines follow from three of t by the addition theorems.
    sine, third_sine, third_cosine = (torch.pi * t).sin(), (torch.pi / 3 * t).sin(), (torch.pi / 3 * t).cos()
    weights = []
    for k in range(-2, 4):
        d = t - k
        angle = math.pi / 3 * k
        product = (-1) ** k * sine * (third_sine * math.cos(angle) - third_cosine * math.sin(angle))
        at_zero = math.pi**2 / 3
        weights.append(torch.where(d.abs() < 1e-4, at_zero, product / (d * d)) if k in (0, 1) else product / (d * d))
    total = torch.stack(weights).sum(0)
    weights = [w / total for w in weights]
    middle = weights[2] + weights[3]
    single: _Reads = [(base + k, weights[k + 2]) for k in (-2, -1, 2, 3)]
    return [*single, (base + weights[3] / middle, middle)]


def _lanczos(d: Tensor) -> Tensor:
    return torch.where(d.abs() < 3, torch.sinc(d) * torch.sinc(d / 3), 0.0)


def _tent(d: Tensor) -> Tensor:
    return (1 - d.abs()).clamp_min(0)


def _keys(d: Tensor) -> Tensor:
    """The cubic of Keys (1981), a = -1/2: what Pillow's and PyTorch's anti-aliased resizing call bicubic."""
    d = d.abs()
    inner = (1.5 * d - 2.5) * d * d + 1
    outer = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d <= 1, inner, torch.where(d < 2, outer, 0.0))


def _unchanged(image: Tensor) -> Tensor:
    return image


KERNELS: dict[str, Kernel] = {
    "bilinear": Kernel(1, _linear_reads, _unchanged, 1, _tent),
    "cubic": Kernel(18, _spline_reads, _prefiltered, 2, _keys),
    "lanczos": Kernel(4, _lanczos_reads, _unchanged, 3, _lanczos),
}
