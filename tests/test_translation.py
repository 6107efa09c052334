import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.autograd import gradcheck

from imgalign.errors import OptionError, ShapeError
from imgalign.translation import shift

KERNELS = ["nearest", "bilinear", "cubic"]


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def offsets(*pairs: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.float64)


def inverse_bells(height: int = 75, width: int = 100) -> torch.Tensor:
    """1/(1+x^2) 1/(1+y^2), the brightest place at row 24.67, column 66, scaled to a maximum of 1."""
    x, y = torch.linspace(-2, 1, width, dtype=torch.float64), torch.linspace(-1, 2, height, dtype=torch.float64)
    image = (1 / (1 + y**2))[:, None] * (1 / (1 + x**2))
    return (image / image.max())[None, None]


@pytest.mark.parametrize("kernel", KERNELS)
def test_whole_offsets_move_the_content_and_leave_zeros(kernel: str) -> None:
    image = random_image(1, 2, 5, 6)
    moved = shift(image, offsets((2, -1)), kernel=kernel)
    want = torch.zeros_like(image)
    want[..., :4, 2:] = image[..., 1:, :4]
    torch.testing.assert_close(moved, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "order"), [("nearest", 0), ("bilinear", 1), ("cubic", 3)])
@pytest.mark.parametrize("pair", [(1.3, -2.2), (-0.6, 0.4), (0.0, 2.7), (-4.49, 0.0)])
def test_fractional_offsets_equal_scipy(kernel: str, order: int, pair: tuple[float, float]) -> None:
    image = random_image(1, 1, 9, 11)
    want = ndimage.shift(image[0, 0].numpy(), pair[::-1], order=order, mode="mirror")
    moved = shift(image, offsets(pair), kernel=kernel)[0, 0].numpy()
    margin = 0.5 if kernel == "nearest" else 0.0
    y, x = np.meshgrid(np.arange(9) - pair[1], np.arange(11) - pair[0], indexing="ij")
    valid = (x >= -margin) & (x <= 10 + margin) & (y >= -margin) & (y <= 8 + margin)
    np.testing.assert_allclose(moved[valid], want[valid], atol=1e-12)
    assert (moved[~valid] == 0).all()


def test_every_image_has_its_own_offset_and_one_image_serves_all() -> None:
    image, pairs = random_image(3, 2, 6, 7), offsets((1.2, 0.7), (-9.0, 0.0), (0.3, -2.0))
    for kernel in KERNELS:
        whole = shift(image, pairs, kernel=kernel)
        singles = torch.cat([shift(image[i : i + 1], pairs[i : i + 1], kernel=kernel) for i in range(3)])
        torch.testing.assert_close(whole, singles, rtol=0, atol=1e-14)
        assert (whole[1] == 0).all()  # moved out of sight
        torch.testing.assert_close(
            shift(image[:1], pairs, kernel=kernel), shift(image[:1].repeat(3, 1, 1, 1), pairs, kernel=kernel)
        )


def test_backward_is_upstream_times_numpy_gradient_shifted_alike() -> None:
    image, upstream = random_image(1, 2, 7, 8), random_image(1, 2, 7, 8, seed=1)
    pair = offsets((1.6, -2.3)).requires_grad_()
    shift(image, pair).backward(upstream)
    assert pair.grad is not None
    d_dy, d_dx = np.gradient(image.numpy(), axis=(2, 3))
    for index, slope in enumerate((d_dx, d_dy)):
        moved = np.zeros_like(slope)
        moved[..., :5, 2:] = slope[..., 2:, :6]
        assert pair.grad[0, index].item() == pytest.approx(-(moved * upstream.numpy()).sum(), abs=1e-12)


@pytest.mark.parametrize("kernel", ["bilinear", "cubic"])
def test_kernel_slopes_pass_gradcheck_in_image_and_offset(kernel: str) -> None:
    image, pairs = random_image(2, 2, 5, 6).requires_grad_(), offsets((1.3, -0.7), (-2.4, 0.2)).requires_grad_()
    assert gradcheck(lambda i, o: shift(i, o, kernel=kernel, slopes="kernel"), [image, pairs])
    single = random_image(1, 1, 4, 4).requires_grad_()
    assert gradcheck(lambda i, o: shift(i, o, kernel=kernel, slopes="kernel"), [single, pairs])


