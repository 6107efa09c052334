import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair

from imgalign.ladder import Ladder
from imgalign.search import Hypothesis
from imgalign.transforms import MODELS

SIZE = (120, 144)
TRUTH = about_centre(SIZE, shift=(4, -3), angle_deg=5)


@pytest.fixture(scope="module")
def ladder():
    pictures = (torch.as_tensor(p.astype(np.float32))[None, None] for p in pair(Blobs(41, 144, count=300), SIZE, TRUTH))
    return Ladder(*((p, torch.ones_like(p)) for p in pictures), 1)


def hypotheses(*shifts_x):
    return [Hypothesis(about_centre(SIZE, shift=(x, 0)), 0.0) for x in shifts_x]


def test_the_best_of_many_is_refined(ladder):
    best = ladder.climb(hypotheses(-40, 2, 30, 60), MODELS["rigid"], SIZE, wide=False)[0]
    assert corner_error(best.moving_from_fixed, TRUTH, SIZE) < 0.2


@pytest.mark.parametrize("count", [1, 4])
def test_nothing_is_left_where_no_hypothesis_overlaps(ladder, count):
    far = hypotheses(*(400 + 50 * k for k in range(count)))
    assert ladder.climb(far, MODELS["affine"], SIZE, wide=False) == []


def test_the_finest_features_say_how_exact_they_are(ladder):
    matrix, covariance = ladder.finest(about_centre(SIZE, shift=(3.5, -3), angle_deg=5), MODELS["rigid"], SIZE)
    error = corner_error(matrix, TRUTH, SIZE)
    assert error < 0.02
    sigma = float(covariance.trace()) ** 0.5
    assert 0 < sigma < 0.05
    assert error < 5 * sigma
