"""Scenes of a clinic and of a microscope in two modalities, from formulas: heads, and cells."""

import numpy as np
from scenes import about_centre, render

SIZE = (220, 260)
TRUTH = about_centre(SIZE, shift=(9, -6), angle_deg=6, scale=1.04)
SKIN_ON_BONE = about_centre(SIZE, shift=(9, -6), angle_deg=6, scale=1.04 * 1.12)
MAGNETIC, ROENTGEN = (150, 120, 15, 200, 5), (85, 95, 250, 20, 2)  # white and grey matter, bone, skin, air


def noisy(seed, fixed, moving, size_hw, moving_from_fixed):
    """Two modalities of a scene as pictures of one size, with noise."""
    rng = np.random.default_rng(seed)
    pictures = render(fixed, size_hw), render(moving, size_hw, np.linalg.inv(moving_from_fixed))
    return tuple(picture + rng.normal(0, 6, size_hw) for picture in pictures)


class Head:
    """Skin around bone around grey around white matter, in tones of one modality: a formula of the place."""

    def __init__(self, tones, seed=0):
        self._tones = tones
        self._waves = 0.012 * np.random.default_rng(seed).normal(size=(7, 2))

    def __call__(self, x, y):
        x, y = (x - 130) / 75, (y - 110) / 88
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        for k, (a, b) in enumerate(self._waves):
            radius = radius + a * np.cos((k + 2) * angle) + b * np.sin((k + 2) * angle)
        white, grey, bone, skin, air = self._tones
        out = np.full(x.shape, float(white))
        for border, step in ((0.8 + 0.05 * np.cos(9 * angle), grey - white), (0.93, bone - grey), (1.0, skin - bone),
                             (1.12, air - skin)):  # fmt: skip
            out += step / (1 + np.exp(-np.clip((radius - border) / 0.012, -50, 50)))
        for at_x, at_y, size in ((0.22, -0.1, 0.14), (-0.25, 0.05, 0.16)):
            distance = np.hypot(x - at_x, 0.6 * (y - at_y))
            out += (bone - white) / (1 + np.exp(np.clip((distance - size) / 0.012, -50, 50)))
        return out


class Cells:
    """Nuclei, or the membranes between cells: polygons around the points of a shaken lattice, an ellipse in each."""

    def __init__(self, membranes, seed=0, spacing=44.0):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[-60:420:spacing, -60:420:spacing]
        self._membranes, count = membranes, rows.size
        self._middles = np.c_[columns.ravel(), rows.ravel()] + rng.uniform(-0.36, 0.36, (count, 2)) * spacing
        self._radii = rng.uniform(0.24, 0.34, count) * spacing
        self._nuclei = self._middles + rng.normal(0, 0.05, (count, 2)) * spacing
        self._stretch = rng.uniform(0.8, 1.25, count)
        self._brightness = rng.uniform(0.3, 1.0, (2, count))

    def __call__(self, x, y):
        distances = np.hypot(x[..., None] - self._middles[:, 0], y[..., None] - self._middles[:, 1])
        cell = distances.argmin(-1)
        if self._membranes:
            nearest, next_to_it = np.moveaxis(np.partition(distances, 1, axis=-1)[..., :2], -1, 0)
            return 20 + 50 * (1 + self._brightness[0, cell]) * np.exp(-(((next_to_it - nearest) / 6) ** 2))
        across, along = (
            (x - self._nuclei[cell, 0]) * self._stretch[cell],
            (y - self._nuclei[cell, 1]) / self._stretch[cell],
        )
        outside = (np.hypot(across, along) - self._radii[cell]) / 1.5
        return 10 + 100 * self._brightness[1, cell] / (1 + np.exp(np.clip(outside, -50, 50)))


CELLS = (320, 320)
CELLS_TRUTH = about_centre(CELLS, shift=(5, -4), angle_deg=1, scale=1.01)


def cells(seed):
    return noisy(seed, Cells(seed % 2 == 0, seed), Cells(seed % 2 == 1, seed), CELLS, CELLS_TRUTH)


class Rings:
    """Cells, each a dark ring in a bright one, or the nuclei that lie somewhere within them."""

    def __init__(self, nuclei, seed=0, spacing=52.0):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[-60:420:spacing, -60:420:spacing]
        self._nuclei, count = nuclei, rows.size
        self._cells = np.c_[columns.ravel(), rows.ravel()] + rng.uniform(-0.2, 0.2, (count, 2)) * spacing
        self._radii = rng.uniform(0.26, 0.36, count) * spacing
        self._stretch = rng.uniform(0.75, 1.33, count)
        self._beside = self._cells + rng.normal(0, 0.08, (count, 2)) * spacing
        self._brightness = rng.uniform(0.3, 1, count)
        self._there = rng.random(count) < 0.7

    def __call__(self, x, y):
        cell = np.hypot(x[..., None] - self._cells[:, 0], y[..., None] - self._cells[:, 1]).argmin(-1)
        middle = (self._beside if self._nuclei else self._cells)[cell]
        across, along = (x - middle[..., 0]) * self._stretch[cell], (y - middle[..., 1]) / self._stretch[cell]
        radius, there = np.hypot(across, along) / self._radii[cell], self._there[cell]
        if self._nuclei:
            return 10 + 110 * there * self._brightness[cell] / (1 + np.exp(np.clip((radius - 0.5) / 0.06, -50, 50)))
        bright, dark = (np.exp(-(((radius - at) / 0.1) ** 2)) for at in (1.1, 0.93))
        return 100 + there * (70 * bright - 60 * dark - 15 / (1 + np.exp(np.clip((radius - 1) / 0.05, -50, 50))))


RINGS_TRUTH = about_centre(CELLS, shift=(7, -6))


def rings(seed):
    return noisy(seed, Rings(seed % 2 == 0, seed), Rings(seed % 2 == 1, seed), CELLS, RINGS_TRUTH)


def heads(seed, truth=TRUTH):
    return noisy(seed, Head(MAGNETIC, seed), Head(ROENTGEN, seed), SIZE, truth)
