"""Blobs of a picture, and which of them another picture shows as well."""

import math

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render

from imgalign.start import keypoints, matches
from imgalign.transforms import get_model

SIZE = (180, 220)
SCENE = Blobs(21, 260, count=500, sigma=(1.5, 6))


def masked(array, weight=None):
    picture = torch.as_tensor(np.asarray(array, np.float32))[None, None]
    return picture, torch.ones_like(picture) if weight is None else torch.as_tensor(np.float32(weight))[None, None]


def found(fixed, moving, model="similarity"):
    return matches.matched(keypoints.detected(*masked(fixed)), keypoints.detected(*masked(moving)), get_model(model))


@pytest.mark.parametrize("brightness", [1.0, -2.0])
def test_a_round_blob_is_found_where_it_is_and_as_large_as_it_is(brightness):
    y, x = np.mgrid[:80, :90]
    picture = brightness * np.exp(-((x - 51.3) ** 2 + (y - 37.6) ** 2) / (2 * 4.0**2))
    seen = keypoints.detected(*masked(picture))
    best = np.hypot(*(seen.points - (51.3, 37.6)).T).argmin()
    assert abs(seen.points[best] - (51.3, 37.6)).max() < 0.4
    assert 4 / 1.5 < seen.sizes[best] < 4 * 1.5


def test_a_direction_is_that_of_the_gradients():
    y, x = np.mgrid[:80, :90]
    picture = 0.3 * np.exp(-((x - 45) ** 2 + (y - 40) ** 2) / 50) + 0.1 * (x * math.cos(0.7) + y * math.sin(0.7))
    seen = keypoints.detected(*masked(picture))
    best = np.hypot(*(seen.points - (45, 40)).T).argmin()
    assert abs((seen.angles[best] - 0.7 + math.pi) % (2 * math.pi) - math.pi) < math.radians(10)


def test_nothing_is_found_under_a_mask_or_across_its_edge():
    weight = np.ones(SIZE)
    weight[:, 100:] = 0
    picture = np.where(weight > 0, render(SCENE, SIZE), 40.0)
    seen = keypoints.detected(*masked(picture, weight))
    assert len(seen) > 50
    assert (seen.points[:, 0] < 98).all()


@pytest.mark.parametrize("picture", [np.zeros(SIZE), np.mgrid[: SIZE[0], : SIZE[1]][1] * 1.0, np.zeros((9, 300))])
def test_pictures_without_blobs_match_nothing(picture):
    assert found(picture, render(SCENE, SIZE)) == []
    assert found(render(SCENE, SIZE), picture) == []


def test_blobs_are_spread_over_the_picture():
    loud = np.full(SIZE, 0.05)
    loud[:90, :110] = 1
    seen = keypoints.detected(*masked(render(SCENE, SIZE) * loud))
    quiet = (seen.points[:, 0] > 115) | (seen.points[:, 1] > 95)
    assert quiet.sum() > 0.2 * len(seen)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(("angle_deg", "scale"), [(0, 1.0), (77, 1.4), (-160, 0.5), (5, 2.4)])
def test_pictures_of_one_scene_match_at_any_rotation_and_scale(angle_deg, scale, negative):
    truth = about_centre(SIZE, angle_deg=angle_deg, scale=scale, shift=(9, -6))
    fixed, moving = pair(SCENE, SIZE, truth)
    best = found(fixed, 3 - moving if negative else moving)[0]
    assert corner_error(best.moving_from_fixed, truth, SIZE) < 2 * max(1, scale)


@pytest.mark.parametrize(("model", "tilt"), [("translate", 0), ("rigid", 0), ("affine", 0), ("homography", 4e-4)])
def test_the_model_is_fitted(model, tilt):
    angle_deg = 0 if model == "translate" else 20
    truth = about_centre(SIZE, angle_deg=angle_deg, shift=(13, 8), tilt=(tilt, -tilt))
    best = found(*pair(SCENE, SIZE, truth), model)[0]
    assert corner_error(best.moving_from_fixed, truth, SIZE) < 1
    linear = best.moving_from_fixed[:2, :2]
    assert model != "translate" or (linear == np.eye(2)).all()
    assert model != "rigid" or abs(np.linalg.det(linear) - 1) < 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_unrelated_pictures_match_nothing(seed):
    one, other = (render(Blobs(100 * seed + k, 260, count=500, sigma=(1.5, 6)), SIZE) for k in (1, 2))
    assert found(one, other) == []


def test_two_things_that_moved_apart_are_two_places():
    still, moved = about_centre(SIZE, shift=(6, 3)), about_centre(SIZE, shift=(-30, 12), angle_deg=15)
    fixed = render(SCENE, SIZE)
    there, thing = (render(SCENE, SIZE, np.linalg.inv(m)) for m in (still, moved))
    there[100:, 20:120] = thing[100:, 20:120]
    places = found(fixed, there)
    assert [min(corner_error(p.moving_from_fixed, m, SIZE) for p in places) < 3 for m in (still, moved)] == [True, True]
