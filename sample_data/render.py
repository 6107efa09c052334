"""Render the sample pairs from formulas, each picture at its own coordinates, with the truth beside them.

    python -m sample_data.render            # all, into this folder
    python -m sample_data.render stars --output-dir elsewhere

A pixel is the mean of its scene over the pixel's square. There is no resampling anywhere, so the
truth is exact. `NAME.truth.json` says the model, the matrix, how the noise was made, and the
Cramér-Rao bound of the corners, below which no method can get on average.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.bound import corner_bound, corner_sigma
from benchmarks.geometry import Matrix3, about, centre, corners, homography_through, project, rotation
from sample_data import formulas, formulas_drawn

Scene = Callable[[formulas.Field, formulas.Field], formulas.Field]
HERE = Path(__file__).parent
GREY = [0.299, 0.587, 0.114]


@dataclass(frozen=True)
class Recipe:
    """One pair: what is seen, from where, and with which camera."""

    about: str
    model: str
    scene: Scene
    fixed_hw: tuple[int, int]
    moving_hw: tuple[int, int]
    moving_from_fixed: Matrix3
    exposure: tuple[float, float] = (1.0, 1.0)
    read_noise: tuple[float, float] = (2.0, 2.0)  # grey levels of an 8 bit range
    shot_noise: tuple[float, float] = (0.02, 0.02)  # variance added per grey level
    bits: int = 8
    moving_scene: Scene | None = None  # another light or modality
    samples: int = 3


def _turned(
    fixed_hw: tuple[int, int],
    moving_hw: tuple[int, int],
    angle_deg: float,
    scale: float,
    shift: tuple[float, float],
    stretch: tuple[tuple[float, float], tuple[float, float]] = ((1, 0), (0, 1)),
) -> Matrix3:
    linear = scale * rotation(np.radians(angle_deg)) @ np.array(stretch, float)
    return about(linear, centre(fixed_hw), centre(moving_hw) + shift)


def _tilted(fixed_hw: tuple[int, int], places: list[tuple[float, float]]) -> Matrix3:
    return homography_through(corners(fixed_hw), np.array(places))


def _evening(x: formulas.Field, y: formulas.Field) -> formulas.Field:
    return formulas_drawn.warm_light(x, y, formulas.stones(x, y))


def recipes() -> dict[str, Recipe]:
    """All pairs by name."""
    r, turned = Recipe, _turned
    return {
        "cells": r(
            "fluorescence microscopy, two frames of a time lapse with stage drift; 12 bit in 16",
            "translate", formulas.cells, (256, 320), (256, 320), turned((256, 320), (256, 320), 0, 1, (11.37, -7.62)),
            exposure=(1.0, 0.8), read_noise=(2.0, 2.5), shot_noise=(0.10, 0.10), bits=16,
        ),
        "stars": r(
            "star cluster, two exposures after the field rotated and the pointing drifted",
            "rigid", formulas.stars, (256, 320), (256, 320), turned((256, 320), (256, 320), 3.6, 1, (-14.21, 9.48)),
            exposure=(1.0, 0.85), read_noise=(1.5, 1.5), shot_noise=(0.05, 0.05), samples=2,
        ),
        "stones": r(
            "stone path by day and in low evening sun, from another height",
            "similarity", _evening, (240, 320), (256, 300), turned((240, 320), (256, 300), -5.2, 0.93, (8.35, -5.72)),
            moving_scene=formulas.stones, read_noise=(2.5, 2.0), samples=2,
        ),
        "terrain": r(
            "satellite view, a second pass with another angle of incidence and haze",
            "affine", formulas.terrain, (256, 256), (256, 272),
            turned((256, 256), (256, 272), 4.3, 1.02, (-9.41, 6.83), ((1.03, 0.045), (-0.01, 0.96))),
            exposure=(1.0, 0.8), read_noise=(1.5, 2.0), samples=2,
        ),
        "alloy": r(
            "polished steel under a light microscope, remounted between two pictures",
            "affine", formulas.alloy, (240, 320), (240, 320),
            turned((240, 320), (240, 320), -7.4, 1.05, (6.73, 10.26), ((1.0, 0.02), (0.0, 0.985))),
            exposure=(0.95, 1.1), read_noise=(3.0, 3.0),
        ),
        "page": r(
            "a printed page, scanned flat and then photographed by hand under a lamp",
            "homography", formulas_drawn.page, (420, 332), (400, 330),
            _tilted((420, 332), [(17.3, 21.9), (310.6, 8.4), (324.8, 383.7), (3.9, 391.2)]),
            exposure=(1.0, 0.82), read_noise=(2.0, 3.5),
        ),
        "head": r(
            "axial section of a head in two magnetic resonance weightings (T1 and T2)",
            "rigid", formulas_drawn.head_t1, (300, 256), (300, 256),
            turned((300, 256), (300, 256), 4.8, 1, (5.62, -8.17)),
            moving_scene=formulas_drawn.head_t2, read_noise=(3.0, 3.5), shot_noise=(0.0, 0.0), samples=2,
        ),
    }  # fmt: skip


SCENE_FROM_FIXED = np.array([[1, 0, 0.37], [0, 1, -0.29], [0, 0, 1.0]])  # so that no pixel sits on a lattice of noise


def picture(scene: Scene, scene_from_picture: Matrix3, size_hw: tuple[int, int], samples: int) -> NDArray[np.float64]:
    """`(h, w)` or `(h, w, 3)` clean picture: the mean of `samples` x `samples` readings in each pixel's square."""
    total: NDArray[Any] = np.zeros(1)
    y, x = np.mgrid[0 : size_hw[0], 0 : size_hw[1]].astype(float)
    for dy in (np.arange(samples) + 0.5) / samples - 0.5:
        for dx in (np.arange(samples) + 0.5) / samples - 0.5:
            there = project(scene_from_picture, np.c_[x.ravel() + dx, y.ravel() + dy])
            total = total + scene(there[:, 0], there[:, 1]) / samples**2
    return total.reshape(*size_hw, *total.shape[1:])


