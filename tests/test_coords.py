import numpy as np
import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample

from imgalign.coords import (
    at_full_size,
    at_level,
    centre_normalisation,
    grid_sample_coordinates,
    level_from_full,
    mapped_grid,
)
from imgalign.decompose import corners_of, theta_of

TILTED = np.array([[1.1, 0.2, -3.0], [-0.1, 0.9, 2.0], [1e-3, -2e-3, 1.0]])


def test_a_block_of_two_pixels_has_its_centre_between_them():
    # Pixels 0 and 1 make level pixel 0: their middle is 0.5.
    assert level_from_full(2.0) @ [0.5, 0.5, 1] == pytest.approx([0, 0, 1])
    assert level_from_full(3.0) @ [1, 4, 1] == pytest.approx([0, 1, 1])


def test_levels_chain():
    assert level_from_full(2.0) @ level_from_full(3.0) == pytest.approx(level_from_full(6.0))


def test_a_shift_is_as_many_pixels_of_a_level_as_it_is_reduced():
    shift = np.array([[1, 0, 6.0], [0, 1, -3.0], [0, 0, 1]])
    assert at_level(shift, 3)[:2, 2] == pytest.approx([2, -1])
    assert at_full_size(at_level(TILTED, 2.5), 2.5) == pytest.approx(TILTED)


def test_centre_normalisation_puts_corners_on_the_unit_circle():
    normal = centre_normalisation((31, 41))
    mapped = np.c_[corners_of((31, 41)), np.ones(4)] @ normal.T
    assert np.hypot(mapped[:, 0], mapped[:, 1]) == pytest.approx(np.ones(4))
    assert mapped[:, :2].sum(0) == pytest.approx([0, 0], abs=1e-12)


def test_a_grid_behind_the_horizon_lies_outside_every_picture():
    horizon = np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]])
    assert (mapped_grid(torch.as_tensor(horizon)[None], (2, 30), torch.float64)[0, 0, 20] > 1e6).all()


@pytest.mark.parametrize("matrix", [np.eye(3), TILTED, 2 * TILTED])
def test_mapped_grid_agrees_with_homogeneous_coordinates(matrix):
    out = mapped_grid(torch.as_tensor(matrix)[None], (4, 6), torch.float64)
    y, x = np.mgrid[:4, :6]
    q = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]).astype(float))
    np.testing.assert_allclose(out[0].numpy(), np.moveaxis(q[:2] / q[2], 0, -1), atol=1e-12)


def test_grid_sample_coordinates_read_the_named_pixel():
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    grid = grid_sample_coordinates(torch.tensor([[[3.0, 2.0], [0.5, 0.0]]]), (4, 5))
    assert grid_sample(image, grid[:, None], align_corners=False).flatten().tolist() == pytest.approx([13.0, 0.5])


def test_theta_shifts_by_pixels_through_affine_grid():
    image = torch.rand(1, 1, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = np.array([[1, 0, 2.0], [0, 1, -1.0], [0, 0, 1]])
    theta = torch.as_tensor(theta_of(shift, (4, 5), (6, 9)))[None]
    warped = grid_sample(image, affine_grid(theta, [1, 1, 4, 5], align_corners=False), align_corners=False)
    np.testing.assert_allclose(warped[0, 0, 1:, :].numpy(), image[0, 0, :3, 2:7].numpy(), atol=1e-12)
