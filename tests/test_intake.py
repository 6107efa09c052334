import numpy as np
import pytest
import torch
from PIL import Image

from imgalign.errors import ShapeError
from imgalign.planes.intake import plane

CPU = torch.device("cpu")
RAMP = np.linspace(0, 1, 96).reshape(8, 12)


def grey(picture, mask=None):
    values, weight = plane(picture, mask, CPU, "fixed").at(1)
    return values[0, 0].numpy(), weight[0, 0].numpy()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "<u2", "float16", "float32", "float64", ">f4", ">f8"])
def test_full_range_of_a_dtype_is_zero_to_one(dtype):
    kind = np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind == "u" else 1
    values, weight = grey((RAMP * top).round().astype(kind) if kind.kind == "u" else RAMP.astype(kind))
    np.testing.assert_allclose(values, RAMP, atol=0.5 / 255)
    assert values.dtype == np.float32
    assert (weight == 1).all()


@pytest.mark.parametrize("dtype", ["int32", ">i4", "uint32", "int64", "uint64", "int16", "int8", ">i2"])
def test_other_integers_keep_their_proportions(dtype):
    numbers = (RAMP * 100).astype(dtype)
    values, _ = grey(numbers)
    np.testing.assert_allclose(values / values.max(), numbers.astype(float) / 100, atol=1e-6)


def test_bool_is_zero_and_one():
    values, _ = grey(RAMP > 0.5)
    assert set(values.ravel().tolist()) == {0.0, 1.0}


def test_big_endian_16_bit_equals_native():
    native = (RAMP * 65535).astype(np.uint16)
    np.testing.assert_array_equal(grey(native.astype(">u2"))[0], grey(native)[0])


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_a_mask(channels):
    picture = np.full((8, 12, channels), 200, np.uint8)
    picture[:, :, -1] = np.repeat([0, 51, 255], 4)
    values, weight = grey(picture)
    np.testing.assert_allclose(weight, np.repeat([0, 0.2, 1], 4) * np.ones((8, 1)), atol=1e-6)
    np.testing.assert_allclose(values, 200 / 255, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_what_a_masked_array_hides_is_masked(dtype):
    colours = (np.stack([RAMP] * 3, -1) * 100).astype(dtype)
    hidden = np.zeros(colours.shape, bool)
    hidden[2, 3, 0] = hidden[4, :, :] = True
    colours[hidden] = 255  # as readers fill it
    _, weight = grey(np.ma.array(colours, mask=hidden))
    np.testing.assert_array_equal(weight == 0, hidden.any(-1))
    left = np.arange(12) < 6 + 0 * RAMP
    np.testing.assert_array_equal(grey(np.ma.array(RAMP, mask=hidden[..., 0]), left)[1], left & ~hidden[..., 0])
    np.testing.assert_array_equal(grey(np.ma.array(RAMP))[1], 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_masked(bad):
    picture = RAMP.copy()
    picture[2, 3] = bad
    values, weight = grey(picture)
    assert weight[2, 3] == 0
    assert weight.sum() == 95
    assert np.isfinite(values).all()


@pytest.mark.parametrize("mask", [RAMP > 0.5, (RAMP > 0.5).astype(np.int64), torch.as_tensor(RAMP > 0.5)])
def test_masks_come_as_bool_as_integers_and_as_tensors(mask):
    np.testing.assert_array_equal(grey(RAMP, mask)[1], RAMP > 0.5)


def pil(mode):
    rgb = Image.fromarray((np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1) * 255).astype(np.uint8))
    return rgb.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_pil_modes_give_intensities(mode):
    picture = pil("L").convert("I").convert("I;16") if mode == "I;16" else pil(mode)
    values, weight = grey(picture)
    assert values.shape == (8, 12)
    assert (weight == 1).all()
    expected = np.asarray(pil("RGB").convert("L")).astype(float)
    if mode in ("1", "P"):  # dithered and quantised
        assert values.max() <= 1
    else:
        assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_palette_is_looked_up_not_read_as_intensity():
    indices = Image.new("P", (12, 8), 1)
    indices.putpalette([0, 0, 0, 255, 255, 255])
    np.testing.assert_allclose(grey(indices)[0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 12), (1, 8, 12), (3, 8, 12)])
def test_tensors_have_channels_first(shape):
    tensor = torch.as_tensor(RAMP).expand(shape).clone()
    np.testing.assert_allclose(grey(tensor)[0], RAMP, rtol=1e-5)


def test_a_tensor_that_requires_grad_is_taken():
    np.testing.assert_allclose(grey(torch.as_tensor(RAMP).requires_grad_())[0], RAMP, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint16, torch.uint32])
