import math

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair

from imgalign.planes.levels import Levels
from imgalign.start.search import Hypothesis, Range, distinct, full_range, search

SIZE = (110, 130)
SCENE = Blobs(11, 160, count=260, sigma=(2, 6))


def planes(array, weight=None):
    tensor = torch.as_tensor(np.asarray(array, np.float32))[None, None]
    return tensor, torch.ones_like(tensor) if weight is None else torch.as_tensor(np.float32(weight))[None, None]


def best_error(truth, span, *, fixed_of=lambda f: f, moving_hw=None, **options):
    fixed, moving = pair(SCENE, SIZE, truth, moving_hw)
    found = search(Levels(planes(fixed_of(fixed)), planes(moving)), span, **options)
    return corner_error(found[0].moving_from_fixed, truth, SIZE), found


# A step of rotation or scale is 6 degrees or 15 %: the nearest hypothesis may be half of it off at the corners.
STEP_PX = 0.5 * math.hypot(*SIZE) * math.radians(3) + 3


@pytest.mark.parametrize("shift", [(0, 0), (25, -17), (-40, 30)])
def test_shifts_are_found(shift):
    error, _ = best_error(about_centre(SIZE, shift=shift), full_range("translate", 0, 1, False), peaks=3)
    assert error < 2  # pixels of the search are 1.35 px


@pytest.mark.parametrize("shift", [(0, 0), (-1, 0), (2, -2), (25, -17)])
def test_peaks_of_one_rotation_lie_apart(shift):
    """Also where the shift lies at the end of the periodic frame."""
    _, found = best_error(about_centre(SIZE, shift=shift), full_range("translate", 0, 1, False), peaks=6)
    at = np.array([h.moving_from_fixed[:2, 2] for h in found])
    apart = np.abs(at[:, None] - at).max(-1) + 99 * np.eye(len(at))
    assert len(at) > 1
    assert apart.min() > 3.9 * 130 / 96


@pytest.mark.parametrize("shift", [(0, 0), (700, 2), (-3, 9), (-1500, -6)])
@pytest.mark.parametrize("turned", [False, True])
def test_shifts_of_long_and_thin_pictures_are_found(shift, turned):
    size = 24, 3000
    scene = Blobs(3, size[1], count=3000, sigma=(3, 6))
    two = pair(scene, size, about_centre(size, shift=shift))
    levels = Levels(*(planes(picture.T if turned else picture) for picture in two))
    found = search(levels, full_range("translate", 0, 1, False))[0].moving_from_fixed[:2, 2]
    # Pixels of the search are 3 px.
    np.testing.assert_allclose(found[::-1] if turned else found, shift, atol=4)


@pytest.mark.parametrize("angle_deg", [-170, -93, -30, 4, 61, 135, 180])
def test_rotations_are_found(angle_deg):
    truth = about_centre(SIZE, angle_deg=angle_deg, shift=(6, -4))
    error, _ = best_error(truth, full_range("rigid", 180, 1, False))
    assert error < STEP_PX


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.3, 1.8])
def test_scales_are_found_with_rotations(scale):
    truth = about_centre(SIZE, angle_deg=47, scale=scale, shift=(3, 5))
    error, _ = best_error(truth, full_range("similarity", 180, 2, False))
    assert error < 2 * scale * STEP_PX


def test_mirror_images_are_found_when_asked_for():
    truth = about_centre(SIZE, angle_deg=33, linear=np.diag([-1.0, 1.0]))
    error, _ = best_error(truth, full_range("rigid", 180, 1, True))
    assert error < STEP_PX
    error, _ = best_error(truth, full_range("rigid", 180, 1, False))
    assert error > 20


def test_inverted_contrast_is_found():
    truth = about_centre(SIZE, angle_deg=80, shift=(6, -4))
    assert best_error(truth, full_range("rigid", 180, 1, False), fixed_of=lambda f: 3 - f)[0] < STEP_PX


def test_pictures_of_other_sizes_are_found():
    truth = about_centre(SIZE, angle_deg=20, shift=(3, 2), moving_hw=(150, 90))
    assert best_error(truth, full_range("rigid", 180, 1, False), moving_hw=(150, 90))[0] < STEP_PX


def test_masked_rubbish_is_not_matched():
    truth = about_centre(SIZE, shift=(12, 8))
    fixed, moving = pair(SCENE, SIZE, truth)
    rubbish = np.random.default_rng(0).uniform(-5, 5, (40, 50))
    masks = np.ones((2, *SIZE))
    fixed[10:50, 10:60], moving[60:100, 60:110] = rubbish, rubbish
    masks[0, 10:50, 10:60], masks[1, 60:100, 60:110] = 0, 0
    span = full_range("translate", 0, 1, False)
    found = search(Levels(planes(fixed, masks[0]), planes(moving, masks[1])), span)[0]
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 2


def test_hypotheses_come_best_first_and_a_right_one_stands_out():
    _, found = best_error(about_centre(SIZE, shift=(5, 5)), Range((0.0, 90.0, 180.0)), peaks=3)
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 2 * scores[1]


def test_constant_pictures_give_no_error():
    found = search(Levels(planes(np.ones(SIZE)), planes(np.ones(SIZE))), Range((0.0, 90.0)))
    assert all(np.isfinite(h.moving_from_fixed).all() for h in found)


@pytest.mark.parametrize(
    ("arguments", "rotations", "scales"),
    [
        (("translate", 180, 2), 1, 1),
        (("rigid", 180, 2), 60, 1),
        (("rigid", 12, 2), 5, 1),
        (("similarity", 0, 2), 1, 11),
        (("homography", 180, 1), 60, 1),
    ],
)
def test_the_range_is_what_the_model_and_the_bounds_leave(arguments, rotations, scales):
    span = full_range(*arguments, False)
    assert (len(span.rotations_deg), len(span.scales)) == (rotations, scales)
    assert len(set(np.mod(span.rotations_deg, 360))) == rotations
    assert max(span.scales) * min(span.scales) == pytest.approx(1)


def test_distinct_keeps_the_best_of_each_neighbourhood():
    ranked = [Hypothesis(about_centre(SIZE, shift=(dx, 0)), 10 - i) for i, dx in enumerate((0, 1, 20, 21, 40))]
    kept = distinct(ranked, SIZE, 5, 2)
    assert [h.score for h in kept] == [10, 8]
