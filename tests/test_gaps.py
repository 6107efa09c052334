"""Gaps without data that nobody declared."""

import numpy as np
import pytest
import torch
from scenes import TRUTHS, Blobs, about_centre, corner_error, pair, render

from imgalign import align
from imgalign.planes import gaps
from imgalign.planes.intake import plane

SIZE = (200, 240)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
SCENE = Blobs(3, 260, count=400, sigma=(2, 6))
NOISE = 2.0  # grey values


def grey(scene, low=20, high=235):
    """A scene of about -1.5 to 1.5 as 8 bits."""
    return np.clip(0.5 * (low + high) + (high - low) / 3 * scene, 1, 254)


def digitised(values, seed=0):
    noise = NOISE * np.random.default_rng(seed).normal(size=values.shape)
    return np.clip(np.rint(values + noise), 1, 254).astype(np.uint8)


def stripes(phase):
    """Where a scanner without its line corrector sees nothing: wedges that narrow towards the middle."""
    return (Y + 0.18 * X + phase) % 24 < 1 + 6 * abs(X / 120 - 1)


def ragged(phase):
    """Where the pictures of a mosaic do not meet."""
    bend = 5 * np.sin(Y / 9 + phase) + 3 * np.sin(Y / 4.3)
    return sum(abs((X + 23 * phase) % 240 - at - bend) < 5 for at in (45, 110, 190)) > 0


def rows(phase):
    return np.random.default_rng(int(10 * phase)).random(SIZE)[:, :1].repeat(SIZE[1], 1) < 0.15


GAPS = {"stripes": stripes, "ragged": ragged, "rows": rows}


def with_gaps(picture, gap, number=0):
    return np.where(gap, picture.dtype.type(number), picture)


def found(picture, mask=None):
    return gaps.found(plane(picture, mask, torch.device("cpu"), "fixed"))


@pytest.mark.parametrize("number", [0, 255])
@pytest.mark.parametrize("name", GAPS)
def test_gaps_are_found_and_nothing_else(name, number):
    gap = GAPS[name](7)
    picture = with_gaps(digitised(grey(SCENE(X, Y))), gap, number)
    assert (found(picture) == ~gap).all()