def test_tensors_of_wide_or_unsigned_integers_are_taken_as_arrays_are(dtype):
    white = 65535 if dtype == torch.uint16 else 255
    numbers = torch.as_tensor((RAMP * white).round()).to(dtype)
    np.testing.assert_array_equal(grey(numbers)[0], grey(numbers.numpy())[0])
    assert grey(numbers)[0].max() == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64, torch.bool])
def test_tensors_of_any_dtype(dtype):
    top = 1.0 if dtype.is_floating_point or dtype == torch.bool else torch.iinfo(dtype).max
    values, _ = grey((torch.as_tensor(RAMP) * top).round().to(dtype) if top != 1 else torch.as_tensor(RAMP).to(dtype))
    assert 0.99 <= values.max() <= 1.0


@pytest.mark.parametrize(
    ("picture", "mask", "message"),
    [
        (np.zeros((7, 20)), None, "fixed needs at least 8 x 8 pixels to be aligned, got 7 x 20"),
        (np.zeros(9), None, r"fixed must be \(H, W\) or \(H, W, C\) real numbers"),
        (np.zeros((9, 9), complex), None, "complex128"),
        (np.zeros((9, 9, 0)), None, r"\(9, 9, 0\)"),
        (np.array([["a"] * 9] * 9), None, "real numbers"),
        ("picture.png", None, "real numbers"),
        (torch.zeros(2, 3, 9, 9), None, "select one picture"),
        (torch.zeros(9, 9, dtype=torch.complex64), None, "fixed must hold real numbers, got torch.complex64"),
        (torch.zeros(0, 9, 9), None, r"real numbers, got torch.float32 \(0, 9, 9\)"),
        (np.zeros((9, 9)), np.zeros((9, 8)), r"the mask of fixed must have its size 9 x 9, got \(9, 8\)"),
    ],
)
def test_what_is_no_picture_is_refused(picture, mask, message):
    with pytest.raises(ShapeError, match=message):
        plane(picture, mask, CPU, "fixed")


def test_memory_that_may_not_be_written_to_is_taken_without_a_warning():
    picture = RAMP.astype(np.float32)
    picture.setflags(write=False)
    np.testing.assert_allclose(grey(picture)[0], RAMP, rtol=1e-5)


def test_the_most_negative_integer_does_not_overflow():
    picture = np.full((8, 12), np.iinfo(np.int32).min, np.int32)
    assert grey(picture)[0].max() == -1


FIELD = np.random.default_rng(3).random((60, 80))
HOLE, OTHER_HOLE = np.s_[:, :25], np.s_[10:20, 40:50]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("number", [-9999, 9999, -32768, -2, np.finfo("f4").min, -1e20, 1e30, -1.7976931348623157e308])
def test_a_number_that_only_fills_holes_is_masked(number, dtype):
    with np.errstate(over="ignore"):
        picture = FIELD.astype(dtype)
        picture[HOLE] = np.float64(number).astype(dtype)
    values, weight = grey(picture)
    expected = np.ones(FIELD.shape)
    expected[HOLE] = 0
    np.testing.assert_array_equal(weight, expected)
    np.testing.assert_allclose(values[weight > 0], FIELD[weight > 0], rtol=1e-3)


def test_holes_are_filled_at_both_ends_and_in_several_ways():
    picture = 3000 * FIELD
    picture[HOLE], picture[OTHER_HOLE], picture[30, 30], picture[0, 70] = -9999, 1e6, np.nan, -np.inf
    weight = grey(picture)[1]
    assert (weight == 0).sum() == 60 * 25 + 100 + 2
    assert weight[HOLE].sum() == weight[OTHER_HOLE].sum() == weight[30, 30] == weight[0, 70] == 0


def test_a_filler_of_colours_is_masked_and_alpha_is_no_colour():
    picture = np.stack([FIELD, FIELD, FIELD, np.full_like(FIELD, 5000)], -1)
    picture[HOLE][..., :3] = -9999
    weight = grey(picture)[1]
    assert weight[HOLE].max() == 0
    assert weight.sum() == 60 * 55


HELD = {
    "the ground of a cut-out": np.where(FIELD > 0.6, 1000 * FIELD, 0),
    "paper": np.where(FIELD > 0.5, 1.0, 0.6 * FIELD),
    "paper of 8 bits": np.where(FIELD > 0.5, 255.0, 100 * FIELD),
    "two values": np.where(FIELD > 0.5, 9999.0, -9999.0),
    "normalized": np.where(FIELD > 0.5, 0.4, -3 - FIELD),
    "far, not so far as the others reach": np.where(FIELD > 0.5, -100.0, 300 * FIELD),
    "saturated": np.minimum(40000 * FIELD, 30000),
    "constant": np.full_like(FIELD, -9999),
}


@pytest.mark.parametrize("name", HELD)
def test_grounds_and_whites_are_no_fillers(name):
    assert grey(HELD[name])[1].min() == 1


