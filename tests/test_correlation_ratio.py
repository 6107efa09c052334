"""Curves of grey values: what they explain, and where they lead two modalities of one scene."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render

from imgalign import align
from imgalign.engine import Pair
from imgalign.finish import corner_sigma
from imgalign.planes.intake import plane
from imgalign.planes.levels import Levels
from imgalign.refine.correlation_ratio import Curve, climb, explained, fitted, follow
from imgalign.transforms import get_model
from imgalign.wanted import Wanted

SIZE = (220, 260)
TRUTH = about_centre(SIZE, shift=(9, -6), angle_deg=6, scale=1.04)
SKIN_ON_BONE = about_centre(SIZE, shift=(9, -6), angle_deg=6, scale=1.04 * 1.12)
MAGNETIC, ROENTGEN = (150, 120, 15, 200, 5), (85, 95, 250, 20, 2)  # white and grey matter, bone, skin, air


class Head:
    """Skin around bone around grey around white matter, in tones of one modality: a formula of the place."""

    def __init__(self, tones, seed=0):
        self._tones = tones
        self._waves = 0.012 * np.random.default_rng(seed).normal(size=(7, 2))

    def __call__(self, x, y):
        x, y = (x - 130) / 75, (y - 110) / 88
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        for k, (a, b) in enumerate(self._waves):
            radius = radius + a * np.cos((k + 2) * angle) + b * np.sin((k + 2) * angle)
        white, grey, bone, skin, air = self._tones
        out = np.full(x.shape, float(white))
        for border, step in ((0.8 + 0.05 * np.cos(9 * angle), grey - white), (0.93, bone - grey), (1.0, skin - bone),
                             (1.12, air - skin)):  # fmt: skip
            out += step / (1 + np.exp(-np.clip((radius - border) / 0.012, -50, 50)))
        for at_x, at_y, size in ((0.22, -0.1, 0.14), (-0.25, 0.05, 0.16)):
            distance = np.hypot(x - at_x, 0.6 * (y - at_y))
            out += (bone - white) / (1 + np.exp(np.clip((distance - size) / 0.012, -50, 50)))
        return out


class Cells:
    """Nuclei, or the membranes between cells: polygons around the points of a shaken lattice, an ellipse in each."""

    def __init__(self, membranes, seed=0, spacing=44.0):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[-60:420:spacing, -60:420:spacing]
        self._membranes, count = membranes, rows.size
        self._middles = np.c_[columns.ravel(), rows.ravel()] + rng.uniform(-0.36, 0.36, (count, 2)) * spacing
        self._radii = rng.uniform(0.24, 0.34, count) * spacing
        self._nuclei = self._middles + rng.normal(0, 0.05, (count, 2)) * spacing
        self._stretch = rng.uniform(0.8, 1.25, count)
        self._brightness = rng.uniform(0.3, 1.0, (2, count))

    def __call__(self, x, y):
        distances = np.hypot(x[..., None] - self._middles[:, 0], y[..., None] - self._middles[:, 1])
        cell = distances.argmin(-1)
        if self._membranes:
            nearest, next_to_it = np.moveaxis(np.partition(distances, 1, axis=-1)[..., :2], -1, 0)
            return 20 + 50 * (1 + self._brightness[0, cell]) * np.exp(-(((next_to_it - nearest) / 6) ** 2))
        across, along = (
            (x - self._nuclei[cell, 0]) * self._stretch[cell],
            (y - self._nuclei[cell, 1]) / self._stretch[cell],
        )
        outside = (np.hypot(across, along) - self._radii[cell]) / 1.5
        return 10 + 100 * self._brightness[1, cell] / (1 + np.exp(np.clip(outside, -50, 50)))


CELLS = (320, 320)
CELLS_TRUTH = about_centre(CELLS, shift=(5, -4), angle_deg=1, scale=1.01)


def cells(seed):
    rng = np.random.default_rng(seed)
    fixed = render(Cells(seed % 2 == 0, seed), CELLS)
    moving = render(Cells(seed % 2 == 1, seed), CELLS, np.linalg.inv(CELLS_TRUTH))
    return fixed + rng.normal(0, 6, CELLS), moving + rng.normal(0, 6, CELLS)


class Rings:
    """Cells, each a dark ring in a bright one, or the nuclei that lie somewhere within them."""

    def __init__(self, nuclei, seed=0, spacing=52.0):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[-60:420:spacing, -60:420:spacing]
        self._nuclei, count = nuclei, rows.size
        self._cells = np.c_[columns.ravel(), rows.ravel()] + rng.uniform(-0.2, 0.2, (count, 2)) * spacing
        self._radii = rng.uniform(0.26, 0.36, count) * spacing
        self._stretch = rng.uniform(0.75, 1.33, count)
        self._beside = self._cells + rng.normal(0, 0.08, (count, 2)) * spacing
        self._brightness = rng.uniform(0.3, 1, count)
        self._there = rng.random(count) < 0.7

    def __call__(self, x, y):
        cell = np.hypot(x[..., None] - self._cells[:, 0], y[..., None] - self._cells[:, 1]).argmin(-1)
        middle = (self._beside if self._nuclei else self._cells)[cell]
        across, along = (x - middle[..., 0]) * self._stretch[cell], (y - middle[..., 1]) / self._stretch[cell]
        radius, there = np.hypot(across, along) / self._radii[cell], self._there[cell]
        if self._nuclei:
            return 10 + 110 * there * self._brightness[cell] / (1 + np.exp(np.clip((radius - 0.5) / 0.06, -50, 50)))
        bright, dark = (np.exp(-(((radius - at) / 0.1) ** 2)) for at in (1.1, 0.93))
        return 100 + there * (70 * bright - 60 * dark - 15 / (1 + np.exp(np.clip((radius - 1) / 0.05, -50, 50))))


RINGS_TRUTH = about_centre(CELLS, shift=(7, -6))


def rings(seed):
    rng = np.random.default_rng(seed)
    fixed = render(Rings(seed % 2 == 0, seed), CELLS)
    moving = render(Rings(seed % 2 == 1, seed), CELLS, np.linalg.inv(RINGS_TRUTH))
    return fixed + rng.normal(0, 6, CELLS), moving + rng.normal(0, 6, CELLS)


def heads(seed, truth=TRUTH):
    rng = np.random.default_rng(seed)
    fixed = render(Head(MAGNETIC, seed), SIZE)
    moving = render(Head(ROENTGEN, seed), SIZE, np.linalg.inv(truth))
    return fixed + rng.normal(0, 6, SIZE), moving + rng.normal(0, 6, SIZE)


def masked(array, weight=None):
    image = torch.as_tensor(np.asarray(array, np.float32))[None, None]
    return image, torch.ones_like(image) if weight is None else torch.as_tensor(weight, dtype=torch.float32)[None, None]


def test_a_curve_is_straight_between_its_knots_and_level_beyond():
    curve = Curve(np.array([0.0, 1.0, 3.0]), np.array([5.0, 7.0, 1.0]))
    image = torch.tensor([-9.0, 0.0, 0.5, 1.0, 2.0, 3.0, 99.0], dtype=torch.float64)
    assert curve(image).tolist() == [5.0, 5.0, 6.0, 7.0, 4.0, 1.0, 1.0]
    assert curve(image.float()).dtype == torch.float32


def test_a_fitted_curve_turns_as_the_tone_does():
    values = np.random.default_rng(0).uniform(-1, 1, 20_000)
    curve, share = fitted(values, values**2)
    assert share > 0.999
    at = np.linspace(-0.95, 0.95, 20)
    # Between knots an eighth apart a parabola is 1/256 off its chord at most.
    assert np.abs(np.interp(at, *curve) - at**2).max() < 1 / 128


def test_what_noise_adds_is_not_explained():
    rng = np.random.default_rng(1)
    values = rng.uniform(-1, 1, 50_000)
    tone = np.sin(3 * values)
    share = fitted(values, tone + rng.normal(0, 0.5, values.shape))[1]
    assert share == pytest.approx(tone.var() / (tone.var() + 0.25), abs=0.01)
    assert fitted(values, rng.normal(size=values.shape))[1] < 0.002


@pytest.mark.parametrize("flat", [0, 1], ids=["values", "wanted"])
def test_what_is_alike_everywhere_has_no_curve(flat):
    both = [np.linspace(0, 1, 50), np.linspace(0, 1, 50)]
    both[flat] = np.full(50, 3.0)
    assert fitted(*both) is None


@pytest.mark.parametrize("of_moving", [False, True])
def test_the_curve_is_that_of_the_picture_that_tells_the_other(of_moving):
    """A square forgets the sign: it is told by what it is the square of, not the other way round."""
    scene = render(Blobs(3, 120.0), (100, 120))
    both = masked(scene), masked(scene**2)
    found = explained(*(both[::-1] if of_moving else both), np.eye(3))
    assert found.share > 0.99 > found.straight + 0.2
    assert found.overlap == pytest.approx(1)
    assert found.information == pytest.approx(-math.log(1 - found.share), rel=1e-3)
    fixed, under = found.problem.fixed, found.problem.read(np.eye(3)[None])[0]
    assert float((fixed - under).std()) < 0.1 * float(fixed.std())  # both are now in the tone of the square


def test_what_lies_under_a_mask_tells_no_curve():
    scene = render(Blobs(3, 120.0), (100, 120))
    spoilt, seen = scene.copy(), np.ones(scene.shape)
    spoilt[20:60, 30:80], seen[20:60, 30:80] = 50.0, 0.0
    clean = explained(masked(scene), masked(scene**2), np.eye(3))
    found = explained(masked(spoilt, seen), masked(scene**2), np.eye(3))
    assert found.share == pytest.approx(clean.share, abs=0.01)


@pytest.mark.parametrize("moving", [np.full((100, 120), 7.0), np.ones((8, 9))], ids=["flat", "few pixels"])
def test_pictures_without_a_curve_are_left_alone(moving):
    scene = render(Blobs(3, 120.0), (100, 120))
    assert explained(masked(scene), masked(moving), np.eye(3)) is None
    assert climb(Levels(masked(scene), masked(moving)), np.eye(3), get_model("affine")) is None


def test_one_modality_is_not_climbed():
    fixed, moving = pair(Blobs(4, 260.0), SIZE, TRUTH)
    beside = about_centre(SIZE, shift=(12, -6), angle_deg=6, scale=1.04)
    assert climb(Levels(masked(fixed), masked(moving)), beside, get_model("affine")) is None


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_a_climb_leads_from_skin_on_bone_to_skin_on_skin(model):
    levels = Levels(*(masked(x) for x in heads(1)))
    with torch.no_grad():
        found = climb(levels, SKIN_ON_BONE, get_model(model))
    error = corner_error(found.moving_from_fixed, TRUTH, SIZE)
    # Outlines of 1 px, of which the tones of both pictures make different mixtures, are no exact match of any curve.
    assert error < 1.5
    assert found.after.information > found.before.information + 0.5
    assert 0 < math.sqrt(np.trace(found.known.covariance)) < 3


@pytest.mark.parametrize("model", ["translate", "rigid"])
def test_a_climb_keeps_to_the_model(model):
    truth = about_centre(SIZE, shift=(9, -6))
    levels = Levels(*(masked(x) for x in heads(2, truth)))
    with torch.no_grad():
        found = climb(levels, about_centre(SIZE, shift=(20, 3)), get_model(model))
    assert corner_error(found.moving_from_fixed, truth, SIZE) < 1
    np.testing.assert_allclose(np.linalg.det(found.moving_from_fixed[:2, :2]), 1, atol=1e-9)


@pytest.mark.parametrize(("seed", "model"), [(1, "similarity"), (2, "homography"), (3, "similarity")])
def test_skin_is_not_taken_for_bone(seed, model):
    """Edges, correlation and a local gain agree on the bright skin of one picture upon the bright bone of the other."""
    found = align(*heads(seed), model=model)
    assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 1.5


@pytest.mark.parametrize(("most", "leads"), [(1.02, False), (1.2, True)])
def test_curves_do_not_lead_out_of_the_bounds(most, leads):
    planes = (plane(x, None, torch.device("cpu"), "fixed") for x in heads(1))
    with torch.no_grad():
        finish = Pair(*planes, Wanted(model="similarity", max_scale=most)).finish
        led_astray = replace(finish.glance(TRUTH), moving_from_fixed=SKIN_ON_BONE)
        found = finish.by_curve(led_astray)
    assert (found is not None) == leads
    if leads:
        assert corner_error(found.moving_from_fixed, TRUTH, SIZE) < 1.5
        assert corner_sigma(found, finish.model, SIZE) < 3


def test_curves_are_not_asked_of_pictures_that_hardly_differ(monkeypatch):
    monkeypatch.setattr("imgalign.finish.climb", lambda *_: pytest.fail("was asked"))
    assert align(*pair(Blobs(4, 260.0), SIZE, TRUTH), model="similarity").trusted


@pytest.mark.parametrize("seed", [2, 5, 6])
def test_nuclei_find_their_place_within_membranes(seed):
    """No outline of one is one of the other, and a local gain takes along what tone they share: it ends 2 px off."""
    found = align(*cells(seed), model="similarity")
    error = corner_error(found.moving_from_fixed, CELLS_TRUTH, CELLS)
    assert error < 1.6
    assert error < 4 * found.corner_sigma_px


def led_by_trend(pictures, wanted, truth, known_px, beside_px=3.0, by="by_trend"):
    """What grey values make of a place beside the truth, known as well as that."""
    planes = (plane(x, None, torch.device("cpu"), "fixed") for x in pictures)
    with torch.no_grad():
        finish = Pair(*planes, wanted).finish
        beside = truth @ np.array([[1, 0, beside_px], [0, 1, 0], [0, 0, 1.0]])
        place = replace(finish.glance(truth), moving_from_fixed=beside)
        known = replace(place, covariance=place.covariance * (known_px / corner_sigma(place, finish.model, CELLS)) ** 2)
        return finish, getattr(finish, by)(known)


def test_the_trend_of_grey_values_leads_nearer_and_promises_no_more():
    finish, found = led_by_trend(cells(5), Wanted(model="similarity"), CELLS_TRUTH, 2.0)
    assert corner_error(found.moving_from_fixed, CELLS_TRUTH, CELLS) < 1.6
    assert 2 <= corner_sigma(found, finish.model, CELLS) < 2.5


def test_what_is_known_is_not_led_by_a_trend(monkeypatch):
    monkeypatch.setattr("imgalign.finish.follow", lambda *_: pytest.fail("was asked"))
    assert led_by_trend(cells(5), Wanted(model="similarity"), CELLS_TRUTH, 0.3)[1] is None


def test_a_trend_does_not_lead_out_of_the_bounds():
    assert led_by_trend(cells(5), Wanted(model="similarity", max_shift=1.0), CELLS_TRUTH, 2.0)[1] is None


def test_a_trend_does_not_lead_apart(monkeypatch):
    def slid(*where):
        found = follow(*where)
        return found._replace(after=found.after._replace(overlap=0.7 * found.before.overlap))

    monkeypatch.setattr("imgalign.finish.follow", slid)
    assert led_by_trend(cells(5), Wanted(model="similarity"), CELLS_TRUTH, 2.0)[1] is None


def test_a_tone_that_turns_back_is_no_trend():
    assert led_by_trend(heads(1), Wanted(model="similarity"), TRUTH, 2.0)[1] is None


@pytest.mark.parametrize(("to_px", "stands"), [(0.0, True), (25.0, False)])
def test_a_trend_is_followed_where_edges_fit_as_well(to_px, stands, monkeypatch):
    with torch.no_grad():
        two = Pair(*(plane(x, None, torch.device("cpu"), "fixed") for x in cells(6)), Wanted(model="similarity"))
        answer = two.found("auto")
        led = CELLS_TRUTH @ np.array([[1, 0, to_px], [0, 1, 0], [0, 0, 1.0]])
        monkeypatch.setattr(two.finish, "by_trend", lambda polished: replace(polished, moving_from_fixed=led))
        found = two.by_tone(answer)
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
    finish, found = led_by_trend(rings(5), Wanted(model="translate"), RINGS_TRUTH, 0.1, beside_px, by="by_tone")
    assert (found is not None) == leads
    if leads:
        assert corner_error(found.moving_from_fixed, RINGS_TRUTH, CELLS) < 1.5
        assert 2 < corner_sigma(found, finish.model, CELLS) < 3  # a quarter of the way


def test_tones_do_not_lead_where_edges_speak(monkeypatch):
    with torch.no_grad():
        two = Pair(*(plane(x, None, torch.device("cpu"), "fixed") for x in cells(6)), Wanted(model="similarity"))
        answer = replace(two.found("auto"), probability=0.0)
        monkeypatch.setattr(two.finish, "by_tone", lambda _: pytest.fail("was asked"))
        two.by_tone(answer)
