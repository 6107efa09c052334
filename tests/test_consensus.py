import math

import numpy as np
import pytest
from scenes import about_centre, corner_error
from scipy import stats

from imgalign.decompose import mapped
from imgalign.start.consensus import closer_and_closer, held, similarity, surprise
from imgalign.transforms import MODELS

SIZE = (200, 240)
TRUTH = about_centre(SIZE, angle_deg=4, scale=1.05, shift=(5, -3), tilt=(2e-4, -1e-4))


def test_surprise_bounds_the_binomial_tail():
    met, of, chance = np.array([0, 2, 5, 9, 20]), np.array([20, 20, 20, 20, 20]), 0.1
    nats = surprise(met, of, chance)
    tail = stats.binom.sf(met - 1, of, chance)
    assert nats[0] == nats[1] == 0  # no more than chance brings
    assert (np.exp(-nats[2:]) >= tail[2:] * (1 - 1e-9)).all()
    assert (np.exp(-nats[2:]) < 10 * tail[2:]).all()
    assert nats[-1] == pytest.approx(-20 * math.log(chance))


@pytest.mark.parametrize(("model", "expected"), [("translate", 1), ("rigid", 0.6 + 0.8j), ("similarity", 3 + 4j)])
def test_turns_are_held_to_what_a_model_allows(model, expected):
    assert held(np.array([3 + 4j]), MODELS[model]) == pytest.approx([expected])


def test_a_similarity_turns_grows_and_shifts():
    assert mapped(similarity(2j, 1 - 1j), [[3.0, 4.0]]).tolist() == [[-7, 5]]  # 2i (3 + 4i) + 1 - i


def agreeing_of(points, targets):
    def agreeing(matrix, reach):
        near = np.linalg.norm(mapped(matrix, points) - targets, axis=1) < reach
        return points[near], targets[near]

    return agreeing


def test_a_fit_comes_closer_and_lets_go_of_what_does_not_agree():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 200, (60, 2))
    targets = mapped(TRUTH, points)
    targets[:15] += rng.uniform(-60, 60, (15, 2))
    stages = [(MODELS["similarity"], 8), (MODELS["homography"], 8)]
    fitted = closer_and_closer(np.eye(3), stages, agreeing_of(points, targets), 30.0, 6)
    assert len(fitted) == 2
    assert corner_error(fitted[1], TRUTH, SIZE) < min(0.5, corner_error(fitted[0], TRUTH, SIZE))


def test_too_few_points_fit_nothing():
    points = np.random.default_rng(1).uniform(0, 200, (7, 2))
    assert closer_and_closer(np.eye(3), [(MODELS["rigid"], 8)], agreeing_of(points, points), 30.0, 2) == []
