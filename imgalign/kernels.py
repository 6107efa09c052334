"""Interpolation for the output: what lies between pixels, read for many points at once.

Every kernel here is separable and is read through PyTorch's bilinear `grid_sample`: two neighbouring taps of one sign
are one linear read between them (Sigg and Hadwiger 2005, GPU Gems 2, chapter 20), so that a cubic takes 4 reads instead
of 16 taps, and Lanczos 25 instead of 36. Reads go along the batch axis, over which the CPU's `grid_sample` shares its
work among threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as nn
from torch import Tensor

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
    reads_x = [(_normalised(at, image.shape[2]), weight) for at, weight in kernel.reads(x)]
    out: Tensor | None = None
    for at_y, weight_y in kernel.reads(y):
        row = _read_row(image, reads_x, _normalised(at_y, image.shape[1]))
        row = row if weight_y is None else row * weight_y
        out = row if out is None else out.add_(row)
    assert out is not None
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


def _read_row(image: Tensor, reads_x: _Reads, at_y: Tensor) -> Tensor:
    """The weighted sum of linear reads along x, at one set of rows."""
    if len(reads_x) == 1 and at_y.shape[0] >= 64:  # a single read is cut into bands instead, for the threads' sake
        at_x = reads_x[0][0]
        bands = [torch.stack([bx, by], -1) for bx, by in zip(at_x.tensor_split(4), at_y.tensor_split(4), strict=True)]
        even = len({band.shape for band in bands}) == 1
        grid = torch.stack(bands) if even else torch.stack([at_x, at_y], -1)[None]
        values = _grid_sample(image, grid)
        return values.transpose(0, 1).flatten(1, 2)
    grid = torch.stack([torch.stack([at_x, at_y], -1) for at_x, _ in reads_x])
    values = _grid_sample(image, grid)
    out: Tensor | None = None
    for value, (_, weight) in zip(values, reads_x, strict=True):
        part = value if weight is None else value.mul_(weight)
        out = part if out is None else out.add_(part)
    assert out is not None
    return out


def _grid_sample(image: Tensor, grid: Tensor) -> Tensor:
    image = image[None].expand(grid.shape[0], -1, -1, -1)
    return nn.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _normalised(at: Tensor, size: int) -> Tensor:
    """Pixels to what `grid_sample(align_corners=True)` wants: -1 and 1 are the centres of the outermost pixels."""
    return at * (2 / max(size - 1, 1)) - 1


def _linear_reads(x: Tensor) -> _Reads:
    return [(x, None)]


def _spline_reads(x: Tensor) -> _Reads:
    base = x.floor()
    t = x - base
    cube = t * t * t
    right = (1 + 3 * (t + t * t) - 2 * cube) / 6  # the two taps at +1 and +2; the two at -1 and 0 have the rest
    left = 1 - right
    inner = (4 - 6 * t * t + 3 * cube) / 6  # the tap at 0
    return [(base - 1 + inner / left, left), (base + 1 + cube / (6 * right), right)]


def _lanczos_reads(x: Tensor) -> _Reads:
    """Six taps at -2 to 3: the two in the middle, both positive, are one read; the others alternate in sign."""
    base = x.floor()
    t = x - base
    weights = [_lanczos(t - k) for k in range(-2, 4)]
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
