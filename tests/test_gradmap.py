"""Gradient-magnitude maps against NumPy, and as pictures."""

import numpy as np
import pytest

from imgalign.errors import OptionError, ShapeError
from imgalign.gradmap import as_picture, colour_table, full_scale, gradmap, largest


def numpy_magnitude(image):
    return np.hypot(*np.gradient(image.astype(np.float64), axis=(0, 1)))


def picture(shape=(23, 31), seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_central_equals_numpy_gradient(dtype):
    image = picture().astype(dtype)
    np.testing.assert_allclose(gradmap(image), numpy_magnitude(image), rtol=1e-6)


def test_float64_equals_numpy_to_rounding():
    image = picture()
    assert gradmap(image).dtype == np.float64
    np.testing.assert_allclose(gradmap(image), numpy_magnitude(image), atol=1e-12)


def test_colour_takes_the_largest_channel():
    image = picture((9, 11, 3))
    np.testing.assert_allclose(gradmap(image), numpy_magnitude(image).max(axis=2), atol=1e-12)


def test_luminance_is_the_magnitude_of_the_weighted_sum():
    image = picture((9, 11, 3))
    expected = numpy_magnitude(image @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_allclose(gradmap(image, channels="luminance"), expected, atol=1e-12)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_left_out(channels):
    image = picture((9, 11, channels))
    np.testing.assert_array_equal(gradmap(image), gradmap(image[..., :-1]))


@pytest.mark.parametrize("operator", ["central", "sobel", "scharr", "gaussian"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_ramp_has_its_slope_everywhere_inside(operator, level):
    y, x = np.mgrid[:48.0, :64.0]
    lengths = gradmap(3 * x + 4 * y, operator=operator, level=level)
    assert lengths.shape == (48, 64)
    np.testing.assert_allclose(lengths, 5, atol=1e-9)


def test_four_bands_without_alpha_all_count():
    image = picture((9, 11, 4))
    np.testing.assert_allclose(gradmap(image, has_alpha=False), numpy_magnitude(image).max(axis=2), atol=1e-12)


def test_level_gives_back_the_size_of_odd_pictures():
    assert gradmap(picture((37, 51)), level=3).shape == (37, 51)


def test_nan_spoils_only_its_neighbours():
    image = picture()
    image[10, 12] = np.nan
    lengths = gradmap(image)
    bad = np.isnan(lengths)
    assert bad.sum() == 9
    assert bad[9:12, 11:14].all()
    np.testing.assert_allclose(lengths[~bad], numpy_magnitude(image)[~bad], atol=1e-12)


def test_gaussian_is_finite_away_from_a_nan():
    image = picture((60, 60))
    image[30, 30] = np.inf
    lengths = gradmap(image, operator="gaussian", sigma_px=1.5)
    assert np.isnan(lengths[30, 30])
    assert np.isfinite(lengths[:20]).all()


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (5,), (0, 4), (2, 2, 2, 2)])
def test_unusable_shape_is_refused(shape):
    with pytest.raises(ShapeError):
        gradmap(np.zeros(shape))


def test_level_too_deep_is_refused():
    with pytest.raises(ShapeError, match="lower level"):
        gradmap(picture((16, 16)), level=4)
    with pytest.raises(ShapeError, match="lower level"):
        gradmap(picture((16, 16)), level=10**30)
    assert gradmap(picture((16, 19)), level=3).shape == (16, 19)


@pytest.mark.parametrize("options", [
    {"channels": "red"}, {"operator": "roberts"}, {"operator": ["sobel"]}, {"level": -1}, {"level": "1"},
    {"level": None}, {"level": 1.5}, {"level": np.nan}, {"level": True},
    {"operator": "gaussian", "sigma_px": "1"}, {"operator": "gaussian", "sigma_px": np.nan},
])  # fmt: skip
def test_what_an_option_cannot_be_is_refused_by_its_name(options):
    with pytest.raises(OptionError, match=list(options)[-1]):
        gradmap(picture(), **options)


@pytest.mark.parametrize("dtype", ["U1", "S1", "O", complex, "datetime64[s]"])
def test_what_holds_no_numbers_is_refused(dtype):
    with pytest.raises(ShapeError, match="real numbers"):
        gradmap(np.zeros((9, 9), dtype))


def test_luminance_of_five_channels_is_refused():
    with pytest.raises(ShapeError, match="3 colour channels"):
        gradmap(picture((9, 9, 5)), channels="luminance")


def test_full_range_becomes_full_range():
    step = np.zeros((4, 6), np.uint8)
    step[:, 3:] = 255
    lengths = gradmap(step)
    assert as_picture(lengths, full_scale=full_scale(step.dtype)).max() == 128  # half of 255, rounded
    deep = as_picture(lengths, full_scale=full_scale(step.dtype), bits=16)
    assert (deep.dtype, deep.max()) == (np.uint16, 32768)


def test_normalize_makes_the_largest_white():
    assert as_picture(gradmap(picture()), full_scale=None, normalize=True).max() == 255


def test_normalized_flat_picture_stays_black():
    assert as_picture(np.zeros((3, 3)), full_scale=None, normalize=True).max() == 0


def test_floats_stay_in_true_units():
    lengths = gradmap(picture())
    assert as_picture(lengths, full_scale=None, bits=None) is lengths
    assert as_picture(lengths, full_scale=None, bits=None, normalize=True).max() == 1


def test_nan_becomes_black():
    lengths = np.array([[np.nan, 2.0]])
    assert as_picture(lengths, full_scale=None, normalize=True).tolist() == [[0, 255]]
    assert largest(lengths) == 2


def test_float_picture_without_scale_is_refused():
    with pytest.raises(ShapeError, match="--normalize"):
        as_picture(np.ones((3, 3)), full_scale=None)


def test_colours_in_16_bit_are_refused():
    with pytest.raises(OptionError, match="8 bit"):
        as_picture(np.ones((3, 3)), full_scale=1.0, bits=16, colormap="heat")


@pytest.mark.parametrize("name", ["gray", "heat", "cubehelix"])
def test_colour_table_rises_from_black_to_white(name):
    table = colour_table(name)
    assert table[0].tolist() == [0, 0, 0]
    assert table[-1].tolist() == [255, 255, 255]
    lightness = table @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > -0.5).all()


def test_colormap_gives_rgb():
    coloured = as_picture(gradmap(picture()), full_scale=255.0, colormap="cubehelix")
    assert (coloured.shape, coloured.dtype) == ((23, 31, 3), np.uint8)
