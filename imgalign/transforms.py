"""The five models: each is a Lie group, given by its generators.

A transform near a matrix `H` (fixed to moving) is `H @ exp(sum_i params[i] * generator[i])`. Every model is
closed under this, so a step of the descent never leaves it, and the second-order step of Benhimane and
Malis (2007), "Homography-based 2D visual tracking and servoing", needs exactly this parametrisation.

Generators act on coordinates about the image centre in units of the half diagonal (`centre_normalisation`)
and are scaled so that a unit of any parameter moves the corners by about one pixel.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Floats, Matrices, Matrix, Matrix3, Params
from imgalign.coords import centre_normalisation
from imgalign.decompose import corners_of, mapped, scaled
from imgalign.errors import OptionError

# Displacement fields as 3 x 3 matrices on normalised (x, y, 1). Together they span sl(3); each model takes the first
# few it needs.
_FIELDS = (
    ((0, 0, 1), (0, 0, 0), (0, 0, 0)),  # shift along x
    ((0, 0, 0), (0, 0, 1), (0, 0, 0)),  # shift along y
    ((0, -1, 0), (1, 0, 0), (0, 0, 0)),  # rotation
    ((1, 0, 0), (0, 1, 0), (0, 0, 0)),  # scale
    ((1, 0, 0), (0, -1, 0), (0, 0, 0)),  # stretch of x against y
    ((0, 1, 0), (1, 0, 0), (0, 0, 0)),  # and of one diagonal against the other
    ((0, 0, 0), (0, 0, 0), (-1, 0, 0)),  # tilt along x
    ((0, 0, 0), (0, 0, 0), (0, -1, 0)),  # tilt along y
)

_SERIES = 10  # terms of the exponential

_Field = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Model:
    """One family of transforms: its name and the displacement field of each of its parameters, in order."""

    name: str
    fields: tuple[_Field, ...]

    @property
    def parameter_count(self) -> int:
        """How many free numbers the model has."""
        return len(self.fields)

    def generators(self, size_hw: tuple[int, int]) -> np.ndarray:
        """The `(P, 3, 3)` generators in pixel coordinates of an image of this size."""
        return _generators(self.fields, size_hw).copy()


@lru_cache(maxsize=64)
def _generators(fields: tuple[_Field, ...], size_hw: tuple[int, int]) -> np.ndarray:
    normal = centre_normalisation(size_hw)
    pixel = np.linalg.inv(normal)
    # A unit of a linear field moves the corner by one half diagonal: divide by it, so that it is one pixel.
    return pixel @ np.array(fields, float) @ normal * normal[0, 0]


_COUNTS = {"translate": 2, "rigid": 3, "similarity": 4, "affine": 6, "homography": 8}
MODELS = {name: Model(name, _FIELDS[:count]) for name, count in _COUNTS.items()}


def get_model(name: str) -> Model:
    """The model of this name.

    Raises:
        OptionError: If there is none.
    """
    if name not in MODELS:
        raise OptionError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    return MODELS[name]


def exponential(params: Params, generators: Tensor) -> Matrix:
    """`exp(sum_i params_i generator_i)`, `(B, 3, 3)`, of `(B, P)` params and `(P, 3, 3)` generators; differentiable."""
    return torch.matrix_exp((params @ generators.flatten(1)).unflatten(1, (3, 3)))


def exponentials(params: Floats, generators: Floats) -> Matrices:
    """`exponential` in NumPy, without derivatives: the series for a 32nd of the exponent, squared five times.

    Exact to some last digits for steps of up to ten half diagonals.
    """
    part = (params @ generators.reshape(-1, 9) / 32).reshape(-1, 3, 3)
    one = np.eye(3)
    out = one + part / _SERIES
    for k in range(_SERIES - 1, 0, -1):
        out = one + part @ out / k
    for _ in range(5):
        out = out @ out
    return np.asarray(out)


def fit(model: Model, points: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> Matrix3:
    """The matrix of a model that takes `(N, 2)` points nearest to `(N, 2)` targets, by weighted least squares.

    Affine and smaller models have a closed form (Umeyama 1991 for rotation and scale); the homography is
    the direct linear transform on normalised points, which is enough for a start to be refined on pixels.
    """
    w = np.ones(len(points)) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    mean_p, mean_t = w @ points, w @ targets
    p, t = points - mean_p, targets - mean_t
    if model.name == "homography":
        return _direct_linear_transform(points, targets, w)
    if model.name == "affine":
        linear = np.linalg.lstsq(p * np.sqrt(w)[:, None], t * np.sqrt(w)[:, None], rcond=None)[0].T
    elif model.name == "translate":
        linear = np.eye(2)
    else:
        dot, cross = (w[:, None] * p * t).sum(), (w * (p[:, 0] * t[:, 1] - p[:, 1] * t[:, 0])).sum()
        length = np.hypot(dot, cross) if model.name == "rigid" else (w[:, None] * p**2).sum()
        linear = np.array([[dot, -cross], [cross, dot]]) / max(length, 1e-300)
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = mean_t - linear @ mean_p
    return out


def _direct_linear_transform(points: np.ndarray, targets: np.ndarray, w: np.ndarray) -> Matrix3:
    def normaliser(q: np.ndarray) -> np.ndarray:
        mean = q.mean(0)
        spread = max(float(np.sqrt(((q - mean) ** 2).sum(1).mean() / 2)), 1e-9)
        return np.array([[1 / spread, 0, -mean[0] / spread], [0, 1 / spread, -mean[1] / spread], [0, 0, 1.0]])

    a, b = normaliser(points), normaliser(targets)
    p, t = mapped(a, points), mapped(b, targets)
    one, zero = np.ones(len(p)), np.zeros((len(p), 3))
    hom = np.c_[p, one]
    rows = np.r_[np.c_[hom, zero, -t[:, :1] * hom], np.c_[zero, hom, -t[:, 1:] * hom]]
    h = np.linalg.svd(rows * np.sqrt(np.r_[w, w])[:, None])[2][-1].reshape(3, 3)
    return scaled(np.linalg.inv(b) @ h @ a)


def corner_distance(first: Matrix3, second: Matrix3, size_hw: tuple[int, int]) -> float:
    """Mean distance, in pixels, between where two matrices take the corners of an image."""
    both = np.stack((first, second)) @ _homogeneous_corners(size_hw)
    depth = both[:, 2:]
    if not depth.min() > 1e-12:  # on or behind the horizon, or no number
        return math.inf
    at = both[:, :2] / depth
    distance = float(np.hypot(*(at[0] - at[1])).mean())
    return distance if math.isfinite(distance) else math.inf


def first_apart(matrices: Matrices, size_hw: tuple[int, int], apart: float, count: int | None = None) -> list[int]:
    """The first `count` of `(N, 3, 3)` matrices, by number, of which no two have a `corner_distance` up to `apart`."""
    mapped = matrices @ _homogeneous_corners(size_hw)
    depth = mapped[:, 2:]
    seen = (depth > 1e-12).all((1, 2))
    at = mapped[:, :2] / np.where(seen[:, None, None], depth, np.nan)  # what is no place is apart from all
    kept: list[int] = []
    for k in range(len(matrices)):
        if len(kept) == count:
            break
        away = at[kept] - at[k]
        if not (np.hypot(away[:, 0], away[:, 1]).mean(1) <= apart).any():
            kept.append(k)
    return kept


@lru_cache(maxsize=64)
def _homogeneous_corners(size_hw: tuple[int, int]) -> np.ndarray:
    return np.c_[corners_of(size_hw), np.ones(4)].T


def local_scale(matrix: Matrix3, size_hw: tuple[int, int]) -> float:
    """Linear magnification of a matrix at the centre of the image: moving pixels per fixed pixel."""
    h, w = size_hw
    x = np.array([(w - 1) / 2, (h - 1) / 2, 1.0])
    q = matrix @ x
    jacobian = (matrix[:2, :2] - np.outer(q[:2] / q[2], matrix[2, :2])) / q[2]
    return float(np.sqrt(abs(np.linalg.det(jacobian))))
