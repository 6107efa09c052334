"""Neighbourhoods against SciPy's filters."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from imgalign.numerics.neighbours import around, largest, least


@pytest.fixture(params=[(1, 1), (2, 9), (23, 31)], ids=str)
def picture(request):
    return np.random.default_rng(2).normal(size=(2, 3, *request.param))


def of_each(filtered, pictures):
    return np.stack([np.stack([filtered(plane) for plane in planes]) for planes in pictures])


@pytest.mark.parametrize("reach", [1, 2, 3, 4, 7])
def test_largest_and_least_are_those_within_reach(picture, reach):
    for ours, theirs, beyond in ((largest, ndimage.maximum_filter, -np.inf), (least, ndimage.minimum_filter, np.inf)):
        wanted = of_each(lambda x: theirs(x, 2 * reach + 1, mode="constant", cval=beyond), picture)  # noqa: B023
        np.testing.assert_array_equal(ours(torch.as_tensor(picture), reach), wanted)


def test_the_sum_is_over_nine_pixels(picture):
    wanted = of_each(lambda x: ndimage.convolve(x, np.ones((3, 3)), mode="constant"), picture)
    np.testing.assert_allclose(around(torch.as_tensor(picture)), wanted, atol=1e-12)
