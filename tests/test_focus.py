import math

import numpy as np
import pytest
import torch
from scenes import TRUTHS, Blobs, about_centre, corner_error, render
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import rgb2gray

from imgalign import align
from imgalign.numerics.spectral import spectrum
from imgalign.refine.focus import blurred_alike, difference
from imgalign.refine.light import View

SIZE = (220, 260)


class Blurred(Blobs):
    """The same scene through a Gaussian point spread function: each blob's covariance and the function's add up."""

    def __init__(self, covariance, **scene):
        super().__init__(**scene)
        self.covariance = np.asarray(covariance, float)

    def __call__(self, x, y):
        total = np.zeros(np.broadcast(x, y).shape)
        for (cx, cy), sigma, height in zip(self.centres, self.sigmas, self.heights, strict=True):
            spread = sigma**2 * np.eye(2) + self.covariance
            reach = 6.5 * math.sqrt(np.linalg.eigvalsh(spread)[-1])
            near = (np.abs(x - cx) < reach) & (np.abs(y - cy) < reach)
            dx, dy = x[near] - cx, y[near] - cy
            (xx, xy), (_, yy) = np.linalg.inv(spread)
            total[near] += (
                height * sigma**2 / math.sqrt(np.linalg.det(spread))
                * np.exp(-0.5 * (xx * dx**2 + 2 * xy * dx * dy + yy * dy**2))
            )  # fmt: skip
        return total


def scene(covariance=((0, 0), (0, 0)), seed=3):
    return Blurred(covariance, seed=seed, extent=260.0, count=900, sigma=(1.0, 4.0))


def view(fixed, warped, valid=None):
    valid = np.ones(SIZE) if valid is None else valid
    return View(*(torch.as_tensor(np.asarray(p, np.float32))[None, None] for p in (fixed, warped, valid)))


def noisy(picture, level, seed):
    return picture + np.random.default_rng(seed).normal(0, level, picture.shape)


BLURS = {
    "defocus": [[2.0, 0.0], [0.0, 2.0]],
    "a little": [[0.3, 0.0], [0.0, 0.3]],
    "motion": [[3.0, 2.0], [2.0, 1.5]],
    "the fixed picture's": [[-1.5, 0.3], [0.3, -2.5]],
    "of either": [[2.0, 0.0], [0.0, -1.5]],
}


def of_each(difference):
    """What either picture is blurred by, for a difference of the moving and the fixed picture's."""
    values, vectors = np.linalg.eigh(difference)
    return [(vectors * np.maximum(sign * values, 0)) @ vectors.T for sign in (-1, 1)]


@pytest.mark.parametrize("name", BLURS)
def test_the_difference_of_two_blurs_is_told(name):
    fixed, moving = (render(scene(c), SIZE) for c in of_each(BLURS[name]))
    found = difference(view(noisy(fixed, 0.002, 1), 0.7 * noisy(moving, 0.002, 2) + 3))
    assert found is not None
    assert np.abs(found - BLURS[name]).max() < 0.2 * np.abs(BLURS[name]).max()


def test_pixels_of_a_sparse_view_are_counted_as_they_are():
    fixed, moving = (noisy(render(scene(c), SIZE), 0.002, 1)[::2, ::2] for c in of_each(BLURS["defocus"]))
    found = difference(view(fixed, moving, np.ones(fixed.shape)), spacing=2)
    assert found is not None
    assert np.abs(found - BLURS["defocus"]).max() < 0.3


def test_the_end_of_what_both_show_is_no_blur():
    valid = np.ones(SIZE)
    valid[:60], valid[:, 200:] = 0, 0
    fixed, moving = (render(scene(c), SIZE) for c in of_each(BLURS["defocus"]))
    found = difference(view(noisy(fixed, 0.002, 1), np.where(valid, noisy(moving, 0.002, 2), 5), valid))
    assert found is not None
    assert np.abs(found - BLURS["defocus"]).max() < 0.3


@pytest.mark.parametrize("levels", [(0.002, 0.002), (0.002, 0.1), (0.1, 0.002)])
def test_noise_of_one_picture_is_no_sharpness(levels):
    picture = render(scene(), SIZE)
    assert difference(view(noisy(picture, levels[0], 1), noisy(picture, levels[1], 2))) is None


def test_other_scenes_and_small_pictures_tell_no_blur():
    fixed, other = render(scene(), SIZE), render(scene([[2.0, 0], [0, 2.0]], seed=4), SIZE)
    assert difference(view(fixed, other)) is None
    blurred = render(scene([[2.0, 0], [0, 2.0]]), SIZE)
    small = view(fixed[:30, :30], blurred[:30, :30], np.ones((30, 30)))
    assert difference(small) is None


def test_stripes_tell_no_more_than_they_show():
    rng = np.random.default_rng(1)
    stripes = np.tile(gaussian_filter(rng.normal(0, 1, SIZE[1]), 1), (SIZE[0], 1))
    for turn in (np.asarray, np.transpose):
        fixed, moving = turn(stripes), turn(gaussian_filter(stripes, (0, 2)))
        found = difference(view(fixed, moving, np.ones(fixed.shape)))
        assert found is None or np.isfinite(found).all()


def test_pictures_are_blurred_to_each_other_where_the_moving_one_is_turned():
    turned = about_centre(SIZE, angle_deg=35, scale=0.8)
    fixed, moving = (scene(c) for c in of_each(BLURS["of either"]))
    planes = render(fixed, SIZE), render(moving, SIZE, np.linalg.inv(turned))
    spectra = [spectrum(torch.as_tensor(p)[None, None], torch.ones(1, 1, *SIZE, dtype=torch.float64)) for p in planes]
    first, second = blurred_alike(*spectra, np.array(BLURS["of either"]), turned[:2, :2])
    both = scene(sum(of_each(BLURS["of either"])))
    for found, expected in ((first, render(both, SIZE)), (second, render(both, SIZE, np.linalg.inv(turned)))):
        inner = (found.image()[0, 0].numpy() - expected)[20:-20, 20:-20]
        assert np.abs(inner).max() < 1e-3 * np.ptp(expected)


@pytest.mark.parametrize("model", ["translate", "affine"])
@pytest.mark.parametrize("name", BLURS)
def test_a_blur_of_one_picture_moves_no_answer(name, model):
    truth = about_centre(SIZE, **TRUTHS[model])
    fixed, moving = (scene(c) for c in of_each(BLURS[name]))
    planes = render(fixed, SIZE), render(moving, SIZE, np.linalg.inv(truth))
    found = align(*(noisy(p, 0.01, i) for i, p in enumerate(planes)), model=model)
    error = corner_error(found.moving_from_fixed, truth, SIZE)
    assert found.trusted
    assert error < 3 * found.corner_sigma_px
    assert found.corner_sigma_px < 0.015


@pytest.mark.parametrize("name", ["camera", "coffee", "chelsea"])
def test_a_photograph_out_of_focus_lies_where_it_lies(name):
    photo = rgb2gray(getattr(data, name)()) if name != "camera" else data.camera() / 255
    soft = gaussian_filter(photo, 2.0)
    # Whole pixels apart, and each picture's surroundings take part in its blur.
    fixed, moving = photo[40:240, 60:310], soft[47:247, 49:299]
    found = align(noisy(fixed, 0.006, 0), noisy(moving, 0.006, 1), model="affine")
    truth = np.array([[1, 0, 11], [0, 1, -7], [0, 0, 1.0]])
    error = corner_error(found.moving_from_fixed, truth, fixed.shape)
    assert found.trusted
    assert error < 3 * found.corner_sigma_px
    assert error < 0.08
