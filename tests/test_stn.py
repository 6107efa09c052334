import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.autograd import gradcheck

from imgalign.errors import OptionError, ShapeError
from imgalign.stn import PARAMETERS, SpatialTransformer, matrix_from_parameters, warp_bilinear

MODELS = sorted(PARAMETERS)


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices(*rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([[*two, [0.0, 0.0, 1.0]] for two in rows], dtype=torch.float64)


TURN = [[0.9, -0.3, 1.43], [0.2, 1.1, -0.71]]  # leads to no pixel centre, where the derivative jumps
ZOOM = [[0.6, 0.0, 2.23], [0.0, 0.7, 1.31]]
IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_identity_gives_back_two_rgb_images_bit_by_bit() -> None:
    images = random_image(2, 3, 400, 400).float()
    assert torch.equal(warp_bilinear(images, matrices(IDENTITY, IDENTITY)), images)
    for model in MODELS:
        assert torch.equal(SpatialTransformer(3, model=model)(images), images)


def naive_warp(image: torch.Tensor) -> torch.Tensor:
    """The recipe of the web at the identity: -1 to 1 scaled by W / 2, weights from corners that were clipped."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        (torch.linspace(-1, 1, height) + 1) * height / 2, (torch.linspace(-1, 1, width) + 1) * width / 2, indexing="ij"
    )
    x0, y0 = x.floor().clamp(0, width - 1), y.floor().clamp(0, height - 1)
    x1, y1 = (x.floor() + 1).clamp(0, width - 1), (y.floor() + 1).clamp(0, height - 1)
    read = lambda row, column: image[..., row.long(), column.long()]  # noqa: E731
    return (
        (x1 - x) * (y1 - y) * read(y0, x0)
        + (x - x0) * (y1 - y) * read(y0, x1)
        + (x1 - x) * (y - y0) * read(y1, x0)
        + (x - x0) * (y - y0) * read(y1, x1)
    )


def test_usual_recipe_is_off_by_up_to_a_pixel_and_loses_the_border_and_ours_does_neither() -> None:
    ramp = torch.arange(400.0).expand(1, 1, 400, 400).contiguous()  # its value is its column
    naive, ours = naive_warp(ramp) - ramp, warp_bilinear(ramp, matrices(IDENTITY)) - ramp
    inner = naive[..., 1:-1, 1:-1].abs()
    assert 0.95 < inner.max() <= 1.0
    assert naive[..., -1].abs().max() > 100  # where both corners are clipped, the weights cancel
    assert (ours == 0).all()


@pytest.mark.parametrize("rows", [TURN, ZOOM, IDENTITY])
def test_warp_equals_scipy(rows: list[list[float]]) -> None:
    image = random_image(1, 1, 9, 11)
    want = ndimage.affine_transform(
        image[0, 0].numpy(),
        np.array([[rows[1][1], rows[1][0]], [rows[0][1], rows[0][0]]]),
        (rows[1][2], rows[0][2]),
        output_shape=(7, 8),
        order=1,
        mode="nearest",
    )
    np.testing.assert_allclose(warp_bilinear(image, matrices(rows), size_hw=(7, 8))[0, 0], want, atol=1e-12)


def test_warp_passes_gradcheck_in_image_and_matrix() -> None:
    image, pair = random_image(2, 2, 5, 6).requires_grad_(), matrices(TURN, ZOOM)
    top = pair[:, :2].clone().requires_grad_()
    assert gradcheck(lambda i, t: warp_bilinear(i, torch.cat([t, pair[:, 2:]], 1), size_hw=(4, 3)), [image, top])


def test_batch_equals_one_by_one() -> None:
    images, pair = random_image(2, 3, 6, 7), matrices(TURN, ZOOM)
    singles = torch.cat([warp_bilinear(images[i : i + 1], pair[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(warp_bilinear(images, pair), singles, rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_parameters_of_zero_are_the_identity_and_shifts_are_half_the_shorter_side(model: str) -> None:
    parameters = torch.zeros(1, PARAMETERS[model])
    torch.testing.assert_close(matrix_from_parameters(parameters, model, (20, 30), (20, 30)), matrices(IDENTITY))
    parameters[0, -2] = 0.5
    assert matrix_from_parameters(parameters, model, (20, 30), (20, 30))[0, 0, 2].item() == pytest.approx(5)


def test_parameters_of_a_similarity_turn_about_the_centre() -> None:
    parameters = torch.tensor([[math.cos(0.3) - 1, math.sin(0.3), 0.0, 0.0]], dtype=torch.float64)
    matrix = matrix_from_parameters(parameters, "similarity", (21, 31), (21, 31))[0]
    torch.testing.assert_close(
        matrix @ torch.tensor([15.0, 10.0, 1.0]).double(), torch.tensor([15.0, 10.0, 1.0]).double()
    )
    assert torch.linalg.det(matrix).item() == pytest.approx(1)


def test_output_of_another_size_shows_the_whole_input() -> None:
    matrix = matrix_from_parameters(torch.zeros(1, 6), "affine", (20, 30), (10, 10))[0]
    outer = torch.tensor([[-0.5, -0.5, 1], [9.5, 9.5, 1]], dtype=torch.float64).T  # outer edges, not pixel centres
    torch.testing.assert_close((matrix @ outer)[:2], torch.tensor([[-0.5, 29.5], [-0.5, 19.5]]).double())


@pytest.mark.parametrize("size_hw", [(8, 8), (2, 2), (13, 40)])
@pytest.mark.parametrize("model", MODELS)
def test_module_takes_any_size_and_trains(model: str, size_hw: tuple[int, int]) -> None:
    module = SpatialTransformer(2, model=model, size_hw=(6, 5))
    image = random_image(3, 2, *size_hw).float()
    warped = module(image)
    assert warped.shape == (3, 2, 6, 5)
    warped.square().mean().backward()
    last = module.localisation[-1]
    assert isinstance(last, nn.Linear)
    assert last.bias.grad is not None
    assert last.bias.grad.isfinite().all()
    assert last.bias.grad.abs().max() > 0


def test_module_learns_to_centre_a_spot() -> None:
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    centres = 8 + 8 * torch.rand(64, 2, 1, 1)
    spots = torch.exp(-((x - centres[:, :1]) ** 2 + (y - centres[:, 1:]) ** 2) / 18)
    target = torch.exp(-((x - 11.5) ** 2 + (y - 11.5) ** 2) / 18)
    module = SpatialTransformer(1, model="translate")
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (module(spots) - target).square().mean()
        loss.backward()
        optimizer.step()
    found = module.matrix(spots)[:, :2, 2].detach() + 11.5  # where the output's centre is read
    error = (found - centres[..., 0, 0]).abs()
    assert error.mean() < 0.4
    assert (centres[..., 0, 0] - 11.5).abs().mean() > 1.5


def test_own_localisation_network_is_used() -> None:
    half_right = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    nn.init.zeros_(half_right[1].weight)
    half_right[1].bias.data = torch.tensor([0.5, 0.0])
    image = torch.arange(4.0).expand(1, 1, 4, 4).contiguous()
    warped = SpatialTransformer(1, model="translate", localisation=half_right)(image)
    torch.testing.assert_close(warped[0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]))


def test_what_cannot_work_is_refused() -> None:
    image = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ShapeError, match="at least 2 x 2"):
        warp_bilinear(image[..., :1], matrices(TURN, ZOOM))
    with pytest.raises(ShapeError, match=r"\(2, 3, 3\), got \(1, 3, 3\)"):
        warp_bilinear(image, matrices(TURN))
    with pytest.raises(ShapeError, match=r"\(B, 4\)"):
        matrix_from_parameters(torch.zeros(1, 6), "similarity", (4, 4), (4, 4))
    with pytest.raises(OptionError, match="model must be"):
        SpatialTransformer(1, model="homography")  # type: ignore[arg-type]
