"""`imgalign center`: a structure in the middle, written like an alignment."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import json_lines, pixels
from PIL import Image

from imgalign import load

HEIGHT, WIDTH = 64, 90


@pytest.fixture
def star(workdir):
    """A round star at column 30.3, row 21.6, on a background with noise of known seed."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = 40 + 150 * np.exp(-((x - 30.3) ** 2 + (y - 21.6) ** 2) / (2 * 3.0**2))
    image += np.random.default_rng(1).normal(0, 1.5, image.shape)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save("star.png")
    return 30.3, 21.6


def test_star_comes_to_the_middle(star, invoke):
    result = invoke("center", "star.png")
    assert (result.exit_code, result.stdout) == (0, "")
    # The middle is pixel (45, 32); 0.1 px is far above the error that noise of 1 % leaves.
    np.testing.assert_allclose(load("star.params.json").moving_from_fixed[:2, 2], [30.3 - 45, 21.6 - 32], atol=0.1)
    out = pixels("star.aligned.png")
    assert out.shape == (HEIGHT, WIDTH, 2)
    assert np.unravel_index(out[..., 0].argmax(), out.shape[:2])[1] in {44, 45, 46}


def test_record_is_that_of_an_alignment(star, invoke):
    invoke("center", "star.png", "--no-image", "--sampler", "bilinear")
    record = json.loads(Path("star.params.json").read_text("utf-8"))
    assert record["fixed"] == record["moving"]
    assert (record["model"], record["options"]["sampler"]) == ("translate", "bilinear")
    assert not Path("star.aligned.png").exists()


def test_several_pictures_and_one_failure(star, invoke):
    result = invoke("center", "missing.png", "star.png", "--json", "--no-image")
    assert result.exit_code == 1
    assert ["error" in line for line in json_lines(result.stdout)] == [True, False]


def test_flat_picture_is_not_trusted(workdir, invoke):
    Image.new("L", (30, 20), 7).save("flat.png")
    assert invoke("center", "flat.png").exit_code == 3


def test_mask_hides_the_brightest(star, invoke):
    image = pixels("star.png").copy()
    image[50:54, 70:74] = 255
    Image.fromarray(image).save("two.png")
    mask = np.full(image.shape, 255, np.uint8)
    mask[45:, 60:] = 0
    Image.fromarray(mask).save("mask.png")
    invoke("center", "two.png", "--mask", "mask.png", "--no-image")
    np.testing.assert_allclose(load("two.params.json").moving_from_fixed[:2, 2], [30.3 - 45, 21.6 - 32], atol=0.1)


def test_midpoint_with_nearest_follows_the_recipe(workdir, invoke):
    """75 x 100 pixels of 1 / (1 + x^2) / (1 + y^2): a hundred steps of rate 10 end near (-16, 12.33)."""
    x, y = np.meshgrid(np.linspace(-2, 1, 100), np.linspace(-1, 2, 75))
    tifffile.imwrite("peak.tif", (1 / (1 + x**2) / (1 + y**2)).astype(np.float32))
    result = invoke("center", "peak.tif", "--objective", "midpoint", "--sampler", "nearest", "--no-image", "--json")
    shift = np.array(json_lines(result.stdout)[0]["inverse"]["shift_px"])
    assert np.abs(shift - [-16, 12.33]).max() <= 1
