"""Pixel coordinates, pyramid levels and homogeneous points.

Convention: points are `(x, y)` in pixels, `(0, 0)` is the centre of the top-left pixel. A level that is
reduced by `s` has `x_s = (x + 0.5) / s - 0.5`. Normalised coordinates are for `torch.nn.functional.grid_sample`
alone, and made where it is called.
"""

import math

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Matrices, Matrix, Matrix3


def level_from_full(reduction: float) -> Matrix3:
    """The 3 x 3 matrix from full-size pixels to pixels of a level reduced by `reduction`."""
    offset = 0.5 / reduction - 0.5
    return np.array([[1 / reduction, 0, offset], [0, 1 / reduction, offset], [0, 0, 1.0]])


def at_level(moving_from_fixed: Matrix3, reduction: float, moving_reduction: float | None = None) -> Matrix3:
    """A matrix of two full-size pictures, for both of them reduced by `reduction`, or the moving one by its own."""
    moving_level = level_from_full(reduction if moving_reduction is None else moving_reduction)
    return np.asarray(moving_level @ moving_from_fixed @ np.linalg.inv(level_from_full(reduction)))


def at_full_size(level_matrix: Matrix3, reduction: float, moving_reduction: float | None = None) -> Matrix3:
    """And back."""
    moving_level = level_from_full(reduction if moving_reduction is None else moving_reduction)
    return np.asarray(np.linalg.inv(moving_level) @ level_matrix @ level_from_full(reduction))


def lattice(step: int) -> Matrix3:
    """The 3 x 3 matrix from every `step`-th pixel to all pixels."""
    return np.diag([step, step, 1.0])


def centre_normalisation(size_hw: tuple[int, int]) -> Matrix3:
    """The 3 x 3 matrix from pixels to coordinates about the image centre, in units of the half diagonal.

    Computing about the centre keeps float32 exact enough on large images, and lets a unit of every
    parameter move the corners by about the same amount.
    """
    h, w = size_hw
    radius = max(0.5 * math.hypot(h - 1, w - 1), 1.0)
    return np.array([[1 / radius, 0, -(w - 1) / 2 / radius], [0, 1 / radius, -(h - 1) / 2 / radius], [0, 0, 1.0]])


def mapped_grid(
    matrix: Matrix, size_hw: tuple[int, int], dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Where `(B, 3, 3)` matrices take all pixels of an image: `(B, H, W, 2)` points in pixels; differentiable.

    With a `device` other than the matrix's, rows and columns go there, in `dtype`; see `mapped_planes`.
    """
    h, w = size_hw
    x = torch.arange(w, dtype=matrix.dtype, device=matrix.device)
    y = torch.arange(h, dtype=matrix.dtype, device=matrix.device)
    projective = bool((matrix[:, 2, :2] != 0).any()) or bool((matrix[:, 2, 2] != 1).any())
    m = matrix[:, : 2 + projective]
    along_x, along_y = (m[:, :, 0, None] * x).to(dtype), (m[:, :, 1, None] * y + m[:, :, 2, None]).to(dtype)
    if device is not None and device != matrix.device:
        along_x, along_y = torch.cat([along_x, along_y], 2).to(device).split((w, h), 2)
    return interleaved(*_planes(along_x, along_y))


def mapped_planes(
    matrices: Matrices, size_hw: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`mapped_grid` as two planes, x and y, each `(B, H, W)`: arithmetic on planes is several times faster.

    Built row by column from the matrices in double precision: one fused pass instead of a product with a stored grid.
    """
    h, w = size_hw
    projective = bool((matrices[:, 2] != (0, 0, 1)).any())
    m = matrices[:, : 2 + projective, :, None]
    along = np.empty((*m.shape[:2], w + h))
    np.multiply(m[:, :, 0], np.arange(w), out=along[..., :w])
    np.add(m[:, :, 1] * np.arange(h), m[:, :, 2], out=along[..., w:])
    on_device = torch.from_numpy(along).to(dtype).to(device)
    return _planes(on_device[..., :w], on_device[..., w:])


def _planes(along_x: Tensor, along_y: Tensor) -> tuple[Tensor, Tensor]:
    """Planes of x and y from what columns `(B, K, W)` and rows `(B, K, H)` add to them, and to the depth if K is 3."""

    def plane(row: int) -> Tensor:
        return along_x[:, row, None, :] + along_y[:, row, :, None]

    out_x, out_y = plane(0), plane(1)
    if along_x.shape[1] == 3:
        depth = plane(2)
        behind = depth <= 1e-6
        depth = depth.clamp_min(1e-6)
        out_x, out_y = ((out / depth).masked_fill_(behind, 1e9) for out in (out_x, out_y))
    return out_x, out_y


def interleaved(x: Tensor, y: Tensor) -> Tensor:
    """Two planes as points, `(..., 2)`. A complex number is such a pair, and writing one is a single pass."""
    return torch.view_as_real(torch.complex(x, y))


def grid_sample_coordinates(points: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels to what `grid_sample(align_corners=False)` wants: -1 and 1 are the outer edges of the image."""
    h, w = size_hw
    scale = torch.tensor([2 / w, 2 / h], dtype=points.dtype, device=points.device)
    shift = torch.tensor([1 / w - 1, 1 / h - 1], dtype=points.dtype, device=points.device)
    return torch.addcmul(shift, points, scale)