@pytest.mark.parametrize("alike", [True, False])
def test_a_few_hot_pixels_are_no_fillers(alike):
    """Up to one in a thousand may share a number; more may not."""
    picture = np.tile(FIELD, (2, 2))
    picture.flat[::1000] = 500 if alike else np.linspace(500, 600, 20)
    assert (grey(picture)[1] == 1).sum() > 0.998 * picture.size
    picture.flat[::100] = np.linspace(500, 600, 192)
    assert grey(picture)[1].min() == 1


@pytest.mark.parametrize("exponent", [-110, -60, -11, 45, 58])
def test_tiny_and_huge_pictures_become_ordinary_ones_to_the_bit(exponent):
    values, weight = grey((FIELD * 2.0**exponent).astype(np.float32))
    known = FIELD.astype(np.float32)
    factor = float(values[0, 0]) / float(known[0, 0])
    assert 0.5 <= values.max() <= 1
    assert weight.min() == 1
    np.testing.assert_array_equal(values, known * np.float32(factor))


@pytest.mark.parametrize("factor", [0.01, 1, 255, 65535, 1e6])
def test_ordinary_pictures_are_taken_as_they_come(factor):
    np.testing.assert_array_equal(grey((FIELD * factor).astype(np.float32))[0], (FIELD * factor).astype(np.float32))


def test_a_picture_of_nothing_but_holes_is_masked():
    assert grey(np.full((8, 12), np.nan))[1].max() == 0
    assert grey(np.full((8, 12), 1e30))[1].max() == 0


def test_extremes_do_not_depend_on_the_bands(monkeypatch):
    picture = FIELD.copy()
    picture[HOLE], picture[50:] = -9999, np.nan
    whole = plane(picture, None, CPU, "fixed").known
    monkeypatch.setattr("imgalign.planes.intake.BAND_SAMPLES", 1)
    assert plane(picture, None, CPU, "fixed").known == whole


FAINT = {
    "heights": (1e6 + FIELD, 2e-6),
    "below 0": (FIELD - 1e8, 2e-6),
    "the last digits of a ratio": (1 + 1e-8 * FIELD, 1e-6),
    "single precision": ((1e6 + 1000 * FIELD).astype(np.float32), 1e-4),
    "tensor": (torch.from_numpy(1e8 + FIELD), 2e-6),
    "counts": ((1e9 + 1000 * FIELD).astype(np.int32), 1e-3),
    "counts up to the limit": ((2**32 - 1 - 1000 * (1 - FIELD)).astype(np.uint32), 1.1e-3),
    "counts of 64 bits": ((1e12 + 1000 * FIELD).astype(np.uint64), 1e-3),
    "colours": (1e8 + np.stack([FIELD] * 3, -1), 2e-6),
}


@pytest.mark.parametrize("name", FAINT)
def test_a_small_range_far_from_0_keeps_its_digits(name):
    picture, tolerance = FAINT[name]
    values, weight = grey(picture)
    unit = lambda x: (x - x.min()) / (x.max() - x.min())  # noqa: E731
    np.testing.assert_allclose(unit(values), unit(FIELD), atol=tolerance)
    assert (weight == 1).all()
    assert -1e-3 < values.min() < values.max() < 1100


@pytest.mark.parametrize("under", [0, -9999, 3e8, np.nan])
def test_what_lies_under_a_mask_has_no_part_in_the_range(under):
    picture, mask = 1e8 + FIELD, np.ones(FIELD.shape)
    picture[HOLE], mask[HOLE] = under, 0
    for masked in (grey(picture, mask), grey(np.stack([picture, mask], -1))):
        values, weight = masked
        np.testing.assert_array_equal(weight, mask)
        np.testing.assert_allclose((values - values[0, 30])[mask > 0], (FIELD - FIELD[0, 30])[mask > 0], atol=1e-6)
        assert 0 <= values.min() <= values.max() <= 1.01


@pytest.mark.parametrize("under", [np.iinfo("i4").min, 0, 2**30])
def test_wide_integers_are_brought_to_1_by_those_that_are_seen(under):
    picture, mask = (1000 * FIELD).astype(np.int32), np.ones(FIELD.shape, bool)
    picture[HOLE], mask[HOLE] = under, False
    opacity = np.where(mask, np.iinfo("i4").max, 0).astype(np.int32)
    for values, weight in (grey(picture, mask), grey(np.stack([picture, opacity], -1))):
        np.testing.assert_array_equal(weight, mask)
        np.testing.assert_allclose(values[mask], picture[mask] / picture[mask].max(), rtol=1e-6)
        assert abs(values).max() <= 1


def test_rounding_is_no_range():
    noise = np.random.default_rng(0).choice([-1, 0, 1], FIELD.shape)
    for constant in (1e6 + 1e-10 * noise, (1e6 + 0.07 * noise).astype(np.float32)):
        assert plane(constant, None, CPU, "fixed").known.offset == 0
