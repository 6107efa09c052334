import numpy as np
import pytest
import torch
from PIL import Image

from imgalign.errors import ShapeError
from imgalign.planes.weights import as_weights, shares

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
HALF = np.arange(12).reshape(2, 6) % 2


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool", "float16", "float32", "float64", "longdouble", ">i4", ">f8"])
def test_zeros_and_ones_count_as_they_are_in_any_dtype(dtype):
    np.testing.assert_array_equal(shares(HALF.astype(dtype)), HALF)


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64", "bfloat16", "bool"])
def test_tensors_count_as_arrays_do(dtype):
    mask = torch.as_tensor(HALF).to(getattr(torch, dtype))
    np.testing.assert_array_equal(as_weights(mask, (2, 6), "fixed"), HALF)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), [[0, 0.2, 1]]),
        (np.array([[0, 51, 102]], np.uint8), [[0, 0.2, 0.4]]),
        (np.array([[0, 13107, 65535]], np.uint16), [[0, 0.2, 1]]),
        (np.array([[-5, 127]], np.int8), [[0, 1]]),
        (np.array([[0, 51, 255]], np.int64), [[0, 0.2, 1]]),
        (np.array([[0, 0.25, 7, -1, np.nan, np.inf, -np.inf, 1e300]]), [[0, 0.25, 1, 0, 0, 0, 0, 0]]),
        (np.zeros((1, 3), np.uint8), [[0, 0, 0]]),
    ],
)
def test_other_integers_are_shares_of_what_stands_for_one(mask, expected):
    np.testing.assert_allclose(shares(mask), expected, atol=1e-7)


def test_a_one_bit_image_is_a_mask():
    np.testing.assert_array_equal(as_weights(Image.fromarray(HALF.astype(bool)), (2, 6), "fixed"), HALF)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 5)), r"the mask of fixed must have its size 2 x 6, got \(2, 5\)"),
        (torch.ones(1, 2, 6), r"got \(1, 2, 6\)"),
        (np.ones((2, 6), complex), "real numbers, got complex128"),
        (np.full((2, 6), "a"), "real numbers"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(ShapeError, match=message):
        as_weights(mask, (2, 6), "fixed")
