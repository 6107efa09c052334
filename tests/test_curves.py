"""What curves of grey values make of answers that edges do not settle."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair
from tissues import CELLS, CELLS_TRUTH, RINGS_TRUTH, SIZE, SKIN_ON_BONE, TRUTH, cells, heads, rings

from benchmarks.precision import make_trial
from imgalign import align
from imgalign.engine import Pair
from imgalign.finish import corner_sigma
from imgalign.planes.intake import plane
from imgalign.refine.correlation_ratio import Climbed, follow
from imgalign.refine.uncertainty import Known
from imgalign.wanted import Wanted


@pytest.mark.parametrize(("seed", "model"), [(1, "similarity"), (2, "homography"), (3, "similarity")])
def test_skin_is_not_taken_for_bone(seed, model):
    """Edges, correlation and a local gain agree on the bright skin of one picture upon the bright bone of the other."""
    found = align(*heads(seed), model=model)
    assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 1.5


@pytest.mark.parametrize("trial", [14, 71])
def test_what_lies_over_a_photograph_bends_no_curve(trial):
    """A plain rectangle on a photograph is one grey value for many, which bends a curve away from the line."""
    two = make_trial("photo/g10+occluded/affine", trial, 160)
    found = align(two.fixed, two.moving, model="affine")
    assert corner_error(found.moving_from_fixed, two.truth, two.fixed.shape) < 0.3


@pytest.mark.parametrize(("shift", "doubted"), [(0.8, True), (8.0, False)])
def test_curves_that_contradict_an_answer_nearby_are_doubted(shift, doubted, monkeypatch):
    planes = (plane(x, None, torch.device("cpu"), "fixed") for x in heads(1))
    beside = about_centre(SIZE, shift=(9 + shift, -6), angle_deg=6, scale=1.04)
    with torch.no_grad():
        two = Pair(*planes, Wanted(model="similarity"))
        answer = replace(two.finish.glance(TRUTH), moving_from_fixed=TRUTH)
        led = Climbed(beside, Known(1e-4 * np.eye(4), 1e-4 * np.eye(4), 1.0), None, None)
        monkeypatch.setattr("imgalign.curves.climb", lambda *_: led)
        found = two.curves.contradict(answer)
    assert (corner_sigma(found, two.model, SIZE) > 0.9 * shift) == doubted


@pytest.mark.parametrize(("most", "leads"), [(1.02, False), (1.2, True)])
def test_curves_do_not_lead_out_of_the_bounds(most, leads):
    planes = (plane(x, None, torch.device("cpu"), "fixed") for x in heads(1))
    with torch.no_grad():
        two = Pair(*planes, Wanted(model="similarity", max_scale=most))
        finish = two.finish
        led_astray = replace(finish.glance(TRUTH), moving_from_fixed=SKIN_ON_BONE)
        found = two.curves.contradict(led_astray)
    assert (found is not None) == leads
    if leads:
        assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 1.5
        assert corner_sigma(found, finish.model, SIZE) < 3


def test_curves_are_not_asked_of_pictures_that_hardly_differ(monkeypatch):
    monkeypatch.setattr("imgalign.curves.climb", lambda *_: pytest.fail("was asked"))
    assert align(*pair(Blobs(4, 260.0), SIZE, TRUTH), model="similarity").trusted


@pytest.mark.parametrize("seed", [2, 5, 6])
def test_nuclei_find_their_place_within_membranes(seed):
    """No outline of one is one of the other, and a local gain takes along what tone they share: it ends 2 px off."""
    found = align(*cells(seed), model="similarity")
    error = corner_error(found.moving_from_fixed, CELLS_TRUTH, CELLS)
    assert error < 1.6
    assert error < 4 * found.corner_sigma_px


def led_from_beside(pictures, wanted, truth, known_px, beside_px=3.0, by="trend"):
    """What grey values make of a place beside the truth, known as well as that."""
    planes = (plane(x, None, torch.device("cpu"), "fixed") for x in pictures)
    with torch.no_grad():
        two = Pair(*planes, wanted)
        finish = two.finish
        beside = truth @ np.array([[1, 0, beside_px], [0, 1, 0], [0, 0, 1.0]])
        place = replace(finish.glance(truth), moving_from_fixed=beside)
        known = replace(place, covariance=place.covariance * (known_px / corner_sigma(place, finish.model, CELLS)) ** 2)
        return finish, getattr(two.curves, by)(known)


def test_the_trend_of_grey_values_leads_nearer_and_promises_no_more():
    finish, found = led_from_beside(cells(5), Wanted(model="similarity"), CELLS_TRUTH, 2.0)
    assert corner_error(found.moving_from_fixed, CELLS_TRUTH, CELLS) < 1.6
    assert 2 <= corner_sigma(found, finish.model, CELLS) < 2.5


def test_what_is_known_is_not_led_by_a_trend(monkeypatch):
    monkeypatch.setattr("imgalign.curves.follow", lambda *_: pytest.fail("was asked"))
    assert led_from_beside(cells(5), Wanted(model="similarity"), CELLS_TRUTH, 0.3)[1] is None


def test_a_trend_does_not_lead_out_of_the_bounds():
    assert led_from_beside(cells(5), Wanted(model="similarity", max_shift=1.0), CELLS_TRUTH, 2.0)[1] is None


def test_a_trend_does_not_lead_apart(monkeypatch):
    def slid(*where):
        found = follow(*where)
        return found._replace(after=found.after._replace(overlap=0.7 * found.before.overlap))

    monkeypatch.setattr("imgalign.curves.follow", slid)
    assert led_from_beside(cells(5), Wanted(model="similarity"), CELLS_TRUTH, 2.0)[1] is None


@pytest.mark.parametrize("by", ["contradict", "tell_more"])
@pytest.mark.parametrize("pixel", [1e9, 0.0])
def test_what_no_curve_knows_is_not_led(by, pixel, monkeypatch):
    """Edges in one direction only, or a curve that is nearly level: the place may be anywhere."""

    def unknown(*where):
        found = follow(*where)
        return found._replace(known=found.known.scaled(pixel))

    monkeypatch.setattr("imgalign.curves.follow", unknown)
    monkeypatch.setattr("imgalign.curves.climb", unknown)
    assert led_from_beside(rings(5), Wanted(model="translate"), RINGS_TRUTH, 0.1, 9.0, by=by)[1] is None


def test_a_tone_that_turns_back_is_no_trend():
    assert led_from_beside(heads(1), Wanted(model="similarity"), TRUTH, 2.0)[1] is None


@pytest.mark.parametrize(("to_px", "stands"), [(0.0, True), (25.0, False)])
def test_a_trend_is_followed_where_edges_fit_as_well(to_px, stands, monkeypatch):
    with torch.no_grad():
        two = Pair(*(plane(x, None, torch.device("cpu"), "fixed") for x in cells(6)), Wanted(model="similarity"))
        answer = two.found("auto")
        led = CELLS_TRUTH @ np.array([[1, 0, to_px], [0, 1, 0], [0, 0, 1.0]])
        monkeypatch.setattr(two.curves, "trend", lambda polished: replace(polished, moving_from_fixed=led))
        found = two.led_on(answer)
    assert (found is not answer) == stands
    if stands:
        np.testing.assert_array_equal(found.polished.moving_from_fixed, led)
        assert found.evidence.margin == answer.evidence.margin


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_nuclei_find_their_place_within_rings(seed):
    """Edges agree nowhere, least at the right place: without curves the answer lies 3 to 6 px off."""
    found = align(*rings(seed), model="translate")
    error = corner_error(found.moving_from_fixed, RINGS_TRUTH, CELLS)
    assert error < 2.5
    assert error < 3 * found.corner_sigma_px
    assert not found.trusted  # that curves tell more than elsewhere is not that they tell enough


@pytest.mark.parametrize(("beside_px", "leads"), [(9.0, True), (0.0, False)])
def test_tones_lead_to_where_they_tell_clearly_more(beside_px, leads):
    finish, found = led_from_beside(rings(5), Wanted(model="translate"), RINGS_TRUTH, 0.1, beside_px, by="tell_more")
    assert (found is not None) == leads
    if leads:
        assert corner_error(found.moving_from_fixed, RINGS_TRUTH, CELLS) < 1.5
        assert 2 < corner_sigma(found, finish.model, CELLS) < 3  # a quarter of the way


def test_an_answer_beyond_the_horizon_leaves_a_doubt_that_is_a_number(monkeypatch):
    monkeypatch.setattr("imgalign.finish.Finish.apart", lambda *_: math.inf)
    finish, found = led_from_beside(rings(5), Wanted(model="translate"), RINGS_TRUTH, 0.1, 9.0, by="tell_more")
    assert corner_sigma(found, finish.model, CELLS) == pytest.approx(max(CELLS), rel=0.01)


@pytest.mark.parametrize(("pictures", "model", "times"), [(cells(6), "similarity", 0), (rings(5), "translate", 1)])
def test_tones_are_asked_only_where_edges_do_not_speak(pictures, model, times, monkeypatch):
    asked = []
    with torch.no_grad():
        two = Pair(*(plane(x, None, torch.device("cpu"), "fixed") for x in pictures), Wanted(model=model))
        answer = replace(two.found("auto"), probability=0.0)
        monkeypatch.setattr(two.curves, "tell_more", asked.append)
        two.led_on(answer)
    assert len(asked) == times
