"""Single pixels far beyond all others: which are taken for no part of the scene, and what that does to answers."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from imgalign import align
from imgalign.planes.intake import plane

CPU = torch.device("cpu")
SIZE_HW = (120, 160)
SHIFT = (5.3, -7.6)  # of the moving picture's content
Y, X = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]].astype(float)


def scene(shift=(0.0, 0.0), seed=0):
    """Waves of 10 pixels and more, about 0 to 1, with their noise."""
    rng = np.random.default_rng(5)
    angles, periods, phases = rng.uniform(0, np.pi, 24), rng.uniform(10, 40, 24), rng.uniform(0, 2 * np.pi, 24)
    x, y = X - shift[0], Y - shift[1]
    waves = sum(
        np.cos(2 * np.pi * (np.cos(a) * x + np.sin(a) * y) / p + f)
        for a, p, f in zip(angles, periods, phases, strict=True)
    )
    return 0.5 + 0.06 * waves + np.random.default_rng(seed).normal(0, 0.01, SIZE_HW)


def star(fwhm, middle, strength, *, over_pixels):
    """A Gaussian, at the middle of each pixel or averaged over it."""
    sigma = fwhm / np.sqrt(8 * np.log(2))

    def along(distance):
        if not over_pixels:
            return np.exp(-0.5 * (distance / sigma) ** 2)
        share = np.sqrt(0.5) / sigma
        return 0.5 * (erf((distance + 0.5) * share) - erf((distance - 0.5) * share))

    return strength * along(X - middle[0]) * along(Y - middle[1])


def hot(count, strength, seed):
    """Single pixels of half the strength and more."""
    rng, out = np.random.default_rng(seed), np.zeros(SIZE_HW)
    places = rng.integers(0, SIZE_HW, (count, 2))
    out[places[:, 0], places[:, 1]] = strength * rng.uniform(0.5, 1, count)
    return out


def taken(picture, mask=None):
    """Where pixels are replaced, as an array, and the grey values."""
    made = plane(picture, mask, CPU, "fixed")
    where = np.zeros(picture.shape[:2], bool)
    if made.impulses is not None:
        where[made.impulses.rows.numpy(), made.impulses.columns.numpy()] = True
    return where, made.at(1)[0][0, 0].numpy()


def error_px(answer):
    return np.abs(answer.moving_from_fixed - [[1, 0, SHIFT[0]], [0, 1, SHIFT[1]], [0, 0, 1]])[:2, 2].max()


@pytest.mark.parametrize("sign", [1, -1], ids=["hot", "dead"])
@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)], ids=["same_place", "own_place"])
@pytest.mark.parametrize(("count", "strength"), [(12, 1000), (60, 64), (200, 20)])
def test_impulses_leave_the_answer_to_the_scene(count, strength, seeds, sign):
    fixed, moving = (
        (s + sign * hot(count, strength, seed)).astype(np.float32)
        for s, seed in zip((scene(), scene(SHIFT, 1)), seeds, strict=True)
    )
    answer = align(fixed, moving, model="translate")
    assert answer.trusted
    assert error_px(answer) < 0.02  # noise of 0.01 and contrast of 0.2 say 0.002


def test_impulses_of_16_bits_leave_the_answer_to_the_scene():
    fixed, moving = (
        np.clip(np.rint(500 + 200 * s + 60000 * hot(25, 1, 3)), 0, 65535).astype(np.uint16)
        for s in (scene(), scene(SHIFT, 1))
    )
    answer = align(fixed, moving, model="translate")
    assert answer.trusted
    assert error_px(answer) < 0.05


def test_impulses_are_replaced_by_what_lies_around_them():
    clean, impulses = scene(), hot(60, 300, 4)
    where, grey = taken((clean + impulses).astype(np.float32))
    assert (where == (impulses > 0)).all()
    assert np.abs(grey - clean)[where].max() < 0.15  # two pixels of the shortest wave, and noise
    np.testing.assert_array_equal(grey[~where], clean.astype(np.float32)[~where])


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 0), (0, 1)],
        [(0, 0), (1, 1)],
        [(0, 0), (0, 1), (1, 0)],
        [(0, 0), (0, 1), (0, 2), (1, 1)],
        [(k, k // 2) for k in range(20)],
        [(k // 2, (k + 1) // 2) for k in range(30)],
    ],
    ids=["pair", "diagonal", "corner", "tee", "track", "stairs"],
)
def test_groups_of_impulses_are_taken_as_well(steps):
    impulses = np.zeros(SIZE_HW, bool)
    for row, column in steps:
        impulses[40 + row, 50 + column] = True
    where, _ = taken((scene() + 100 * impulses).astype(np.float32))
    assert (where == impulses).all()


def test_pairs_at_borders_are_taken_as_well():
    impulses = np.zeros(SIZE_HW, bool)
    impulses[0, :2] = impulses[-2:, 30] = impulses[50:52, -1] = True
    where, _ = taken((scene() + 100 * impulses).astype(np.float32))
    assert (where == impulses).all()


def test_hot_column_is_taken_whole():
    impulses = np.arange(SIZE_HW[1]) == 33
    where, _ = taken((scene() + 100 * impulses).astype(np.float32))
    assert (where == impulses).all()


@pytest.mark.parametrize("over_pixels", [True, False], ids=["averaged", "sampled"])
@pytest.mark.parametrize("fwhm", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("strength", [40, 200, 1000, 1e5])
def test_narrow_stars_stay_bit_for_bit(fwhm, over_pixels, strength):
    rng = np.random.default_rng(6)
    picture = rng.normal(0, 1, SIZE_HW)
    for row in range(8, SIZE_HW[0], 12):
        for column in range(8, SIZE_HW[1], 12):
            middle = (column + rng.uniform(-0.5, 0.5), row + rng.uniform(-0.5, 0.5))
            picture += star(fwhm, middle, strength, over_pixels=over_pixels)
    picture = picture.astype(np.float32)
    where, grey = taken(picture)
    assert not where.any()
    np.testing.assert_array_equal(grey, picture)


@pytest.mark.parametrize("fwhm", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("phase", [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.14, 0.14)])
def test_one_bright_star_stays(fwhm, phase):
    picture = scene() + star(fwhm, (80 + phase[0], 60 + phase[1]), 1000, over_pixels=False)
    assert not taken(picture)[0].any()


def test_hot_pixels_among_stars_are_taken_and_stars_are_not():
    picture, impulses = np.random.default_rng(7).normal(0, 1, SIZE_HW), np.zeros(SIZE_HW)
    for k in range(12):
        picture += star(1.5, (10.3 + 12.1 * k, 20.2 + 7.4 * k), 300, over_pixels=True)
        impulses[100 - 8 * k, 7 + 12 * k] = 2000
    for numbers in (picture + impulses, np.rint(1000 + picture + impulses).astype(np.uint16)):
        where, _ = taken(numbers)
        assert (where == (impulses > 0)).all()


def test_points_that_are_all_there_is_stay():
    noise = np.random.default_rng(8).normal(0, 1, SIZE_HW)
    assert not taken(noise + hot(60, 1000, 9))[0].any()
    assert not taken(hot(60, 1000, 9))[0].any()


def test_thin_lines_on_an_even_ground_stay():
    picture = np.full(SIZE_HW, 229, np.uint8)
    picture[20:60, 30:90] += np.random.default_rng(10).integers(0, 6, (40, 60)).astype(np.uint8)
    picture[::30] = picture[:, ::40] = 0
    assert not taken(picture)[0].any()


def test_usual_picture_of_8_bits_stays():
    picture = np.clip(255 * scene(), 0, 255).astype(np.uint8)
    picture[::17, ::13] = 255
    assert not taken(picture)[0].any()


def test_dim_picture_of_8_bits_loses_its_impulses():
    picture = np.clip(10 + 20 * scene(), 0, 255).astype(np.uint8)
    picture[5::17, 3::13] = 255
    assert (taken(picture)[0] == (picture == 255)).all()


def test_masked_pixels_are_neither_taken_nor_asked():
    picture, mask, impulses = scene(), np.ones(SIZE_HW, bool), hot(20, 300, 10)
    mask[:, 70:90] = False
    picture[:, 70:90] = 1e6
    impulses[:, 70:90] = 0
    impulses[60, 69] = 300
    where, _ = taken((picture + impulses).astype(np.float32), mask)
    assert (where == (impulses > 0)).all()


def test_no_data_stays_no_data():
    picture, impulses = (scene() + 1).astype(np.float32), hot(20, 300, 11).astype(np.float32)
    impulses[30:61] = 0
    picture[30:60] = np.nan
    impulses[60, 40] = 300
    where, _ = taken(picture + impulses)
    assert (where == (impulses > 0)).all()
    weight = plane(picture + impulses, None, CPU, "fixed").at(1)[1][0, 0].numpy()
    np.testing.assert_array_equal(weight == 0, np.isnan(picture))


def test_every_band_of_a_large_picture_and_every_reduction_is_without_them():
    rows = 4000  # of 160 pixels: more than one band
    picture = np.tile(scene(), (rows // SIZE_HW[0] + 1, 1))[:rows].astype(np.float32)
    impulses = np.random.default_rng(12).random(picture.shape) < 1e-3
    made = plane(picture + 1000 * impulses, None, CPU, "fixed")
    for reduction in (1, 2, 3, 4):
        clean = plane(picture, None, CPU, "fixed").at(reduction)[0]
        assert float((made.at(reduction)[0] - clean).abs().max()) < 0.6  # of 1000
    assert made.impulses is not None
    assert len(made.impulses.rows) > 0.95 * impulses.sum()  # squares of four stay


def test_colour_that_is_hot_in_one_channel_is_taken():
    picture, impulses = np.repeat(scene()[..., None], 3, 2), hot(20, 1000, 13)
    picture[..., 0] += impulses
    assert (taken(picture.astype(np.float32))[0] == (impulses > 0)).all()
