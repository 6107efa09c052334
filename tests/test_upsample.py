import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from imgalign.errors import OptionError, ShapeError
from imgalign.upsample import BilinearUpsample2d, bilinear_kernel, upsample_bilinear

FACTORS = [1, 2, 3, 4, 5, 8]


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def interpolated(image: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear interpolation by its definition: NumPy's `interp` along rows, then along columns."""
    for axis in (0, 1):
        n = image.shape[axis]
        at = (np.arange(n * factor) + 0.5) / factor - 0.5
        image = np.apply_along_axis(lambda line, at=at, n=n: np.interp(at, np.arange(n), line), axis, image)
    return image


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 5), (2, 2), (7, 4)])
def test_expansion_is_bilinear_interpolation_up_to_the_border(size_hw: tuple[int, int], factor: int) -> None:
    image = random_image(2, 3, *size_hw)
    module = BilinearUpsample2d(3, factor).double()
    for ours in (upsample_bilinear(image, factor), module(image)):
        assert ours.shape == (2, 3, factor * size_hw[0], factor * size_hw[1])
        np.testing.assert_allclose(ours[1, 2].detach(), interpolated(image[1, 2].numpy(), factor), atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
def test_kernel_has_the_published_side_and_weighs_a_block(factor: int) -> None:
    kernel = bilinear_kernel(factor, dtype=torch.float64)
    assert kernel.shape == (2 * factor - factor % 2,) * 2
    assert kernel.sum().item() == pytest.approx(factor**2)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_plain_transposed_convolution_darkens_the_border_and_ours_does_not(factor: int) -> None:
    """The recipe of the web: the same kernel, without the continued border."""
    white = torch.ones(1, 1, 6, 6)
    weight = bilinear_kernel(factor)[None, None]
    naive = functional.conv_transpose2d(white, weight, stride=factor, padding=factor // 2)
    assert naive.shape == (1, 1, 6 * factor, 6 * factor)
    edge = factor // 2 + 1
    torch.testing.assert_close(
        naive[..., edge:-edge, edge:-edge], white.new_ones(1)[0].expand(1, 1, *(6 * factor - 2 * edge,) * 2)
    )
    assert naive[0, 0, 0, 0] < 0.6  # the corner loses two fifths and more of its light
    torch.testing.assert_close(upsample_bilinear(white, factor), torch.ones_like(naive), rtol=0, atol=1e-6)


def test_channels_do_not_mix() -> None:
    image = torch.zeros(1, 3, 4, 4)
    image[:, 1] = 1
    module = BilinearUpsample2d(3, 2)
    torch.testing.assert_close(module(image).mean((0, 2, 3)), torch.tensor([0.0, 1.0, 0.0]))
    assert module.weight.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_expansion_passes_gradcheck_in_image_and_weight(factor: int) -> None:
    image = random_image(1, 2, 3, 2).requires_grad_()
    module = BilinearUpsample2d(2, factor).double()
    assert gradcheck(lambda i: upsample_bilinear(i, factor), image)
    assert gradcheck(lambda i, w: torch.func.functional_call(module, {"weight": w}, i), [image, module.weight])


def test_batch_equals_one_by_one() -> None:
    images = random_image(3, 2, 5, 4)
    singles = torch.cat([upsample_bilinear(one[None], 3) for one in images])
    torch.testing.assert_close(upsample_bilinear(images, 3), singles, rtol=0, atol=0)


def test_expansion_can_be_trained_from_its_start() -> None:
    target = functional.interpolate(random_image(1, 1, 6, 6).float(), scale_factor=2, mode="nearest")
    module = BilinearUpsample2d(1, 2)
    small = functional.avg_pool2d(target, 2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (module(small) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]  # nearest is within reach of the kernel, bilinear is not it


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_convolution_pooling_and_expansion_in_a_row_keep_size_and_place(factor: int) -> None:
    height, width, centre = 24 * factor, 30 * factor, (13.3 * factor, 11.2 * factor)
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    spot = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (2.5 * factor) ** 2))[None, None]
    blur = torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64)
    result = upsample_bilinear(functional.avg_pool2d(functional.conv2d(spot, blur, padding=1), factor), factor)
    assert result.shape == spot.shape
    # A symmetric spot keeps its centre of mass under symmetric blurs; a shift of the grid would move it.
    found = [(result[0, 0] * axis).sum() / result.sum() for axis in (x, y)]
    assert abs(found[0] - centre[0]) < 0.01
    assert abs(found[1] - centre[1]) < 0.01


@pytest.mark.parametrize("factor", [0, -1, 1.5, 2.0, True])
def test_factors_that_cannot_work_are_refused(factor: object) -> None:
    with pytest.raises(OptionError, match="factor must be a whole number"):
        upsample_bilinear(torch.zeros(1, 1, 2, 2), factor)  # type: ignore[arg-type]


def test_images_that_cannot_work_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(B, C, H, W\)"):
        upsample_bilinear(torch.zeros(2, 2), 2)
    with pytest.raises(ShapeError, match="float"):
        upsample_bilinear(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 2)
    with pytest.raises(ShapeError, match="3 channels, got 1"):
        BilinearUpsample2d(3, 2)(torch.zeros(1, 1, 2, 2))
    with pytest.raises(OptionError, match="channels"):
        BilinearUpsample2d(0, 2)
