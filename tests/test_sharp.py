import math

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, corner_error, pair, render, tensor

from imgalign.numerics.noise import noise_variance
from imgalign.numerics.spectral import NoiseModel, RadialResponse, spectrum
from imgalign.refine import sharp
from imgalign.refine.light import lit
from imgalign.refine.polish import polish
from imgalign.refine.sharp import Sharp, Standard, _told_share
from imgalign.transforms import MODELS

SIZE = (144, 160)


def gradients_and_noise(structure):
    """Filtered gradients of a scene, `structure` strong, with noise in them, and what is known of it beforehand."""
    rng = np.random.default_rng(0)
    scene = [structure * rng.normal(0, 1, SIZE) for _ in range(2)]
    noise = [rng.normal(0, 0.4, SIZE) for _ in range(2)]
    same = tensor(rng.normal(0, 1, SIZE))
    standard = Standard(same, same + tensor(rng.normal(0, 0.1, SIZE)), torch.ones(1))
    untold = 0.16 / (0.16 + np.mean(structure**2))
    known = NoiseModel(None, RadialResponse(np.ones(2)), contrast=1.0, share=0.5, held=1.2 * untold, untold=untold)
    # The filter is in these once: without it the scene's own gradients are stronger by what noise made it take off.
    own = [x / (1 - untold) for x in scene]
    return [tensor(s + n) for s, n in zip(scene, noise, strict=True)], own, standard, known


@pytest.mark.parametrize("ground", [0.0, 0.3, 1.0])
def test_noise_on_empty_ground_has_no_share_in_gradients_whose_power_is_the_slopes_derivative(ground):
    filtered, own, standard, known = gradients_and_noise(np.where(np.arange(SIZE[1]) < 80, 1.0, ground))
    share = _told_share(tuple(filtered), torch.ones(1, 1, *SIZE), standard, known)
    if ground == 0:
        assert share[..., 88:-8].mean() < 0.1 * share[..., 8:72].mean()
    if ground == 1:
        assert share.mean() == pytest.approx(1, abs=0.03)
    weighed = [share * x for x in filtered]
    power = sum(float(x.square().sum()) for x in weighed)
    derivative = sum(float((x * tensor(y)).sum()) for x, y in zip(weighed, own, strict=True))
    assert power == pytest.approx(derivative, rel=0.04)


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_a_bright_thing_on_empty_ground_is_laid_more_exactly_where_the_ground_is_left_out(noise, monkeypatch):
    scene = Blobs(3, 30, count=40, sigma=(1.5, 4))
    scene.centres += 65  # in the middle of a picture that is empty elsewhere
    truth = about_centre(SIZE, shift=(0.4, -0.3), angle_deg=0.2)
    clean = pair(scene, SIZE, truth)

    def root_mean_square():
        squares = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            fixed, moving = (
                torch.as_tensor(x + rng.normal(0, noise, SIZE), dtype=torch.float32)[None, None] for x in clean
            )
            ones = torch.ones_like(fixed)
            with torch.no_grad():
                done = polish((fixed, ones), (moving, ones), truth, MODELS["rigid"])
            squares.append(corner_error(done.moving_from_fixed, truth, SIZE) ** 2)
        return math.sqrt(np.mean(squares))

    weighed = root_mean_square()
    monkeypatch.setattr(sharp, "_LITTLE", 1.0)
    assert weighed < 0.85 * root_mean_square()


def test_a_noisy_and_a_clean_picture_are_laid_as_exactly_as_their_noise_allows():
    truth = about_centre(SIZE, shift=(0.4, -0.3))
    fixed, moving = pair(Blobs(3, 170, count=150, sigma=(1.2, 9)), SIZE, truth)
    contrast = 0.8
    squares = []
    # Cramér and Rao's bound of a shift: the scene is told by the clean picture, so that it can be reached.
    slopes = np.stack([x.ravel() for x in np.gradient(fixed)])
    known = np.linalg.inv(slopes @ slopes.T)
    for seed in range(32):
        rng = np.random.default_rng(seed)
        noise = fixed.std() * np.array([1.0, 0.1] if seed % 2 else [0.1, 1.0])
        first, second = (tensor(x + n * rng.normal(0, 1, SIZE)) for x, n in zip((fixed, moving), noise, strict=True))
        ones = torch.ones_like(first)
        with torch.no_grad():
            done = polish((first, ones), (contrast * second, ones), truth, MODELS["translate"])
        bound = (noise**2).sum() * np.trace(known)
        squares.append(corner_error(done.moving_from_fixed, truth, SIZE) ** 2 / bound)
    assert math.sqrt(np.mean(squares)) < 1.08


def unblurred(fixed, moving):
    """Both pictures, ready to be looked at."""
    ones = torch.ones_like(fixed)
    noise = float(noise_variance(fixed)), float(noise_variance(moving))
    return Sharp((spectrum(fixed, ones), spectrum(moving, ones)), ones, ones, None, True, noise, 0.0)


def looked(fixed, moving):
    """Both pictures as they are compared where they lie on each other."""
    return unblurred(fixed, moving).look(np.eye(3)[None], near=True).problem


def test_pixels_are_weighed_by_brightness_where_light_makes_noise_and_alike_where_one_picture_is_noisier():
    rng = np.random.default_rng(2)
    scene = 20 * render(Blobs(3, 170, count=300, sigma=(2, 5)), SIZE) + np.linspace(40, 240, SIZE[1])
    photons = [tensor(scene + 1.5 * np.sqrt(scene) * rng.normal(0, 1, SIZE)) for _ in range(2)]
    spread = looked(*photons).spread
    inner = np.s_[12:-12, 12:-12]
    assert np.corrcoef(spread[0, 0].numpy()[inner].ravel(), np.sqrt(scene[inner]).ravel())[0, 1] > 0.9
    uneven = [tensor(scene + sigma * rng.normal(0, 1, SIZE)) for sigma in (25, 3)]
    assert looked(*uneven).spread is None


def test_the_contrast_of_the_scene_is_told_under_one_light_and_left_to_the_gains_under_a_changing_one():
    rng = np.random.default_rng(4)
    scene = render(Blobs(3, 170, count=300, sigma=(2, 5)), SIZE)
    fixed, moving = (tensor(k * (scene + s * rng.normal(0, 1, SIZE))) for k, s in ((1.0, 0.01), (0.5, 0.2)))
    assert looked(fixed, moving).contrast == pytest.approx(2, rel=0.03)
    gain = tensor(np.ones((SIZE[0], 1)) * (1 + 0.7 * np.sin(np.arange(SIZE[1]) / 25)))
    under_another = looked(gain * fixed, moving)
    assert under_another.gain is not None
    assert under_another.contrast is None


@pytest.mark.parametrize(("near", "looked_for"), [(True, 1), (False, 2)])
def test_light_occluders_and_noise_are_looked_for_anew_where_the_first_look_was_from_afar(
    near, looked_for, monkeypatch
):
    scene = Blobs(3, 170, count=300, sigma=(2, 5))
    rng = np.random.default_rng(3)
    fixed, moving = (tensor(render(scene, SIZE) + rng.normal(0, 0.02, SIZE)) for _ in range(2))
    calls = []
    monkeypatch.setattr(sharp, "lit", lambda *given, **named: calls.append(given) or lit(*given, **named))
    both = unblurred(fixed, moving)
    first = both.look(about_centre(SIZE, shift=(0.2, 0))[None], near=False)
    second = both.look(np.eye(3)[None], near=near)
    assert len(calls) == looked_for
    assert not torch.equal(first.problem.gradient_x, second.problem.gradient_x)  # those are of where it stands now
