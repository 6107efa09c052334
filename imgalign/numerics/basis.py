"""Displacement fields as polynomials: why the normal equations are image moments.

Every generator's displacement field is a polynomial of degree two at most in the coordinates about the picture's
centre. So a sum over pixels of gradient times displacement is the polynomial's coefficients times the moments of the
gradient image, which are two small matrix products.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Floats
from imgalign.coords import centre_normalisation
from imgalign.transforms import Model

_SLAB_VALUES = 1 << 17  # of one product: all of a slab's are 7 MiB


class Powers(NamedTuple):
    """Powers of the coordinates in the dtype and on the device of a picture."""

    x: Tensor  # (w, 2d + 1)
    y: Tensor  # (2d + 1, h)


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
    _on: dict[tuple[torch.dtype, torch.device], Powers] = field(default_factory=dict, init=False, repr=False)

    def powers(self, like: Tensor) -> Powers:
        """Powers of the coordinates as a picture has its values, kept."""
        key = like.dtype, like.device
        if key not in self._on:
            # First the dtype: not every device has float64.
            x, y = (torch.as_tensor(p).to(like.dtype).to(like.device) for p in (self.powers_x, self.powers_y))
            self._on[key] = Powers(x, y.T.contiguous())
        return self._on[key]

    def slabs(self, row_values: int) -> Iterator[slice]:
        """The picture's rows in parts whose products stay in the cache until they are summed.

        Args:
            row_values: How many values a row of pixels has, over a batch and its channels.
        """
        starts = range(0, len(self.powers_y), max(1, _SLAB_VALUES // row_values))
        return (slice(start, start + starts.step) for start in starts)

    def moments(self, images: Tensor, rows: slice) -> Tensor:
        """Those rows of `(..., h, w)` images to `(..., i, j)` sums of image * y^i * x^j, to twice the fields' degree.

        In the dtype of the images. Of a dozen images or more: what is split among threads then is images. A product
        that is split itself has a rounding that depends on how many threads there are.
        """
        x, y = self.powers(images)
        # Rows first: a narrow matrix from the left runs along memory, from the right it is five times as slow.
        return y[:, rows] @ images @ x


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
