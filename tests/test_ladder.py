from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair

from imgalign.planes.levels import Levels
from imgalign.refine.ladder import Ladder, _survivors
from imgalign.refine.uncertainty import Known
from imgalign.start.search import Hypothesis
from imgalign.transforms import MODELS

SIZE = (120, 144)
TRUTH = about_centre(SIZE, shift=(4, -3), angle_deg=5)


@pytest.fixture(scope="module")
def ladder():
    pictures = (torch.as_tensor(p.astype(np.float32))[None, None] for p in pair(Blobs(41, 144, count=300), SIZE, TRUTH))
    return Ladder(Levels(*((p, torch.ones_like(p)) for p in pictures)), 1)


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
    start = about_centre(SIZE, shift=(3.5, -3), angle_deg=5)
    found = ladder.finest(start, TRUTH, MODELS["rigid"], SIZE)
    error = corner_error(found.moving_from_fixed, TRUTH, SIZE)
    assert error < 0.02
    sigma = float(found.known.covariance.trace()) ** 0.5
    assert 0 < sigma < 0.05
    assert error < 5 * sigma
    assert error < 3 * found.doubt_px < 0.2


def of_levels(answers, monkeypatch):
    """A ladder whose levels give these shifts along x with an error of a tenth of a pixel, from coarse to fine."""
    pictures = torch.rand(2, 1, 1, 300, 400, generator=torch.Generator().manual_seed(0))
    ladder, left = Ladder(Levels(*((p, torch.ones_like(p)) for p in pictures)), 1), iter(answers)
    known = Known(*2 * [np.eye(2) * 0.005], 1.0)

    def settled(*_):
        return SimpleNamespace(
            moving_from_fixed=about_centre((300, 400), shift=(next(left), 0)),
            known=lambda _: known,
            rung=ladder.rung(ladder.reductions[-1], 1.0),
        )

    monkeypatch.setattr(ladder, "_settled", settled)
    return ladder


@pytest.mark.parametrize(
    ("answers", "taken", "doubt"),
    [
        ((1, 2, 2.2), 2.2, 0.32),  # the finer of two that agree
        ((9, 2, 4), 4, 2.66),  # of a series that comes to rest
        ((2.5, 2, 4), 2, 2.0),  # detail pulls: the coarser
        ((10, 2, 2), 2, 2),
    ],
)
def test_levels_that_differ_leave_doubt(answers, taken, doubt, monkeypatch):
    found = of_levels(answers, monkeypatch).finest(np.eye(3), np.eye(3), MODELS["translate"], (300, 400))
    assert found.moving_from_fixed[0, 2] == pytest.approx(taken)
    assert found.doubt_px == pytest.approx(doubt, abs=0.005)


def test_the_finest_features_know_how_much_better_they_fit(ladder):
    close, far = (about_centre(SIZE, shift=shift, angle_deg=5) for shift in ((4.05, -3), (8, -3)))
    better = [ladder.finest(TRUTH, grey, MODELS["rigid"], SIZE).better for grey in (TRUTH, close, far)]
    assert abs(better[0]) < 0.01
    assert better[0] < better[1] < 0.05
    assert better[2] > 0.2
    nowhere = about_centre(SIZE, shift=(500, 0))
    assert ladder.finest(TRUTH, nowhere, MODELS["rigid"], SIZE).better == np.inf


def test_all_survive_where_none_has_a_score(ladder):
    rung = ladder.rung(ladder.reductions[0], 1.0)
    nowhere = SimpleNamespace(
        final=np.tile(np.eye(3), (3, 1, 1)), overlap=np.full(3, 0.9), correlation=np.full(3, np.nan)
    )
    assert _survivors(nowhere, rung, 0.4).tolist() == [0, 1, 2]
