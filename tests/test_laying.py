"""Pictures laid over a grid by a transform that is known."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import render, shift

from imgalign.alignment import Alignment
from imgalign.errors import DeviceError, OptionError, ShapeError
from imgalign.files import images
from imgalign.files.images import Picture
from imgalign.jobs.laying import WriteOptions, at_density, lay, left_in_place, naming, write


def moved(x, y):
    return Alignment("translate", shift(x, y), (9, 9), (9, 9))


def picture(pixels, *, has_alpha=False):
    return Picture(np.asarray(pixels), Path("x.png"), has_alpha=has_alpha)


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

    @pytest.mark.parametrize(("channels", "said"), [(1, "black"), (3, "black"), (2, "0 in"), (4, "0 in"), (5, "0 in")])
    def test_what_stays_zero_is_said(self, channels, said):
        """Grey and RGB have no note where they become transparent."""
        pixels = np.ones((9, 9, channels), np.uint16)
        for alpha in (False, True):
            laid = lay(picture(pixels), moved(2, 0), WriteOptions(), alpha=alpha)
            assert laid.has_alpha == (alpha and channels in (1, 3))
            notes = [] if laid.has_alpha else [f"what the picture does not reach is {said}"]
            assert [note[: len(notes[0])] for note in laid.notes] == notes
            assert not laid.pixels[:, -1].any()

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


HELD = np.clip(render((40, 50)), 1, 254)


class TestNoData:
    """A hole that lies at rows 10 to 19, columns 5 to 24."""

    HOLE = np.s_[10:20, 5:25]

    def laid(self, workdir, dtype, number, move, name="out.tif", **options):
        """Through files, as the commands do it; what is in the file then."""
        pixels = HELD.astype(dtype)
        pixels[self.HOLE] = number
        tifffile.imwrite("in.tif", pixels, extratags=[(42113, "s", 0, str(number), True)], metadata=None)
        picture, writing = images.read("in.tif"), WriteOptions(overwrite=True, **options)
        alignment = Alignment("translate", shift(*move), (40, 50), (40, 50))
        laid = lay(picture, alignment, writing, alpha=images.can_hold_alpha(Path(name)))
        write(Path(name), laid.pixels, picture, writing, has_alpha=laid.has_alpha)
        return images.read(name).pixels if name.endswith("png") else tifffile.imread(name), laid

    @pytest.mark.parametrize(("dtype", "number"), [("u1", 0), ("u1", 255), ("i2", -9999), ("f4", -9999)])
    @pytest.mark.parametrize("interpolation", ["nearest", "cubic"])
    def test_what_is_copied_stays_and_what_is_not_reached_gets_the_number(self, workdir, dtype, number, interpolation):
        out, laid = self.laid(workdir, dtype, number, (3, -2), interpolation=interpolation)
        expected = np.full((40, 50), number, dtype)
        moved = HELD.astype(dtype)
        moved[self.HOLE] = number
        expected[2:, :-3] = moved[:-2, 3:]
        assert out.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(out, expected)
        assert images.read("out.tif").metadata.nodata == number
        assert np.array_equal(laid.colours.shape, (40, 50))

    @pytest.mark.parametrize(("dtype", "number"), [("u1", 0), ("i2", -9999), ("f4", -9999), ("f8", -1e20)])
    @pytest.mark.parametrize("interpolation", ["bilinear", "cubic", "lanczos"])
    def test_it_is_not_mixed_into_its_neighbours(self, workdir, dtype, number, interpolation):
        out, laid = self.laid(workdir, dtype, number, (0.25, 0.25), interpolation=interpolation)
        truth = render((40, 50), shift(0.25, 0.25)).astype(float)
        holes = np.zeros((40, 50), bool)
        holes[self.HOLE] = True
        # A quarter of a pixel takes no pixel from the hole and adds none: half of each is still the same.
        np.testing.assert_array_equal(out[:-1, :-1] == number, holes[:-1, :-1])
        # Grey levels: the slope of the scene, where half of what a pixel is made of is known.
        assert np.abs(out.astype(float) - truth)[:-1, :-1][~holes[:-1, :-1]].max() < 8
        if np.dtype(dtype).kind in "iu":
            np.testing.assert_array_equal(laid.covered[:-1, :-1], ~holes[:-1, :-1])

    def test_a_fill_is_no_hole(self, workdir):
        out, _ = self.laid(workdir, "u1", 0, (3, 0), fill=(77.0,))
        assert (out[:, -3:] == 77).all()
        out, _ = self.laid(workdir, "u1", 0, (3, 0), fill=(0.0,))
        assert (out[:, -3:] == 0).all()

    def test_png_shows_it_as_transparent(self, workdir):
        out, _ = self.laid(workdir, "u1", 0, (3, 0), name="out.png")
        assert out.shape == (40, 50, 2)
        assert out[12, 10, 1] == out[30, 49, 1] == 0
        assert out[30, 20].tolist() == [HELD[30, 23], 255]
