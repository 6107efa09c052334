"""Scenes whose value and slope are known at every point of the plane, to measure precision on.

A scene is looked at through `scene_from_picture`, a 3 x 3 matrix from picture pixels to scene units:
`scene.picture(matrix, size_hw)` are point samples of the formula at the pixel centres, exact to
rounding, and `scene.slopes` its derivatives along the picture's axes.
"""

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.bound import moving_gradient
from benchmarks.geometry import Matrix3, about, project, rotation
from benchmarks.photos import grey_photo, render

MEAN, CONTRAST = 128.0, 50.0  # grey levels; the contrast is the standard deviation
Array = NDArray[Any]


class Scene(Protocol):
    """Something to look at."""

    def picture(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """`(h, w)` values at the pixel centres."""

    def slopes(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """`(h, w, 2)` derivatives along the picture's x and y."""


def grid(size_hw: tuple[int, int]) -> Array:
    """`(h * w, 2)` pixel centres, row by row."""
    y, x = np.mgrid[0 : size_hw[0], 0 : size_hw[1]]
    points: Array = np.c_[x.ravel(), y.ravel()].astype(float)
    return points


def _by_chain_rule(slope: Array, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
    """`(h, w, 2)` slopes along the picture's axes from `(h * w, 2)` along the scene's."""
    back = np.linalg.inv(scene_from_picture)
    along = moving_gradient(slope, back, project(scene_from_picture, grid(size_hw)))
    return along.reshape(*size_hw, 2)


@dataclass(frozen=True)
class Waves:
    """A sum of plane waves: band-limited exactly, and never repeating."""

    frequency: Array  # (K, 2) cycles a unit
    strength: Array  # (K,) complex: amplitude and phase

    def _sum(self, weights: Array, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Real part of the sum of `weights` times the waves.

        Seen through an affine matrix a plane wave is the product of a wave along x and one along y, so
        the sum over waves is one matrix product instead of `h w K` cosines.
        """
        m = scene_from_picture / scene_from_picture[2, 2]
        if np.abs(m[2, :2]).max() > 0:
            phase = 2 * np.pi * project(m, grid(size_hw)) @ self.frequency.T
            return np.asarray(np.cos(phase) @ weights.real - np.sin(phase) @ weights.imag).reshape(size_hw)
        along = 2 * np.pi * self.frequency @ m[:2, :2]  # (K, 2) radians a pixel
        across = np.exp(1j * np.outer(np.arange(size_hw[1]), along[:, 0]))
        down = np.exp(1j * np.outer(np.arange(size_hw[0]), along[:, 1]))
        start = weights * np.exp(2j * np.pi * self.frequency @ m[:2, 2])
        return np.asarray(((down * start) @ across.T).real)

    def picture(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Values, `MEAN` added."""
        return MEAN + self._sum(self.strength, scene_from_picture, size_hw)

    def slopes(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Derivatives, exact."""
        along = [
            self._sum(2j * np.pi * self.frequency[:, k] * self.strength, scene_from_picture, size_hw).ravel()
            for k in (0, 1)
        ]
        return _by_chain_rule(np.stack(along, axis=1), scene_from_picture, size_hw)


@dataclass(frozen=True)
class Spots:
    """Gaussian spots on a flat ground, as a telescope sees stars."""

    places: Array  # (K, 2)
    peaks: Array  # (K,) grey levels
    sigma: float
    ground: float = 30.0

    def _terms(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> tuple[Array, Array]:
        """Values without ground `(h * w,)` and slopes along the scene's axes `(h * w, 2)`."""
        there = project(scene_from_picture, grid(size_hw))
        value, slope = np.zeros(len(there)), np.zeros((len(there), 2))
        for place, peak in zip(self.places, self.peaks, strict=True):
            near = np.flatnonzero((np.abs(there - place) < 7 * self.sigma).all(1))
            away = there[near] - place
            spot = peak * np.exp(-(away**2).sum(1) / (2 * self.sigma**2))
            value[near] += spot
            slope[near] -= spot[:, None] * away / self.sigma**2
        return value, slope

    def picture(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Values."""
        return self.ground + self._terms(scene_from_picture, size_hw)[0].reshape(size_hw)

    def slopes(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Derivatives, exact."""
        return _by_chain_rule(self._terms(scene_from_picture, size_hw)[1], scene_from_picture, size_hw)


@dataclass(frozen=True)
class Photograph:
    """A cut from a real photograph, seen through a lens with square pixels 1.6 of its own pixels wide.

    Without the lens's blur the pixels alias a sharp photograph. What is aliased does not move with the picture, so it
    pulls every method by the same 0.006 px, whatever the noise, while the bound counts it as information.
    """

    name: str
    blur: float = 0.7  # pixels of the picture

    @functools.cached_property
    def _source_from_scene(self) -> Matrix3:
        return about(1.6 * rotation(0.07), np.zeros(2), np.array([40.0, 12.0]))

    def picture(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Values."""
        seen = render(
            _through_lens(self.name, 1.6 * self.blur), self._source_from_scene @ scene_from_picture, size_hw, 4
        )
        return np.asarray(seen[..., 0], float)

    def slopes(self, scene_from_picture: Matrix3, size_hw: tuple[int, int]) -> Array:
        """Derivatives by central differences of a fifth of a pixel."""
        out = []
        for step in ((0.1, 0.0), (0.0, 0.1)):
            ahead, behind = (
                self.picture(scene_from_picture @ about(np.eye(2), np.zeros(2), s * np.array(step)), size_hw)
                for s in (1, -1)
            )
            out.append((ahead - behind) / 0.2)
        return np.stack(out, axis=-1)


@functools.lru_cache(maxsize=8)
def _through_lens(name: str, sigma: float) -> Array:
    """`(H, W, 1)` luminance of a photograph, blurred by `sigma` of its own pixels."""
    return ndimage.gaussian_filter(grey_photo(name), (sigma, sigma, 0), mode="nearest")


def field(rng: np.random.Generator, cutoff: float, waves: int = 300) -> Waves:
    """A random field with a flat spectrum up to `cutoff` cycles a pixel, standard deviation `CONTRAST`."""
    radius, angle = cutoff * np.sqrt(rng.uniform(0, 1, waves)), rng.uniform(0, 2 * np.pi, waves)
    return _waves(rng, radius, angle, np.ones(waves))


def natural(rng: np.random.Generator, waves: int = 700, longest_px: float = 200) -> Waves:
    """A random field with the spectrum of photographs: power falls as the square of the frequency.

    Args:
        rng: Draws the waves.
        waves: How many.
        longest_px: The longest of them. Photographs have structure of every size, up to their own.

    Source:
        Field (1987), Relations between the statistics of natural images and the response properties of
        cortical cells: amplitude goes as 1 / f. Drawn with log-uniform radii, each octave has equal power.
    """
    radius = np.exp(rng.uniform(np.log(1 / longest_px), np.log(0.45), waves))
    return _waves(rng, radius, rng.uniform(0, 2 * np.pi, waves), np.ones(waves))


def _waves(rng: np.random.Generator, radius: Array, angle: Array, amplitude: Array) -> Waves:
    phase = np.exp(1j * rng.uniform(0, 2 * np.pi, len(radius)))
    unit = CONTRAST / np.sqrt((amplitude**2).sum() / 2)
    return Waves(np.c_[radius * np.cos(angle), radius * np.sin(angle)], unit * amplitude * phase)


def spots(rng: np.random.Generator, size_hw: tuple[int, int], count: int = 60, sigma: float = 1.5) -> Spots:
    """A star field that reaches a little over the picture's border."""
    places = rng.uniform((-15, -15), (size_hw[1] + 15, size_hw[0] + 15), (count, 2))
    return Spots(places, np.minimum(40 * (1 + rng.pareto(1.3, count)), 600), sigma)


def make(name: str, rng: np.random.Generator, size_hw: tuple[int, int]) -> Scene:
    """A scene by name: field0.15, field0.4, spots, natural, photo."""
    if name.startswith("field"):
        return field(rng, float(name.removeprefix("field")))
    if name == "spots":
        return spots(rng, size_hw)
    if name == "natural":
        return natural(rng)
    if name == "photo":
        return Photograph(
            str(rng.choice(["astronaut", "camera", "motorcycle_left", "retina", "ihc", "hubble_deep_field"]))
        )
    raise KeyError(f"no scene called {name}; there are field0.15, field0.4, spots, natural, photo")


def noisy(rng: np.random.Generator, clean: Array, kind: str, sigma: float) -> Array:
    """Gaussian noise of `sigma` grey levels, or photon noise with that standard deviation at `MEAN`."""
    if sigma == 0:
        return clean
    if kind == "gaussian":
        return clean + sigma * rng.standard_normal(clean.shape)
    photons = MEAN / sigma**2  # a grey level
    return np.asarray(rng.poisson(np.clip(clean, 0, None) * photons) / photons)


def variance(clean: Array, kind: str, sigma: float) -> Array:
    """Of the noise that `noisy` adds, per pixel."""
    if kind == "gaussian":
        return np.full(clean.shape, sigma**2)
    return np.asarray(np.clip(clean, 1, None) * sigma**2 / MEAN)