def test_gaps_are_found_in_any_type():
    gap, picture = stripes(7), digitised(grey(SCENE(X, Y)))
    colours = np.stack([picture, picture // 2, 255 - picture], -1)
    for scene in (colours, picture.astype(np.uint16) * 200, picture.astype(np.int16) - 300, picture / 255 + 0.01):
        hollow = gap[..., None] if scene.ndim == 3 else gap
        assert (found(np.where(hollow, scene.dtype.type(min(0, scene.min() - 1)), scene)) == ~gap).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_gaps_of_a_tensor_are_found(dtype):
    gap = stripes(7)
    picture = torch.from_numpy(with_gaps(digitised(grey(SCENE(X, Y))), gap)).to(dtype)
    assert (found(picture) == ~gap).all()


def turned(picture, angle_deg):
    """By bilinear interpolation, as another program may have done it."""
    x, y, _ = np.einsum("ij,jhw->ihw", about_centre(SIZE, angle_deg=angle_deg), np.stack([X, Y, np.ones_like(X)]))
    x, y = x.clip(0, SIZE[1] - 1.001), y.clip(0, SIZE[0] - 1.001)
    left, top = x.astype(int), y.astype(int)
    a, b = x - left, y - top
    upper, lower = ((1 - a) * picture[k, left] + a * picture[k, left + 1] for k in (top, top + 1))
    return (1 - b) * upper + b * lower


@pytest.mark.parametrize("angle_deg", [-4, 7])
def test_a_pixel_mixed_with_a_gap_is_left_out_too(angle_deg):
    gap = stripes(7)
    picture = digitised(grey(SCENE(X, Y)))
    there = found(np.rint(turned(with_gaps(picture, gap), angle_deg)).astype(np.uint8))
    assert there is not None
    share = turned(gap.astype(float), angle_deg)
    assert not there[share > 0.999].any()
    # Where a gap is one pixel wide none is left that shows nothing else.
    assert there[(share > 0.001) & (share < 0.999)].mean() < 0.15
    assert there[share < 0.001].mean() > 0.8


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("model", TRUTHS)
def test_a_scene_behind_gaps_of_their_own_is_aligned(name, model):
    truth = about_centre(SIZE, **{**TRUTHS[model], "shift": (14.3, -9.7)})
    fixed, moving = (digitised(grey(p), seed) for seed, p in enumerate(pair(SCENE, SIZE, truth)))
    result = align(with_gaps(fixed, GAPS[name](3)), with_gaps(moving, GAPS[name](16)), model=model)
    assert result.trusted
    # Of lost rows each takes its neighbours along: half of the scene is left.
    assert corner_error(result.moving_from_fixed, truth, SIZE) < (0.8 if name == "rows" else 0.1)
    assert result.reasons[-1] == "gaps of one value were taken for no data"


@pytest.mark.parametrize("which", [0, 1])
def test_gaps_of_one_picture_alone_are_left_out(which):
    truth = about_centre(SIZE, shift=(14.3, -9.7), angle_deg=3)
    pictures = [digitised(grey(p), seed) for seed, p in enumerate(pair(SCENE, SIZE, truth))]
    pictures[which] = with_gaps(pictures[which], stripes(3))
    result = align(*pictures, model="rigid")
    assert result.trusted
    assert corner_error(result.moving_from_fixed, truth, SIZE) < 0.1
    assert result.reasons[-1] == "gaps of one value were taken for no data"


@pytest.mark.parametrize("name", GAPS)
def test_gaps_alone_are_not_trusted(name):
    other = Blobs(17, 260, count=400, sigma=(2, 6))
    for seed, model in enumerate(("translate", "rigid", "affine")):
        one, two = (digitised(grey(s(X, Y)), seed + k) for k, s in enumerate((SCENE, other)))
        result = align(with_gaps(one, GAPS[name](3)), with_gaps(two, GAPS[name](9 + seed)), model=model)
        assert not result.trusted


def test_a_frame_and_gaps_are_left_out_together():
    truth = about_centre(SIZE, shift=(14.3, -9.7), angle_deg=3)
    fixed, moving = (digitised(grey(p), seed) for seed, p in enumerate(pair(SCENE, SIZE, truth)))
    frame = (X < 20) | (X > 220) | (Y < 14) | (Y > 186)
    result = align(with_gaps(fixed, stripes(3) | frame), with_gaps(moving, stripes(16) | frame), model="rigid")
    assert result.trusted
    assert corner_error(result.moving_from_fixed, truth, SIZE) < 0.1
    assert result.reasons[-1] == "gaps of one value were taken for no data"


def stars():
    at = np.random.default_rng(4).uniform(0, 240, (150, 3))
    return sum(h * np.exp(-((X - x) ** 2 + (Y - y) ** 2) / 4) for x, y, h in at)


WHOLE = {
    "stars": stars(),
    "nuclei": 150 * SCENE(X, Y) - 40,
    "shadows": 60 + 120 * SCENE(X, Y),
    "blown lights": 200 + 120 * SCENE(X, Y),
    "a page": np.where(SCENE(X, Y) > 0.4, 0, 255),
    "a drawing": 255 - 255 * np.exp(-((SCENE(X, Y) / 0.1) ** 2)),
    "a map": 40 * np.clip(np.floor(2 * SCENE(X, Y)) + 3, 0, 6),
    "a halftone": np.where(64 + 40 * SCENE(X, Y) < 16 * (X % 4 + Y % 4), 255, 0),
    "few photons": np.random.default_rng(1).poisson(np.clip(1 + SCENE(X, Y), 0, None)),
    "impulses": np.where(np.random.default_rng(1).random(SIZE) < 0.1, 0, grey(SCENE(X, Y))),
    "an object": np.where(np.hypot(X - 120, Y - 100) < 80, grey(SCENE(X, Y)), 0),
    "a turned frame": np.where(abs(X - 120 + 0.3 * (Y - 100)) < 100, grey(SCENE(X, Y)), 0),
    "a rich scene": grey(SCENE(X, Y)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_grounds_shadows_and_lights_are_no_gaps(name):
    assert found(np.clip(np.rint(WHOLE[name]), 0, 255).astype(np.uint8)) is None


def test_a_picture_with_a_mask_or_alpha_is_left_as_it_is():
    picture = with_gaps(digitised(grey(SCENE(X, Y))), stripes(7))
    assert found(picture) is not None
    assert found(picture, np.ones(SIZE, bool)) is None
    assert found(np.stack([picture, np.full_like(picture, 255)], -1)) is None
    assert found(np.where(X < 3, np.nan, picture)) is None


def test_gaps_on_gaps_are_told_from_gaps_apart():
    one, other = ~stripes(3), ~stripes(15)
    assert gaps.explain(one, one, np.eye(3))
    assert not gaps.explain(one, other, np.eye(3))
    assert gaps.explain(one, other, about_centre(SIZE, shift=(0, -12)))
    assert not gaps.explain(one, None, np.eye(3))
    assert not gaps.explain(one, other, about_centre(SIZE, shift=(500, 0)))


def test_a_scene_is_the_same_to_the_bit_when_nothing_is_missing():
    # Clipped blacks: looked at more closely, and left as they are.
    truth = about_centre(SIZE, shift=(4, -3))
    pictures = [
        np.clip(60 + 120 * p, 0, 255).astype(np.uint8) for p in (render(SCENE, SIZE), pair(SCENE, SIZE, truth)[1])
    ]
    result = align(*pictures, model="translate")
    masked = align(*pictures, model="translate", mask=np.ones(SIZE, bool))
    assert (result.moving_from_fixed == masked.moving_from_fixed).all()
    assert not any("gaps" in reason for reason in result.reasons)
