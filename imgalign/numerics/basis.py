"""Displacement fields as polynomials: why the normal equations are image moments.

Every generator's displacement field is a polynomial of degree two at most in the coordinates about the picture's
centre. So a sum over pixels of gradient times displacement is the polynomial's coefficients times the moments of the
gradient image, which are two small matrix products.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Floats
from imgalign.coords import centre_normalisation
from imgalign.transforms import Model


class _Powers(NamedTuple):
    """Powers of the coordinates in the dtype and on the device of a picture."""

    x: Tensor  # (w, 2d + 1)
    y: Tensor  # (blocks, 2d + 1, side), by blocks of rows
    y_left: Tensor  # (2d + 1, rows, 1), of the rows that are left


@dataclass(frozen=True)
class Basis:
    """Displacement fields of a model's generators as polynomials of the normalised coordinates.

    `p[k]` and `q[k]` are the coefficients `(d + 1, d + 1)` of `y^i x^j` of generator k's displacement along
    x and along y; `products[k, l]` those of what `xx`, `xy` and `yy` of a picture are multiplied by for the two
    generators, `(3, 2d + 1, 2d + 1)`.
    """

    p: Floats
    q: Floats
    products: Floats
    powers_x: Floats
    powers_y: Floats
    _on: dict[tuple[torch.dtype, torch.device], _Powers] = field(default_factory=dict, init=False, repr=False)

    def _powers(self, like: Tensor) -> _Powers:
        key = like.dtype, like.device
        if key not in self._on:
            # First the dtype: not every device has float64.
            x, y = (torch.as_tensor(p).to(like.dtype).to(like.device) for p in (self.powers_x, self.powers_y))
            side = _block_side(len(y))
            whole = len(y) // side * side
            self._on[key] = _Powers(x, y[:whole].unflatten(0, (-1, side)).mT.contiguous(), y[whole:].T[..., None])
        return self._on[key]

    def moments(self, images: Tensor, order: int, scale: Tensor | None = None) -> Tensor:
        """`(B, C, h, w)` images to `(B, C, i, j)` sums of image * y^i * x^j, to `order` times the fields' degree.

        With a `scale` `(B, C, 1, 1)` the channels are summed by it: `(B, i, j)`. In the dtype of the images.
        """
        terms = order * (self.p.shape[-1] - 1) + 1
        powers = self._powers(images)
        blocks, _, side = powers.y.shape
        # Rows first: a narrow matrix from the left runs along memory, from the right it is five times as slow. And by
        # blocks of rows: one long product is split among threads, and its rounding depends on how many there are.
        sums = (powers.y[:, :terms] @ images[..., : blocks * side, :].unflatten(-2, (blocks, side))).sum(-3)
        if powers.y_left.numel():
            sums = sums + (powers.y_left[:terms] * images[..., None, blocks * side :, :]).sum(-2)
        sums = sums @ powers.x[:, :terms]
        return sums if scale is None else (sums * scale).sum(1)


@lru_cache(maxsize=64)
def basis_of(model: Model, size_hw: tuple[int, int]) -> Basis:
    """The fields of a model on the pixels of a picture, kept."""
    normal = centre_normalisation(size_hw)
    x = normal[0, 0] * np.arange(size_hw[1]) + normal[0, 2]
    y = normal[1, 1] * np.arange(size_hw[0]) + normal[1, 2]
    degree = 0 if model.name == "translate" else 2 if model.name == "homography" else 1
    p, q = np.stack([_displacement(np.array(f, float), degree) for f in model.fields], 1)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        n = degree + 1
        out = np.zeros((len(a), len(b), 2 * degree + 1, 2 * degree + 1))
        for i in range(n):
            for j in range(n):
                out[:, :, i : i + n, j : j + n] += a[:, None, i, j, None, None] * b[None]
        return out

    pq = product(p, q)
    powers_x, powers_y = (np.stack([t**k for k in range(2 * degree + 1)], 1) for t in (x, y))
    products = np.stack([product(p, p), pq + pq.transpose(1, 0, 2, 3), product(q, q)], 2)
    return Basis(p, q, products, powers_x, powers_y)


def _displacement(field: np.ndarray, degree: int) -> np.ndarray:
    """Coefficients of `y^i x^j` of one generator's displacement along x and y: `(G z)_xy - z_xy (G z)_w`."""
    out = np.zeros((2, 3, 3))
    for axis, row in enumerate(field[:2]):
        out[axis, 0, 1], out[axis, 1, 0], out[axis, 0, 0] = row
    for axis, (i, j) in enumerate(((0, 1), (1, 0))):
        out[axis, i, j + 1] -= field[2, 0]
        out[axis, i + 1, j] -= field[2, 1]
    return out[:, : degree + 1, : degree + 1]


def _block_side(rows: int) -> int:
    """Rows of a block, 8 to 20: so many that none are left, if there is such a number."""
    return next((side for side in range(min(20, rows), 7, -1) if rows % side == 0), min(16, rows))


@lru_cache(maxsize=16)
def over_blocks(model: Model, size_hw: tuple[int, int], side: int) -> tuple[Floats, Floats]:
    """Mean displacements along x and y over blocks of `side` pixels, `(P, rows, columns)`; the last may be less."""
    basis = basis_of(model, size_hw)
    terms = basis.p.shape[-1]
    x, y = (
        np.stack([powers[start : start + side, :terms].mean(0) for start in range(0, len(powers), side)])
        for powers in (basis.powers_x, basis.powers_y)
    )
    p, q = (np.einsum("yi,kij,xj->kyx", y, fields, x) for fields in (basis.p, basis.q))
    return p, q
