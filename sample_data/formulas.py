"""Scenes as functions of continuous coordinates: nothing here knows about pixels or resampling.

Each function takes `(N,)` arrays `x` and `y` in scene units (one unit is about one pixel of the
fixed picture) and returns `(N,)` or `(N, 3)` brightness in 0..255. Seeds are fixed, so a scene is
the same wherever and whenever it is looked at.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]


class Noise:
    """Gradient noise: a smooth random field with features about one unit wide, anywhere on the plane.

    Source:
        Perlin (2002), Improving noise (quintic fade), with a random table in place of the hash.
    """

    def __init__(self, seed: int) -> None:
        angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, (256, 256))
        self._x, self._y = np.cos(angle), np.sin(angle)

    def __call__(self, x: Field, y: Field) -> Field:
        """Values of about -0.7 to 0.7 at points."""
        i, j = np.floor(x).astype(int), np.floor(y).astype(int)
        u, v = x - i, y - j
        fade_u, fade_v = (t**3 * (t * (6 * t - 15) + 10) for t in (u, v))

        def corner(di: int, dj: int) -> Field:
            row, column = (j + dj) % 256, (i + di) % 256
            slope: Field = self._x[row, column] * (u - di) + self._y[row, column] * (v - dj)
            return slope

        top = corner(0, 0) + fade_u * (corner(1, 0) - corner(0, 0))
        low = corner(0, 1) + fade_u * (corner(1, 1) - corner(0, 1))
        value: Field = top + fade_v * (low - top)
        return value

    def fractal(self, x: Field, y: Field, size: float, octaves: int, rough: float = 0.5) -> Field:
        """Sum of octaves, the coarsest `size` units wide, each next half the size and `rough` times as strong."""
        turn = np.array([[0.8, -0.6], [0.6, 0.8]])  # so that the octaves' grids do not line up
        total, strength = np.zeros_like(x, dtype=float), 1.0
        x, y = x / size, y / size
        for k in range(octaves):
            total = total + strength * self(x + 31.7 * k, y + 17.3 * k)
            x, y = 2 * (turn[0, 0] * x + turn[0, 1] * y), 2 * (turn[1, 0] * x + turn[1, 1] * y)
            strength *= rough
        return total


def soft(distance: Field, width: float) -> Field:
    """1 well inside (distance below 0), 0 well outside, with an edge of about `width`."""
    return 1 / (1 + np.exp(np.clip(4 * distance / width, -40, 40)))


def mix(share: Field, there: Sequence[float] | Field, here: Sequence[float] | Field) -> Field:
    """`share` of one colour, the rest of the other."""
    share = share[:, None]
    blend: Field = share * np.asarray(there, float) + (1 - share) * np.asarray(here, float)
    return blend


def voronoi(x: Field, y: Field, size: float, seed: int, jitter: float = 0.85) -> tuple[Field, Field, Field]:
    """Cells about jittered points.

    Returns:
        Distance to the nearest edge, distance to the own point (both in units), and the cell's number.

    Source:
        Worley (1996), A cellular texture basis function; the edge distance after Quilez (2012).
    """
    offset = np.random.default_rng(seed).uniform(0.5 - jitter / 2, 0.5 + jitter / 2, (128, 128, 2))
    i, j = np.floor(x / size).astype(int), np.floor(y / size).astype(int)

    def point(di: int, dj: int) -> tuple[Field, Field]:
        shift = offset[(j + dj) % 128, (i + di) % 128]
        return (i + di + shift[..., 0]) * size - x, (j + dj + shift[..., 1]) * size - y

    near, own_x, own_y = np.full(x.shape, np.inf), np.zeros_like(x), np.zeros_like(x)
    number = np.zeros(x.shape, int)
    around = [(di, dj) for dj in (-2, -1, 0, 1, 2) for di in (-2, -1, 0, 1, 2)]
    for di, dj in around:
        px, py = point(di, dj)
        far = np.hypot(px, py)
        closer = far < near
        near = np.where(closer, far, near)
        own_x, own_y = np.where(closer, px, own_x), np.where(closer, py, own_y)
        number = np.where(closer, ((j + dj) % 128) * 128 + (i + di) % 128, number)
    edge = np.full(x.shape, np.inf)
    for di, dj in around:
        px, py = point(di, dj)
        apart = np.hypot(px - own_x, py - own_y)
        middle = ((px + own_x) * (px - own_x) + (py + own_y) * (py - own_y)) / np.maximum(2 * apart, 1e-9)
        edge = np.where(apart > 1e-6, np.minimum(edge, middle), edge)
    return edge, near, number


def cells(x: Field, y: Field) -> Field:
    """Nuclei under a fluorescence microscope: DNA stain with chromatin grain, dim cytoplasm, a few in mitosis."""
    rng, grain = np.random.default_rng(11), Noise(12)
    light = 6 + 4 * grain.fractal(x, y, 120, 2) + np.zeros_like(x)
    wobble = Noise(13)
    for cx, cy in _scattered(rng, 52, (-60, 380), (-60, 320), 27):
        angle, long, short = rng.uniform(0, np.pi), rng.uniform(12, 19), rng.uniform(8.5, 12.5)
        bright = rng.uniform(45, 130)
        if rng.random() < 0.1:  # condensed chromosomes
            long, short, bright = 10, 4.5, 190
        u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
        v = -np.sin(angle) * (x - cx) + np.cos(angle) * (y - cy)
        near = np.flatnonzero(np.hypot(u, v) < 60)
        u, v, xs, ys = u[near], v[near], x[near], y[near]
        radius = np.hypot(u / long, v / short) + 0.18 * wobble(xs / 11 + cx, ys / 11 + cy)
        chromatin = 1 + 0.75 * grain.fractal(xs + cx, ys - cy, 5.5, 2, 0.7)
        dome = np.sqrt(np.clip(1.15 - radius**2, 0.05, None))
        light[near] += bright * soft((radius - 1) * short, 2.5) * chromatin * dome
        light[near] += 9 * np.exp(-((radius / 2.1) ** 2))
    return light


def _scattered(
    rng: np.random.Generator, count: int, across: tuple[float, float], down: tuple[float, float], apart: float
) -> list[tuple[float, float]]:
    """Random places that keep their distance."""
    places: list[tuple[float, float]] = []
    for _ in range(count * 60):
        new = (rng.uniform(*across), rng.uniform(*down))
        if len(places) < count and all((new[0] - a) ** 2 + (new[1] - b) ** 2 > apart**2 for a, b in places):
            places.append(new)
    return places


def stars(x: Field, y: Field) -> Field:
    """An open cluster before faint nebulosity: Moffat images, brightness by a power law."""
    rng, dust = np.random.default_rng(21), Noise(22)
    cloud = np.clip(dust.fractal(x + 30 * dust(x / 90, y / 90), y, 150, 5, 0.55) + 0.15, 0, None)
    light = 12 + 20 * cloud**1.5
    count = 420
    px, py = rng.uniform(-80, 420, count), rng.uniform(-80, 340, count)
    px[:110], py[:110] = rng.normal(170, 50, 110), rng.normal(120, 45, 110)
    flux = np.minimum(9 * (1 + rng.pareto(0.95, count)), 205)
    for cx, cy, peak in zip(px, py, flux, strict=True):
        near = np.flatnonzero((np.abs(x - cx) < 45) & (np.abs(y - cy) < 45))
        r2 = (x[near] - cx) ** 2 + (y[near] - cy) ** 2
        light[near] += peak * (1 + r2 / 1.9**2) ** -2.7  # full width at half maximum 2.1 px
    return light


def terrain(x: Field, y: Field) -> Field:
    """Hills, a river, woods and fields from above, lit from the north-west, in natural colours."""
    land, wet, grain = Noise(31), Noise(32), Noise(33)

    def height(u: Field, v: Field) -> Field:
        return land.fractal(u + 12 * wet(u / 70, v / 70), v + 12 * wet(v / 70, u / 70), 150, 6, 0.52)

    rise = height(x, y)
    shade = 26 * ((height(x + 0.7, y) - height(x - 0.7, y)) + (height(x, y + 0.7) - height(x, y - 0.7))) / 1.4
    edge, _, number = voronoi(x + 3 * grain(x / 40, y / 40), y, 24, 34)
    tint = np.random.default_rng(35).uniform(0, 1, (128 * 128, 2))[number]
    rows = 1 + 0.07 * np.sin((np.cos(9 * tint[:, 0]) * x + np.sin(9 * tint[:, 0]) * y) * 1.6)
    crop = mix(tint[:, 0], (168, 152, 98), (96, 122, 66)) * (0.85 + 0.3 * tint[:, 1:]) * rows[:, None]
    crop = mix(soft(edge - 1.0, 1.5), (66, 82, 50), crop)  # hedges
    forest = np.array([44, 66, 40]) * (1 + 0.9 * grain.fractal(x, y, 5, 2)[:, None])
    rock = np.array([134, 122, 106]) * (1 + 0.5 * grain.fractal(x, y, 14, 4)[:, None])
    wooded = soft(-(wet.fractal(x, y, 80, 4, 0.6) - 0.06) * 20, 3)
    ground = mix(wooded, forest, crop)
    ground = mix(soft(-(rise - 0.28) * 60, 8), rock, ground)
    course = np.abs(y - 128 - 46 * wet(x / 120, 0.5 * y / 120) - 0.35 * (x - 160) - 9 * wet(x / 25, y / 200))
    ground = ground * np.clip(1 - 0.9 * shade * (0.35 + soft(-rise * 30, 8)), 0.35, 1.7)[:, None]
    ground = mix(soft(course - 7.5, 3), (178, 170, 140), ground)  # banks
    ground = mix(soft(course - 5, 2), (46, 66, 78), ground)
    road = np.abs(0.93 * (x - 60) - 0.36 * (y - 30) - 10 * land(x / 90, y / 90))
    return mix(soft(road - 0.9, 1.2), (196, 190, 180), ground)


def stones(x: Field, y: Field) -> Field:
    """A path of rounded stones in sand, seen from above."""
    grain, tone = Noise(41), np.random.default_rng(42).uniform(0, 1, (128 * 128, 3))
    xs = x + 2.2 * grain(x / 9, y / 9) + 5 * grain(x / 30 + 7, y / 30)
    ys = y + 2.2 * grain(y / 9 + 5, x / 9) + 5 * grain(y / 30, x / 30 + 9)
    edge, near, number = voronoi(xs, ys, 31, 43)
    mine = tone[number]
    dome = np.clip(edge / 9, 0, 1) ** 0.5
    rough = 1 + 0.30 * grain.fractal(x, y, 18, 5, 0.62) + 0.5 * np.clip(grain(x / 3.1, y / 3.1) - 0.3, 0, 1)
    vein = np.exp(-((grain.fractal(x + 90 * mine[:, 0], y + 90 * mine[:, 1], 26, 3) / 0.05) ** 2))
    colour = mix(mine[:, 0], (150, 126, 108), (98, 104, 110)) * (0.72 + 0.5 * mine[:, 1:2])
    stone = colour * (rough * (0.45 + 0.65 * dome) + 0.22 * vein * (mine[:, 2] > 0.55) - 0.0006 * near**2)[:, None]
    sand = np.array([104, 92, 74]) * (0.75 + 0.55 * grain.fractal(x, y, 4, 3, 0.8)[:, None])
    shadow = 1 - 0.45 * soft(edge - 2.2, 3)
    return mix(soft(edge - 2.0, 1.6), sand * shadow[:, None], stone)


def alloy(x: Field, y: Field) -> Field:
    """A polished and etched two-phase steel under a microscope: grains, twin lamellae, carbides, scratches."""
    grain = Noise(51)
    tone = np.random.default_rng(52).uniform(0, 1, (128 * 128, 3))
    xs, ys = x + 1.5 * grain(x / 14, y / 14), y + 1.5 * grain(y / 14, x / 14)
    edge, _, number = voronoi(xs, ys, 42, 53)
    mine = tone[number]
    angle = np.pi * mine[:, 0]
    along = np.cos(angle) * xs + np.sin(angle) * ys
    lamellae = np.tanh(3 * np.sin(2 * np.pi * (along + 2 * grain(x / 10, y / 10)) / (4.5 + 4 * mine[:, 1])))
    light: Field = 120 + 70 * (mine[:, 1] - 0.5) + np.where(mine[:, 2] < 0.45, 26 * lamellae, 0)
    light = light + 14 * grain.fractal(x, y, 10, 4, 0.7)
    light = light - 85 * soft(edge - 0.8, 1.6)  # etched boundaries
    carbide, _, which = voronoi(x, y, 13, 54)
    light = light + 70 * soft(4.6 - carbide, 1.2) * (tone[which][:, 2] > 0.55)
    scratch = np.abs(0.31 * x - 0.95 * y + 120), np.abs(0.83 * x + 0.56 * y - 290)
    light = light + 30 * soft(scratch[0] - 0.5, 1) - 25 * soft(scratch[1] - 0.4, 1)
    return light
