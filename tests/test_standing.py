"""What stands still in both pictures, over a scene that moves."""

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render
from scipy.ndimage import gaussian_filter

from imgalign import align
from imgalign.planes.standing import differ, explains, parted

SIZE = (220, 260)
TRUTHS = {
    "translate": about_centre(SIZE, shift=(14, -9)),
    "similarity": about_centre(SIZE, shift=(-11, 13), angle_deg=3, scale=1.02),
}


def scene(seed=1):
    return Blobs(seed, 260, count=500, sigma=(2.5, 7))


def views(truth, seed=1):
    return pair(scene(seed), SIZE, truth)


def sensor(rng):
    """A number of its own for every pixel, as strong as the scene."""
    return rng.normal(0, 0.5, SIZE)


def dust(rng):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    spots = zip(rng.uniform(0, SIZE[1], 40), rng.uniform(0, SIZE[0], 40), rng.uniform(3, 8, 40), strict=True)
    return -sum(3 / (1 + np.exp(np.hypot(x - cx, y - cy) - r)) for cx, cy, r in spots)


def grid(rng):
    lines = np.zeros(SIZE)
    lines[::30], lines[:, ::30] = -3, -3
    return lines


def masked(*pictures):
    planes = [torch.as_tensor(np.asarray(p, np.float32))[None, None] for p in pictures]
    return [(plane, torch.ones_like(plane)) for plane in planes]


@pytest.mark.parametrize("model", TRUTHS)
@pytest.mark.parametrize("pattern", [sensor, dust, grid])
def test_a_scene_is_found_behind_what_stands_still(pattern, model):
    rng = np.random.default_rng(4)
    over = pattern(rng)
    fixed, moving = (p + over + rng.normal(0, 0.02, SIZE) for p in views(TRUTHS[model]))
    found = align(fixed, moving, model=model)
    assert corner_error(found.moving_from_fixed, TRUTHS[model], SIZE) < max(0.3, 3 * found.corner_sigma_px)
    assert found.trusted


@pytest.mark.parametrize("optimizer", ["lm", "lbfgs"])
def test_what_was_set_aside_is_said(optimizer):
    rng = np.random.default_rng(4)
    over = 2 * sensor(rng)
    fixed, moving = (p + over + rng.normal(0, 0.02, SIZE) for p in views(TRUTHS["translate"]))
    found = align(fixed, moving, model="translate", optimizer=optimizer)
    assert corner_error(found.moving_from_fixed, TRUTHS["translate"], SIZE) < 1
    assert "what stands still in both pictures was set aside" in found.reasons


def still(change, rng):
    """Two pictures of one scene from one place, of which something has changed."""
    picture = render(scene(), SIZE)
    one, other = picture.copy(), picture.copy()
    if change == "a thing moved":
        thing = render(Blobs(8, 260, count=900, sigma=(2, 4)), SIZE)[:70, :70]
        one[30:100, 40:110], other[60:130, 90:160] = thing, thing
    if change == "another light":
        other *= np.exp(gaussian_filter(rng.normal(0, 40, SIZE), 40) + np.linspace(-0.5, 0.5, SIZE[1]))
    return [p + rng.normal(0, 0.02, SIZE) for p in (one, other)]


@pytest.mark.parametrize("change", ["noise", "a thing moved", "another light"])
def test_a_scene_that_stands_still_is_no_pattern(change):
    fixed, moving = still(change, np.random.default_rng(2))
    assert not differ(*masked(fixed, moving))
    found = align(fixed, moving, model="similarity")
    assert corner_error(found.moving_from_fixed, np.eye(3), SIZE) < 0.1
    assert found.trusted
    assert not any("left out" in reason or "set aside" in reason for reason in found.reasons)


def test_only_the_right_place_explains_what_is_left():
    truth, over = TRUTHS["similarity"], dust(np.random.default_rng(1))
    pictures = masked(*(p + over for p in views(truth)))
    assert differ(*pictures)
    assert explains(*pictures, truth)
    for wrong in (np.eye(3), np.linalg.inv(truth), about_centre(SIZE, shift=(40, 5)), about_centre(SIZE, angle_deg=90)):
        assert not explains(*pictures, wrong)


@pytest.mark.parametrize("pattern", [sensor, dust])
def test_parted_pictures_show_more_of_the_scene_and_do_not_correlate(pattern):
    over = 2 * pattern(np.random.default_rng(1))
    one, other = views(TRUTHS["translate"])
    (f, _), (m, _) = parted(*masked(one + over, 3 * (other + over) - 7))

    def alike(a, b):
        return abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])

    assert alike(one + over, other + over) > 0.8
    assert alike(f, m) < 0.5 * alike(one + over, other + over)
    for picture, there in ((f, one), (m, other)):
        assert alike(picture, there) > 1.5 * alike(there + over, there)
