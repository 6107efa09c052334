"""Patches and fine detail; what the parts say is tested with the evidence made of it, in `test_verdict`."""

import math

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, pair
from scipy.ndimage import gaussian_filter

from imgalign.judge.agreement import distinctness, fine_agreement

SIZE = (120, 144)


def planes(array):
    tensor = torch.as_tensor(array.astype(np.float32))[None, None]
    return tensor, torch.ones_like(tensor)


@pytest.mark.parametrize(("off", "least", "most"), [((0, 0), 0.9, 1), ((1, 0.5), 0.9, 1), ((4, -3), 0, 0.3)])
def test_patches_of_the_finest_level_see_what_is_off_by_some_pixels(off, least, most):
    size = (300, 360)
    truth = about_centre(size, shift=(4, -3), angle_deg=12)
    fixed, moving = (planes(p) for p in pair(Blobs(41, 360, count=2000, sigma=(2, 6)), size, truth))
    assert least <= fine_agreement(fixed, moving, about_centre(size, shift=off) @ truth) <= most


def test_patches_of_mere_noise_say_nothing():
    fixed, moving = (planes(np.random.default_rng(k).normal(0, 1, SIZE)) for k in (1, 2))
    assert fine_agreement(fixed, moving, np.eye(3)) > 0.8


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("large", [0, 3])
def test_shared_detail_is_distinct_and_chance_is_not(sign, large):
    """By the ratio that correlations of a share of white detail have, over what they scatter by elsewhere."""
    rng = np.random.default_rng(2)
    shape, share = (150, 170), 0.3
    grain, others = rng.normal(size=shape), rng.normal(size=(2, *shape))
    waves = large * gaussian_filter(rng.normal(size=(2, *shape)), (0, 6, 6)) * 6 * math.sqrt(4 * math.pi)
    shift = np.array([[1, 0, 5], [0, 1, -3], [0, 0, 1.0]])

    def picture(k, common):
        values = math.sqrt(common) * grain + math.sqrt(1 - common) * others[k] + waves[k]
        image = torch.as_tensor(np.float32(values if k == 0 else sign * np.roll(values, (-3, 5), (0, 1))))[None, None]
        return image, torch.ones_like(image)

    shared = distinctness(picture(0, share), picture(1, share), shift)
    overlap = (shape[0] - 3) * (shape[1] - 5)
    expected = share * math.sqrt(overlap) / (1 + large**2)  # waves are as strong as the grain, times `large`
    assert shared > (0.8 if large == 0 else 1) * expected
    if large == 0:
        assert shared < 1.3 * expected
    assert distinctness(picture(0, 0), picture(1, 0), shift) < 5
    assert distinctness(picture(0, share), picture(1, share), np.eye(3)) < 5


def test_flat_pictures_are_not_distinct():
    flat = torch.zeros(1, 1, 60, 70)
    assert distinctness((flat, torch.ones_like(flat)), (flat, torch.ones_like(flat)), np.eye(3)) == 0
