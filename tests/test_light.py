import numpy as np
import pytest
import torch
from scenes import Blobs, render
from scipy.ndimage import gaussian_filter

from imgalign.refine.light import View, _lattice, changing_light, lit, mean

SIZE = (150, 180)
SCENE = Blobs(11, 180, count=400, sigma=(2, 5))
Y, X = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
INNER = (..., slice(25, -25), slice(25, -25))  # at the border the gain is that of the inner side


def view(fixed, warped, weight=None):
    planes = (fixed, warped, np.ones(SIZE) if weight is None else weight)
    return View(*(torch.as_tensor(np.asarray(p, np.float32))[None, None] for p in planes))


def test_a_gain_that_changes_is_found_where_it_is():
    gain = 1 + 0.5 * np.sin(X / 60) * np.cos(Y / 50)
    picture = render(SCENE, SIZE)
    light = changing_light(view(gain * picture, picture), None)
    # A Gaussian of 12 px takes 3 % off a wave of 2 pi 50 px, more off the slope of the structure that it weighs.
    assert np.abs(light.gain[0, 0].numpy() - gain)[INNER].max() < 0.15


def test_relit_pictures_are_alike():
    gain, bias = 1 + 0.5 * np.sin(X / 60), 0.01 * X + 0.2 * np.cos(Y / 40)
    picture = render(SCENE, SIZE)
    seen = view(gain * picture + bias, picture)
    fixed, warped, _ = changing_light(seen, None).on(seen)
    before = (seen.fixed - seen.warped)[INNER].var()
    assert (fixed - warped)[INNER].square().mean() < 0.03 * before


def test_local_inversions_are_turned_by_their_sign():
    picture = render(SCENE, SIZE)
    light = changing_light(view(np.where(X < 90, picture, -picture), picture), None)
    assert light.gain[..., 40:110, 30:60].min() > 0.5
    assert light.gain[..., 40:110, 120:150].max() < -0.5


@pytest.mark.parametrize("gain", [1.0, 0.3, -2.0])
def test_one_gain_is_no_changing_light(gain):
    rng = np.random.default_rng(0)
    picture = render(SCENE, SIZE)
    assert changing_light(view(picture, gain * picture + 7 + rng.normal(0, 0.05 * abs(gain), SIZE)), None) is None


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_noise_between_sparse_spots_is_no_changing_light(noise):
    rng = np.random.default_rng(1)
    spots = sum(8 * np.exp(-((X - x) ** 2 + (Y - y) ** 2) / 6) for x, y in rng.uniform(10, 140, (12, 2)))
    fixed, warped = (spots + rng.normal(0, noise, SIZE) for _ in range(2))
    assert changing_light(view(fixed, warped), None) is None


@pytest.mark.parametrize("noises", [(0.02, 1.0), (1.0, 0.02)])
def test_noise_of_one_picture_is_no_changing_light(noises):
    rng = np.random.default_rng(5)
    scene = 6 * np.sin(X / 20) * np.cos(Y / 25) + np.where(X > 90, 3 * np.sin(X / 2) * np.sin(Y / 3), 0.0)
    fixed, warped = (scene + rng.normal(0, noise, SIZE) for noise in noises)
    assert changing_light(view(fixed, warped), None) is None


def test_filtered_pictures_keep_the_gain_and_have_means_of_their_own():
    rng = np.random.default_rng(4)
    gain, picture = 1 + 0.5 * np.sin(X / 60) * np.cos(Y / 50), render(SCENE, SIZE)
    light = changing_light(view(gain * picture, picture), None)
    # All but noise has gone: a gain learnt from these would be about nothing.
    filtered = [1 + 0.01 * X + rng.normal(0, 1, SIZE), 2 + np.cos(Y / 40) + rng.normal(0, 1, SIZE)]
    found = light.around(view(*filtered))
    assert torch.equal(found.gain, light.gain)
    for mean_around, plane in zip((found.fixed_mean, found.warped_mean), filtered, strict=True):
        assert np.abs(mean_around[0, 0].numpy() - gaussian_filter(plane, 12))[INNER].max() < 0.02


def test_a_light_is_given_when_wanted_and_not_when_not():
    seen = view(render(SCENE, SIZE), render(SCENE, SIZE))
    assert changing_light(seen, False) is None
    light = changing_light(seen, True)
    assert (light.gain - 1).abs().max() < 0.01


