from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import TRUTHS, Blobs, about_centre, corner_error, pair

from imgalign.refine.polish import _contradicts, _doubt_px, _stands, polish
from imgalign.refine.sharp import Sharp
from imgalign.refine.uncertainty import covariance
from imgalign.transforms import MODELS

SIZE = (100, 120)
SCENE = Blobs(31, 120, count=160, sigma=(2.5, 6))
NOISE = 0.1


def planes(array, weight=None):
    tensor = torch.as_tensor(np.asarray(array, np.float32))[None, None]
    return tensor, torch.ones_like(tensor) if weight is None else torch.as_tensor(np.float32(weight))[None, None]


def polished(fixed, moving, start, name, **options):
    with torch.no_grad():
        return polish(planes(fixed), planes(moving), start, MODELS[name], **options)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_is_recovered_from_a_pixel_away(name):
    truth = about_centre(SIZE, **TRUTHS[name])
    done = polished(*pair(SCENE, SIZE, truth), np.eye(3), name)
    assert corner_error(done.moving_from_fixed, truth, SIZE) < 2e-3
    assert done.correlation > 0.999


def test_overlap_is_the_share_of_the_fixed_picture_that_is_seen():
    done = polished(*pair(SCENE, SIZE, about_centre(SIZE, shift=(12, 10))), about_centre(SIZE, shift=(12, 10)), "rigid")
    assert done.overlap == pytest.approx(0.9 * 0.9, abs=0.02)


def test_uneven_light_does_not_pull():
    truth = about_centre(SIZE, **TRUTHS["affine"])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    errors = []
    for seed in (31, 41, 51, 61):
        fixed, moving = pair(Blobs(seed, 120, count=160, sigma=(2.5, 6)), SIZE, truth)
        done = polished(fixed, moving * (0.8 + 0.4 * x / 120) + 0.002 * y, np.eye(3), "affine")
        errors.append(corner_error(done.moving_from_fixed, truth, SIZE))
    # A gain is estimated over 12 px, and a ramp of light ends at the border.
    assert np.mean(errors) < 0.06


