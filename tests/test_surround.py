import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair

from imgalign import align
from imgalign.planes import surround
from imgalign.planes.intake import plane

SIZE = (200, 240)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
APERTURES = {
    "disc": np.hypot(X - 119.5, Y - 99.5) < 92,
    "sector": (abs(X - 120) < 0.9 * (Y + 10)) & (np.hypot(X - 120, Y + 10) < 190),
    "bars": (Y > 25) & (Y < 175),
    "frame": (Y > 14) & (Y < 186) & (X > 20) & (X < 220),
}
SCENE = Blobs(3, 260, count=400, sigma=(2, 6))


def shared(fixed, moving):
    return surround.shared(*(plane(p, None, torch.device("cpu"), "fixed").at(1) for p in (fixed, moving)))


def behind(aperture, pictures, seed=0):
    """Pictures seen through an aperture, with a little noise all over."""
    rng = np.random.default_rng(seed)
    low = min(p.min() for p in pictures) - 1.0
    return [np.where(aperture, p, low) + 0.01 * rng.normal(size=SIZE) for p in pictures]


@pytest.mark.parametrize("name", APERTURES)
def test_what_surrounds_both_alike_is_found(name):
    aperture = APERTURES[name]
    inside = shared(*behind(aperture, pair(SCENE, SIZE, about_centre(SIZE, shift=(25, -12)))))
    assert not (inside & ~aperture).any()
    # Less two pixels along its rim.
    assert inside.sum() > 0.85 * aperture.sum()


@pytest.mark.parametrize("name", APERTURES)
@pytest.mark.parametrize("model", ["translate", "rigid", "affine"])
def test_a_scene_that_moves_behind_an_aperture_is_aligned(name, model):
    truth = about_centre(SIZE, shift=(25, -12), angle_deg=0 if model == "translate" else 2)
    found = align(*behind(APERTURES[name], pair(SCENE, SIZE, truth)), model=model)
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 0.1
    assert found.trusted
    assert "left out" in found.reasons[-1]


def test_a_frame_alone_is_not_trusted():
    rng = np.random.default_rng(1)
    scenes = [Blobs(seed, 260, count=400, sigma=(2, 6))(X, Y) for seed in (11, 12)]
    for aperture in APERTURES.values():
        found = align(*(np.where(aperture, s, -3) + 0.01 * rng.normal(size=SIZE) for s in scenes), model="rigid")
        assert not found.trusted


def test_what_is_not_found_behind_a_frame_is_said_to_be_the_frames():
    # Next to no overlap inside it: too little to be found, and the frame agrees with itself.
    frame = APERTURES["frame"]
    fixed, moving = behind(frame, pair(SCENE, SIZE, about_centre(SIZE, shift=(170, 125))))
    found = align(fixed, moving, model="translate")
    assert not found.trusted
    assert "surround" in found.reasons[-1]


@pytest.mark.parametrize("shift", [(0.6, -0.3), (5, 2)])
def test_a_thing_of_one_tone_is_aligned_by_its_rim(shift):
    truth = about_centre(SIZE, shift=shift)

    def disc(x, y):
        return 1 / (1 + np.exp((np.hypot((x - 119.5) / 1.1, y - 99.5) - 70) / 1.2))

    fixed, moving = pair(disc, SIZE, truth)
    assert shared(fixed, moving) is None
    found = align(fixed, moving, model="translate")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 0.05


@pytest.mark.parametrize("shift", [(6, 3), (3, -7)])
def test_a_thing_on_plain_ground_that_moves_is_no_aperture(shift):
    truth = about_centre(SIZE, shift=shift)

    def coin(x, y):
        return np.where(np.hypot(x - 119.5, y - 99.5) < 80, 3 + SCENE(x, y), 0)

    assert shared(*pair(coin, SIZE, truth)) is None
    found = align(*pair(coin, SIZE, truth), model="translate")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 0.1


def test_stars_and_skies_are_no_frames():
    rng = np.random.default_rng(3)
    stars = sum(np.exp(-((X - a) ** 2 + (Y - b) ** 2) / 4) for a, b in rng.uniform(10, 190, (30, 2)))
    assert shared(stars, stars) is None
    skyline = np.where(70 + 20 * np.sin(X / 9) > Y, 5.0, SCENE(X, Y))
    assert shared(skyline, np.roll(skyline, 6, 1)) is None
    assert shared(SCENE(X, Y), SCENE(X, Y)) is None


def test_masked_pictures_and_those_of_two_sizes_are_left_as_they_are():
    fixed, moving = behind(APERTURES["disc"], pair(SCENE, SIZE, about_centre(SIZE, shift=(25, -12))))
    masked = plane(fixed, APERTURES["disc"], torch.device("cpu"), "fixed").at(1)
    other = plane(moving, None, torch.device("cpu"), "moving").at(1)
    assert surround.shared(masked, other) is None
    assert shared(fixed, moving[:-4]) is None


@pytest.mark.parametrize(("turn", "shift", "expected"), [(0, 0, True), (37, 0, True), (0, 30, False)])
def test_a_disc_stays_where_it_is_when_it_turns(turn, shift, expected):
    inside = APERTURES["disc"]
    large = (400, 480)
    assert surround.stays(inside, about_centre(large, angle_deg=turn, shift=(shift, 0)), large) == expected
