"""Which of several answers to one pair stands."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render

from imgalign import align
from imgalign.engine import Pair
from imgalign.planes.intake import plane
from imgalign.start.search import Hypothesis
from imgalign.wanted import Wanted

SIZE = (200, 240)
TRUTH = about_centre(SIZE, shift=(4, -3), angle_deg=3)


@pytest.fixture
def two():
    pictures = pair(Blobs(41, 240, count=500, sigma=(2, 5)), SIZE, TRUTH)
    with torch.no_grad():
        yield Pair(*(plane(p, None, torch.device("cpu"), "fixed") for p in pictures), Wanted(model="rigid"))


def test_an_answer_falls_behind_a_place_that_fits_better(two):
    candidate = two.candidate([Hypothesis(np.eye(3), 0.0)], wide=False)
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


@pytest.mark.parametrize(("answered", "answers"), [([], 1), ([about_centre(SIZE)], 1), ([TRUTH], 0)])
def test_keypoints_that_lead_to_an_answer_that_is_known_are_not_followed(two, answered, answers):
    places = [Hypothesis(about_centre(SIZE, shift=(5, -2), angle_deg=2), 0.0)]
    found = two.closely(places, [], [Hypothesis(matrix, 0.0) for matrix in answered])
    assert len(found) == answers
    assert all(corner_error(a.polished.moving_from_fixed, TRUTH, SIZE) < 0.01 for a in found)


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
        polish_at = large.finish._polish_at
        monkeypatch.setattr(
            large.finish, "_polish_at", lambda at, level, **given: seen.add(level) or polish_at(at, level, **given)
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
    monkeypatch.setattr("imgalign.judge.agreement.fine_agreement", lambda *_: asked.append(1) or 1.0)
    found = align(fixed, moving, model="rigid")
    assert corner_error(found.moving_from_fixed, truth, size) < 0.2
    assert len(asked) == looked


@pytest.mark.parametrize(
    ("share", "promise", "first"), [(0.95, 0.9, "right"), (0.8, 0.9, "wrong"), (0.95, 0.1, "wrong")]
)
def test_places_that_fit_alike_are_told_apart_in_full_detail(two, share, promise, first):
    """Where the second fits nearly as well on the ladder, and where it is worth the time."""
    right, wrong = Hypothesis(TRUTH, share), Hypothesis(about_centre(SIZE, shift=(34, -3), angle_deg=3), 1.0)
    seen = two.candidate([Hypothesis(np.eye(3), 0.0)], wide=False)
    told = two.told_apart(replace(seen, ranked=[wrong, right], promise=promise))
    assert told.ranked[0] is {"right": right, "wrong": wrong}[first]
    assert len(told.ranked) == (1 if first == "right" else 2)


@pytest.mark.parametrize("noise", [0.0, np.nan])
def test_places_of_which_full_detail_says_nothing_stay_in_their_order(two, monkeypatch, noise):
    seen = two.candidate([Hypothesis(np.eye(3), 0.0)], wide=False)
    places = [Hypothesis(TRUTH, 1.0), Hypothesis(about_centre(SIZE, shift=(34, -3)), 0.95)]
    polished = two.finish.polish(TRUTH)
    monkeypatch.setattr(two.finish, "glance", lambda _: replace(polished, noise=noise))
    assert two.told_apart(replace(seen, ranked=places, promise=0.9)).ranked == places


def tiles(amplitude, seed):
    """A grid of lines, 28 pixels apart, over something that does not repeat."""
    below = Blobs(seed, 300, count=120, sigma=(6, 14))

    def scene(x, y):
        across, along = x * np.cos(0.3) + y * np.sin(0.3), y * np.cos(0.3) - x * np.sin(0.3)
        line = np.minimum.reduce([across % 28, 28 - across % 28, along % 28, 28 - along % 28])
        return np.clip(line - 1, 0, 2) + amplitude * below(x, y)

    return scene


def laid_by_tiles(amplitude, seed):
    """What is found of two noisy pictures of tiles, and how far off that is, px."""
    size, rng = (260, 300), np.random.default_rng(seed)
    truth = about_centre(size, shift=(-63.3, -41.6))
    pictures = pair(tiles(amplitude, seed), size, truth)
    found = align(*(p + 0.05 * rng.normal(size=size) for p in pictures), model="translate")
    return found, corner_error(found.moving_from_fixed, truth, size)


@pytest.mark.parametrize("seed", [1, 2])
def test_texture_that_repeats_is_not_laid_a_few_periods_off(seed):
    found, error = laid_by_tiles(0.8, seed)
    assert found.trusted
    assert error < 0.05


def checkers(x, y):
    """The same 25 pixels further along both axes, and after quarter turns."""

    def edge(t):
        return np.clip(np.abs(t % 50 - 25) - 12.5, -1, 1)

    return edge(x) * edge(y)


@pytest.mark.parametrize("model", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_lattice_is_trusted_nowhere(model, seed):
    size, shift, rng = (160, 160), (15, -17), np.random.default_rng(seed)
    fixed, moving = (p + rng.normal(0, 0.03, size) for p in pair(checkers, size, about_centre(size, shift=shift)))
    found = align(fixed, moving, model=model)
    assert not found.trusted
    assert any("a second position" in reason for reason in found.reasons)


@pytest.mark.parametrize("seed", [1, 2])
def test_texture_with_little_that_does_not_repeat_is_not_trusted_a_few_periods_off(seed):
    found, error = laid_by_tiles(0.1, seed)
    assert error < 0.05 or not found.trusted


def shaded(seed, depth):
    """Tiles 30 pixels wide behind a grid of lines; only their shades tell them apart."""
    shades = np.random.default_rng(seed).normal(size=(61, 67))

    def scene(x, y):
        x, y = x / 30 + 30, y / 30 + 30
        line = np.minimum.reduce([x % 1, 1 - x % 1, y % 1, 1 - y % 1])
        return np.clip(12 * line, 0, 1) * (1 + depth * shades[y.astype(int), x.astype(int)])

    return scene


@pytest.mark.parametrize(("angle_deg", "shift"), [(176, (20, -13)), (94, (-8, 11)), (3, (37, 24))])
def test_tiles_that_only_shades_tell_apart_are_laid_where_these_agree(angle_deg, shift):
    """Half a turn, a quarter turn or a tile away every line agrees as well."""
    size, rng = (200, 240), np.random.default_rng(7)
    truth = about_centre(size, angle_deg=angle_deg, shift=shift)
    pictures = pair(shaded(5, 0.1), size, truth)
    found = align(*(p + 0.03 * rng.normal(size=size) for p in pictures), model="rigid")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, truth, size) < 0.1


def test_tiles_that_nothing_tells_apart_are_not_trusted():
    size, rng = (200, 240), np.random.default_rng(7)
    pictures = pair(shaded(5, 0.0), size, about_centre(size, angle_deg=3, shift=(37, 24)))
    found = align(*(p + 0.03 * rng.normal(size=size) for p in pictures), model="rigid")
    assert not found.trusted


def test_tiles_are_laid_where_the_user_starts():
    size, rng = (200, 240), np.random.default_rng(7)
    truth = about_centre(size, angle_deg=3, shift=(37, 24))
    pictures = [p + 0.03 * rng.normal(size=size) for p in pair(shaded(5, 0.0), size, truth)]
    found = align(*pictures, model="rigid", init=truth @ about_centre(size, shift=(2, -1)))
    assert corner_error(found.moving_from_fixed, truth, size) < 0.1


def fine_texture(side, seed):
    """Noise of waves between three and seven pixels long: of it nothing is left on the levels of the ladder."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)
    band = (np.hypot(fy, fx) > 0.15) & (np.hypot(fy, fx) < 0.3)
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    return np.fft.ifft2(noise * band).real


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_detail_alone_is_enough(turns):
    """Cut and turned by whole pixels and right angles, so that the truth needs no interpolation."""
    side, texture = 640, fine_texture(800, 3)
    fixed, moving = texture[100 : 100 + side, 60 : 60 + side], texture[141 : 141 + side, 37 : 37 + side]
    truth = about_centre((side, side), angle_deg=-90 * turns) @ about_centre((side, side), shift=(23, -41))
    rng = np.random.default_rng(4)
    noisy = (x + 0.05 * texture.std() * rng.normal(size=x.shape) for x in (fixed, np.rot90(moving, turns)))
    found = align(*noisy, model="similarity")
    assert found.trusted
    assert corner_error(found.moving_from_fixed, truth, (side, side)) < 0.02


