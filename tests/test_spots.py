"""Ground truth: Gaussians evaluated at the positions that a matrix gives them, and SciPy's binomial distribution."""

import numpy as np
import pytest
import torch
from scenes import about_centre, corner_error

from imgalign import align
from imgalign.decompose import mapped
from imgalign.start.search import full_range
from imgalign.start.spots import Spots, detected, matched
from imgalign.transforms import MODELS, get_model

SIZE = (220, 260)
TILT = about_centre(SIZE, angle_deg=-70, tilt=(2e-4, -1e-4))
TRUTHS = {
    "translate": about_centre(SIZE, shift=(23.4, -31.7)),
    "rigid": about_centre(SIZE, angle_deg=-104, shift=(12, 9)),
    "similarity": about_centre(SIZE, angle_deg=163, scale=0.7, shift=(-8, 14)),
    "affine": about_centre(SIZE, angle_deg=40, linear=np.array([[1.04, 0.05], [-0.02, 0.97]])),
    "homography": TILT,
}


def stars(seed=3, count=40):
    """Places on a plane larger than the picture, and brightnesses, brightest first."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-60, 320, (count, 2)), np.sort(0.05 + 0.2 * rng.pareto(1.5, count))[::-1]


def drawn(points, heights, noise=0.0, seed=0, sigma=1.3):
    """Gaussian stars and white noise, `(H, W)`."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    picture = 0.1 + noise * np.random.default_rng(seed).standard_normal(SIZE)
    for (px, py), height in zip(points, heights, strict=True):
        picture += height * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
    return picture


def planes(picture, weight=None):
    image = torch.as_tensor(np.float32(picture))[None, None]
    return image, torch.ones_like(image) if weight is None else torch.as_tensor(np.float32(weight))[None, None]


def on_it(points, margin=0.0):
    return ((points > margin) & (points < np.array(SIZE[::-1]) - 1 - margin)).all(1)


def two_skies(truth, noise=0.01, count=40):
    points, heights = stars(count=count)
    landed = mapped(truth, points)
    return drawn(points, heights, noise, 1), drawn(landed, heights, noise, 2)


def spots_of(points, strengths):
    inside = on_it(points)
    return Spots(points[inside], strengths[inside], SIZE)


@pytest.mark.parametrize("sign", [1, -1])
def test_spots_are_where_the_formula_has_them(sign):
    """Brightest first; dark ones on bright ground as well."""
    points, heights = stars()
    found = detected(*planes(sign * drawn(points, heights, noise=0.003)))
    clear = points[on_it(points, 6)]
    alone = np.array([np.sort(np.linalg.norm(points - p, axis=1))[1] > 12 for p in clear])
    apart = np.linalg.norm(clear[alone][:, None] - found.points, axis=-1).min(1)
    assert alone.sum() > 8
    assert apart.max() < 0.3
    assert (np.diff(found.strengths) <= 0).all()


def test_masked_spots_are_not_found():
    points, heights = stars()
    weight = np.ones(SIZE)
    weight[:, 130:] = 0
    found = detected(*planes(drawn(points, heights, noise=0.003), weight))
    assert (found.points[:, 0] < 130).all()


def test_a_drawing_has_no_spots():
    rng = np.random.default_rng(4)
    picture = np.zeros(SIZE)
    for top, left, height, width in rng.integers(5, 150, (150, 4)):
        picture[top : top + height, left : left + width] += rng.uniform(-1, 1)
    assert detected(*planes(picture)) is None


def test_a_flat_picture_has_no_spots():
    assert detected(*planes(np.full(SIZE, 0.4))) is None


def test_few_points_make_no_pattern():
    points, heights = np.array([[50, 60], [120, 90], [200, 170], [70, 180.0]]), np.ones(4)
    assert detected(*planes(drawn(points, heights))) is None


@pytest.mark.parametrize("model", MODELS)
def test_patterns_are_laid_on_each_other(model):
    """A third of the points of each picture are missing in the other, and all places are half a pixel off."""
    rng = np.random.default_rng(8)
    points, strengths = stars(count=90)
    landed = mapped(TRUTHS[model], points) + rng.normal(0, 0.5, points.shape)
    fixed, moving = spots_of(points[15:], strengths[15:]), spots_of(landed[:75], strengths[:75])
    found = matched(fixed, moving, get_model(model), full_range(model, 180, 2, False))
    assert corner_error(found[0].moving_from_fixed, TRUTHS[model], SIZE) < 6


def test_mirrored_patterns_are_found_when_asked_for():
    truth = about_centre(SIZE, angle_deg=33, linear=np.diag([-1.0, 1.0]))
    points, strengths = stars(count=60)
    fixed, moving = spots_of(points, strengths), spots_of(mapped(truth, points), strengths)
    found = matched(fixed, moving, get_model("affine"), full_range("affine", 180, 2, True))
    assert corner_error(found[0].moving_from_fixed, truth, SIZE) < 1
    for h in matched(fixed, moving, get_model("similarity"), full_range("similarity", 180, 2, False)):
        assert np.linalg.det(h.moving_from_fixed) > 0


@pytest.mark.parametrize(("rotation_deg", "scale"), [(150, 2), (180, 1.2)])
def test_patterns_outside_the_range_are_not_found(rotation_deg, scale):
    truth = TRUTHS["similarity"]  # 163 degrees, scale 0.7
    points, strengths = stars(count=60)
    fixed, moving = spots_of(points, strengths), spots_of(mapped(truth, points), strengths)
    found = matched(fixed, moving, get_model("similarity"), full_range("similarity", rotation_deg, scale, False))
    assert all(corner_error(h.moving_from_fixed, truth, SIZE) > 20 for h in found)
    inside = matched(fixed, moving, get_model("similarity"), full_range("similarity", 165, 1.5, False))
    assert corner_error(inside[0].moving_from_fixed, truth, SIZE) < 1


@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_faint_skies_are_aligned(model):
    """On a hundred pixels nothing is left of them."""
    fixed, moving = two_skies(TRUTHS[model], noise=0.03)
    found = align(fixed, moving, model=model)
    assert found.trusted
    assert corner_error(found.moving_from_fixed, TRUTHS[model], SIZE) < 0.5
