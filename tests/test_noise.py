import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render, tensor

import imgalign
from imgalign.numerics.noise import noise_variance, rounding_variance

SIZE = (200, 240)
SCENE = Blobs(12, 240, count=900, sigma=(2.5, 5))


def test_noise_is_measured_beside_structure():
    rng = np.random.default_rng(2)
    slope = 0.3 * np.arange(float(SIZE[1]))
    picture = render(Blobs(12, 180, count=40, sigma=(4, 9)), SIZE) + slope + rng.normal(0, 0.5, SIZE)
    # A fourth of 48000 pixels: the median scatters by a hundredth.
    assert float(noise_variance(tensor(picture))) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("levels", [2, 5, 16])
def test_rounding_to_few_values_leaves_what_it_leaves(levels):
    picture = render(SCENE, SIZE)
    scaled = (picture - picture.min()) / np.ptp(picture) * (levels - 1)
    rounded = 7.0 * np.round(scaled)
    assert rounding_variance(tensor(rounded)) == pytest.approx(7.0**2 / 12)
    if levels > 5:  # with fewer, values are not spread evenly over a step
        assert rounding_variance(tensor(rounded)) == pytest.approx(np.var(rounded - 7.0 * scaled), rel=0.25)


def test_many_values_are_not_rounded():
    assert rounding_variance(tensor(np.round(255 * render(SCENE, SIZE)))) == 0
    assert rounding_variance(torch.ones(1, 1, 8, 8)) == 0


@pytest.mark.parametrize("levels", [2, 4])
def test_rounding_to_few_values_draws_no_shift_to_whole_pixels(levels):
    truth = about_centre(SIZE, shift=(5.2, -3.15))
    pictures = pair(SCENE, SIZE, truth)
    edges = np.quantile(pictures[0], np.arange(1, levels) / levels)
    rounded = (np.digitize(picture, edges).astype(np.uint8) * (255 // (levels - 1)) for picture in pictures)
    found = imgalign.align(*rounded, model="translate")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 0.015
