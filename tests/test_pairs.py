"""The pieces between files and `align`."""

from pathlib import Path

import numpy as np
import pytest
from conftest import render, shift
from PIL import Image

from imgalign import images
from imgalign.alignment import Alignment
from imgalign.errors import DeviceError, ImageReadError, OptionError, ShapeError
from imgalign.images import Picture
from imgalign.laying import WriteOptions, at_density, lay, left_in_place, naming
from imgalign.outputs import plan
from imgalign.pairs import Reader, comparable, options_of, to_read, weights
from imgalign.wanted import AlignOptions


def moved(x, y):
    return Alignment("translate", shift(x, y), (9, 9), (9, 9))


def picture(pixels, *, has_alpha=False):
    return Picture(np.asarray(pixels), Path("x.png"), has_alpha=has_alpha)


@pytest.mark.parametrize(
    ("pixels", "has_alpha", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), False, [[0, 0.2, 1]]),
        (np.array([[0, 65535]], np.uint16), False, [[0, 1]]),
        (np.array([[-1, 0.25, 7, np.nan, np.inf]]), False, [[0, 0.25, 1, 0, 0]]),
        (np.array([[[255, 0, 0], [255, 255, 255]]], np.uint8), False, [[1 / 3, 1]]),
        (np.array([[[255, 51], [255, 255]]], np.uint8), True, [[0.2, 1]]),
        (np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8), True, [[0, 1]]),
    ],
)
def test_weights(pixels, has_alpha, expected):
    np.testing.assert_allclose(weights(picture(pixels, has_alpha=has_alpha)), expected, atol=1e-6)


def test_bands_without_alpha_are_averaged():
    pixels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    np.testing.assert_allclose(comparable(picture(pixels)), pixels.mean(axis=2))
    assert comparable(picture(pixels, has_alpha=True)) is pixels


def test_options_are_taken_from_what_a_command_was_given():
    assert options_of(AlignOptions, {"seed": 4, "quiet": True}, model="rigid") == AlignOptions(model="rigid", seed=4)


def test_align_options_are_those_of_align():
    import inspect

    from imgalign.align import align

    defaults = {n: p.default for n, p in inspect.signature(align).parameters.items() if n not in {"fixed", "moving"}}
    assert defaults == vars(AlignOptions())


def test_density_keeps_places_in_the_field():
    """A picture of twice the pixels: the point seen at (x, y) lies at (2 x + 0.5, 2 y + 0.5)."""
    rescaled = at_density(Alignment("translate", shift(3, 4), (10, 20), (30, 40)), (60, 80))
    assert rescaled.moving_size_hw == (60, 80)
    np.testing.assert_allclose(rescaled.moving_from_fixed @ [1, 2, 1], [8.5, 12.5, 1])


def test_left_in_place_claims_no_error_bars():
    found = Alignment("rigid", shift(3, 4), (9, 9), (9, 9), trusted=False, corner_covariance=np.eye(8))
    kept = left_in_place(found)
    assert (kept.corner_covariance, kept.trusted) == (None, False)
    np.testing.assert_array_equal(kept.moving_from_fixed, np.eye(3))


@pytest.mark.parametrize("error", [ShapeError, OptionError, DeviceError])
def test_errors_of_a_picture_get_its_name(error):
    with pytest.raises(error) as raised, naming(picture([[1]])):
        raise error("too small")
    assert str(raised.value) == ("x.png: too small" if error is ShapeError else "too small")


class TestLay:
    def test_alpha_only_where_something_is_missing(self):
        whole = lay(picture(render((9, 9))), moved(0.2, 0), WriteOptions(), alpha=True)
        cut = lay(picture(render((9, 9))), moved(2, 0), WriteOptions(), alpha=True)
        assert (whole.has_alpha, whole.pixels.shape) == (False, (9, 9))
        assert (cut.has_alpha, cut.pixels.shape) == (True, (9, 9, 2))

    def test_union_says_where_it_lies(self):
        laid = lay(
            picture(render((9, 9))),
            moved(2, -1),
            WriteOptions(canvas="union"),
            alpha=False,
        )
        assert laid.grid == {"canvas_offset_xy": [-2, 0], "canvas_size_hw": [10, 11]}
        assert "black" in laid.notes[0]

    def test_other_size_is_refused(self):
        with pytest.raises(ShapeError, match="has 8 x 9 pixels, the transform is for pictures of 9 x 9"):
            lay(picture(render((9, 8))), moved(0, 0), WriteOptions(), alpha=True)


class TestReader:
    @pytest.fixture
    def names(self, workdir):
        names = [f"{number}.png" for number in range(5)]
        for name in names:
            Image.new("L", (4, 3)).save(name)
        return names

    def test_one_picture_is_read_ahead(self, names, monkeypatch):
        begun = []
        read = images.read
        monkeypatch.setattr(images, "read", lambda name, **options: begun.append(name) or read(name, **options))
        reader = Reader(names)
        reader.take(names[0])
        reader.take(names[1])
        reader.close()
        assert set(begun) <= set(names[:3])

    def test_picture_out_of_turn(self, names):
        reader = Reader(names[:1])
        assert reader.take(names[4])[0].size_hw == (3, 4)
        assert reader.take(names[0])[0].size_hw == (3, 4)
        reader.close()

    def test_error_comes_when_it_is_taken_and_the_next_is_still_read(self, names):
        reader = Reader(["missing.png", names[0]])
        with pytest.raises(ImageReadError, match="no such file"):
            reader.take("missing.png")
        assert reader.take(names[0])[0].path == Path(names[0])
        reader.close()

    def test_pictures_whose_output_exists_are_not_read(self, names):
        jobs = plan(names[0], names[1:])
        Path("2.aligned.png").touch()
        assert to_read(jobs, overwrite=False) == ["1.png", "3.png", "4.png"]
        assert to_read(jobs, overwrite=True) == names[1:]
