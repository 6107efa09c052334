import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.autograd import gradcheck

from imgalign.errors import OptionError, ShapeError
from imgalign.gradients import (
    central_differences,
    derivatives,
    gradient_magnitude,
    magnitude,
    total_variation,
)

OPERATORS = ["central", "sobel", "scharr", "gaussian"]


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(height: int, width: int, a: float, b: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (7 + a * x.double() + b * y.double())[None, None]


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 3), channels=st.integers(1, 4), height=st.integers(2, 12), width=st.integers(2, 12))
def test_central_differences_equal_numpy_for_any_shape(batch: int, channels: int, height: int, width: int) -> None:
    image = random_image(batch, channels, height, width, seed=height * 100 + width)
    d_dx, d_dy = central_differences(image)
    want_dy, want_dx = np.gradient(image.numpy(), axis=(2, 3), edge_order=1)
    np.testing.assert_allclose(d_dx.numpy(), want_dx, rtol=0, atol=1e-12)
    np.testing.assert_allclose(d_dy.numpy(), want_dy, rtol=0, atol=1e-12)


def zero_padded_differences(image: torch.Tensor) -> torch.Tensor:
    """The recipe of the web: one convolution, padded with zeros."""
    kernel = torch.tensor([[[[-0.5, 0.0, 0.5]]]], dtype=image.dtype)
    return torch.nn.functional.conv2d(image, kernel, padding=(0, 1))


def test_zero_padding_is_wrong_along_the_border_by_half_the_picture_and_ours_is_not() -> None:
    image = 100 + plane(6, 8, 2.0, 0.0)
    naive, ours = zero_padded_differences(image), central_differences(image)[0]
    assert (naive[..., 1:-1] - 2).abs().max() < 1e-12
    assert (naive[..., 0] - 2).abs().min() > 50  # half the brightness, 107 / 2, for a slope of 2
    assert (naive[..., -1] - 2).abs().min() > 50
    assert (ours - 2).abs().max() < 1e-12


@pytest.mark.parametrize("sigma_px", [0.1, 0.7, 2.0, 9.0])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("size_hw", [(2, 2), (3, 9), (20, 17)])
def test_every_operator_is_exact_on_planes_up_to_the_border(
    operator: str, sigma_px: float, size_hw: tuple[int, int]
) -> None:
    d_dx, d_dy = derivatives(plane(*size_hw, 1.5, -0.25), operator=operator, sigma_px=sigma_px)
    torch.testing.assert_close(d_dx, torch.full_like(d_dx, 1.5), rtol=0, atol=1e-9)
    torch.testing.assert_close(d_dy, torch.full_like(d_dy, -0.25), rtol=0, atol=1e-9)


def test_sobel_equals_scipy_inside() -> None:
    image = random_image(1, 1, 20, 30)
    for axis, ours in zip((1, 0), derivatives(image, operator="sobel"), strict=True):
        want = ndimage.sobel(image[0, 0].numpy(), axis) / 8  # SciPy's sums weigh 8
        np.testing.assert_allclose(ours[0, 0, 1:-1, 1:-1], want[1:-1, 1:-1], atol=1e-12)


@pytest.mark.parametrize("sigma_px", [1.0, 2.5])
def test_gaussian_derivative_equals_scipy_inside(sigma_px: float) -> None:
    image = random_image(1, 1, 60, 50)
    d_dx, _ = derivatives(image, operator="gaussian", sigma_px=sigma_px)
    want = ndimage.gaussian_filter(image[0, 0].numpy(), sigma_px, order=(0, 1))
    inner = (slice(10, -10), slice(10, -10))
    # Ours is normalised to be exact on ramps; SciPy's truncated kernel is short of that by 1e-3.
    np.testing.assert_allclose(d_dx[0, 0][inner].numpy(), want[inner], atol=2e-3 * np.abs(want).max())


@pytest.mark.parametrize("operator", OPERATORS)
def test_constant_image_in_float32_has_no_gradient(operator: str) -> None:
    assert gradient_magnitude(torch.full((1, 1, 9, 11), 31234.5), operator=operator).max() == 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_derivatives_pass_gradcheck(operator: str) -> None:
    image = random_image(2, 2, 4, 5).requires_grad_()
    assert gradcheck(lambda i: derivatives(i, operator=operator), image)