@pytest.mark.parametrize("pair", [(1.6, -2.3), (0.0, 1.0), (0.4, 0.0)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_image_gradient_is_the_transpose_and_only_computed_if_asked_for(kernel: str, pair: tuple[float, float]) -> None:
    image = random_image(1, 2, 5, 6).requires_grad_()
    assert gradcheck(lambda i: shift(i, offsets(pair), kernel=kernel), image)
    fixed, moved = image.detach(), offsets(pair).requires_grad_()
    shift(fixed, moved, kernel=kernel).sum().backward()
    assert fixed.grad is None


@pytest.mark.parametrize("kernel", ["bilinear", "cubic"])
def test_whole_offsets_have_the_mean_of_both_one_sided_slopes(kernel: str) -> None:
    image, upstream = random_image(1, 1, 7, 8), random_image(1, 1, 7, 8, seed=1)
    upstream[..., :2, :] = upstream[..., -2:, :] = upstream[..., :2] = upstream[..., -2:] = 0

    def slope(x: float) -> torch.Tensor:
        pair = offsets((x, 0.0)).requires_grad_()
        shift(image, pair, kernel=kernel, slopes="kernel").backward(upstream)
        assert pair.grad is not None
        return pair.grad[0, 0]

    torch.testing.assert_close(slope(0.0), (slope(1e-9) + slope(-1e-9)) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_vanishes_at_a_peak_between_pixels(kernel: str) -> None:
    """Central differences know where the peak is; the bilinear kernel's own slope knows only its pixel."""
    image = inverse_bells()
    pair = offsets((-16.0, 37 - 74 / 3)).requires_grad_()
    shift(image, pair, kernel=kernel)[0, 0, 37, 50].backward()
    assert pair.grad is not None
    # One pixel off the peak the slope is 0.0033; nearest sampling is off by up to half a pixel.
    assert pair.grad.abs().max() < (2e-3 if kernel == "nearest" else 2e-5)
    if kernel == "bilinear":
        naive = offsets((-16.0, 37 - 74 / 3)).requires_grad_()
        shift(image, naive, kernel=kernel, slopes="kernel")[0, 0, 37, 50].backward()
        assert naive.grad is not None
        assert naive.grad[0, 1].abs() > 2e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_pixels_do_not_turn_the_offset_to_nan(kernel: str) -> None:
    image = random_image(1, 1, 9, 9)
    if kernel != "cubic":  # whose filter has carried NaN to every pixel
        image[..., 3, 3] = math.nan
    pair = offsets((0.3, 0.4)).requires_grad_()
    shift(image, pair, kernel=kernel).square().sum().backward()
    assert pair.grad is not None
    assert pair.grad.isfinite().all()
    assert (pair.grad != 0).all()


def test_gradient_descent_finds_the_shift_between_two_scenes() -> None:
    y, x = torch.meshgrid(torch.arange(40.0).double(), torch.arange(48.0).double(), indexing="ij")
    scene = lambda dx, dy: torch.exp(-((x - 20 - dx) ** 2 + (y - 18 - dy) ** 2) / 60)[None, None]  # noqa: E731
    fixed, moving = scene(0.0, 0.0), scene(-3.3, 2.6)
    for kernel, tolerance in (("nearest", 0.5), ("bilinear", 0.05), ("cubic", 0.01)):
        pair = offsets((0.0, 0.0)).requires_grad_()
        optimizer = torch.optim.SGD([pair], lr=0.2)
        for _ in range(150):
            optimizer.zero_grad()
            (0.5 * (shift(moving, pair, kernel=kernel) - fixed).square().sum()).backward()
            optimizer.step()
        np.testing.assert_allclose(pair.detach()[0], (3.3, -2.6), atol=tolerance)


@pytest.mark.parametrize(
    ("image", "offset"),
    [
        (torch.zeros(4, 4), torch.zeros(1, 2)),
        (torch.zeros(1, 1, 1, 4), torch.zeros(1, 2)),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2)),
        (torch.zeros(1, 1, 4, 4), torch.zeros(2)),
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 3)),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, 2)),
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, dtype=torch.int64)),
    ],
)
def test_shapes_and_dtypes_that_do_not_fit_are_refused(image: torch.Tensor, offset: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match=r"must be .* got .*; "):
        shift(image, offset)


def test_options_that_cannot_work_are_refused() -> None:
    image = torch.zeros(1, 1, 4, 4)
    with pytest.raises(OptionError, match="finite"):
        shift(image, torch.tensor([[math.nan, 0.0]]))
    with pytest.raises(OptionError, match="kernel"):
        shift(image, torch.zeros(1, 2), kernel="lanczos")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="slopes"):
        shift(image, torch.zeros(1, 2), kernel="nearest", slopes="kernel")
