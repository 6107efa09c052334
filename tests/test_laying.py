"""Pictures laid over a grid by a transform that is known."""

from pathlib import Path

import numpy as np
import pytest
from conftest import render, shift

from imgalign.alignment import Alignment
from imgalign.errors import DeviceError, OptionError, ShapeError
from imgalign.images import Picture
from imgalign.laying import WriteOptions, at_density, lay, left_in_place, naming


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
