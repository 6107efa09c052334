import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch.autograd import gradcheck

from imgalign.coords import mapped_planes
from imgalign.errors import OptionError, ShapeError
from imgalign.numerics.splines import spline_coefficients
from imgalign.sampling import (
    KERNELS,
    MOMS_BEND,
    Reader,
    sample,
    sample_grid,
)


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inner_points(b, n, size_hw, seed=1):
    """Points off the pixel centres and off the middles between them, where some derivative jumps."""
    rng = np.random.default_rng(seed)
    h, w = size_hw
    cell = np.stack([rng.integers(0, w - 1, (b, n)), rng.integers(0, h - 1, (b, n))], -1)
    return torch.as_tensor(cell + rng.choice([-1, 1], (b, n, 2)) * rng.uniform(0.1, 0.4, (b, n, 2)) % 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_samples_have_a_channel_each_and_keep_dtype(kernel):
    samples, valid = sample(image(2, 3, 7, 9).float(), inner_points(2, 5, (7, 9)).float(), kernel)
    assert samples.shape == (2, 3, 5)
    assert samples.dtype == torch.float32
    assert valid.shape == (2, 5)
    assert valid.all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_pixel_centres_give_the_pixels_back(kernel):
    picture = image(1, 2, 6, 8)
    warped, valid = sample_grid(picture, torch.eye(3, dtype=torch.float64)[None], (6, 8), kernel)
    torch.testing.assert_close(warped, picture, rtol=0, atol=1e-12)
    assert valid.all()


@pytest.mark.parametrize(("kernel", "order"), [("nearest", 0), ("bilinear", 1), ("cubic", 3)])
@pytest.mark.parametrize("size_hw", [(9, 13), (3, 5), (2, 2), (2, 7)])
def test_samples_equal_scipy(kernel, order, size_hw):
    picture, points = image(1, 1, *size_hw), inner_points(1, 200, size_hw)
    samples, _ = sample(picture, points, kernel)
    x, y = points[0].T.numpy()
    expected = map_coordinates(picture[0, 0].numpy(), [y, x], order=order, mode="mirror")
    np.testing.assert_allclose(samples[0, 0].numpy(), expected, atol=1e-9)


def test_float32_cubic_equals_scipy_to_its_precision():
    picture, points = image(1, 1, 60, 80), inner_points(1, 500, (60, 80))
    samples, _ = sample(picture.float(), points.float(), "cubic")
    x, y = points[0].T.numpy()
    expected = map_coordinates(picture[0, 0].numpy(), [y, x], order=3, mode="mirror")
    np.testing.assert_allclose(samples[0, 0].numpy(), expected, atol=3e-5)


@pytest.mark.parametrize("kernel", ["bilinear", "cubic"])
def test_gradients_pass_gradcheck(kernel):
    picture, points = image(2, 2, 6, 7).requires_grad_(), inner_points(2, 6, (6, 7)).requires_grad_()
    assert gradcheck(lambda i, p: sample(i, p, kernel)[0], (picture, points))


def test_nearest_gradient_in_the_image_passes_gradcheck():
    points = inner_points(1, 6, (5, 6))
    assert gradcheck(lambda i: sample(i, points, "nearest")[0], image(1, 2, 5, 6).requires_grad_())


def test_nearest_gradient_in_points_is_numpys_gradient_at_the_nearest_pixel():
    picture, points = image(1, 1, 7, 9), inner_points(1, 40, (7, 9)).requires_grad_()
    (gradient,) = torch.autograd.grad(sample(picture, points, "nearest")[0].sum(), points)
    dy, dx = np.gradient(picture[0, 0].numpy())
    column, row = np.rint(points[0].detach().numpy()).astype(int).T
    np.testing.assert_allclose(gradient[0].numpy(), np.stack([dx[row, column], dy[row, column]], 1), atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_equals_its_elements_one_by_one(kernel):
    picture, points = image(3, 2, 6, 7), inner_points(3, 20, (6, 7))
    together, valid = sample(picture, points, kernel)
    alone = [sample(picture[i : i + 1], points[i : i + 1], kernel) for i in range(3)]
    torch.testing.assert_close(together, torch.cat([a for a, _ in alone]), rtol=0, atol=1e-14)
    assert torch.equal(valid, torch.cat([v for _, v in alone]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_image_serves_a_batch_of_points(kernel):
    picture, points = image(1, 2, 6, 7), inner_points(3, 20, (6, 7))
    torch.testing.assert_close(
        sample(picture, points, kernel)[0], sample(picture.repeat(3, 1, 1, 1), points, kernel)[0]
    )


def test_gradient_of_an_image_that_serves_a_batch_has_the_images_shape():
    picture, points = image(1, 1, 5, 6).requires_grad_(), inner_points(3, 4, (5, 6))
    assert gradcheck(lambda i: sample(i, points, "cubic")[0], picture)


def test_valid_ends_at_the_outermost_pixel_centres():
    points = torch.tensor([[[0, 0], [8, 6], [-0.01, 3], [8.01, 3], [3, -0.01], [3, 6.01]]], dtype=torch.float64)
    assert sample(image(1, 1, 7, 9), points)[1].tolist() == [[True, True, False, False, False, False]]


def test_valid_of_nearest_ends_at_the_outermost_pixels_edges():
    points = torch.tensor([[[-0.49, 0], [8.49, 6.49], [-0.51, 3], [8.51, 3]]], dtype=torch.float64)
    assert sample(image(1, 1, 7, 9), points, "nearest")[1].tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("kernel", KERNELS)
def test_points_far_outside_and_infinite_are_invalid_and_finite(kernel):
    points = torch.tensor([[[1e9, 3.0], [float("inf"), float("inf")], [-50.0, 2.0]]], dtype=torch.float64)
    samples, valid = sample(image(1, 1, 7, 9), points, kernel)
    assert not valid.any()
    assert torch.isfinite(samples).all()


@pytest.mark.parametrize(
    ("picture", "points", "kernel", "error", "message"),
    [
        (image(1, 1, 4, 4), image(1, 5, 2), "lanczos", OptionError, "unknown sampler 'lanczos'"),
        (image(1, 4, 4), image(1, 5, 2), "cubic", ShapeError, r"image must be a float tensor \(B, C, H, W\)"),
        (image(1, 1, 4, 4).long(), image(1, 5, 2), "cubic", ShapeError, "int64"),
        (image(1, 1, 1, 4), image(1, 5, 2), "cubic", ShapeError, "at least 2 x 2 pixels, got 1 x 4"),
        (image(1, 1, 4, 4), image(5, 2), "cubic", ShapeError, r"points must be \(B, N, 2\)"),
        (image(2, 1, 4, 4), image(3, 5, 2), "cubic", ShapeError, r"points must be \(B, N, 2\)"),
    ],
)
def test_bad_input_is_refused(picture, points, kernel, error, message):
    with pytest.raises(error, match=message):
        sample(picture, points, kernel)


@pytest.mark.parametrize("kernel", ["bilinear", "cubic"])
def test_a_reader_equals_scipy_with_and_without_a_shared_picture(kernel):
    picture = image(1, 2, 9, 11)
    plane = spline_coefficients(picture) if kernel == "cubic" else picture
    reader = Reader(plane, None, (9, 11), kernel, pad=2 if kernel == "cubic" else 0)
    points = inner_points(3, 20, (9, 11)).reshape(3, 4, 5, 2)
    values = reader.values(points[..., 0], points[..., 1])
    assert values.shape == (3, 2, 4, 5)
    x, y = points.movedim(-1, 0).numpy()
    order = 3 if kernel == "cubic" else 1
    expected = [map_coordinates(picture[0, c].numpy(), [y, x], order=order, mode="mirror") for c in range(2)]
    np.testing.assert_allclose(values.numpy(), np.stack(expected, 1), atol=1e-9)


def curved(x, bend):
    """The cubic B-spline, by pieces, and `bend` times its second derivative."""
    x = np.abs(x)
    inner = 2 / 3 - x**2 + x**3 / 2 + bend * (3 * x - 2)
    return np.where(x < 1, inner, np.where(x < 2, (2 - x) ** 3 / 6 + bend * (2 - x), 0))


@pytest.mark.parametrize(("kernel", "bend"), [("cubic", 0), ("moms", MOMS_BEND)])
def test_a_reader_of_coefficients_weighs_them_by_the_kernel(kernel, bend):
    plane = image(1, 1, 13, 15)
    points = inner_points(1, 30, (9, 11))[:, None]
    values = Reader(plane, None, (9, 11), kernel, pad=2).values(points[..., 0], points[..., 1])
    x, y = points[0, 0].numpy().T + 2
    weights = curved(y[:, None] - np.arange(13), bend)[:, :, None] * curved(x[:, None] - np.arange(15), bend)[:, None]
    np.testing.assert_allclose(values.flatten(), (weights * plane[0, 0].numpy()).sum((1, 2)), atol=1e-12)


@pytest.mark.parametrize("shift", [(0, 0), (0.3, -0.7), (2.5, 1), (-3.6, 30)])
@pytest.mark.parametrize(("step", "oversampling"), [(1, 1), (1, 1.5), (1, 2), (2, 1.5)])
def test_a_reader_reads_a_shifted_grid_as_it_reads_its_points(shift, step, oversampling, monkeypatch):
    h, w = 21, 19
    pad = 8
    plane = image(1, 2, int(oversampling * h) + 2 * pad, int(oversampling * w) + 2 * pad)
    reader = Reader(plane, None, (h, w), "moms", oversampling, pad)
    matrix = np.array([[[step, 0, shift[0]], [0, step, shift[1]], [0, 0, 1]]], float)
    x, y = mapped_planes(matrix, (8, 9), plane.dtype, plane.device)
    by_points = reader.values(x, y)
    inside = reader.weights(x, y) > 0
    monkeypatch.setattr(Reader, "values", None)  # point by point is not how it is to be read
    along, weight = reader.on_grid(matrix, (8, 9))
    assert torch.equal(weight > 0, inside)
    np.testing.assert_allclose(along * inside, by_points * inside, atol=1e-9)
    assert along.abs().max() <= plane.abs().max() * 1.5


@pytest.mark.parametrize("change", [(0, 1, 1e-6), (2, 0, 1e-9), (1, 1, 1.001), (0, 0, -1)])
def test_a_reader_reads_any_other_grid_point_by_point(change):
    reader = Reader(image(1, 1, 37, 35), None, (21, 19), "moms", 1, 8)
    matrix = np.array([[[1.0, 0, 2.2], [0, 1, 3.4], [0, 0, 1]]])
    matrix[0, change[0], change[1]] = change[2]
    x, y = mapped_planes(matrix, (8, 9), reader.plane.dtype, reader.plane.device)
    assert torch.equal(reader.on_grid(matrix, (8, 9))[0], reader.values(x, y))


@pytest.mark.parametrize("frequency", [0.05, 0.1, 0.15, 0.2])
def test_the_bent_kernel_keeps_phases_better_than_the_spline(frequency):
    t, taps = np.linspace(0, 1, 101), np.arange(-1, 3)

    def phase_and_worst(bend):
        waves = np.exp(2j * np.pi * frequency * (taps - t[:, None]))
        at_pixels = curved(taps, bend) @ np.exp(2j * np.pi * frequency * taps)
        ratio = (curved(t[:, None] - taps, bend) * waves).sum(1) / at_pixels.real
        return np.abs(ratio.imag).max(), np.abs(ratio - 1).max()

    (bent, bent_worst), (plain, plain_worst) = phase_and_worst(MOMS_BEND), phase_and_worst(0)
    assert bent < 0.4 * plain
    assert bent_worst < plain_worst


def test_a_readers_weights_are_its_mask_within_its_margin():
    mask = image(1, 1, 9, 11)
    reader = Reader(image(1, 1, 9, 11), mask, (9, 11), margin=2.0)
    points = torch.tensor([[[[5.0, 4.0], [1.9, 4.0], [2.0, 2.0], [8.1, 4.0]]]], dtype=torch.float64)
    assert reader.weights(points[..., 0], points[..., 1]).flatten().tolist() == pytest.approx(
        [float(mask[0, 0, 4, 5]), 0, float(mask[0, 0, 2, 2]), 0]
    )


def test_a_reader_of_a_picture_keeps_its_mask_only_where_that_hides_something():
    picture, mask = image(1, 1, 9, 11), image(1, 1, 9, 11, seed=1)
    assert Reader.of(picture, torch.ones_like(mask)).mask is None
    assert Reader.of(picture, mask).mask is mask
    assert Reader.of(picture).size_hw == (9, 11)
