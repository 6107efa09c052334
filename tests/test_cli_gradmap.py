"""`imgalign gradmap`: which file holds which numbers."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import opened, pixels, render
from PIL import Image


@pytest.fixture
def picture(workdir):
    image = render((40, 56))
    Image.fromarray(image).save("a.png")
    return image


def magnitude(image):
    return np.hypot(*np.gradient(image.astype(float)))


def test_default_is_a_float_tiff_in_true_units(picture, invoke):
    result = invoke("gradmap", "a.png")
    assert (result.exit_code, result.stdout) == (0, "")
    lengths = tifffile.imread("a.gradmap.tif")
    assert lengths.dtype == np.float32
    np.testing.assert_allclose(lengths, magnitude(picture), rtol=1e-6)


def test_png_has_the_scale_of_the_picture(picture, invoke):
    invoke("gradmap", "a.png", "-o", "out.png")
    np.testing.assert_array_equal(pixels("out.png"), np.floor(magnitude(picture) + 0.5))


@pytest.mark.parametrize(("bits", "dtype", "largest"), [("8", np.uint8, 255), ("16", np.uint16, 65535)])
def test_normalized_bits(bits, dtype, largest, picture, invoke):
    invoke("gradmap", "a.png", "--bits", bits, "--normalize")
    out = pixels("a.gradmap.png")
    assert (out.dtype, out.max()) == (dtype, largest)


def test_colormap_is_rgb(picture, invoke):
    assert invoke("gradmap", "a.png", "--colormap", "heat", "--normalize", "-o", "c.tif").exit_code == 0
    assert tifffile.imread("c.tif").shape == (40, 56, 3)


def test_operators_and_level_give_different_maps_of_one_size(picture, invoke):
    options = (["--operator", "sobel"], ["--operator", "gaussian", "--sigma", "2"], ["--level", "2"])
    maps = []
    for number, given in enumerate(options):
        assert invoke("gradmap", "a.png", *given, "-o", f"{number}.tif").exit_code == 0
        maps.append(tifffile.imread(f"{number}.tif"))
    assert {lengths.shape for lengths in maps} == {(40, 56)}
    assert not any(np.allclose(a, b) for a, b in pairwise(maps))


def test_float_picture_needs_normalize_for_png(workdir, invoke):
    tifffile.imwrite("f.tif", render((20, 30), dtype=np.float32))
    result = invoke("gradmap", "f.tif", "-o", "f.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: f.tif: a floating picture has no full scale; add --normalize")
    assert invoke("gradmap", "f.tif", "-o", "f.png", "--normalize").exit_code == 0


@pytest.mark.parametrize(("dtype", "number"), [("u1", 0), ("i2", -9999), ("f4", -9999)])
def test_no_data_has_no_gradient(dtype, number, workdir, invoke):
    image = np.clip(render((40, 56)), 1, 255).astype(dtype)
    lengths = magnitude(image)
    image[10:20, 30:50] = number
    tifffile.imwrite("a.tif", image, extratags=[(42113, "s", 0, str(number), True)], metadata=None)
    invoke("gradmap", "a.tif")
    out = tifffile.imread("a.gradmap.tif")
    assert np.isnan(out[10:20, 30:50]).all()
    assert np.isfinite(out).sum() > 40 * 56 - 22 * 12 - 1
    np.testing.assert_allclose(out[np.isfinite(out)], lengths[np.isfinite(out)], rtol=1e-5)


def test_colour_profile_of_the_picture_is_not_given_to_numbers(workdir, invoke):
    Image.fromarray(render((20, 30))).save("a.png", icc_profile=b"x" * 200)
    invoke("gradmap", "a.png", "-o", "out.png")
    assert "icc_profile" not in opened("out.png").info


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (1, 9)])
def test_too_small_a_picture_is_one_line(size, workdir, invoke):
    Image.new("L", size).save("s.png")
    result = invoke("gradmap", "s.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: s.png: ")
    assert len(result.stderr.splitlines()) == 1


def test_one_failure_never_stops_the_rest(picture, invoke):
    assert invoke("gradmap", "missing.png", "a.png").exit_code == 1
    assert Path("a.gradmap.tif").exists()


def test_picture_that_an_option_does_not_suit_never_stops_the_rest(picture, invoke):
    tifffile.imwrite("bands.tif", np.zeros((20, 30, 5), np.uint8), planarconfig="contig", photometric="minisblack")
    result = invoke("gradmap", "--channels", "luminance", "bands.tif", "a.png")
    assert result.exit_code == 1
    assert "bands.tif: luminance needs 3 colour channels, got 5" in result.stderr
    assert Path("a.gradmap.tif").exists()


def test_what_was_made_of_a_picture_is_said(workdir, invoke):
    tifffile.imwrite("pages.tif", np.stack([render((40, 56))] * 2), photometric="minisblack")
    result = invoke("gradmap", "pages.tif")
    first, last = result.stderr.splitlines()
    assert first == "pages.tif: has 2 pages: the first is used; name another as pages.tif[1]"
    assert last.endswith("wrote pages.gradmap.tif")
