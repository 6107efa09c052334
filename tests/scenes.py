"""Pictures from a formula, evaluated wherever a matrix takes their pixels: no sampler has a hand in them."""

import numpy as np
import torch

from imgalign.numerics.problem import Problem
from imgalign.numerics.splines import spline_coefficients
from imgalign.sampling import Reader


class Blobs:
    """A sum of Gaussians without repetition, for any coordinates; smooth enough for pixels to hold it."""

    def __init__(self, seed=0, extent=160.0, count=120, sigma=(2.0, 7.0)):
        rng = np.random.default_rng(seed)
        self.centres = rng.uniform(-0.3 * extent, 1.3 * extent, (count, 2))
        self.sigmas = rng.uniform(*sigma, count)
        self.heights = rng.uniform(-1, 1, count)

    def __call__(self, x, y):
        total = np.zeros(np.broadcast(x, y).shape)
        for (cx, cy), sigma, height in zip(self.centres, self.sigmas, self.heights, strict=True):
            near = (np.abs(x - cx) < 6.5 * sigma) & (np.abs(y - cy) < 6.5 * sigma)
            total[near] += height * np.exp(-((x[near] - cx) ** 2 + (y[near] - cy) ** 2) / (2 * sigma**2))
        return total


def render(scene, size_hw, scene_from_picture=None):
    """The scene on a picture's pixels, `(H, W)` float64."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(float)
    matrix = np.eye(3) if scene_from_picture is None else scene_from_picture
    px, py, pz = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    return scene(px / pz, py / pz)


def pair(scene, size_hw, moving_from_fixed, moving_hw=None):
    """The scene as the fixed picture, and as a moving one whose truth is the matrix."""
    moving = render(scene, moving_hw or size_hw, np.linalg.inv(moving_from_fixed))
    return render(scene, size_hw), moving


def about_centre(size_hw, *, angle_deg=0.0, scale=1.0, shift=(0.0, 0.0), linear=None, tilt=(0.0, 0.0), moving_hw=None):
    """A matrix that takes the centre of one picture to the centre of another, plus a shift."""
    a = np.radians(angle_deg)
    turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    middle = np.eye(3)
    middle[:2, :2] = turn if linear is None else turn @ linear
    middle[2, :2] = tilt
    (h, w), (mh, mw) = size_hw, moving_hw or size_hw
    before, after = np.eye(3), np.eye(3)
    before[:2, 2] = -(w - 1) / 2, -(h - 1) / 2
    after[:2, 2] = (mw - 1) / 2 + shift[0], (mh - 1) / 2 + shift[1]
    matrix = after @ middle @ before
    return matrix / matrix[2, 2]


def corner_error(found, truth, size_hw):
    """Mean distance in pixels between where two matrices take the corner pixels."""
    h, w = size_hw
    corners = np.array([[0, 0, 1], [w - 1, 0, 1], [w - 1, h - 1, 1], [0, h - 1, 1.0]]).T
    a, b = found @ corners, truth @ corners
    return float(np.hypot(*(a[:2] / a[2] - b[:2] / b[2])).mean())


TRUTHS = {
    "translate": {"shift": (1.3, -0.8)},
    "rigid": {"shift": (0.9, 0.6), "angle_deg": 1.1},
    "similarity": {"shift": (-0.7, 0.9), "angle_deg": -0.8, "scale": 1.012},
    "affine": {"shift": (0.8, 0.7), "angle_deg": 0.6, "linear": np.array([[1.01, 0.008], [-0.004, 0.992]])},
    "homography": {
        "shift": (0.6, -0.9), "angle_deg": 0.5, "linear": np.array([[1.008, 0.005], [0.002, 0.994]]),
        "tilt": (6e-5, -8e-5),
    },
}  # fmt: skip
"""A small move of each model."""


def tensor(array):
    """`(H, W)` as `(1, 1, H, W)`, float64."""
    return torch.as_tensor(np.asarray(array, float))[None, None]


def problem(fixed, moving, mask=None, moving_mask=None):
    """Cubic splines on the moving picture; the fixed one's gradients by central differences of its own."""
    gy, gx = np.gradient(fixed)
    weight = np.ones(fixed.shape) if mask is None else mask
    seen = None if moving_mask is None else tensor(moving_mask)
    reader = Reader(spline_coefficients(tensor(moving)), seen, moving.shape, "cubic", pad=2)
    return Problem(tensor(fixed), tensor(gx), tensor(gy), tensor(weight), reader)
