import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, pair
from scipy.ndimage import gaussian_filter

from imgalign.judge.verdict import Evidence, beside, collect, probability, reasons
from imgalign.planes.levels import Levels
from imgalign.refine.ladder import Ladder
from imgalign.start.search import Hypothesis

SIZE = (120, 144)
SCENE, OTHER = (Blobs(seed, 144, count=300, sigma=(2, 6)) for seed in (41, 4321))
TRUTH = about_centre(SIZE, shift=(4, -3), angle_deg=12)
GOOD = Evidence(40, 1.0, 3.0, 0.9, 1.2, 0.95, 0.9, 3.5, corner_sigma_px=0.02)


def planes(array):
    tensor = torch.as_tensor(array.astype(np.float32))[None, None]
    return tensor, torch.ones_like(tensor)


def evidence(fixed, moving, matrix, rivals=()):
    ladder = Ladder(Levels(planes(fixed), planes(moving)), 1)
    rung = ladder.rung(ladder.reductions[-1], 1.0)
    answer = Hypothesis(matrix, 50.0)
    return collect(rung.problem, rung.to_level(matrix), [answer, *rivals], SIZE)


def test_the_right_answer_agrees_in_every_part():
    seen = evidence(*pair(SCENE, SIZE, TRUTH), TRUTH)
    assert seen.parts > 0.9
    assert seen.likeness > 0.8


@pytest.mark.parametrize("wrong", ["shifted", "unrelated", "noise"])
def test_a_wrong_answer_does_not(wrong):
    fixed, moving = pair(SCENE, SIZE, TRUTH)
    right = evidence(fixed, moving, TRUTH)
    if wrong == "unrelated":
        moving = pair(OTHER, SIZE, TRUTH)[1]
    if wrong == "noise":
        moving = np.random.default_rng(0).normal(0, 1, SIZE)
    seen = evidence(fixed, moving, about_centre(SIZE, shift=(6, 0)) @ TRUTH if wrong == "shifted" else TRUTH)
    assert seen.parts < 0.4
    assert seen.peak < 0.5 * right.peak
    assert seen.likeness < 0.5 * right.likeness


def test_inverted_contrast_agrees_as_well():
    fixed, moving = pair(SCENE, SIZE, TRUTH)
    plain, inverted = evidence(fixed, moving, TRUTH), evidence(fixed, -moving, TRUTH)
    assert inverted.parts == pytest.approx(plain.parts, abs=0.05)
    assert inverted.peak == pytest.approx(plain.peak, rel=0.05)


def test_a_turn_that_fits_only_in_the_middle_agrees_in_few_parts():
    tilted = about_centre(SIZE, angle_deg=10) @ TRUTH
    assert evidence(*pair(SCENE, SIZE, TRUTH), tilted).parts < 0.5


def test_a_rival_far_away_lowers_the_margin_and_one_close_by_does_not():
    two = pair(SCENE, SIZE, TRUTH)
    near, far = (Hypothesis(about_centre(SIZE, shift=(d, 0)) @ TRUTH, 45.0) for d in (1, 20))
    assert evidence(*two, TRUTH, [near]).margin == 1.5
    seen = evidence(*two, TRUTH, [far])
    assert seen.margin == pytest.approx(math.log(50 / 45))
    assert seen.rival_px == pytest.approx(20)


def test_constant_pictures_are_evidence_of_nothing():
    seen = evidence(np.ones(SIZE), np.ones(SIZE), np.eye(3))
    assert np.isfinite(list(seen.features().values())).all()
    assert seen.parts == 0
    assert seen.peak == 0


def test_predicted_error_is_measured_by_what_counts_as_right():
    seen = replace(evidence(*pair(SCENE, SIZE, TRUTH), TRUTH), corner_sigma_px=0.05)
    assert seen.precision == pytest.approx(math.log(0.05 / (0.01 * math.hypot(*SIZE))))


@pytest.mark.parametrize(
    "worse",
    [
        {"peak": 2.0},
        {"parts": 0.1},
        {"fine_parts": 0.4},
        {"corner_sigma_px": 3.0},
        {"margin": 0.5},
        {"margin": 0.0},
    ],
)
def test_probability_falls_with_any_figure(worse):
    assert 0 <= probability(replace(GOOD, **worse)) < probability(GOOD) <= 1


def test_figures_beyond_all_bounds_give_a_probability():
    extreme = Evidence(1e30, 1, 1e-9, 1, 1e9, 1, 1, 1e9)
    assert 0 <= probability(extreme) <= 1
    assert 0 <= probability(Evidence(0, 0, 1e-9, 0, -1e9, 0, 0, -1e9, corner_sigma_px=math.inf)) <= 1


@pytest.mark.parametrize(
    ("worse", "words"),
    [
        ({"overlap": 0.13}, "overlap 13 %"),
        ({"margin": 0.02, "rival_px": 31.0}, "second position fits almost as well (corners 31 px away)"),
        ({"peak": 3.0, "parts": 0.2}, "little in common"),
        ({"parts": 0.4}, "only 40 % of the structure agrees"),
        ({"corner_sigma_px": 5.0}, "predicted corner error is above"),
        ({}, "too weak"),
    ],
)
def test_reasons_say_what_is_wrong(worse, words):
    assert any(words in reason for reason in reasons(replace(GOOD, **worse), trusted=False))


