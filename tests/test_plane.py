import numpy as np
import pytest
import torch

from imgalign.planes.intake import plane

CPU = torch.device("cpu")
RAMP = np.linspace(0, 1, 96).reshape(8, 12)


def grey(picture, mask=None, reduction=1):
    values, weight = plane(picture, mask, CPU, "fixed").at(reduction)
    return values[0, 0].numpy(), weight[0, 0].numpy()


def test_colours_are_weighted_as_luminance():
    rgb = np.zeros((8, 12, 3))
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 0.1, 0.5, 0.9
    np.testing.assert_allclose(grey(rgb)[0], 0.299 * 0.1 + 0.587 * 0.5 + 0.114 * 0.9, rtol=1e-5)


def test_many_channels_are_averaged():
    np.testing.assert_allclose(grey(np.stack([RAMP] * 4 + [RAMP + 5], -1))[0], RAMP + 1, rtol=1e-5)


def test_masks_multiply():
    picture = RAMP.copy()
    picture[0, 0] = np.nan
    mask = np.full((8, 12), 0.5)
    mask[1, 1], mask[2, 2] = 0, 1
    weight = grey(picture, mask)[1]
    assert weight[0, 0] == weight[1, 1] == 0
    assert weight[4, 4] == 0.5


@pytest.mark.parametrize("most", [0.5, 0.25, 1e-3, 1e-30])
def test_weak_weights_are_shares_of_the_largest(most):
    mask = np.tile([1.0, 0.5, 0.0], (8, 4))
    np.testing.assert_allclose(grey(RAMP, most * mask)[1], mask, rtol=1e-5)
    np.testing.assert_allclose(grey(RAMP, 0.75 * mask)[1], 0.75 * mask)


def test_an_odd_reduction_is_the_mean_of_blocks():
    values, weight = grey(np.tile(RAMP, (2, 2)), reduction=3)
    h, w = (3 * (2 * n // 3) for n in RAMP.shape)
    expected = np.tile(RAMP, (2, 2))[:h, :w].reshape(h // 3, 3, w // 3, 3).mean((1, 3))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert weight.shape == expected.shape


@pytest.mark.parametrize("reduction", [2, 4])
def test_an_even_reduction_keeps_ramps_and_lets_no_fine_wave_come_back_as_a_coarse_one(reduction):
    y, x = np.mgrid[:64, :80].astype(np.float32)
    values, _ = grey(0.003 * x - 0.002 * y + 0.5, reduction=reduction)
    h, w = values.shape
    ky, kx = np.mgrid[:h, :w]
    at = lambda k: (k + 0.5) * reduction - 0.5  # noqa: E731
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(values[inner], (0.003 * at(kx) - 0.002 * at(ky) + 0.5)[inner], rtol=1e-5)
    wave, _ = grey(0.5 + 0.4 * np.cos(2 * np.pi * 0.8 / reduction * x), reduction=reduction)
    # What a mean over blocks leaves of it is a quarter.
    assert np.abs(wave - 0.5)[inner].max() < 0.4 * 0.05


def test_levels_do_not_depend_on_those_that_are_there():
    p, q = (plane(np.tile(RAMP, (3, 3)), None, CPU, "fixed") for _ in range(2))
    p.at(1), p.at(2)
    np.testing.assert_array_equal(p.at(4)[0].numpy(), q.at(4)[0].numpy())


@pytest.mark.parametrize(("reduction", "height"), [(1, 24), (2, 24), (2, 27), (4, 61), (3, 40)])
@pytest.mark.parametrize("masked", [None, np.s_[:], np.s_[17:]])
def test_bands_join_without_a_seam(monkeypatch, reduction, height, masked):
    """Against levels made in one go, which the formulas above hold for."""
    picture = np.random.default_rng(0).random((height, 12))
    mask = None
    if masked is not None:  # the bands before the mask begins are whole
        mask = np.ones((height, 12))
        mask[masked] = np.random.default_rng(1).random(mask[masked].shape)
    whole = grey(picture, mask, reduction)
    monkeypatch.setattr("imgalign.planes.plane.BAND_SAMPLES", 1)
    monkeypatch.setattr("imgalign.planes.plane._LEAST_ROWS", 2)
    for in_one_go, by_bands in zip(whole, grey(picture, mask, reduction), strict=True):
        np.testing.assert_array_equal(by_bands, in_one_go)
