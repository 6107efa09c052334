"""Curves of grey values: what they explain, and where they lead."""

import math

import numpy as np
import pytest
import torch
from other_device import OtherDevice
from scenes import Blobs, about_centre, corner_error, pair, render
from tissues import SIZE, SKIN_ON_BONE, TRUTH, heads

from imgalign.planes.levels import Levels
from imgalign.refine.correlation_ratio import Curve, climb, explained, fitted
from imgalign.transforms import get_model


def masked(array, weight=None):
    image = torch.as_tensor(np.asarray(array, np.float32))[None, None]
    return image, torch.ones_like(image) if weight is None else torch.as_tensor(weight, dtype=torch.float32)[None, None]


def test_a_curve_is_straight_between_its_knots_and_level_beyond():
    curve = Curve(np.array([0.0, 1.0, 3.0]), np.array([5.0, 7.0, 1.0]))
    image = torch.tensor([-9.0, 0.0, 0.5, 1.0, 2.0, 3.0, 99.0], dtype=torch.float64)
    assert curve(image).tolist() == [5.0, 5.0, 6.0, 7.0, 4.0, 1.0, 1.0]
    assert curve(image.float()).dtype == torch.float32


def test_a_fitted_curve_turns_as_the_tone_does():
    values = np.random.default_rng(0).uniform(-1, 1, 20_000)
    curve, share = fitted(values, values**2)
    assert share > 0.999
    at = np.linspace(-0.95, 0.95, 20)
    # Between knots an eighth apart a parabola is 1/256 off its chord at most.
    assert np.abs(np.interp(at, *curve) - at**2).max() < 1 / 128


def test_what_noise_adds_is_not_explained():
    rng = np.random.default_rng(1)
    values = rng.uniform(-1, 1, 50_000)
    tone = np.sin(3 * values)
    share = fitted(values, tone + rng.normal(0, 0.5, values.shape))[1]
    assert share == pytest.approx(tone.var() / (tone.var() + 0.25), abs=0.01)
    assert fitted(values, rng.normal(size=values.shape))[1] < 0.002


@pytest.mark.parametrize("flat", [0, 1], ids=["values", "wanted"])
def test_what_is_alike_everywhere_has_no_curve(flat):
    both = [np.linspace(0, 1, 50), np.linspace(0, 1, 50)]
    both[flat] = np.full(50, 3.0)
    assert fitted(*both) is None


@pytest.mark.parametrize("of_moving", [False, True])
def test_the_curve_is_that_of_the_picture_that_tells_the_other(of_moving):
    """A square forgets the sign: it is told by what it is the square of, not the other way round."""
    scene = render(Blobs(3, 120.0), (100, 120))
    both = masked(scene), masked(scene**2)
    found = explained(*(both[::-1] if of_moving else both), np.eye(3))
    assert found.share > 0.99 > found.straight + 0.2
    assert found.overlap == pytest.approx(1)
    assert found.information == pytest.approx(-math.log(1 - found.share), rel=1e-3)
    fixed, under = found.problem.fixed, found.problem.read(np.eye(3)[None])[0]
    assert float((fixed - under).std()) < 0.1 * float(fixed.std())  # both are now in the tone of the square


def test_what_lies_under_a_mask_tells_no_curve():
    scene = render(Blobs(3, 120.0), (100, 120))
    spoilt, seen = scene.copy(), np.ones(scene.shape)
    spoilt[20:60, 30:80], seen[20:60, 30:80] = 50.0, 0.0
    clean = explained(masked(scene), masked(scene**2), np.eye(3))
    found = explained(masked(spoilt, seen), masked(scene**2), np.eye(3))
    assert found.share == pytest.approx(clean.share, abs=0.01)


@pytest.mark.parametrize("moving", [np.full((100, 120), 7.0), np.ones((8, 9))], ids=["flat", "few pixels"])
def test_pictures_without_a_curve_are_left_alone(moving):
    scene = render(Blobs(3, 120.0), (100, 120))
    assert explained(masked(scene), masked(moving), np.eye(3)) is None
    assert climb(Levels(masked(scene), masked(moving)), np.eye(3), get_model("affine")) is None


def test_one_modality_is_not_climbed():
    fixed, moving = pair(Blobs(4, 260.0), SIZE, TRUTH)
    beside = about_centre(SIZE, shift=(12, -6), angle_deg=6, scale=1.04)
    assert climb(Levels(masked(fixed), masked(moving)), beside, get_model("affine")) is None


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_a_climb_leads_from_skin_on_bone_to_skin_on_skin(model):
    levels = Levels(*(masked(x) for x in heads(1)))
    with torch.no_grad():
        found = climb(levels, SKIN_ON_BONE, get_model(model))
    error = corner_error(found.moving_from_fixed, TRUTH, SIZE)
    # Outlines of 1 px, of which the tones of both pictures make different mixtures, are no exact match of any curve.
    assert error < 1.5
    assert found.after.information > found.before.information + 0.5
    assert 0 < math.sqrt(np.trace(found.known.covariance)) < 3


@pytest.mark.parametrize("model", ["translate", "rigid"])
def test_a_climb_keeps_to_the_model(model):
    truth = about_centre(SIZE, shift=(9, -6))
    levels = Levels(*(masked(x) for x in heads(2, truth)))
    with torch.no_grad():
        found = climb(levels, about_centre(SIZE, shift=(20, 3)), get_model(model))
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 1
    np.testing.assert_allclose(np.linalg.det(found.moving_from_fixed[:2, :2]), 1, atol=1e-9)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_another_device_is_led_alike(kind):
    pictures, model = [masked(x) for x in heads(1)], get_model("similarity")
    with torch.no_grad():
        here = climb(Levels(*pictures), SKIN_ON_BONE, model)
        with OtherDevice(kind) as device:
            there = climb(Levels(*(tuple(x.to(device.place) for x in p) for p in pictures)), SKIN_ON_BONE, model)
    assert device.arrived > 0
    assert corner_error(there.moving_from_fixed, here.moving_from_fixed, SIZE) < 1e-3
    np.testing.assert_allclose(there.known.covariance, here.known.covariance, rtol=0.01)
