import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from imgalign import pyramid
from imgalign.pyramid import blur, fast_length, masked_blur, reduce, shrink


def picture(h, w, seed=0):
    return torch.rand((1, 1, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ones(h, w):
    return torch.ones(1, 1, h, w, dtype=torch.float64)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_reduce_is_the_weighted_mean_of_blocks(factor):
    image, weight = picture(13, 11), picture(13, 11, 1)
    out, mean_weight = reduce(image, weight, factor)
    h, w = 13 // factor, 11 // factor
    assert out.shape == (1, 1, h, w)
    i, m = (x[0, 0, : h * factor, : w * factor].numpy().reshape(h, factor, w, factor) for x in (image, weight))
    np.testing.assert_allclose(out[0, 0].numpy(), (i * m).sum((1, 3)) / m.sum((1, 3)), rtol=1e-12)
    np.testing.assert_allclose(mean_weight[0, 0].numpy(), m.mean((1, 3)), rtol=1e-12)


def test_reduce_lets_nothing_masked_through():
    image, weight = picture(8, 8), ones(8, 8)
    weight[..., :5] = 0
    poisoned = torch.where(weight > 0, image, 1e6)
    torch.testing.assert_close(reduce(poisoned, weight, 2)[0][..., 2:], reduce(image, weight, 2)[0][..., 2:])


def ramp(h, w):
    y, x = np.mgrid[:h, :w].astype(float)
    return torch.as_tensor(0.3 * x - 0.2 * y + 5)[None, None]


@pytest.mark.parametrize("reduction", [1.0, 1.3, 2.0, 2.5, 3.0, 3.7, 4.0, 5.3])
def test_a_shrunk_ramp_stays_on_the_ramp_at_the_new_pixel_centres(reduction):
    out, weight = shrink(ramp(96, 120), ones(96, 120), reduction)
    h, w = out.shape[-2:]
    assert (h, w) == (round(96 / reduction), round(120 / reduction))
    y, x = np.mgrid[:h, :w]
    expected = 0.3 * ((x + 0.5) * reduction - 0.5) - 0.2 * ((y + 0.5) * reduction - 0.5) + 5
    # Near the border a mean over what there is of the ramp is not the ramp at the centre.
    error = (out[0, 0].numpy() - expected)[4:-4, 4:-4]
    assert abs(error.mean()) < 3e-4  # a thousandth of a pixel along the ramp
    assert abs(error).max() < 0.03  # a narrow Gaussian in the frequency domain rings, both ways, by 0.1 % of the range
    assert (weight[..., 1:-1, 1:-1] > 0.99).all()


def test_shrink_keeps_masked_pixels_out():
    image, weight = ramp(64, 64), ones(64, 64)
    weight[..., 20:30, 20:30] = 0
    clean, _ = shrink(image, weight, 2.5)
    poisoned, seen = shrink(torch.where(weight > 0, image, 1e4), weight, 2.5)
    solid = seen > 0.99
    torch.testing.assert_close(poisoned[solid], clean[solid], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 5.0])
def test_blur_is_scipys_gaussian_with_zeros_outside(sigma):
    image = picture(50, 61)
    expected = gaussian_filter(image[0, 0].numpy(), sigma, mode="constant", truncate=8)
    # The sampled kernel and the sampled response differ by what lies beyond half a cycle, and the wrap by 3 sigma.
    np.testing.assert_allclose(blur(image, sigma)[0, 0].numpy(), expected, atol=0.03 if sigma < 1 else 2e-3)


@pytest.mark.parametrize("size_hw", [(50, 61), (4, 61), (200, 3)])
def test_a_blur_by_few_weights_is_scipys(size_hw):
    image = picture(*size_hw)
    expected = gaussian_filter(image[0, 0].numpy(), 1.0, mode="constant", truncate=8)
    # What lies beyond five sigmas is left out.
    np.testing.assert_allclose(blur(image, 1.0)[0, 0].numpy(), expected, atol=2e-6)


def test_blur_by_nothing_is_the_image():
    image = picture(9, 9)
    assert torch.equal(blur(image, 0.0), image)


def test_masked_blur_ignores_masked_pixels():
    image, weight = picture(40, 40), ones(40, 40)
    weight[..., 10:20, 5:25] = 0
    poisoned = torch.where(weight > 0, image, 1e5)
    torch.testing.assert_close(masked_blur(poisoned, weight, 3.0), masked_blur(image, weight, 3.0), rtol=0, atol=1e-9)


def test_masked_blur_of_a_constant_is_that_constant():
    weight = (picture(40, 40) > 0.3).double()
    out = masked_blur(torch.full_like(weight, 7.0), weight, 2.0)
    torch.testing.assert_close(out, torch.full_like(weight, 7.0))


@pytest.mark.parametrize(("n", "expected"), [(1, 2), (7, 8), (11, 12), (13, 16), (97, 100), (128, 128), (257, 270)])
def test_fast_length_is_even_and_smooth(n, expected):
    assert fast_length(n) == expected


@pytest.mark.parametrize("reduction", [1.3, 2.6, 5.2])
def test_small_pictures_come_out_alike_by_matrices_and_by_fft(reduction, monkeypatch):
    image, weight = picture(110, 126), ones(110, 126)
    small = shrink(image, weight, reduction)[0], blur(image, 1.0), blur(image, 6.0)
    monkeypatch.setattr(pyramid, "_DENSE", 0)
    monkeypatch.setattr(pyramid, "_DENSE_LEVEL", 0)
    large = shrink(image, weight, reduction)[0], blur(image, 1.0), blur(image, 6.0)
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