@pytest.mark.parametrize("operator", OPERATORS)
def test_batch_equals_one_by_one(operator: str) -> None:
    images = random_image(3, 2, 7, 6)
    whole = gradient_magnitude(images, operator=operator)
    singles = torch.cat([gradient_magnitude(one[None], operator=operator) for one in images])
    torch.testing.assert_close(whole, singles, rtol=0, atol=1e-14)


def test_magnitude_is_exact_without_eps_and_short_by_less_than_eps_with_it() -> None:
    d_dx, d_dy = torch.tensor([0.0, 3.0, 1e30, 1e-30]), torch.tensor([0.0, -4.0, 1e30, 0.0])
    torch.testing.assert_close(magnitude(d_dx, d_dy), torch.tensor([0.0, 5.0, math.sqrt(2) * 1e30, 1e-30]))
    soft = magnitude(d_dx[:2], d_dy[:2], eps=0.1)
    assert soft[0] == 0
    assert 4.9 < soft[1] < 5


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
def test_magnitude_has_a_finite_derivative_at_zero(eps: float) -> None:
    vector = torch.zeros(2, 4, requires_grad=True)
    magnitude(vector[0], vector[1], eps=eps).sum().backward()
    assert vector.grad is not None
    assert (vector.grad == 0).all()


def test_magnitude_passes_gradcheck_at_zero_and_elsewhere() -> None:
    vector = torch.tensor([[0.0, 0.3, -1.0], [0.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: magnitude(v[0], v[1], eps=0.1), vector)
    assert gradcheck(lambda v: magnitude(v[0, 1:], v[1, 1:]), vector)


def test_total_variation_is_normalised_by_its_counts() -> None:
    torch.testing.assert_close(total_variation(plane(5, 9, 2.0, -3.0)), torch.tensor([5.0], dtype=torch.float64))
    step = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    step[..., 3:] = 1
    assert total_variation(step).item() == pytest.approx(4 / (4 * 5))
    assert total_variation(step, isotropic=True, eps=0).item() == pytest.approx(4 / (4 * 6 - 1))
    twice = step.repeat(1, 3, 1, 1)
    assert total_variation(twice).item() == pytest.approx(total_variation(step).item())


def test_isotropic_total_variation_joins_both_differences() -> None:
    image = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    image[..., 1, 1] = 1.0
    # Right of (0, 1), below (1, 0), and both at (1, 1): 1 + 1 + sqrt(2) over 8 pixels.
    assert total_variation(image, isotropic=True, eps=0).item() == pytest.approx((2 + math.sqrt(2)) / 8)


@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation_passes_gradcheck_and_is_finite_on_flat_images(isotropic: bool) -> None:
    image = random_image(2, 2, 4, 5).requires_grad_()
    assert gradcheck(lambda i: total_variation(i, isotropic=isotropic, eps=0.05), image)
    flat = torch.ones(1, 1, 4, 4, requires_grad=True)
    total_variation(flat, isotropic=isotropic).sum().backward()
    assert flat.grad is not None
    assert (flat.grad == 0).all()


def test_total_variation_denoises_towards_a_step() -> None:
    clean = torch.zeros(1, 1, 24, 24)
    clean[..., 12:] = 1
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    image = noisy.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (((image - noisy) ** 2).mean() + 0.15 * total_variation(image, isotropic=True, eps=0.01)).sum().backward()
        optimizer.step()
    before, after = (noisy - clean).square().mean().sqrt(), (image.detach() - clean).square().mean().sqrt()
    assert after < 0.6 * before


@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 1, 5), (1, 1, 5, 1), (0, 1, 4, 4), (1, 0, 4, 4)])
def test_unusable_shapes_are_refused_with_a_remedy(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"image must be .* got .*; add"):
        central_differences(torch.zeros(shape))


def test_unusable_dtypes_and_options_are_refused() -> None:
    with pytest.raises(ShapeError, match="floating"):
        central_differences(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(OptionError, match="sigma_px"):
        derivatives(torch.zeros(1, 1, 4, 4), operator="gaussian", sigma_px=0)
    with pytest.raises(OptionError, match="operator"):
        derivatives(torch.zeros(1, 1, 4, 4), operator="prewitt")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="eps"):
        magnitude(torch.zeros(1), torch.zeros(1), eps=-1)
