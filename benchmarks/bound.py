"""The Cramér-Rao bound of aligning two noisy pictures: the least error that any method can have.

A scene `s` is seen twice: `fixed(x) = s(x) + noise` and `moving(T x) = gain s(x) + bias + noise`.
Scene, gain and bias are unknown. Eliminating the scene leaves the difference of the two pictures,
whose noise variance is the sum of both, so that with `A` the derivatives of `moving(T x)` in the
transform's free numbers (and in gain and bias, which are there to be marginalised)

    covariance >= inverse(A^T diag(1 / variance) A).

Where noise drowns the scene the bound is out of reach, for the scene's slopes, which it takes as known, have to be told
from the same noise: see `unknown_scene`.

Source:
    Kay (1993), Fundamentals of Statistical Signal Processing, section 3.9 (signals in Gaussian noise);
    Clement, Bierbaum and Sethna (2018), arXiv 1809.05583, for two noisy pictures of an unknown scene.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.geometry import Matrix3, corners, project

FREE = {"translate": 2, "rigid": 3, "similarity": 4, "affine": 6, "homography": 8}


def directions(model: str, points: NDArray[Any], about: NDArray[Any]) -> NDArray[np.float64]:
    """Velocities of moving points when the transform's free numbers change.

    The models are groups, so the transforms near `T` are `T` followed by a small member of the same
    model, and these velocities span them at any `T`.

    Args:
        model: name.
        points: `(N, 2)` moving pixels `(x, y)`.
        about: `(2,)` point that rotations and scalings turn about.

    Returns:
        `(N, 2, P)` px per unit of each free number.
    """
    x, y = (points - about).T
    one, none = np.ones_like(x), np.zeros_like(x)
    shifts = [(one, none), (none, one)]
    turn, grow = (-y, x), (x, y)
    fields = {
        "translate": shifts,
        "rigid": [*shifts, turn],
        "similarity": [*shifts, turn, grow],
        "affine": [*shifts, (x, none), (y, none), (none, x), (none, y)],
        "homography": [*shifts, (x, none), (y, none), (none, x), (none, y), (x * x, x * y), (x * y, y * y)],
    }[model]
    return np.stack([np.stack(field, axis=1) for field in fields], axis=2)


def moving_gradient(fixed_gradient: NDArray[Any], moving_from_fixed: Matrix3, points: NDArray[Any]) -> NDArray[Any]:
    """`(N, 2)` slopes of the scene along moving pixels, from those along fixed pixels at `points`."""
    x, y = points.T
    m = moving_from_fixed
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    there = project(m, points)
    jacobian = (m[None, :2, :2] - there[:, :, None] * m[None, 2:, :2]) / w[:, None, None]  # d moving / d fixed
    return np.asarray(np.linalg.solve(jacobian.transpose(0, 2, 1), fixed_gradient[..., None])[..., 0])


def corner_bound(
    model: str,
    values: NDArray[Any],
    gradient: NDArray[Any],
    variance: NDArray[Any] | float,
    moving_from_fixed: Matrix3,
    fixed_hw: tuple[int, int],
    moving_hw: tuple[int, int],
    *,
    inset: float = 0.0,
) -> NDArray[np.float64]:
    """Least covariance of the four fixed corners mapped to the moving picture.

    Args:
        model: name.
        values: `(h, w)` noise-free fixed picture, or `(h, w, C)` channels with independent noise.
        gradient: `(h, w, 2)` its slopes `(d/dx, d/dy)` per fixed pixel, or `(h, w, C, 2)`.
        variance: of the difference of the two pictures, a number or per pixel as `values`.
        moving_from_fixed: the truth.
        fixed_hw: size.
        moving_hw: size.
        inset: pixels of the moving border that do not count.

    Returns:
        `(8, 8)` px^2, corners TL, TR, BR, BL, each `(x, y)`.
    """
    values = values.reshape(*fixed_hw, -1)
    depth = values.shape[2]
    gradient = gradient.reshape(*fixed_hw, depth, 2)
    variance = np.broadcast_to(np.asarray(variance, float).reshape(np.shape(variance) or (1, 1)), fixed_hw)
    y, x = np.mgrid[0 : fixed_hw[0], 0 : fixed_hw[1]]
    points = np.c_[x.ravel(), y.ravel()].astype(float)
    there = project(moving_from_fixed, points)
    limit = np.array([moving_hw[1] - 1, moving_hw[0] - 1]) - inset
    seen = ((there >= inset) & (there <= limit)).all(1)
    about = (limit + inset) / 2
    ways = directions(model, there[seen], about)
    information = np.zeros((ways.shape[2] + 2 * depth,) * 2)
    weight = 1 / variance.ravel()[seen]
    for c in range(depth):  # each channel has its own gain and bias
        slope = moving_gradient(gradient[..., c, :].reshape(-1, 2)[seen], moving_from_fixed, points[seen])
        rows = np.zeros((len(slope), information.shape[0]))
        rows[:, : ways.shape[2]] = (slope[:, :, None] * ways).sum(1)
        rows[:, ways.shape[2] + 2 * c] = values[..., c].ravel()[seen]
        rows[:, ways.shape[2] + 2 * c + 1] = 1
        information += rows.T @ (weight[:, None] * rows)
    unit = np.sqrt(np.diag(information))  # px, radians and px^-1 in one matrix: scale before inverting
    covariance = np.linalg.inv(information / np.outer(unit, unit)) / np.outer(unit, unit)
    at_corners = directions(model, project(moving_from_fixed, corners(fixed_hw)), about).reshape(8, -1)
    free = ways.shape[2]
    return np.asarray(at_corners @ covariance[:free, :free] @ at_corners.T)


def corner_sigma(covariance: NDArray[Any]) -> float:
    """Root mean square over the corners of the distance error, px."""
    return float(np.sqrt(np.trace(covariance) / 4))


def unknown_scene(clean: NDArray[Any], of_fixed: float, of_moving: float) -> float:
    """How many times the bound the least error is when all that is known of the scene is its spectrum.

    For a Gaussian scene of power S under noise of power N and M in the two pictures the information of a shift is, per
    frequency f, `f^2 S^2 / (S (N + M) + N M)` instead of `f^2 S / (N + M)`.

    Args:
        clean: `(H, W)` picture without noise, whose power is smoothed over rings of frequency.
        of_fixed: Variance of the noise of one picture, and
        of_moving: of the other.

    Source:
        Knapp and Carter (1976), The generalized correlation method for estimation of time delay: the variance of a
        delay from the coherence of two noisy signals.
    """
    h, w = clean.shape
    taper = np.hanning(h)[:, None] * np.hanning(w)
    power = np.abs(np.fft.fft2((clean - clean.mean()) * taper)) ** 2
    f = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    ring = np.round(f * max(h, w)).astype(int)
    signal = (np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel()).clip(1))[ring]
    n, m = of_fixed * (taper**2).sum(), of_moving * (taper**2).sum()
    known = (f**2 * signal / (n + m)).sum()
    return float(np.sqrt(known / (f**2 * signal**2 / (signal * (n + m) + n * m)).sum()))