@pytest.mark.parametrize("size_hw", [(150, 180), (61, 203), (300, 97)])
@pytest.mark.parametrize("sigma", [12.0, 6.0])
def test_means_around_lattice_points_are_those_of_a_gaussian(sigma, size_hw):
    picture = 5 + gaussian_filter(np.random.default_rng(1).normal(size=size_hw), 4.0)
    ones = np.ones(size_hw)
    down, _ = _lattice(torch.as_tensor(picture)[None, None], sigma)
    found, below = (down(torch.as_tensor(p)[None, None])[0, 0].numpy() for p in (picture, ones))
    mean_, share = (gaussian_filter(p, sigma, mode="constant", truncate=8) for p in (picture, ones))
    step = round(sigma / 2)
    points = tuple(slice(0, None, step) for _ in size_hw)
    expected = (mean_ / share)[points]
    inside = tuple(slice(0, n) for n in expected.shape)  # the last lattice point may lie outside
    assert np.abs((found / below)[inside] - expected).max() < 0.05 * expected.std()
    assert np.allclose(below[inside], 2 * np.pi * sigma**2 * share[points], rtol=0.02)


@pytest.mark.parametrize("size_hw", [(150, 180), (61, 203), (97, 98)])
def test_interpolation_from_lattice_points_keeps_parabolas(size_hw):
    down, up = _lattice(torch.zeros(1, 1, *size_hw, dtype=torch.float64), 12.0)
    rows, columns = down(torch.zeros(1, 1, *size_hw, dtype=torch.float64)).shape[-2:]
    y, x = np.mgrid[:rows, :columns] * 6.0
    found = up(torch.as_tensor(x * x - 3 * y + 0.1 * x * y)[None, None])[0, 0].numpy()
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(float)
    inner = (slice(6, -12), slice(6, -12))  # beyond the ends the last point stands for the missing one
    assert np.allclose(found[inner], (x * x - 3 * y + 0.1 * x * y)[inner], atol=1e-9)


def test_masked_pixels_do_not_count():
    weight = np.ones(SIZE)
    weight[40:80, 40:90] = 0
    picture = render(SCENE, SIZE)
    clean, poisoned = (
        changing_light(view(np.where(weight > 0, picture, p), (1 + X / 200) * picture, weight), True)
        for p in (0.0, 1e3)
    )
    torch.testing.assert_close(poisoned.gain, clean.gain, rtol=0, atol=1e-3)


def test_occluders_are_faint():
    there = np.ones(SIZE)
    there[40:80, 40:90] = 0
    picture = render(SCENE, SIZE)
    seen = view(np.where(there > 0, picture, 50.0), picture)
    weight = torch.as_tensor(np.float32(there))[None, None]
    assert changing_light(seen, None) is not None
    assert changing_light(seen, None, weight) is None
    beside = changing_light(seen, True, weight).gain[..., 90:110, 20:140]
    assert (beside - 1).abs().max() < 0.2


def test_mean_is_weighted():
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert float(mean(x, torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]]))) == pytest.approx(2.5)


def on_even_ground():
    picture = render(SCENE, SIZE)
    picture[:, 110:] = picture.min()
    return picture


def test_a_thing_of_another_tone_over_even_ground_is_no_light():
    rng = np.random.default_rng(2)
    fixed, warped = (on_even_ground() + rng.normal(0, 0.1, SIZE) for _ in range(2))
    warped[40:90, 120:160] += 0.7 * fixed.std()
    seen = view(fixed, warped)
    assert changing_light(seen, None) is not None  # which by itself it looks like
    light, there = lit(seen, None, True)
    assert light is None
    assert there[..., 46:84, 126:154].max() < 0.1
    assert there[..., :100].min() == 1


def test_light_over_even_ground_stays_light():
    rng = np.random.default_rng(2)
    gain = 1 + 0.5 * np.sin(X / 60) * np.cos(Y / 50)
    fixed, warped = (on_even_ground() + 5 + rng.normal(0, 0.05, SIZE) for _ in range(2))
    light, _ = lit(view(gain * fixed, warped), None, True)
    assert light is not None
    assert np.abs(light.gain[0, 0].numpy() - gain)[30:-30, 30:80].max() < 0.3
