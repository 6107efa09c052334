"""A matrix in plain numbers; how an error of its corners reaches other points. NumPy only.

Convention: `matrix` maps `(x, y)` pixels to `(x, y)` pixels, x to the right, y down, `(0, 0)` the centre of the
top-left pixel. Positive angles turn from +x to +y: clockwise as seen on the screen.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class PlainNumbers:
    """What a matrix does near a centre `c`, in the order in which it does it.

    Near `c`, a point `c + d` goes to `c + shift_px + R(rotation_deg) @ [[1, shear], [0, 1]] @ diag(scale) @ d`,
    and all of it is divided by `1 + perspective . d`.
    """

    shift_px: tuple[float, float]
    """How far the centre moves, (x, y)."""
    rotation_deg: float
    """Angle by which the x axis turns, from +x to +y (clockwise on the screen), -180 to 180."""
    scale: tuple[float, float]
    """Stretch along x and y, 1 = unchanged; the second is negative where the matrix mirrors."""
    shear: float
    """Tangent of the angle by which the y axis leans out of the upright, 0 = right angles stay."""
    perspective: tuple[float, float]
    """Change of depth per pixel along x and y, 0 for everything but a homography."""

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, with lists for pairs, ready for JSON."""
        return {
            "shift_px": list(self.shift_px),
            "rotation_deg": self.rotation_deg,
            "scale": list(self.scale),
            "shear": self.shear,
            "perspective": list(self.perspective),
        }


def centre_of(size_hw: tuple[int, int]) -> Float:
    """The middle of an image, `(2,)`: between pixels where a side is even."""
    h, w = size_hw
    return np.array([(w - 1) / 2, (h - 1) / 2])


def corners_of(size_hw: tuple[int, int]) -> Float:
    """The centres of the four corner pixels, `(4, 2)`: top left, top right, bottom right, bottom left."""
    h, w = size_hw
    return np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], float)


