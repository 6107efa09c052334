import numpy as np
import torch

from imgalign.numerics.masks import full_weight, is_whole, least_weight, mask_or_none


def test_the_mask_of_a_whole_picture_is_ones_in_the_memory_of_one():
    weight = full_weight(torch.rand(1, 1, 30, 40))
    assert weight.shape == (1, 1, 30, 40)
    assert weight.untyped_storage().nbytes() == 4
    np.testing.assert_array_equal(weight.numpy(), 1)


def test_a_mask_is_whole_where_no_pixel_is_masked_in_part():
    weight = torch.ones(1, 1, 30, 40)
    assert is_whole(weight)
    assert is_whole(full_weight(weight))
    weight[0, 0, 29, 39] = 0.9995
    assert not is_whole(weight)
    assert mask_or_none(weight) is None  # so little is nothing
    weight[0, 0, 29, 39] = 0.25
    assert least_weight(weight) == 0.25
    assert mask_or_none(weight) is weight


def test_masks_that_vary_along_one_axis_only_are_looked_at_whole():
    row = torch.tensor([1.0, 1.0, 0.5]).expand(1, 1, 4, 3)
    column = torch.tensor([1.0, 1.0, 0.5])[:, None].expand(1, 1, 3, 4)
    assert least_weight(row) == least_weight(column) == 0.5
    assert least_weight(torch.tensor(0.5).expand(1, 1, 3, 4)) == 0.5
