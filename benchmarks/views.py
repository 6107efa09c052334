"""Where the two pictures of a pair look at one photograph, and whether they see enough of it."""

from dataclasses import dataclass

import numpy as np

from benchmarks.geometry import RANGES, Matrix3, about, corners, draw_transform, overlap, project, rotation
from benchmarks.photos import Floats, render


@dataclass(frozen=True)
class Views:
    """Where two pictures look at one photograph."""

    moving_from_fixed: Matrix3
    source_from_fixed: Matrix3
    source_from_moving: Matrix3
    fixed_hw: tuple[int, int]
    moving_hw: tuple[int, int]
    samples: tuple[int, int]


LEAST_REDUCTION, LEAST_SIDE = 1.45, 100  # of the two pictures' mean reduction; px


def _sizes(rng: np.random.Generator, difficulty: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Heights and widths of both pictures."""
    aspect, side = rng.choice([1.0, 4 / 3, 3 / 4, 1.2]), rng.uniform(200, 440)
    fixed_hw = round(side / max(aspect, 1)), round(side * min(aspect, 1))
    differ = rng.random() < {"easy": 0.1, "medium": 0.25, "hard": 0.3}[difficulty]
    stretch = rng.uniform(0.8, 1.3, 2) if differ else np.ones(2)
    return fixed_hw, (round(fixed_hw[0] * stretch[0]), round(fixed_hw[1] * stretch[1]))


def place(rng: np.random.Generator, source_hw: tuple[int, int], model: str, difficulty: str) -> Views:
    """Draw a transform and lay both pictures inside the photograph.

    Where the photograph is too small for both, the pictures shrink and the transform with them:
    drawing again would leave only the tame transforms.
    """
    room = np.array([source_hw[1] - 3, source_hw[0] - 3])
    while True:
        fixed_hw, moving_hw = _sizes(rng, difficulty)
        truth = draw_transform(rng, model, RANGES[difficulty], fixed_hw, moving_hw)
        turn = rotation(rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + rng.uniform(-0.35, 0.35))
        turned = np.r_[corners(fixed_hw), project(np.linalg.inv(truth), corners(moving_hw))] @ turn.T
        largest = float((room / (np.ptp(turned, axis=0) + 1)).min())
        between = np.sqrt(abs(np.linalg.det(truth[:2, :2])))  # moving pixels a fixed pixel
        wanted = float(rng.uniform(2.0, 3.0)) * np.sqrt(between)  # both pictures share the reduction
        reduction = max(min(wanted, largest), LEAST_REDUCTION * np.sqrt(between))
        shrunk = min(1.0, largest / reduction)
        fixed_hw, moving_hw = ((int(h * shrunk), int(w * shrunk)) for h, w in (fixed_hw, moving_hw))
        if min(*fixed_hw, *moving_hw) < LEAST_SIDE:
            continue  # too little photograph
        smaller = about(shrunk * np.eye(2), np.array([-0.5, -0.5]), np.array([-0.5, -0.5]))
        truth = smaller @ truth @ np.linalg.inv(smaller)
        turned = np.r_[corners(fixed_hw), project(np.linalg.inv(truth), corners(moving_hw))] @ turn.T
        free = np.maximum(room - reduction * np.ptp(turned, axis=0), 0)
        corner = 1 + rng.uniform(0, 1, 2) * free - reduction * turned.min(0)
        source_from_fixed = about(reduction * turn, np.zeros(2), corner)
        samples = (int(np.ceil(reduction)), max(1, int(np.ceil(reduction / between))))
        source_from_moving = source_from_fixed @ np.linalg.inv(truth)
        return Views(truth / truth[2, 2], source_from_fixed, source_from_moving, fixed_hw, moving_hw, samples)


def fits(views: Views, source_hw: tuple[int, int]) -> bool:
    """Whether both pictures lie inside the photograph."""
    seen = np.r_[
        project(views.source_from_fixed, corners(views.fixed_hw)),
        project(views.source_from_moving, corners(views.moving_hw)),
    ]
    return bool((seen >= 0).all() and (seen <= [source_hw[1] - 1, source_hw[0] - 1]).all())


def render_both(scene: Floats, views: Views) -> tuple[Floats, Floats]:
    """Clean fixed and moving pictures of a photograph."""
    fixed = render(scene, views.source_from_fixed, views.fixed_hw, views.samples[0])
    return fixed, render(scene, views.source_from_moving, views.moving_hw, views.samples[1])


def has_structure(picture: Floats, views: Views, least: float = 4.0) -> bool:
    """Whether the part seen in both has edges in every direction (mean squared slope, grey levels a px)."""
    grey = picture.mean(2)
    down, right = np.gradient(grey)
    y, x = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]]
    there = project(views.moving_from_fixed, np.c_[x.ravel(), y.ravel()])
    limit = np.array([views.moving_hw[1] - 1, views.moving_hw[0] - 1])
    seen = ((there >= 0) & (there <= limit)).all(1).reshape(grey.shape)
    slopes = np.c_[right[seen], down[seen]]
    return bool(len(slopes) > 500 and np.linalg.eigvalsh(slopes.T @ slopes / len(slopes))[0] >= least)


def geometry_tags(views: Views) -> set[str]:
    """What is special about a pair's geometry."""
    jacobian, seen = views.moving_from_fixed[:2, :2], overlap(views.moving_from_fixed, views.fixed_hw, views.moving_hw)
    scale = np.sqrt(abs(np.linalg.det(jacobian)))
    turn = abs(np.degrees(np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])))
    back = overlap(np.linalg.inv(views.moving_from_fixed), views.moving_hw, views.fixed_hw)
    said = {"rotated": turn > 45, "scale2": not 0.67 < scale < 1.5, "lowoverlap": max(seen, back) < 0.5}
    return {t for t, so in said.items() if so} | ({"sizes"} if views.fixed_hw != views.moving_hw else set())
