"""Descending minus the squared value of a picture at one pixel, by moving the picture.

The derivative is that of `translation.shift`. Only a small window around the pixel that arrives matters, and only that
is shifted. Positions `(x, y)` are those of the picture that arrive at the pixel, in px.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Image, SamplerName
from imgalign.translation import shift

# Of the window that is shifted. The cubic prefilter's tail falls by 0.268 a pixel: 1e-12 at 20.
_REACH = {"nearest": 2, "bilinear": 2, "cubic": 20}
_ENOUGH_PX = 1e-6


class Climb:
    """The objective as a function of the position `(x, y)` in the picture that arrives at the middle."""

    def __init__(self, picture: Image, corner: tuple[int, int], sampler: SamplerName) -> None:
        self.picture, self.corner, self.sampler = picture, corner, sampler

    def value_and_slope(self, position: tuple[float, float]) -> tuple[float, NDArray[np.float64]] | None:
        """The value arriving, and its derivative by the position; None outside the picture."""
        near = (math.floor(position[0] + 0.5), math.floor(position[1] + 0.5))
        window, corner = self._window(near, _REACH[self.sampler])
        if window is None or (self.sampler != "nearest" and not self._between_centres(position)):
            return None
        target = (near[0] - corner[0], near[1] - corner[1])
        offset = torch.tensor([[near[0] - position[0], near[1] - position[1]]], dtype=torch.float64, requires_grad=True)
        arriving = shift(window, offset, kernel=self.sampler)[0, 0, target[1], target[0]]
        (slope,) = torch.autograd.grad(arriving, offset)
        return float(arriving.detach()), -slope[0].numpy()

    def curvature(self, position: tuple[float, float]) -> tuple[float, NDArray[np.float64]]:
        """Value and second differences `(2, 2)` at the pixel nearest to a position."""
        height, width = self.picture.shape[2:]
        x = min(max(round(position[0]) - self.corner[0], 1), width - 2)
        y = min(max(round(position[1]) - self.corner[1], 1), height - 2)
        if min(height, width) < 3:
            return float(self.picture.max()), np.zeros((2, 2))
        p = self.picture[0, 0, y - 1 : y + 2, x - 1 : x + 2].double().numpy()
        xy = (p[2, 2] - p[2, 0] - p[0, 2] + p[0, 0]) / 4
        return float(p[1, 1]), np.array([[p[1, 0] - 2 * p[1, 1] + p[1, 2], xy], [xy, p[0, 1] - 2 * p[1, 1] + p[2, 1]]])

    def _between_centres(self, position: tuple[float, float]) -> bool:
        sides = (self.picture.shape[3], self.picture.shape[2])
        return all(0 <= at - low <= side - 1 for at, low, side in zip(position, self.corner, sides, strict=True))

    def _window(self, near: tuple[int, int], reach: int) -> tuple[Tensor | None, tuple[int, int]]:
        height, width = self.picture.shape[2:]
        x, y = near[0] - self.corner[0], near[1] - self.corner[1]
        if not (0 <= x < width and 0 <= y < height):
            return None, (0, 0)
        # At least two pixels along each axis, whatever the corner.
        left, top = max(0, min(x - reach, width - 2)), max(0, min(y - reach, height - 2))
        window = self.picture[:, :, top : max(y + reach + 1, top + 2), left : max(x + reach + 1, left + 2)]
        return window.double(), (left + self.corner[0], top + self.corner[1])


Run = tuple[tuple[float, float], str, list[float]]


def descend(climb: Climb, start: tuple[float, float], lr: float, most: int) -> Run:
    """Plain gradient descent on minus the squared value, from the position `start`; history is that loss."""
    position = start
    history: list[float] = []
    for _ in range(most):
        here = climb.value_and_slope(position)
        if here is None:
            return position, "no overlap", history
        value, slope = here
        history.append(-(value**2))
        step = lr * 2 * value * slope
        position = (position[0] + step[0], position[1] + step[1])
        if np.hypot(*step) < _ENOUGH_PX and climb.sampler != "nearest":
            return position, "converged", history
    inside = climb.value_and_slope(position) is not None
    return position, "iteration limit" if inside else "no overlap", history


def climb_by_newton(climb: Climb, start: tuple[float, float], sigma: float, most: int) -> Run:
    """Newton steps up the squared value, away from saddles, none longer than half a neighbourhood."""
    best, best_value, history = start, -math.inf, list[float]()
    position, step = start, np.zeros(2)
    for _ in range(most):
        here = climb.value_and_slope(position)
        value, slope = here or (-math.inf, np.zeros(2))
        history.append(-(max(value, 0.0) ** 2))
        # Overshot the top, or the picture. Of the bilinear kernel only the slope knows where the top is.
        if here is None or (value < best_value and climb.sampler != "bilinear"):
            step = step / 2
        else:
            best, best_value = position, value
            step = _newton_step(value, slope, climb.curvature(position)[1])
            step *= min(1.0, 0.5 * sigma / max(float(np.hypot(*step)), 1e-12))
        if float(np.hypot(*step)) < _ENOUGH_PX:
            return best, "converged", history
        position = (best[0] + float(step[0]), best[1] + float(step[1]))
    # Nearest sampling ends by going to and fro between two pixels: within half a pixel of the top.
    return best, "converged" if climb.sampler == "nearest" else "iteration limit", history


def _newton_step(value: float, slope: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Towards the top of the squared value; uphill along every axis, whatever the sign of its curvature."""
    strengths, axes = np.linalg.eigh(2 * (np.outer(slope, slope) + value * second))
    strengths = np.maximum(np.abs(strengths), 1e-3 * max(float(np.abs(strengths).max()), 1e-12))
    step: NDArray[np.float64] = axes @ ((axes.T @ (2 * value * slope)) / strengths)
    return step
