"""Tiny pictures, and long and thin ones: aligned, or refused with a reason."""

import numpy as np
import pytest
from scenes import Blobs, about_centre, corner_error, pair

from imgalign import align
from imgalign.transforms import MODELS

SHIFT = (1.3, -0.6)


def scene(size_hw):
    """So many blobs that every ten pixels see one."""
    h, w = size_hw
    blobs = Blobs(5, 1, count=(h + 20) * (w + 20) // 12, sigma=(1.5, 3))
    blobs.centres = np.random.default_rng(6).uniform((-10, -10), (w + 10, h + 10), blobs.centres.shape)
    return blobs


def checked(fixed, moving, model, truth=None):
    result = align(fixed, moving, model=model)
    assert result.reasons
    if result.trusted:
        assert truth is not None
        assert corner_error(result.moving_from_fixed, truth, result.fixed_size_hw) < 1
    return result


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size_hw", [(8, 8), (9, 11), (10, 10), (12, 12), (14, 8), (8, 40), (10, 150), (24, 28)])
def test_tiny_pictures_are_aligned_or_refused(size_hw, model):
    truth = about_centre(size_hw, shift=SHIFT)
    fixed, moving = pair(scene(size_hw), size_hw, truth)
    checked(fixed, moving, model, truth)
    checked(*np.random.default_rng(3).random((2, *size_hw)), model)
    checked(fixed, np.random.default_rng(4).random(size_hw), model)


@pytest.mark.parametrize("model", ["translate", "homography"])
@pytest.mark.parametrize("size_hw", [(8, 300), (1000, 9), (20, 1000), (8, 3000), (24, 4000)])
def test_long_and_thin_pictures_are_aligned_or_refused(size_hw, model):
    truth = about_centre(size_hw, shift=SHIFT)
    result = checked(*pair(scene(size_hw), size_hw, truth), model, truth)
    if size_hw == (20, 1000):
        assert result.trusted
        assert corner_error(result.moving_from_fixed, truth, size_hw) < 0.05


def test_a_thin_picture_over_one_of_another_size_is_aligned_or_refused():
    size_hw, moving_hw = (4000, 10), (2003, 8)
    truth = about_centre(size_hw, shift=SHIFT, moving_hw=moving_hw)
    checked(*pair(scene(size_hw), size_hw, truth, moving_hw), "rigid", truth)


@pytest.mark.parametrize(("size_hw", "seed"), [((8, 200), 4), ((14, 8), 5), ((8, 40), 7), ((10, 8), 1)])
def test_noise_over_blurred_noise_is_refused(size_hw, seed):
    rng = np.random.default_rng(seed)
    blurred = rng.normal(size=(size_hw[0] + 2, size_hw[1] + 2))
    blurred = sum(blurred[y : y + size_hw[0], x : x + size_hw[1]] for y in range(3) for x in range(3))
    for model in ("similarity", "affine", "homography"):
        checked(blurred, rng.random(size_hw), model)