def threads(seed, size_hw, scene_from_picture):
    """Waves that run as a field of directions says: the field is one scene, the waves are each picture's own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    u, v, _ = np.einsum("ij,jhw->ihw", scene_from_picture, np.stack([x, y, np.ones_like(x)]).astype(float))
    field = Blobs(9, 300, count=120, sigma=(14, 22))(u, v)
    turns = 2 * (field - field.min()) / np.ptp(field)
    picture = np.zeros(size_hw)
    for middle in np.arange(24) / 24:
        share = np.exp(-0.5 * (((turns - middle + 0.5) % 1 - 0.5) * 16) ** 2)
        for _ in range(6):
            angle, waves = np.pi * middle + rng.normal(0, 0.03), rng.uniform(0.22, 0.3)
            phase = rng.uniform(0, 2 * np.pi)
            along = np.cos(angle) * u + np.sin(angle) * v
            picture += share * np.cos(2 * np.pi * waves * along + phase)
    return picture


@pytest.mark.parametrize(("seed", "angle_deg"), [(1, 40), (1, 130), (3, 40), (3, 130), (7, 130)])
def test_pictures_that_share_the_way_their_threads_run_alone_are_laid_by_it(seed, angle_deg):
    size = (260, 300)
    truth = about_centre(size, shift=(12, -9), angle_deg=angle_deg)
    pictures = threads(seed, size, np.eye(3)), threads(seed + 1, size, np.linalg.inv(truth))
    with torch.no_grad():
        pair_ = Pair(*(plane(p, None, torch.device("cpu"), "fixed") for p in pictures), Wanted(model="rigid"))
        coarse = pair_.candidate(pair_.starts.full_search(), wide=True)
        best = pair_.best("auto")
    assert corner_error(coarse.ranked[0].moving_from_fixed, truth, size) > 100
    # No wave of one lies on one of the other: where within a twentieth of the picture it is laid is chance.
    assert corner_error(best.place.moving_from_fixed, truth, size) < 0.05 * max(size)
    assert best.probability < 0.5
