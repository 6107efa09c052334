"""Pictures on their way in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgalign.errors import ImageReadError
from imgalign.files import images
from imgalign.files.images import Picture
from imgalign.files.outputs import plan
from imgalign.files.picture import Metadata
from imgalign.files.reading import FileReader, comparable, measurable, to_read, weights


def picture(pixels, *, has_alpha=False):
    return Picture(np.asarray(pixels), Path("x.png"), has_alpha=has_alpha)


@pytest.mark.parametrize(
    ("pixels", "has_alpha", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), False, [[0, 0.2, 1]]),
        (np.array([[0, 65535]], np.uint16), False, [[0, 1]]),
        (np.array([[0, 1]], np.uint8), False, [[0, 1]]),
        (np.array([[[1, 1, 0], [1, 1, 1]]], np.uint16), False, [[2 / 3, 1]]),
        (np.array([[[1, 255], [1, 51]]], np.uint8), True, [[1, 0.2]]),
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


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_no_data_of_integers_is_nan_to_compute_with(bands):
    pixels = np.full((2, 3, bands + 1), 32767, np.int16)
    pixels[..., :bands] = 40
    pixels[0, 1] = 0
    like = Picture(pixels, Path("x.tif"), has_alpha=True, metadata=Metadata(nodata=0))
    values, has_alpha = measurable(like)
    assert (values.shape, values.dtype, has_alpha) == ((2, 3, bands), np.float32, False)
    expected = np.full((2, 3), 40.0)
    expected[0, 1] = np.nan
    np.testing.assert_array_equal(values, np.repeat(expected[..., None], bands, 2))
    np.testing.assert_array_equal(comparable(like).reshape(2, 3, -1)[..., 0], expected)


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
        reader = FileReader(names)
        reader.take(names[0])
        reader.take(names[1])
        assert set(begun) <= set(names[:3])

    def test_picture_out_of_turn(self, names):
        reader = FileReader(names[:1])
        assert reader.take(names[4])[0].size_hw == (3, 4)
        assert reader.take(names[0])[0].size_hw == (3, 4)

    def test_error_comes_when_it_is_taken_and_the_next_is_still_read(self, names):
        reader = FileReader(["missing.png", names[0]])
        with pytest.raises(ImageReadError, match="no such file"):
            reader.take("missing.png")
        assert reader.take(names[0])[0].path == Path(names[0])

    def test_pictures_whose_output_exists_are_not_read(self, names):
        jobs = plan(names[0], names[1:])
        Path("2.aligned.png").touch()
        assert to_read(jobs, overwrite=False) == ["1.png", "3.png", "4.png"]
        assert to_read(jobs, overwrite=True) == names[1:]