def test_a_trusted_answer_has_its_reason_too():
    assert reasons(GOOD, trusted=True) == ("100 % of the structure agrees part by part",)


@pytest.mark.parametrize(
    ("worse", "support", "doubt"),
    [
        ({"overlap": 0.13}, "100 % of the structure agrees", "only 13 % overlap"),
        ({"margin": 0.02, "rival_px": 31.0}, "100 % of the structure agrees", "a second position fits almost as well"),
        ({"parts": 0.4}, "fit 40 sigma better", "only 40 % of the structure agrees part by part"),
        ({"parts": 0.4, "peak": 3.0}, "predicted corner error 0.02 px", "only 40 % of the structure agrees"),
        ({"corner_sigma_px": 5.0}, "100 % of the structure agrees", "the predicted corner error is above what counts"),
        ({"parts": 0.2, "peak": 3.0, "corner_sigma_px": 5.0}, "as probable as was asked for", "the predicted corner"),
        ({"slide_deg": 90.0}, "100 % of the structure agrees", "edges run in one direction only, at 90 degrees"),
    ],
)
def test_a_trusted_answer_has_its_doubts_behind_what_speaks_for_it(worse, support, doubt):
    first, *others = reasons(replace(GOOD, **worse), trusted=True)
    assert support in first
    assert any(other.startswith(f"although {doubt}") for other in others)
    assert all(other.startswith("although ") for other in others)
    assert "little in common" not in " ".join((first, *others))


@pytest.mark.parametrize("noise", [0, 0.2, 1.0])
@pytest.mark.parametrize("angle_deg", [0, 30])
def test_edges_in_one_direction_leave_the_shift_along_them_open(noise, angle_deg):
    y, x = np.indices(SIZE)
    across = x * math.cos(math.radians(angle_deg)) + y * math.sin(math.radians(angle_deg))
    waves = sum(np.sin(f * across + 7 * f) for f in np.linspace(0.1, 0.6, 9))
    fixed, moving = (waves + noise * np.random.default_rng(k).normal(0, 1, SIZE) for k in (1, 2))
    seen = evidence(fixed, moving, np.eye(3))
    assert seen.slide_deg == pytest.approx(angle_deg + 90, abs=3)
    assert probability(replace(seen, corner_sigma_px=0.01)) == 0
    assert "edges in one direction only" in reasons(seen, trusted=False)[0]


def test_edges_all_around_hold_every_shift():
    assert evidence(*pair(SCENE, SIZE, TRUTH), TRUTH).slide_deg is None


def test_two_places_that_fit_alike_are_not_trusted():
    assert probability(replace(GOOD, margin=0.1)) > 0.5 > probability(replace(GOOD, margin=0.0))


@pytest.mark.parametrize(
    ("score", "correlation", "margin"),
    [(0.9, 0.6, -math.log(0.9)), (0.9, 0.8, 0.0), (0.9, 0.79, math.log(math.atanh(0.8) / math.atanh(0.79))),
     (0.6, 0.8, -math.log(0.6)), (0.9, 0.0, -math.log(0.9))],
    ids=["clearly less alike", "as much", "hardly less", "far behind", "not known"],
)  # fmt: skip
def test_an_overlap_that_a_period_leaves_is_no_lead(score, correlation, margin):
    answer = Hypothesis(np.eye(3), 1.0, 0.8)
    other = Hypothesis(about_centre(SIZE, shift=(30, 0)), score, correlation)
    assert beside(replace(GOOD, margin=1.5), answer, [other], SIZE).margin == pytest.approx(margin, abs=1e-9)


def test_edges_all_around_hold_every_shift_although_the_greys_of_two_modalities_contradict_each_other():
    rng = np.random.default_rng(5)
    seeds, (first, second) = rng.uniform(0, 200, (90, 2)), rng.uniform(0, 1, (2, 90))
    y, x = np.indices(SIZE)
    cell = ((np.stack([x, y], -1)[:, :, None] - seeds) ** 2).sum(-1).argmin(-1)
    fixed, moving = (gaussian_filter(greys[cell], 1.0) for greys in (first, second))
    # Nearly as many edges are inverted as are not.
    assert abs(np.corrcoef(np.gradient(fixed)[0].ravel(), np.gradient(moving)[0].ravel())[0, 1]) < 0.1
    assert evidence(fixed, moving, np.eye(3)).slide_deg is None


def test_edges_whose_contrast_is_inverted_in_places_hold_the_shift_across_them_as_well():
    y, x = np.indices(SIZE)
    across, along = (sum(np.sin(f * t + 7 * f) for f in np.linspace(0.1, 0.6, 9)) for t in (x, y))
    inverted = np.where(x // 20 % 2, 1, -1)
    assert evidence(across + along, across + inverted * along, np.eye(3)).slide_deg is None