def clean_pair(recipe: Recipe) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both pictures before noise, 0..255 after exposure."""
    scene_from_moving = SCENE_FROM_FIXED @ np.linalg.inv(recipe.moving_from_fixed)
    fixed = picture(recipe.scene, SCENE_FROM_FIXED, recipe.fixed_hw, recipe.samples)
    moving = picture(recipe.moving_scene or recipe.scene, scene_from_moving, recipe.moving_hw, recipe.samples)
    return recipe.exposure[0] * fixed, recipe.exposure[1] * moving


def variance(recipe: Recipe, which: int, clean: NDArray[Any]) -> NDArray[Any]:
    """Noise variance of each value, grey levels squared of an 8 bit range; rounding included."""
    step = 1.0 if recipe.bits == 8 else 1 / 16
    shot = recipe.shot_noise[which] * np.clip(clean, 0, 255)
    return np.asarray(recipe.read_noise[which] ** 2 + shot + step**2 / 12)


def expose(recipe: Recipe, which: int, clean: NDArray[Any], name: str) -> NDArray[Any]:
    """Add noise and digitise."""
    rng = np.random.default_rng([which, *name.encode()])
    spread = np.sqrt(recipe.read_noise[which] ** 2 + recipe.shot_noise[which] * np.clip(clean, 0, 255))
    noisy = clean + spread * rng.standard_normal(clean.shape)
    levels: NDArray[Any] = np.round(noisy * 16) if recipe.bits == 16 else np.round(noisy)
    return levels.clip(0, 4095).astype(np.uint16) if recipe.bits == 16 else levels.clip(0, 255).astype(np.uint8)


def _slopes(scene: Scene, size_hw: tuple[int, int], scene_from_picture: Matrix3) -> NDArray[Any]:
    """`(h, w, ..., 2)` derivatives of the clean picture, by moving the camera a tenth of a pixel either way."""
    out = []
    for dx, dy in ((0.1, 0.0), (0.0, 0.1)):
        ahead, behind = (
            picture(scene, scene_from_picture @ about(np.eye(2), np.zeros(2), np.array([s * dx, s * dy])), size_hw, 2)
            for s in (1, -1)
        )
        out.append((ahead - behind) / 0.2)
    return np.stack(out, axis=-1)


def bound_px(recipe: Recipe, fixed: NDArray[Any], moving: NDArray[Any]) -> float:
    """Cramér-Rao bound of the mean corner, px; for two lights or modalities the worse of the two scenes."""
    spread = [variance(recipe, k, c) for k, c in enumerate((fixed, moving))]
    gain = recipe.exposure[1] / recipe.exposure[0]
    size = recipe.fixed_hw
    worst = 0.0
    for scene in {recipe.scene, recipe.moving_scene or recipe.scene}:
        slopes = recipe.exposure[0] * _slopes(scene, size, SCENE_FROM_FIXED)
        level = fixed if scene is recipe.scene else recipe.exposure[0] * picture(scene, SCENE_FROM_FIXED, size, 2)
        noise = spread[0] + spread[1].mean() / gain**2
        noise = noise.mean(2) if noise.ndim == 3 else noise
        covariance = corner_bound(recipe.model, level, slopes, noise, recipe.moving_from_fixed, size, recipe.moving_hw)
        worst = max(worst, corner_sigma(covariance))
    return worst


def truth(name: str, recipe: Recipe, bound: float) -> dict[str, Any]:
    """What the truth file holds."""
    return {
        "about": recipe.about,
        "model": recipe.model,
        "fixed": f"{name}_fixed.png",
        "moving": f"{name}_moving.png",
        "convention": "moving_from_fixed maps fixed pixel (x, y) to moving pixel (x, y); (0, 0) is the centre of the "
        "top-left pixel",
        "moving_from_fixed": recipe.moving_from_fixed.tolist(),
        "noise": {
            "kind": "Gaussian, independent in each pixel and channel; variance = read_noise^2 + shot_noise * level",
            "read_noise": list(recipe.read_noise),
            "shot_noise": list(recipe.shot_noise),
            "exposure": list(recipe.exposure),
            "unit": "grey levels of an 8 bit range" + ("; stored times 16" if recipe.bits == 16 else ""),
        },
        "two_modalities": name == "head",
        "cramer_rao_corner_px": round(bound, 5),
        "script": f"python -m sample_data.render {name}",
    }


def write(name: str, folder: Path) -> None:
    """Render a pair and its truth into a folder."""
    recipe = recipes()[name]
    fixed, moving = clean_pair(recipe)
    for which, (side, clean) in enumerate((("fixed", fixed), ("moving", moving))):
        Image.fromarray(expose(recipe, which, clean, name)).save(folder / f"{name}_{side}.png", optimize=True)
    record = truth(name, recipe, bound_px(recipe, fixed, moving))
    (folder / f"{name}.truth.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"{name}: {recipe.model}, bound {record['cramer_rao_corner_px']} px")


def main() -> None:
    """Render some or all pairs."""
    parser = argparse.ArgumentParser(description="Render the sample pairs from formulas.")
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(recipes())}; default all")
    parser.add_argument("--output-dir", type=Path, default=HERE)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name in options.names or recipes():
        write(name, options.output_dir)


if __name__ == "__main__":
    main()
