"""The number that stands for "no data" in a file."""

import math

import numpy as np
import pytest

from imgalign.files.nodata import declared, marked, with_number


@pytest.mark.parametrize(
    ("text", "dtype", "number"),
    [
        ("-9999", "i2", -9999),
        ("-9999\0", "f4", -9999),
        (" 0 ", "u1", 0),
        ("255.0", "u1", 255),
        ("-9223372036854775808", "i8", -(2**63)),
        ("-3.40282346638529e+38", "f4", -3.40282346638529e38),  # with fewer digits than it has, it is larger
        ("1e+300", "f4", None),
        ("-9999", "u1", None),
        ("0.5", "u1", None),
        ("nan", "u2", None),
        ("inf", "i4", None),
        ("0", "?", None),
        ("none", "f4", None),
        ("", "f4", None),
    ],
)
def test_a_tag_says_a_number_that_pixels_can_hold(text, dtype, number):
    assert declared(text, np.dtype(dtype)) == number


def test_not_a_number_is_a_number_here():
    assert math.isnan(declared("nan", np.dtype("f8")))


def test_floats_are_marked_channel_by_channel():
    pixels = np.array([[[1, -9999], [-9999, -9999], [3, 4]]], np.float32)
    known, has_alpha, number = marked(pixels, -9999, has_alpha=False)
    np.testing.assert_array_equal(known, [[[1, np.nan], [np.nan, np.nan], [3, 4]]])
    assert (known.dtype, has_alpha, number) == (np.float32, False, -9999)
    assert pixels[0, 0, 1] == -9999
    np.testing.assert_array_equal(with_number(known, -9999, has_alpha=False)[0], pixels)


def test_alpha_of_floats_is_no_value():
    pixels = np.array([[[0, 0], [0, 1], [5, 0]]], np.float32)
    known, has_alpha, _ = marked(pixels, 0, has_alpha=True)
    np.testing.assert_array_equal(known, [[[np.nan, 0], [np.nan, 1], [5, 0]]])
    assert has_alpha


@pytest.mark.parametrize("number", [-3.4028234663852886e38, -3.40282346638529e38, -3.4028235e38])
def test_the_largest_float_is_known_by_any_of_its_names(number):
    least = np.finfo(np.float32).min
    known, *_ = marked(np.array([[0, least]], np.float32), number, has_alpha=False)
    assert np.isnan(known[0, 1])
    assert with_number(known, number, has_alpha=False)[0][0, 1] == least


def test_integers_are_marked_where_all_channels_hold_it():
    """Blue is 0 in many a colour."""
    pixels = np.array([[[9, 8, 0], [0, 0, 0]]], np.uint8)
    known, has_alpha, number = marked(pixels, 0, has_alpha=False)
    assert known.tolist() == [[[9, 8, 0, 255], [0, 0, 0, 0]]]
    assert (known.dtype, has_alpha, number) == (np.uint8, True, 0)
    back, has_alpha = with_number(known, 0, has_alpha=True)
    np.testing.assert_array_equal(back, pixels)
    assert not has_alpha


def test_integers_that_all_hold_something_stay():
    pixels = np.array([[1, 2]], np.int16)
    assert marked(pixels, 0, has_alpha=False) == (pixels, False, 0)
    assert marked(pixels, None, has_alpha=False) == (pixels, False, None)


def test_alpha_of_their_own_says_it_for_integers():
    pixels = np.array([[[7, 200], [0, 255], [7, 0]]], np.uint8)
    known, has_alpha, number = marked(pixels, 0, has_alpha=True)
    assert known.tolist() == [[[7, 200], [0, 0], [7, 0]]]
    assert (has_alpha, number) == (True, None)


@pytest.mark.parametrize(("number", "instead"), [(0, 1), (255, 254)])
def test_an_integer_that_comes_to_the_number_by_chance_is_no_hole(number, instead):
    pixels = np.array([[[number, 255], [100, 128], [100, 127]]], np.uint8)
    assert with_number(pixels, number, has_alpha=True)[0].tolist() == [[instead, 100, number]]
