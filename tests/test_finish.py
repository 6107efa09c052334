"""What an answer owes to grey values, to edges and to fine detail, and how fine it looks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render

from imgalign import align
from imgalign.engine import Pair
from imgalign.finish import Finish, corner_sigma
from imgalign.planes.intake import plane
from imgalign.refine.sharp import Sharp
from imgalign.start.search import Hypothesis
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
    polished = two.finish.polish(candidate.ranked[0].moving_from_fixed)
    astray = about_centre(SIZE, shift=(7, -3), angle_deg=3)
    lost = replace(polished, moving_from_fixed=astray, covariance=polished.covariance + np.eye(3), noise=1.0)
    mended = two.finish.by_features(candidate.ranked[0], lost)
    assert corner_error(mended.moving_from_fixed, TRUTH, SIZE) < 0.05
    assert corner_sigma(mended, two.model, SIZE) < 0.1
    assert mended.correlation > 0.99


@pytest.mark.parametrize(("times", "stand_in"), [(1.5, True), (2.5, False)])
def test_feature_pictures_that_waver_from_detail_to_detail_do_not_stand_in(
    times, stand_in, two, candidate, monkeypatch
):
    polished = two.finish.polish(candidate.ranked[0].moving_from_fixed)
    astray = about_centre(SIZE, shift=(7, -3), angle_deg=3)
    lost = replace(polished, moving_from_fixed=astray, covariance=polished.covariance + np.eye(3), noise=1.0)
    known = corner_sigma(lost, two.model, SIZE)
    found = two.ladder.finest(candidate.ranked[0].moving_from_fixed, astray, two.model, SIZE)
    wavering = found._replace(doubt_px=times * known, better=0.0)
    monkeypatch.setattr(two.ladder, "finest", lambda *_: wavering)
    mended = two.finish.by_features(candidate.ranked[0], lost)
    assert (mended is not lost) == stand_in


def test_an_answer_that_grey_values_know_well_is_kept(two, candidate):
    polished = two.finish.polish(candidate.ranked[0].moving_from_fixed)
    assert two.finish.best_known(candidate.ranked[0], polished).moving_from_fixed is polished.moving_from_fixed


def test_feature_pictures_stay_out_where_noise_explains_what_grey_values_leave(two, candidate):
    polished = two.finish.polish(candidate.ranked[0].moving_from_fixed)
    unsure = replace(polished, covariance=polished.covariance + np.eye(3), noise=1e-4)
    assert two.finish.best_known(candidate.ranked[0], unsure).moving_from_fixed is unsure.moving_from_fixed


def test_feature_pictures_stay_out_where_the_pictures_as_they_came_differ_by_noise(two, candidate):
    rng = np.random.default_rng(8)
    scene = np.asarray(two.fixed.at(1)[0][0, 0])
    pictures = (scene + rng.normal(0, 0.2 * scene.std(), SIZE) for _ in range(2))
    noisy = Pair(*(plane(p, None, torch.device("cpu"), "fixed") for p in pictures), two.wanted)
    assert noisy.finish._differing(np.eye(3))[0] == pytest.approx(0.2 * 2**0.5 / (1 + 0.2**2) ** 0.5, rel=0.1)
    assert noisy.finish._differing(about_centre(SIZE, shift=(8, 0)))[0] > 0.5
    # Weighted or whitened pictures may say otherwise.
    polished = noisy.finish.polish(np.eye(3))
    unsure = replace(polished, covariance=polished.covariance + np.eye(3), noise=1.0)
    assert (
        noisy.finish.best_known(replace(candidate.ranked[0], moving_from_fixed=np.eye(3)), unsure).moving_from_fixed
        is unsure.moving_from_fixed
    )


def test_noise_is_measured_by_the_contrast_of_what_both_pictures_show(two):
    rng = np.random.default_rng(8)
    scene = np.asarray(two.fixed.at(1)[0][0, 0])
    fixed, moving = (scene + rng.normal(0, 0.2 * scene.std(), SIZE) for _ in range(2))
    fixed[:, :30] += 20 * scene.std()  # it would be all the contrast there is
    mask = np.ones(SIZE, np.float32)
    mask[:, :30] = 0
    lit = Pair(
        *(plane(p, m, torch.device("cpu"), name) for p, m, name in ((fixed, None, "fixed"), (moving, mask, "moving"))),
        two.wanted,
    )
    plain, white = lit.finish._differing(np.eye(3))
    seen = scene[:, 30:].std() / scene.std()
    expected = 0.2 * 2**0.5 / (seen**2 + 0.2**2) ** 0.5
    assert plain == pytest.approx(expected, rel=0.1)
    assert white == pytest.approx(expected, rel=0.1)


def test_feature_pictures_stand_in_where_grey_values_contradict_them(two, candidate, monkeypatch):
    polished = two.finish.polish(candidate.ranked[0].moving_from_fixed)
    # Sure of themselves, and three pixels off.
    astray = replace(polished, moving_from_fixed=about_centre(SIZE, shift=(7, -3), angle_deg=3), noise=1.0)
    assert corner_sigma(astray, two.model, SIZE) < 0.01
    noisy = replace(astray, noise=1e-4)
    assert two.finish.best_known(candidate.ranked[0], noisy).moving_from_fixed is noisy.moving_from_fixed
    mended = two.finish.by_features(candidate.ranked[0], astray)
    assert corner_error(mended.moving_from_fixed, TRUTH, SIZE) < 0.05
    # Both may be true, or features fit no better where they lead.
    found = two.ladder.finest(TRUTH, astray.moving_from_fixed, two.model, SIZE)
    vague = found._replace(known=found.known._replace(covariance=found.known.covariance + np.eye(3)))
    for other in (vague, found._replace(better=-0.01)):
        monkeypatch.setattr(two.ladder, "finest", lambda *_, other=other: other)
        assert two.finish.by_features(candidate.ranked[0], astray) is astray


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unknown", [np.inf, np.nan])
def test_an_error_that_is_not_known_is_a_large_one(two, candidate, unknown):
    polished = two.finish.polish(candidate.ranked[0].moving_from_fixed)
    lost = replace(polished, covariance=polished.covariance * np.diag([unknown, 1, 1]))
    assert 1e4 < corner_sigma(lost, two.model, SIZE) < np.inf


@pytest.mark.parametrize(("sigma_px", "finer"), [(0.001, False), (0.5, True), (1.5, False)])
def test_finer_levels_are_looked_at_where_they_can_tell_and_are_wanted(two, sigma_px, finer, monkeypatch):
    finish = Finish(two.fixed, two.moving, two.wanted, two.ladder, 2, lambda: None)
    polished = replace(two.finish.polish(TRUTH), moving_from_fixed=TRUTH, covariance=np.eye(3))
    known = (sigma_px / corner_sigma(polished, two.model, SIZE)) ** 2 * np.eye(3)
    levels = []

    def polish_at(_, reduction, **__):
        levels.append(reduction)
        return replace(polished, covariance=known)

    monkeypatch.setattr(finish, "_polish_at", polish_at)
    finish.polish(TRUTH)
    assert levels[-1] == (1 if finer else 2)


def test_a_place_that_was_polished_in_full_is_not_polished_again(two, monkeypatch):
    start = about_centre(SIZE, shift=(5, -3), angle_deg=3)
    cut, whole = two.finish.polish(start, 0.5), two.finish.polish(start, 2.0)
    assert not cut.sharp
    assert whole.sharp
    assert corner_error(whole.moving_from_fixed, TRUTH, SIZE) < 0.01
    polish_at, polished = two.finish._polish_at, []
    monkeypatch.setattr(two.finish, "_polish_at", lambda *a, **k: polished.append(polish_at(*a, **k)) or polished[-1])
    assert two.finish.polish(start, 3.0, so_far=whole) is whole
    assert not polished
    again = two.finish.polish(cut.moving_from_fixed)
    assert polished
    assert corner_error(again.moving_from_fixed, TRUTH, SIZE) < 0.01


@pytest.mark.parametrize("seed", [1, 5])
def test_what_stops_at_blurred_pictures_goes_on_from_there(seed, monkeypatch):
    # Half of the scene is another one, so that grey values lead by pixels from where edges lay the pictures.
    size = (180, 200)
    fixed, moving = pair(Blobs(seed, 300, sigma=(3, 7)), size, about_centre(size, shift=(7, -4), angle_deg=3))
    gone, come = (render(Blobs(seed + new, 120, sigma=(3, 7)), size) for new in (100, 200))
    polish_at, polished = Finish._polish_at, []

    def noted(self, matrix, reduction, rounds=3, iterations=None, **more):
        if iterations is None:
            polished.append((matrix.tobytes(), reduction, rounds))
        return polish_at(self, matrix, reduction, rounds, iterations, **more)

    monkeypatch.setattr(Finish, "_polish_at", noted)
    align(fixed + gone, moving + come, model="affine")
    assert len(polished) > 1
    assert len(set(polished)) == len(polished)


@pytest.mark.parametrize("most", [48_000, 20_000, 9_000, 2_500])
def test_no_level_has_more_pixels_than_memory_is_meant_for(two, most, monkeypatch):
    monkeypatch.setattr("imgalign.finish._MOST_PIXELS", most)
    assert 48_000 / two.finish.finest**2 <= most
    assert two.finish.finest == 1 or two.finish.finest % 2 == 0


@pytest.mark.parametrize(("few", "precision", "looks"), [(1e9, 0.01, True), (1e3, 1e-6, True), (1e3, 0.01, False)])
def test_all_detail_is_used_only_where_blurred_pictures_miss_the_precision(
    two, candidate, monkeypatch, few, precision, looks
):
    asked = []
    monkeypatch.setattr("imgalign.finish._FEW_PIXELS", few)
    monkeypatch.setattr("imgalign.refine.polish.Sharp", lambda *given: asked.append(given) or Sharp(*given))
    once = Pair(two.fixed, two.moving, replace(two.wanted, precision=precision))
    polished = once.finish.polish(candidate.ranked[0].moving_from_fixed)
    assert bool(asked) == looks
    assert corner_error(polished.moving_from_fixed, TRUTH, SIZE) < 0.01
    assert corner_sigma(polished, two.model, SIZE) < 0.01


def two_stains(shared, seed=5):
    """Two pictures of other things, and perhaps the same fine grain in both: fixed, moving."""
    rng = np.random.default_rng(seed)
    large = [Blobs(seed + k, 240, count=60, sigma=(8, 20)) for k in (1, 2)]
    outlines = Blobs(seed + 3, 240, count=60, sigma=(4, 9))
    grain = [Blobs(seed + k, 240, count=3000, sigma=(0.8, 1.4)) for k in (4, 4 if shared else 6)]

    def look(k, sign):
        return lambda x, y: large[k](x, y) + sign * 2 * outlines(x, y) + 0.15 * grain[k](x, y)

    back = np.linalg.inv(TRUTH)
    pictures = render(look(0, 1), SIZE), render(look(1, -1), SIZE, back)
    return [p + 0.01 * rng.normal(size=SIZE) for p in pictures]


@pytest.fixture(params=[True, False], ids=["shared grain", "grain of its own"])
def stains(request):
    with torch.no_grad():
        fixed, moving = (plane(p, None, torch.device("cpu"), "fixed") for p in two_stains(request.param))
        yield request.param, Pair(fixed, moving, Wanted(model="rigid"))


def test_fine_detail_stands_in_where_it_is_shared(stains):
    """And nowhere else, though the descent finds some agreement there too, and is sure of it."""
    shared, two_of_one = stains
    beside = about_centre(SIZE, shift=(4.8, -3.5), angle_deg=3)
    polished = two_of_one.finish.polish(beside)
    unsure = replace(polished, moving_from_fixed=beside, covariance=0.5 * np.eye(3), doubt_px=0.0)
    found = two_of_one.finish.by_detail(Hypothesis(beside, 0.0), unsure)
    assert (found is not unsure) == shared
    if shared:
        assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 0.05
        assert corner_sigma(found, two_of_one.model, SIZE) < 0.05


def test_fine_detail_is_asked_from_the_place_that_grey_values_left_for_a_wrong_one(stains):
    shared, two_of_one = stains
    beside, astray = (about_centre(SIZE, shift=(4.5, -3.5) if near else (14, 9), angle_deg=3) for near in (True, False))
    sure = replace(
        two_of_one.finish.polish(beside), moving_from_fixed=astray, covariance=1e-6 * np.eye(3), doubt_px=0.0
    )
    found = two_of_one.finish.by_detail(Hypothesis(beside, 0.0), sure)
    assert (found is not sure) == shared
    if shared:
        assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 0.05


def test_error_bars_of_detail_with_large_residuals_are_not_relied_on(stains, monkeypatch):
    shared, two_of_one = stains
    beside = about_centre(SIZE, shift=(4.5, -3.5), angle_deg=3)
    unsure = replace(
        two_of_one.finish.polish(beside), moving_from_fixed=beside, covariance=0.5 * np.eye(3), doubt_px=0.0
    )
    monkeypatch.setattr("imgalign.finish._DETAIL_NOISE", 0.0)
    found = two_of_one.finish.by_detail(Hypothesis(beside, 0.0), unsure)
    assert (found is not unsure) == shared
    if shared:
        known = corner_sigma(unsure, two_of_one.model, SIZE)
        assert 0.3 * known < corner_sigma(found, two_of_one.model, SIZE) < known


def test_fine_detail_is_not_asked_where_little_is_left_to_know(stains, monkeypatch):
    _, two_of_one = stains
    polished = two_of_one.finish.polish(TRUTH)
    sure = replace(polished, covariance=1e-4 * np.eye(3), doubt_px=0.0)
    monkeypatch.setattr("imgalign.finish.fine_detail", lambda *_: pytest.fail("was asked"))
    assert two_of_one.finish.by_detail(Hypothesis(sure.moving_from_fixed, 0.0), sure) is sure


@pytest.mark.parametrize("seed", [0, 100])
def test_two_stains_are_aligned_by_their_grain(seed):
    """Grey values and edges alone leave errors of one and of one and a half pixels here."""
    fixed, moving = two_stains(shared=True, seed=seed)
    found = align(fixed, moving, model="rigid")
    assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 0.05


@pytest.mark.parametrize("stains", [False], indirect=True, ids=["grain of its own"])
def test_fine_detail_that_does_not_stand_out_nearby_is_not_polished(stains, monkeypatch):
    _, two_of_one = stains
    polished = two_of_one.finish.polish(TRUTH)
    unsure = replace(polished, covariance=0.5 * np.eye(3), doubt_px=0.0)
    monkeypatch.setattr("imgalign.finish.polish", lambda *_, **__: pytest.fail("was polished"))
    assert two_of_one.finish.by_detail(Hypothesis(TRUTH, 0.0), unsure) is unsure


@pytest.mark.parametrize("stains", [True], indirect=True, ids=["shared grain"])
@pytest.mark.parametrize(("stands_out", "variance", "looks"), [(20, 0.5, True), (12, 0.5, False), (20, 1e-12, False)])
def test_all_of_fine_detail_is_used_only_where_blurred_detail_promises_something(
    stains, monkeypatch, stands_out, variance, looks
):
    """It stands out near enough, and may well know better than what is known."""
    _, two_of_one = stains
    astray = about_centre(SIZE, shift=(14, 9), angle_deg=3)
    known = replace(
        two_of_one.finish.polish(TRUTH), moving_from_fixed=astray, covariance=variance * np.eye(3), doubt_px=0.0
    )
    asked = []
    monkeypatch.setattr("imgalign.finish.distinctness", lambda *_, **__: float(stands_out))
    monkeypatch.setattr("imgalign.refine.polish.Sharp", lambda *given: asked.append(given) or Sharp(*given))
    two_of_one.finish.by_detail(Hypothesis(TRUTH, 0.0), known)
    assert bool(asked) == looks
