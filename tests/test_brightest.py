"""What is found, before `center` makes an alignment of it; pictures of all kinds are tested there."""

import math

import numpy as np
import pytest
import torch

from imgalign.errors import ShapeError
from imgalign.refine.brightest import Sought, midpoint, robust

SIZE = (80, 100)
MIDDLE = (50, 40)


def sought(x, y, sampler="cubic", sigma=3.0, hot=False):
    """A Gaussian at `(x, y)` on a little noise."""
    rows, columns = np.indices(SIZE)
    picture = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    picture += np.random.default_rng(0).normal(0, 0.005, SIZE)
    if hot:
        picture[5, 5] = 30
    image = torch.as_tensor(picture)[None, None]
    return Sought(image, torch.ones_like(image), sampler, None, None, math.inf)


@pytest.mark.parametrize("hot", [False, True])
def test_the_brightest_neighbourhood_is_found_beside_a_hot_pixel(hot):
    found = robust(sought(33.3, 52.6, hot=hot), None)
    assert found.shift == pytest.approx((MIDDLE[0] - 33.3, MIDDLE[1] - 52.6), abs=0.05)
    assert found.status == "converged"
    assert found.probability > 0.99


def test_plain_descent_climbs_from_the_middle():
    found = midpoint(sought(52.4, 39.2, sigma=6.0))
    assert found.shift == pytest.approx((-2.4, 0.8), abs=0.3)


def test_a_flat_picture_has_no_structure():
    flat = torch.ones(1, 1, *SIZE)
    for find in (midpoint, lambda s: robust(s, None)):
        found = find(Sought(flat, torch.ones_like(flat), "cubic", None, None, math.inf))
        assert (found.status, found.shift, found.probability) == ("no structure", (0.0, 0.0), 0.0)


def test_a_neighbourhood_wider_than_the_picture_is_refused():
    with pytest.raises(ShapeError, match="wider than the picture, 100 x 80"):
        robust(sought(50, 40), 81.0)
