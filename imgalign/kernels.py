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

_BAND = 1 << 14  # points read at once: larger results cost page faults, which take longer than the reading
_Reads = list[tuple[Tensor, Tensor | None]]  # positions and weights along one axis; None is a weight of one


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


def read(kernel: Kernel, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read an image at points.

    Args:
        kernel: One of `KERNELS`.
        image: `(C, H, W)` float, already `prepare`d.
        x: `(h, w)` positions in pixels, within the image by the kernel's margin.
        y: The same, down.

    Returns:
        `(C, h, w)`.
    """
    out = image.new_empty(image.shape[0], *x.shape)
    rows = max(1, _BAND // x.shape[1])
    for top in range(0, x.shape[0], rows):
        band = slice(top, top + rows)
        out[:, band] = _read_band(kernel, image, x[band], y[band])
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


def spline_coefficients(image: Tensor) -> Tensor:
    """Cubic B-spline coefficients of `(C, H, W)`; wrong within 15 pixels of the border, which belong to the margin.

    The inverse of the spline's response (2 + cos w) / 3 is a product of three-tap filters of doubling reach, for
    1 / (1 + a cos w) = (1 - a cos w) / (1 - a^2 / 2) / (1 - a' cos 2w) with a' = a^2 / (2 - a^2): four of them leave an
    error of 1.4e-9, at less than half the cost of the usual recursion cut off at that error.
    """
    for axis in (1, 2):
        a = 0.5
        for reach in (1, 2, 4, 8):
            scale = (1.5 if reach == 1 else 1.0) / (1 - a * a / 2)
            image = _three_taps(image, axis, reach, scale, -a / 2 * scale)
            a = -a * a / (2 - a * a)
    return image


def _three_taps(image: Tensor, axis: int, reach: int, centre: float, side: float) -> Tensor:
    """Filter by (side, ..., centre, ..., side), `reach` pixels apart; the border repeats."""
    size = image.shape[axis]
    out = image * centre
    if size > reach:
        out.narrow(axis, reach, size - reach).add_(image.narrow(axis, 0, size - reach), alpha=side)
        out.narrow(axis, 0, size - reach).add_(image.narrow(axis, reach, size - reach), alpha=side)
    return out


def _read_band(kernel: Kernel, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    reads_x = [(_normalised(at, image.shape[2]), weight) for at, weight in kernel.reads(x)]
    rows = []
    for at, weight_y in kernel.reads(y):
        at_y = _normalised(at, image.shape[1])
        # A complex number is a pair: interleaving x and y this way takes a seventh of the time of torch.stack.
        grid = torch.stack([torch.view_as_real(torch.complex(at_x, at_y)) for at_x, _ in reads_x])
        reads = nn.grid_sample(
            image[None].expand(len(reads_x), -1, -1, -1),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        rows.append(
            (_weighted_sum([(read, weight) for read, (_, weight) in zip(reads, reads_x, strict=True)]), weight_y)
        )
    return _weighted_sum(rows)


def _weighted_sum(terms: _Reads) -> Tensor:
    """The sum of values times weights, in place of the first value; weights of a pair add up to one."""
    first, weight = terms[0]
    if weight is None:
        return first
    if len(terms) == 2:
        second, second_weight = terms[1]
        assert second_weight is not None
        return first.lerp_(second, second_weight)
    first.mul_(weight)
    for value, weight in terms[1:]:
        assert weight is not None
        first.addcmul_(value, weight)
    return first


def _normalised(at: Tensor, size: int) -> Tensor:
    """Pixels to what `grid_sample(align_corners=True)` wants: -1 and 1 are the centres of the outermost pixels."""
    return at.mul(2 / max(size - 1, 1)).sub_(1)


def _linear_reads(x: Tensor) -> _Reads:
    return [(x, None)]


def _spline_reads(x: Tensor) -> _Reads:
    """Taps at -1 to 2 with weights (1 - t)^3, ..., t^3 over 6, the first and the last two each as one read."""
    base = x.floor()
    t = x - base
    u = 1 - t
    right = t.mul(-2).add_(3).mul_(t).add_(3).mul_(t).add_(1)  # six times the weight of the last two
    at_left = base - (u * u).mul_(u).div_(6 - right)
    at_right = (t * t).mul_(t).div_(right).add_(base).add_(1)
    right.div_(6)
    return [(at_left, 1 - right), (at_right, right)]


def _lanczos_reads(x: Tensor) -> _Reads:
    """Six taps at -2 to 3: the two in the middle, both positive, are one read; the others alternate in sign."""
    base = x.floor()
    t = x - base
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
    "cubic": Kernel(18, _spline_reads, spline_coefficients, 2, _keys),
    "lanczos": Kernel(4, _lanczos_reads, _unchanged, 3, _lanczos),
}