def mapped(matrix: ArrayLike, points: ArrayLike) -> Float:
    """Where a 3 x 3 matrix takes `(N, 2)` points; infinite on and behind the horizon of a projective one."""
    m, p = np.asarray(matrix, float), np.asarray(points, float).reshape(-1, 2)
    linear, depth = p @ m[:2, :2].T + m[:2, 2], p @ m[2, :2] + m[2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(depth[:, None] > 1e-12, linear / depth[:, None], np.inf)


def jacobians(matrix: ArrayLike, points: ArrayLike) -> Float:
    """The derivative of the mapped points in the points, `(N, 2, 2)`: rows are mapped x and y."""
    m, p = np.asarray(matrix, float), np.asarray(points, float).reshape(-1, 2)
    depth = p @ m[2, :2] + m[2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (p @ m[:2, :2].T + m[:2, 2]) / depth[:, None]
        return (m[None, :2, :2] - at[:, :, None] * m[None, None, 2, :2]) / depth[:, None, None]


def decompose(matrix: ArrayLike, size_hw: tuple[int, int]) -> PlainNumbers:
    """The plain numbers of a matrix about the middle of an image.

    Args:
        matrix: 3 x 3, from pixels of an image of `size_hw`, any non-zero overall factor.
        size_hw: Height and width of the image that it starts from.
    """
    (numbers,) = _decomposed(np.asarray(matrix, float)[None], size_hw).tolist()
    x, y, turn, scale_x, scale_y, shear, tilt_x, tilt_y = numbers
    return PlainNumbers((x, y), turn, (scale_x, scale_y), shear, (tilt_x, tilt_y))


def _decomposed(matrices: Float, size_hw: tuple[int, int]) -> Float:
    """The plain numbers of `(N, 3, 3)` matrices in the order of `_EIGHT`, `(N, 8)`."""
    centre = centre_of(size_hw)
    about = _shifted(-centre) @ matrices @ _shifted(centre)
    about = about / about[:, 2:, 2:]
    shift, perspective = about[:, :2, 2], about[:, 2, :2]
    jacobian = about[:, :2, :2] - shift[:, :, None] * perspective[:, None]  # at the centre
    a, b, c, d = jacobian.reshape(-1, 4).T
    scale_x = np.hypot(a, c)
    scale_y = (a * d - b * c) / scale_x
    shear = (a * b + c * d) / scale_x / scale_y
    return np.stack([*shift.T, np.degrees(np.arctan2(c, a)), scale_x, scale_y, shear, *perspective.T], 1)


def scaled(matrix: Float) -> Float:
    """The same projective matrix with a one in its last place, where that place is not zero."""
    return matrix / matrix[2, 2] if matrix[2, 2] else matrix


def is_affine(matrix: ArrayLike) -> bool:
    """True where the last row is a multiple of (0, 0, 1): parallel lines stay parallel."""
    last = np.asarray(matrix, float)[2]
    return not last[:2].any() and bool(last[2])


def theta_of(matrix: ArrayLike, fixed_hw: tuple[int, int], moving_hw: tuple[int, int]) -> Float | None:
    """The 2 x 3 for `torch.nn.functional.affine_grid(..., align_corners=False)`; None for a homography.

    It takes normalised coordinates of the fixed image (-1 and 1 are its outer edges) to those of the moving one.
    """
    if not is_affine(matrix):
        return None
    m = np.asarray(matrix, float)
    theta = _normalising(moving_hw) @ (m / m[2, 2]) @ np.linalg.inv(_normalising(fixed_hw))
    return theta[:2]


def corner_jacobian(matrix: ArrayLike, size_hw: tuple[int, int], points: ArrayLike) -> Float:
    """How mapped points follow when the four mapped corners move: `(2 N, 8)`, exact to first order.

    Four corners fix a homography, so that its eight free numbers are exchanged for them.
    """
    unit, unit_from_pixel = _in_units(matrix, size_hw)
    return _entry_jacobian(unit, mapped(unit_from_pixel, points)) @ _entries_from_corners(unit, size_hw)


def point_covariance(matrix: ArrayLike, size_hw: tuple[int, int], covariance: ArrayLike, points: ArrayLike) -> Float:
    """Joint covariance `(2 N, 2 N)` of mapped points, from that of the four mapped corners `(8, 8)`."""
    jacobian = corner_jacobian(matrix, size_hw, points)
    return jacobian @ np.asarray(covariance, float) @ jacobian.T


_EIGHT = ("shift_x", "shift_y", "rotation_deg", "scale_x", "scale_y", "shear", "perspective_x", "perspective_y")
_NAMES: dict[str, tuple[str, ...]] = {
    "translate": _EIGHT[:2],
    "rigid": _EIGHT[:3],
    "similarity": (*_EIGHT[:3], "scale"),
    "affine": _EIGHT[:6],
    "homography": _EIGHT,
}
_STEP = 1e-6  # of the entries of a matrix of length one, for differences


def plain_sigma(matrix: ArrayLike, size_hw: tuple[int, int], covariance: ArrayLike, model: str) -> dict[str, float]:
    """Standard deviation of each plain number that the model has, from the covariance of the mapped corners.

    Args:
        matrix: 3 x 3, from pixels of an image of `size_hw`.
        size_hw: Height and width of that image.
        covariance: `(8, 8)` in px^2, of the mapped corners (x0, y0, x1, y1, ...).
        model: `translate`, `rigid`, `similarity`, `affine` or `homography`.

    Returns:
        By name: `shift_x`, `shift_y` in px, `rotation_deg`, `scale` (or `scale_x`, `scale_y`), `shear`, `perspective_x`
        and `perspective_y` per px.
    """
    unit, unit_from_pixel = _in_units(matrix, size_hw)

    steps = _STEP * np.eye(9).reshape(9, 3, 3)
    ahead, behind = (_named(_decomposed((unit + s) @ unit_from_pixel, size_hw), model) for s in (steps, -steps))
    difference = ahead - behind  # of angles the short way round
    difference = np.where(np.abs(difference) > 180, difference - 360 * np.sign(difference), difference)
    jacobian = difference.T / (2 * _STEP) @ _entries_from_corners(unit, size_hw)
    variance = ((jacobian @ np.asarray(covariance, float)) * jacobian).sum(1)
    return {name: math.sqrt(max(v, 0.0)) for name, v in zip(_NAMES[model], variance.tolist(), strict=True)}


def _named(numbers: Float, model: str) -> Float:
    """Of `_decomposed` numbers those that a model has, `(N, P)`."""
    if model != "similarity":
        return numbers[:, : len(_NAMES[model])]
    return np.c_[numbers[:, :3], np.sqrt(np.abs(numbers[:, 3] * numbers[:, 4]))]


def _in_units(matrix: ArrayLike, size_hw: tuple[int, int]) -> tuple[Float, Float]:
    """The matrix for coordinates about the centre in half sides, of length one, and those coordinates from pixels."""
    radius = max(1.0, max(size_hw) / 2)
    unit_from_pixel = np.diag([1 / radius, 1 / radius, 1]) @ _shifted(-centre_of(size_hw))
    unit = np.asarray(matrix, float) @ np.linalg.inv(unit_from_pixel)
    return unit / np.linalg.norm(unit), unit_from_pixel


def _entries_from_corners(unit: Float, size_hw: tuple[int, int]) -> Float:
    """The derivative of the nine entries in the eight coordinates of the mapped corners, `(9, 8)`.

    The pseudo-inverse leaves out what no corner tells: the overall factor of the matrix, and for an image one pixel
    wide, whose corners coincide, what happens across it.
    """
    _, unit_from_pixel = _in_units(unit, size_hw)
    return np.asarray(
        np.linalg.pinv(_entry_jacobian(unit, mapped(unit_from_pixel, corners_of(size_hw))), rcond=1e-10), float
    )


def _entry_jacobian(matrix: Float, points: Float) -> Float:
    """The derivative of mapped points in the nine entries of the matrix, `(2 N, 9)`."""
    hom = np.c_[points, np.ones(len(points))]
    q = hom @ matrix.T
    out = np.zeros((len(points), 2, 9))
    for row in range(2):
        out[:, row, 3 * row : 3 * row + 3] = hom / q[:, 2:]
        out[:, row, 6:] = -hom * (q[:, row] / q[:, 2] ** 2)[:, None]
    return out.reshape(-1, 9)


def _shifted(by: ArrayLike) -> Float:
    out = np.eye(3)
    out[:2, 2] = by
    return out


def _normalising(size_hw: tuple[int, int]) -> Float:
    h, w = size_hw
    return np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1.0]])
