import numpy as np
import pytest
import torch
from scenes import about_centre

from imgalign.refine.borders import border_mask

SIZE = (90, 110)
SHIFT = about_centre(SIZE, shift=(3, -2))[None]  # fixed (x, y) lies on moving (x + 3, y - 2)


def worse(rows, columns, times=100.0):
    """Squared residuals of noise, on the fixed picture, larger where these pixels of the moving one lie."""
    error = np.random.default_rng(2).normal(0, 1, SIZE) ** 2
    on_moving = np.ones(SIZE)
    on_moving[rows, columns] = times
    return torch.as_tensor(error * np.roll(on_moving, (2, -3), (0, 1)))[None, None]


def valid(mask=None):
    seen = np.ones(SIZE) if mask is None else np.asarray(mask[0, 0])
    seen = np.roll(seen, (2, -3), (0, 1))
    seen[:2] = seen[:, -3:] = 0
    return torch.as_tensor(seen)[None, None]


def with_hole():
    mask = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    mask[..., 30:60, 40:70] = 0
    return mask


def test_all_pixels_count_where_residuals_are_alike():
    weight = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    assert border_mask(worse([], []), valid(), SHIFT, weight) is None
    torch.testing.assert_close(border_mask(worse([], []), valid(with_hole()), SHIFT, with_hole()), with_hole())


@pytest.mark.parametrize("hole", [False, True])
def test_pixels_lose_weight_at_that_distance_from_the_border_at_which_residuals_are_worse(hole):
    weight = with_hole() if hole else torch.ones(1, 1, *SIZE, dtype=torch.float64)
    # Of the moving picture's borders the upper and the right one are seen.
    error = worse(slice(0, 3), slice(None)).maximum(worse(slice(None), slice(-3, None)))
    found = border_mask(error, valid(weight), SHIFT, weight)[0, 0]
    assert found[45, -2:].max() < 0.01
    assert found[:2, 50].max() < 0.01
    assert found[45, 71:-3].min() == 1


def test_pixels_lose_weight_at_that_distance_from_a_hole_at_which_residuals_are_worse():
    found = border_mask(worse(slice(28, 62), slice(38, 72)), valid(with_hole()), SHIFT, with_hole())[0, 0]
    assert found[28:62, 38:40].max() < 0.01
    assert found[28:62, 70:72].max() < 0.01
    assert found[45, 2:38].min() == 1
    assert found[62:, 50].min() == 1
    assert found[30:60, 40:70].max() == 0


def test_of_hardly_any_pixels_nothing_is_told():
    weight = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    seen = torch.zeros_like(weight)
    seen[..., 40:44, 40:44] = 1
    assert border_mask(worse(slice(None), slice(0, 3)), seen, SHIFT, weight) is None
