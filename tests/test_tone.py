import numpy as np
import pytest
import torch
from scenes import TRUTHS, Blobs, about_centre, corner_error, pair, render

from imgalign import align
from imgalign.refine.light import View
from imgalign.refine.tone import tone_curve, toned

SIZE = (150, 180)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)


def shades(seed=11):
    """A scene between 0 and 1."""
    picture = render(Blobs(seed, 180, count=400, sigma=(2, 5)), SIZE)
    return (picture - picture.min()) / np.ptp(picture)


def view(fixed, warped, noise=0.004):
    rng = np.random.default_rng(3)
    fixed, warped = (p + rng.normal(0, noise, SIZE) for p in (fixed, warped))
    return View(*(torch.as_tensor(np.asarray(p, np.float32))[None, None] for p in (fixed, warped, np.ones(SIZE))))


TONES = {
    "gamma": lambda v: v**1.6,
    "negative": lambda v: 1 - v**1.4,
    "clipped": lambda v: np.minimum(v, 0.55),
}


@pytest.mark.parametrize("name", TONES)
def test_a_tone_curve_is_found_from_the_side_that_knows_more(name):
    picture = shades()
    found = toned(view(TONES[name](picture), picture), True)
    assert found is not None
    assert found.of_moving or name in ("gamma", "negative")
    if found.of_moving:
        left = found.curve(torch.as_tensor(picture)).numpy() - TONES[name](picture)
        # A polynomial rounds the corner of what is clipped.
        assert left.std() < (0.15 if name == "clipped" else 0.05) * TONES[name](picture).std()


@pytest.mark.parametrize(
    ("gain", "bias"),
    [(0.4, 0.3), (-1.5, 0.0), (1 + 0.5 * np.sin(X / 60), 0.0), (np.exp(-(X**2 + Y**2) / 6e4), 0.002 * X)],
    ids=["line", "inverted", "changing light", "vignette"],
)
def test_what_a_gain_explains_is_no_curve(gain, bias):
    picture = shades()
    assert toned(view(gain * picture + bias, picture), True) is None


def test_a_tone_that_turns_back_is_no_curve():
    picture = shades()
    assert toned(view((picture - np.median(picture)) ** 2, picture), True) is None


def test_a_few_bright_points_tell_no_curve():
    stars = render(Blobs(4, 180, count=25, sigma=(1.5, 1.6)), SIZE) ** 2
    assert tone_curve(stars.ravel(), stars.ravel() ** 1.6) is None


@pytest.mark.parametrize("sigma", [0.05, 0.2])
@pytest.mark.parametrize("noisy", [0, 1])
def test_noise_of_one_picture_before_dark_ground_is_no_curve(noisy, sigma):
    rng = np.random.default_rng(8)
    stars = sum(np.exp(-((X - x) ** 2 + (Y - y) ** 2) / 8) for x, y in rng.uniform(0, 180, (20, 2)))
    sigmas = [0.001, 0.001]
    sigmas[noisy] = sigma
    pictures = (torch.as_tensor(stars + s * rng.normal(0, 1, SIZE), dtype=torch.float32)[None, None] for s in sigmas)
    seen = View(*pictures, torch.ones(1, 1, *SIZE))
    assert toned(seen, True) is not None  # which by itself it looks like
    assert toned(seen, True, noise=tuple(np.square(sigmas))) is None


@pytest.mark.parametrize("noise", [0.005, 0.02])
def test_a_curve_is_found_through_noise(noise):
    picture = shades()
    assert toned(view(picture**3, picture, noise), True, noise=(noise**2, noise**2)) is not None


def test_unrelated_pictures_have_no_curve():
    assert toned(view(shades(1), shades(2)), True) is None


def test_what_lies_over_the_scene_takes_no_part():
    picture = shades()
    covered = np.where((X > 30) & (X < 80) & (Y > 40) & (Y < 90), 0.9, picture**1.8)
    found = toned(view(covered, picture), True)
    assert found is not None
    other = picture if found.of_moving else picture**1.8
    wanted = picture**1.8 if found.of_moving else picture
    left = found.curve(torch.as_tensor(other)).numpy() - wanted
    assert np.median(np.abs(left)) < 0.02 * wanted.std()


def test_a_curve_goes_on_straight_beyond_its_ends():
    values = np.linspace(0, 1, 2000)
    curve = tone_curve(values, values**3)
    assert curve is not None
    ends = curve(torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64))
    assert float(ends[2] - ends[1]) == pytest.approx(float(ends[1] - ends[0]), rel=1e-6)
    assert float(ends[2] - ends[1]) == pytest.approx(1.5, rel=0.1)  # the slope of the cube at 1, half a unit on


def test_a_single_value_has_no_curve():
    assert tone_curve(np.ones(500), np.random.default_rng(0).uniform(size=500)) is None


@pytest.mark.parametrize("name", ["gamma", "negative"])
def test_another_tone_moves_no_answer(name):
    size = (200, 220)
    truth = about_centre(size, **TRUTHS["similarity"])
    errors = []
    for seed in (5, 6, 7, 8):
        pictures = np.stack(pair(Blobs(seed, 220, count=300, sigma=(2, 5)), size, truth))
        fixed, moving = (pictures - pictures.min()) / np.ptp(pictures)
        noise = np.random.default_rng(seed).normal(0, 0.004, (2, *size))
        answer = align(TONES[name](fixed) + noise[0], moving + noise[1], model="similarity")
        errors.append(corner_error(answer.moving_from_fixed, truth, size))
    # Noise alone leaves about 0.005; what a local gain leaves of the curve pulled more than twice as far.
    assert np.mean(errors) < 0.009
