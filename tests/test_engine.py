"""Which of several answers to one pair stands."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render

from imgalign import align
from imgalign.engine import Pair, corner_sigma
from imgalign.plane import plane
from imgalign.search import Hypothesis
from imgalign.sharp import Sharp
from imgalign.wanted import Wanted

SIZE = (200, 240)
TRUTH = about_centre(SIZE, shift=(4, -3), angle_deg=3)


@pytest.fixture(scope="module")
def two():
    pictures = pair(Blobs(41, 240, count=500, sigma=(2, 5)), SIZE, TRUTH)
    with torch.no_grad():
        yield Pair(*(plane(p, None, torch.device("cpu"), "fixed") for p in pictures), Wanted(model="rigid"))


@pytest.fixture(scope="module")
def candidate(two):
    return two.candidate([Hypothesis(np.eye(3), 0.0)], wide=False)


def test_feature_pictures_stand_in_where_grey_values_know_little(two, candidate):
    polished = two.polish(candidate.ranked[0].moving_from_fixed)
    astray = about_centre(SIZE, shift=(7, -3), angle_deg=3)
    lost = replace(polished, moving_from_fixed=astray, covariance=polished.covariance + torch.eye(3), noise=1.0)
    mended = two.by_features(candidate.ranked[0], lost)
    assert corner_error(mended.moving_from_fixed, TRUTH, SIZE) < 0.05
    assert corner_sigma(mended, two.model, SIZE) < 0.1
    assert mended.correlation > 0.99


@pytest.mark.parametrize(("times", "stand_in"), [(1.5, True), (2.5, False)])
def test_feature_pictures_that_waver_from_detail_to_detail_do_not_stand_in(
    times, stand_in, two, candidate, monkeypatch
):
    polished = two.polish(candidate.ranked[0].moving_from_fixed)
    astray = about_centre(SIZE, shift=(7, -3), angle_deg=3)
    lost = replace(polished, moving_from_fixed=astray, covariance=polished.covariance + torch.eye(3), noise=1.0)
    known = corner_sigma(lost, two.model, SIZE)
    found = two.ladder.finest(candidate.ranked[0].moving_from_fixed, astray, two.model, SIZE)
    wavering = found._replace(doubt_px=times * known, better=0.0)
    monkeypatch.setattr(two.ladder, "finest", lambda *_: wavering)
    mended = two.by_features(candidate.ranked[0], lost)
    assert (mended is not lost) == stand_in


def test_an_answer_that_grey_values_know_well_is_kept(two, candidate):
    polished = two.polish(candidate.ranked[0].moving_from_fixed)
    assert two.by_features(candidate.ranked[0], polished) is polished


def test_an_answer_falls_behind_a_place_that_fits_better(two, candidate):
    right = two.answer(candidate)
    elsewhere = replace(
        right,
        polished=replace(right.polished, moving_from_fixed=about_centre(SIZE, shift=(40, 0))),
        evidence=replace(right.evidence, parts=1.0, peak=2 * right.evidence.peak),
        score=0.6 * right.score,
    )
    alone = two.foremost([elsewhere], [])
    assert alone.probability > two.foremost([right], []).probability - 0.01
    assert two.foremost([elsewhere, right], []).score == right.score
    # A place that was only seen, not polished, counts as well.
    assert two.foremost([elsewhere], [candidate]).probability < 0.6 * alone.probability


def test_feature_pictures_stay_out_where_noise_explains_what_grey_values_leave(two, candidate):
    polished = two.polish(candidate.ranked[0].moving_from_fixed)
    unsure = replace(polished, covariance=polished.covariance + torch.eye(3), noise=1e-4)
    assert two.by_features(candidate.ranked[0], unsure) is unsure


def test_feature_pictures_stay_out_where_the_pictures_as_they_came_differ_by_noise(two, candidate):
    rng = np.random.default_rng(8)
    scene = np.asarray(two.fixed.at(1)[0][0, 0])
    pictures = (scene + rng.normal(0, 0.2 * scene.std(), SIZE) for _ in range(2))
    noisy = Pair(*(plane(p, None, torch.device("cpu"), "fixed") for p in pictures), two.wanted)
    assert noisy._plain_noise(np.eye(3)) == pytest.approx(0.2 * 2**0.5 / (1 + 0.2**2) ** 0.5, rel=0.1)
    assert noisy._plain_noise(about_centre(SIZE, shift=(8, 0))) > 0.5
    # Weighted or whitened pictures may say otherwise.
    polished = noisy.polish(np.eye(3))
    unsure = replace(polished, covariance=polished.covariance + torch.eye(3), noise=1.0)
    assert noisy.by_features(replace(candidate.ranked[0], moving_from_fixed=np.eye(3)), unsure) is unsure


def test_feature_pictures_stand_in_where_grey_values_contradict_them(two, candidate, monkeypatch):
    polished = two.polish(candidate.ranked[0].moving_from_fixed)
    # Sure of themselves, and three pixels off.
    astray = replace(polished, moving_from_fixed=about_centre(SIZE, shift=(7, -3), angle_deg=3), noise=1.0)
    assert corner_sigma(astray, two.model, SIZE) < 0.01
    noisy = replace(astray, noise=1e-4)
    assert two.by_features(candidate.ranked[0], noisy) is noisy
    mended = two.by_features(candidate.ranked[0], astray)
    assert corner_error(mended.moving_from_fixed, TRUTH, SIZE) < 0.05
    # Both may be true, or features fit no better where they lead.
    found = two.ladder.finest(TRUTH, astray.moving_from_fixed, two.model, SIZE)
    vague = found._replace(covariance=found.covariance + torch.eye(3))
    for other in (vague, found._replace(better=-0.01)):
        monkeypatch.setattr(two.ladder, "finest", lambda *_, other=other: other)
        assert two.by_features(candidate.ranked[0], astray) is astray


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unknown", [np.inf, np.nan])
def test_an_error_that_is_not_known_is_a_large_one(two, candidate, unknown):
    polished = two.polish(candidate.ranked[0].moving_from_fixed)
    lost = replace(polished, covariance=polished.covariance * torch.diag(torch.tensor([unknown, 1, 1])))
    assert 1e4 < corner_sigma(lost, two.model, SIZE) < np.inf


@pytest.mark.parametrize("most", [48_000, 20_000, 9_000, 2_500])
def test_no_level_has_more_pixels_than_memory_is_meant_for(two, most, monkeypatch):
    monkeypatch.setattr("imgalign.engine._MOST_PIXELS", most)
    assert 48_000 / two.finest**2 <= most
    assert two.finest == 1 or two.finest % 2 == 0


@pytest.mark.parametrize(("few", "precision", "looks"), [(1e9, 0.01, True), (1e3, 1e-6, True), (1e3, 0.01, False)])
def test_all_detail_is_used_only_where_blurred_pictures_miss_the_precision(
    two, candidate, monkeypatch, few, precision, looks
):
    asked = []
    monkeypatch.setattr("imgalign.engine._FEW_PIXELS", few)
    monkeypatch.setattr("imgalign.polish.Sharp", lambda *given: asked.append(given) or Sharp(*given))
    once = Pair(two.fixed, two.moving, replace(two.wanted, precision=precision))
    polished = once.polish(candidate.ranked[0].moving_from_fixed)
    assert bool(asked) == looks
    assert corner_error(polished.moving_from_fixed, TRUTH, SIZE) < 0.01
    assert corner_sigma(polished, two.model, SIZE) < 0.01


@pytest.mark.parametrize(("stripes", "levels"), [(True, {4}), (False, {4, 2, 1})])
def test_finer_levels_are_left_alone_where_edges_run_one_way(stripes, levels, monkeypatch):
    monkeypatch.setattr("imgalign.engine._BASE_PIXELS", 1e4)
    monkeypatch.setattr("imgalign.engine._ENOUGH_PIXELS", 1e4)
    size, truth = (400, 400), about_centre((400, 400), shift=(3.2, 0))
    scene = Blobs(12, 400, count=600, sigma=(8, 20))
    one_way = np.broadcast_to(render(scene, (1, 400)), size)
    fixed, moving = (one_way, np.roll(one_way, 3, 1)) if stripes else pair(scene, size, truth)
    with torch.no_grad():
        planes = [plane(np.ascontiguousarray(p), None, torch.device("cpu"), "fixed") for p in (fixed, moving)]
        large = Pair(*planes, Wanted(model="rigid", precision=1e-6))
        seen = set()
        polish_at = large._polish_at
        monkeypatch.setattr(
            large, "_polish_at", lambda at, level, **given: seen.add(level) or polish_at(at, level, **given)
        )
        found = large.candidate([Hypothesis(np.eye(3), 0.0)], wide=False)
        assert (found.evidence.slide_deg is not None) == stripes
        large.answer(found)
    assert seen == levels


@pytest.mark.parametrize(("noise", "looked"), [(0.02, 0), (0.4, 1)])
def test_patches_are_looked_for_elsewhere_unless_the_pictures_hardly_differ(monkeypatch, noise, looked):
    size, asked = (140, 160), []
    truth = about_centre(size, shift=(3, -2), angle_deg=2)
    rng = np.random.default_rng(0)
    fixed, moving = (x + noise * x.std() * rng.normal(size=size) for x in pair(Blobs(5, 170, count=400), size, truth))
    monkeypatch.setattr("imgalign.verdict.fine_agreement", lambda *_: asked.append(1) or 1.0)
    found = align(fixed, moving, model="rigid")
    assert corner_error(found.moving_from_fixed, truth, size) < 0.2
    assert len(asked) == looked