@pytest.mark.parametrize(("size", "uneven", "tile"), [(200, False, 16), (200, True, 32), (130, True, 16)])
def test_residuals_under_a_changing_gain_are_taken_to_be_alike_over_more(size, uneven, tile, monkeypatch):
    tiles = []

    def noted(problem, state, model, cutoff, tile, noise):
        tiles.append(tile * round(size / problem.size_hw[0]))
        return covariance(problem, state, model, cutoff, tile, noise)

    monkeypatch.setattr("imgalign.refine.polish.covariance", noted)
    truth = about_centre((size, size), shift=(0.4, -0.3))
    fixed, moving = pair(Blobs(8, size, count=size * size // 60, sigma=(2.5, 6)), (size, size), truth)
    ramp = 0.3 + 1.4 * np.arange(size) / size
    polished(fixed, moving * ramp if uneven else moving, np.eye(3), "translate", light=uneven)
    assert set(tiles) == {tile}


def test_stars_are_no_outliers_of_their_dark_sky():
    truth = about_centre(SIZE, **TRUTHS["affine"])
    fixed, moving = pair(Blobs(6, 120, count=40, sigma=(1.5, 1.6)), SIZE, truth)
    assert np.median(np.abs(fixed)) < 1e-3 * fixed.max()
    assert corner_error(polished(fixed, moving, np.eye(3), "affine").moving_from_fixed, truth, SIZE) < 5e-4


def test_inverted_contrast_does_not_pull():
    truth = about_centre(SIZE, **TRUTHS["affine"])
    fixed, moving = pair(SCENE, SIZE, truth)
    assert corner_error(polished(fixed, 2 - 3 * moving, np.eye(3), "affine").moving_from_fixed, truth, SIZE) < 2e-3


def test_other_scales_are_compared_alike():
    truth = about_centre(SIZE, scale=0.6, shift=(0.4, 0.3), moving_hw=(60, 72))
    fixed, moving = pair(Blobs(32, 120, sigma=(4, 8)), SIZE, truth, (60, 72))
    start = about_centre(SIZE, scale=0.605, moving_hw=(60, 72))
    assert corner_error(polished(fixed, moving, start, "similarity").moving_from_fixed, truth, SIZE) < 0.01


def noisy_trials(name, count, noise=NOISE, smooth=False):
    """Errors of the mapped centre over many draws of noise and of shift, and what was predicted."""
    rng = np.random.default_rng(3)
    errors, variances = [], []
    for _ in range(count):
        truth = about_centre(SIZE, shift=rng.uniform(-0.5, 0.5, 2))
        draw = rng.normal(0, noise, (2, *SIZE))
        if smooth:
            draw = 0.5 * (draw + np.roll(draw, 1, 1) + np.roll(draw, 1, 2) + np.roll(draw, (1, 1), (1, 2)))
        fixed, moving = (p + n for p, n in zip(pair(SCENE, SIZE, truth), draw, strict=True))
        done = polished(fixed, moving, np.eye(3), name)
        middle = np.array([59.5, 49.5, 1])
        errors.append((done.moving_from_fixed @ middle - truth @ middle)[:2])
        variances.append(np.diag(done.covariance)[:2])
    return np.array(errors), np.array(variances)


@pytest.mark.parametrize("smooth", [False, True])
def test_predicted_variance_is_the_scatter_over_noisy_trials(smooth):
    errors, variances = noisy_trials("translate", 30, smooth=smooth)
    # 60 squared normal numbers: their mean is 1 with a standard deviation of 0.18.
    assert 0.5 < (errors**2 / variances).mean() < 1.6


def test_accuracy_is_near_the_bound_of_cramer_and_rao():
    errors, _ = noisy_trials("translate", 20)
    gy, gx = np.gradient(pair(SCENE, SIZE, np.eye(3))[0])
    information = np.array([[(gx * gx).sum(), (gx * gy).sum()], [(gx * gy).sum(), (gy * gy).sum()]]) / (2 * NOISE**2)
    bound = np.trace(np.linalg.inv(information))
    # Twenty trials scatter by a quarter; the picture is not known but seen twice, which costs a little.
    assert (errors**2).sum(1).mean() < 2 * bound


def test_photon_noise_is_weighed_by_the_scene_and_its_bright_spots_are_no_outliers():
    rng = np.random.default_rng(3)
    photons = 30.0  # a unit of brightness: a third of one in the dark between the spots
    middle = np.array([59.5, 49.5, 1])
    errors, variances = [], []
    for _ in range(30):
        truth = about_centre(SIZE, shift=rng.uniform(-0.5, 0.5, 2))
        fixed, moving = (rng.poisson(photons * p) / photons for p in pair(lit_scene, SIZE, truth))
        done = polished(fixed, moving, np.eye(3), "translate")
        errors.append((done.moving_from_fixed @ middle - truth @ middle)[:2])
        variances.append(np.diag(done.covariance)[:2])
    bright = pair(lit_scene, SIZE, np.eye(3))[0]
    slopes, weight = np.gradient(bright), photons / (2 * bright)
    bound = np.linalg.inv([[(weight * a * b).sum() for a in slopes] for b in slopes])
    # 60 squared normal numbers: their mean is 1 with a standard deviation of 0.18. With weights by the noisy brightness
    # and one scale for all residuals it is 2 over the bound and 4 over the error bar.
    assert (np.square(errors).sum(1)).mean() < 1.5 * np.trace(bound)
    assert 0.5 < (np.square(errors) / variances).mean() < 1.6


def lit_scene(x, y):
    """Bright spots on a dark ground: there is no light less than none."""
    return SCENE(x, y) ** 2 + 0.02


def test_noise_pulls_the_scale_by_less_than_its_error_bar():
    rng = np.random.default_rng(4)
    radius, angle, phase = 0.4 * np.sqrt(rng.uniform(size=150)), *rng.uniform(0, 2 * np.pi, (2, 150))

    def waves(x, y):
        turn = 2 * np.pi * radius * (np.cos(angle) * x[..., None] + np.sin(angle) * y[..., None])
        return np.cos(turn + phase).sum(-1) / np.sqrt(75)

    logs = []
    for _ in range(40):
        truth = about_centre(SIZE, shift=rng.uniform(-0.5, 0.5, 2))
        fixed, moving = (p + rng.normal(0, 0.3, SIZE) for p in pair(waves, SIZE, truth))
        done = polished(fixed, moving, truth, "similarity")
        logs.append(0.5 * np.log(np.linalg.det(done.moving_from_fixed[:2, :2])))
    # A mean of 40 scatters by 0.16 standard deviations. With full weights up to the border it is 1.3 of them, on this
    # small picture; the rest, 0.6, comes from the fixed picture's border.
    assert abs(np.mean(logs)) < 0.9 * np.std(logs, ddof=1)


def test_noise_is_measured():
    rng = np.random.default_rng(1)
    fixed, moving = (p + rng.normal(0, 0.2, SIZE) for p in pair(SCENE, SIZE, np.eye(3)))
    contrast = fixed.std()
    done = polished(fixed, moving, np.eye(3), "translate", light=False)
    assert done.noise == pytest.approx(0.2 * np.sqrt(2) / contrast, rel=0.25)


def test_covariance_is_symmetric_positive_and_shrinks_with_noise():
    quiet, loud = (
        polished(*(p + s * n for p, n in zip(pair(SCENE, SIZE, np.eye(3)), draw, strict=True)), np.eye(3), "affine")
        for draw in [np.random.default_rng(2).normal(0, 1, (2, *SIZE))]
        for s in (0.03, 0.3)
    )
    for done in (quiet, loud):
        c = done.covariance
        np.testing.assert_allclose(c, c.T, rtol=1e-6, atol=1e-12)
        assert np.linalg.eigvalsh(0.5 * (c + c.T)).min() > 0
    assert np.trace(loud.covariance) > 10 * np.trace(quiet.covariance)


def test_masked_pixels_do_not_count():
    truth = about_centre(SIZE, **TRUTHS["rigid"])
    fixed, moving = pair(SCENE, SIZE, truth)
    mask = np.ones(SIZE)
    mask[30:60, 30:70] = 0
    fixed[mask == 0] = 40
    with torch.no_grad():
        done = polish(planes(fixed, mask), planes(moving), np.eye(3), MODELS["rigid"])
    assert corner_error(done.moving_from_fixed, truth, SIZE) < 5e-3


def striped(which, noise, seeds=range(6)):
    """Mean error of fine detail under stripes without data, which are masked in some of the pictures."""
    size = 160, 180
    y, x = np.mgrid[: size[0], : size[1]]
    mask = ((x + 0.3 * y) % 40 >= 12).astype(float)
    truth = about_centre(size, shift=(0.37, -0.24), angle_deg=0.2)
    errors = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        fixed, moving = (
            planes(p + noise * rng.normal(0, 1, size), mask if of in which else None)
            for of, p in zip(("fixed", "moving"), pair(Blobs(seed, 180, 900, (1.2, 4)), size, truth), strict=True)
        )
        with torch.no_grad():
            done = polish(fixed, moving, np.eye(3), MODELS["affine"])
        errors.append(corner_error(done.moving_from_fixed, truth, size))
    return np.mean(errors)


@pytest.mark.parametrize("which", [("fixed",), ("moving",), ("fixed", "moving")])
def test_the_edge_of_a_mask_does_not_pull(which):
    """What fills it is no scene: filters and splines must not bring it over the edge, nor the verdict on noise."""
    assert striped(which, 0.0) < 2e-4
    # Seven tenths of the pixels are left: by 1.2 that is.
    assert striped(which, 0.01) < 1.33 * striped((), 0.01)


@pytest.mark.parametrize("contrasts", [-5.0, 0.0, 5.0, 30.0])
def test_occluders_are_let_go(contrasts):
    truth = about_centre(SIZE, **TRUTHS["rigid"])
    fixed, moving = pair(SCENE, SIZE, truth)
    moving[30:60, 30:60] = pair(Blobs(77, 120), SIZE, np.eye(3))[0][30:60, 30:60] + contrasts * fixed.std()
    # What is as bright as the scene is alike where both are flat, and there weighs in the light.
    assert corner_error(polished(fixed, moving, np.eye(3), "rigid").moving_from_fixed, truth, SIZE) < 0.03


def test_what_blurred_and_sharp_pictures_contradict_each_other_in_widens_the_error_bar():
    done = polished(*pair(SCENE, SIZE, np.eye(3)), np.eye(3), "translate")
    smooth = replace(done, white_sigma_px=0.01, misfit=1.0)
    near, far = (replace(smooth, moving_from_fixed=about_centre(SIZE, shift=(x, 0))) for x in (0.015, 0.05))
    assert _doubt_px(smooth, near, SIZE) == 0
    assert _doubt_px(smooth, far, SIZE) == pytest.approx((0.05**2 - 0.02**2) ** 0.5, rel=1e-3)
    bar = replace(far, covariance=torch.diag(torch.tensor([1e-6, 3e-6])), doubt_px=0.04)
    assert bar.doubted().covariance.trace() == pytest.approx(4e-6 + 0.04**2)
    assert near.doubted() is near
    both = replace(bar, misfit=5.0).doubted()
    assert both.covariance.trace() == pytest.approx(5 * 4e-6 + 0.04**2)
    assert both.doubted() is both


@pytest.mark.parametrize(("white", "all_noise", "stands"), [(0.012, 0.1, True), (0.02, 0.04, True), (0.02, 0.1, False)])
def test_the_sharp_answer_stands_where_it_is_predicted_about_as_good(white, all_noise, stands):
    done = polished(*pair(SCENE, SIZE, np.eye(3)), np.eye(3), "translate")
    smooth, sharp = (
        replace(done, white_sigma_px=sigma, covariance=torch.eye(2) * bar**2 / 2)
        for sigma, bar in ((0.01, 0.05), (white, all_noise))
    )
    assert _stands(smooth, sharp, SIZE) == stands
    astray = replace(sharp, moving_from_fixed=about_centre(SIZE, shift=(0.5, 0)))
    assert not _stands(smooth, astray, SIZE)


@pytest.mark.parametrize(
    ("apart", "smooth_px", "white", "stands", "contradicts"),
    [
        (0.04, 0.01, 0.002, False, False),  # aliasing may pull as far
        (0.055, 0.01, 0.002, True, True),
        (0.055, 0.01, 0.006, False, False),  # not clearly more exact
        (0.1, 0.01, 0.002, False, True),  # so far a codec's blocks may pull
        (0.1, 0.05, 0.002, True, False),  # within chance
    ],
)
def test_an_answer_that_contradicts_blurred_pictures_has_to_know_clearly_more(
    apart, smooth_px, white, stands, contradicts
):
    done = polished(*pair(SCENE, SIZE, np.eye(3)), np.eye(3), "translate")
    smooth = replace(done, white_sigma_px=smooth_px)
    moved = about_centre(SIZE, shift=(apart, 0)) @ done.moving_from_fixed
    sharp = replace(done, white_sigma_px=white, moving_from_fixed=moved)
    assert _stands(smooth, sharp, SIZE) == stands
    assert _contradicts(smooth, sharp, SIZE) == contradicts


@pytest.mark.parametrize(("white", "doubted"), [(0.001, True), (0.1, False)])
def test_a_smooth_answer_doubts_itself_where_a_much_better_one_contradicts_it(white, doubted, monkeypatch):
    truth = about_centre(SIZE, shift=(2.3, -1.6), angle_deg=2)
    rng = np.random.default_rng(1)
    fixed, moving = (planes(p + rng.normal(0, 0.1 * p.std(), SIZE)) for p in pair(SCENE, SIZE, truth))
    far = about_centre(SIZE, shift=(0.9, 0)) @ truth

    def sharpened(descent, *_):
        return replace(descent.polished(None), moving_from_fixed=far, white_sigma_px=white)

    monkeypatch.setattr("imgalign.refine.polish._sharpened", sharpened)
    answer = polish(fixed, moving, truth, MODELS["rigid"])
    assert corner_error(answer.moving_from_fixed, truth, SIZE) < 0.1
    assert answer.doubt_px == pytest.approx(0.9 if doubted else 0, abs=0.1)


@pytest.mark.parametrize("worth", [False, True])
def test_sharp_pictures_are_looked_at_if_the_answer_of_blurred_ones_is_worth_it(worth, monkeypatch):
    truth = about_centre(SIZE, shift=(2.3, -1.6), angle_deg=2)
    fixed, moving = (planes(p) for p in pair(SCENE, SIZE, truth))
    told, asked = [], []
    monkeypatch.setattr("imgalign.refine.polish.Sharp", lambda *given: asked.append(given) or Sharp(*given))
    answer = polish(fixed, moving, truth, MODELS["rigid"], worth=lambda blurred: told.append(blurred) or worth)
    assert len(asked) == worth
    assert np.allclose(told[0].moving_from_fixed, truth, atol=0.02)
    assert (answer.white_sigma_px == told[0].white_sigma_px) == (not worth)
