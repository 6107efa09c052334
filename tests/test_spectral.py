import numpy as np
import pytest
import torch
from scenes import Blobs, render

from imgalign.numerics.spectral import (
    MARGIN,
    RadialResponse,
    faded_weight,
    inner_weight,
    noise_model,
    spectrum,
    spline_reader,
)
from imgalign.pyramid import masked_blur

SIZE = (80, 100)
INNER = (slice(25, -25), slice(25, -25))  # what the continuation makes of the border fades inwards


def tensor(array):
    return torch.as_tensor(array)[None, None]


def ones():
    return torch.ones(1, 1, *SIZE, dtype=torch.float64)


def wave(x, y, fx=0.21, fy=-0.13):
    return np.sin(2 * np.pi * (fx * x + fy * y) + 0.4)


def test_a_spectrum_gives_its_picture_back():
    image = tensor(render(Blobs(1, 100), SIZE))
    torch.testing.assert_close(spectrum(image, ones()).image(), image, rtol=0, atol=1e-12)


def test_the_frame_is_continued_without_a_jump():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    s = spectrum(tensor(0.01 * x + 0.02 * y), ones())
    frame = torch.fft.irfft2(s.values, s=s.frame_hw)[0, 0].numpy()
    steps = [np.abs(frame - np.roll(frame, 1, axis)).max() for axis in (0, 1)]
    # 80 rows of a ramp of 0.02 come back over a gap of 40: a few times the ramp's own step, not its range of 1.6.
    assert max(steps) < 0.12


def test_derivatives_are_those_of_the_formula():
    step, y, x = 1e-5, *np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    scene = Blobs(2, 100, sigma=(1.5, 6))
    for got, (dx, dy) in zip(spectrum(tensor(scene(x, y)), ones()).derivatives(), ((1, 0), (0, 1)), strict=True):
        exact = (scene(x + step * dx, y + step * dy) - scene(x - step * dx, y - step * dy)) / (2 * step)
        # A kink at the border would ring on, as one over the distance: 3e-3.
        assert np.abs(got[0, 0].numpy() - exact)[INNER].max() < 1e-4


@pytest.mark.parametrize("size_hw", [(80, 100), (63, 64), (66, 51), (70, 13)])
def test_every_second_pixel_is_that_of_all(size_hw):
    """Frames of half lengths odd and even."""
    image = tensor(render(Blobs(1, 100, sigma=(0.4, 2)), size_hw))
    s = spectrum(image, torch.ones_like(image))
    for all_of_it, some in zip((s.image(), *s.derivatives()), (s.image(2), *s.derivatives(2)), strict=True):
        torch.testing.assert_close(some, all_of_it[..., ::2, ::2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampling", [1, 1.5, 2])
def test_a_splines_readings_are_those_of_the_formula(sampling):
    scene = Blobs(3, 100, sigma=(1.5, 4))
    reader = spline_reader(spectrum(tensor(render(scene, SIZE)), ones()), None, sampling)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(25, 75, (1, 20, 30)), rng.uniform(25, 55, (1, 20, 30))
    values = reader.values(torch.as_tensor(x), torch.as_tensor(y))
    assert np.abs(values[:, 0].numpy() - scene(x, y)).max() < {1: 6e-3, 1.5: 2e-3, 2: 2e-3}[sampling]


def test_weights_rise_from_the_border():
    reader = spline_reader(spectrum(ones(), ones()), None, 1, ramp=4.0)
    x, y = torch.tensor([[[0.0, 1.0, 50.0, 50.0, 97.5, -0.5]]]), torch.tensor([[[40.0, 40.0, 4.0, 78.0, 40.0, 40.0]]])
    weights = reader.weights(x.double(), y.double()).flatten().tolist()
    assert weights == pytest.approx([0, 0.25, 1, 0.25, 0.375, 0], abs=1e-4)


def test_noise_holds_back_by_its_share_in_the_gradients():
    (fixed, moving), weight = noisy_pair(colour=False, sigma=0.02)
    (loud, loud_moving), _ = noisy_pair(colour=False, sigma=0.5)
    assert noise_model(fixed, moving, weight).held < 0.1
    assert noise_model(loud, loud_moving, weight).held > 2 * noise_model(fixed, moving, weight).held


def test_more_pixels_read_fine_waves_better():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    s = spectrum(tensor(wave(x, y, 0.35, 0.1)), ones())
    at = np.stack([x + 0.5, y + 0.37], -1)[None, 25:-25, 25:-25]
    points = torch.as_tensor(at).unbind(-1)
    error = [
        np.abs(spline_reader(s, None, k).values(*points)[0, 0].numpy() - wave(*at[0].T, 0.35, 0.1).T).max()
        for k in (1, 1.5, 2)
    ]
    assert error[0] > 0.015
    assert error[1] < 0.6 * error[0]
    assert error[2] < 0.2 * error[1]


def test_masked_pixels_do_not_show_in_the_rest():
    image, weight = tensor(render(Blobs(1, 100), SIZE)), ones()
    weight[..., 30:40, 30:40] = 0
    poisoned = torch.where(weight > 0, image, 1e4)
    torch.testing.assert_close(spectrum(poisoned, weight).image(), spectrum(image, weight).image(), rtol=0, atol=1e-8)


def test_a_masked_place_is_filled_from_its_edge_on():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    image, weight = tensor(0.01 * x + 0.02 * y), ones()
    weight[..., 20:60, 30:70] = 0
    filled = spectrum(image, weight).image()[0, 0].numpy()
    assert np.abs(filled - image[0, 0].numpy())[weight[0, 0].numpy() > 0].max() < 1e-9
    # The mean over a Gaussian of eight pixels lies six pixels behind the edge: a jump of 0.12 from row to row.
    jumps = [filled[20, 30:70] - filled[19, 30:70], filled[60, 30:70] - filled[59, 30:70]]
    assert max(np.abs(jump).max() for jump in jumps) < 0.04


def test_coarse_structure_behind_a_mask_is_no_fine_signal():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:160, :160]
    clean = np.where(np.hypot(x - 30, y - 30) < 70, 0.0, 20.0)
    clean = np.asarray(masked_blur(tensor(clean), torch.ones(1, 1, 160, 160, dtype=torch.float64), 4.0)[0, 0])
    mask = tensor(((x + 0.3 * y) % 40 >= 12).astype(float))
    fixed, moving = (tensor(clean + rng.normal(0, 1, clean.shape)) for _ in range(2))
    hard, faded = (noise_model(fixed, moving, weight).denoising.amplitude for weight in (mask, faded_weight(mask)))
    # The rim, of a Gaussian of 4 px, has nothing beyond 0.15 cycles a pixel (ring 5 of 24).
    assert faded[7:].max() < 0.25
    assert hard[7:].mean() > 2 * faded[7:].mean()


def test_a_faded_mask_has_nothing_near_what_is_masked_and_all_far_from_it():
    weight = ones()
    weight[..., 30:50, 40:60] = 0
    faded = faded_weight(weight)[0, 0]
    assert faded[40, 60] < 0.04
    assert faded[40, 75] == pytest.approx(1, abs=1e-3)
    assert (torch.diff(faded[40, 60:80]) >= -1e-6).all()


def test_inner_weight_leaves_out_what_is_near_a_border_or_a_masked_place():
    weight = ones()
    weight[..., 40:50, 50:60] = 0
    inner = inner_weight(weight)[0, 0]
    assert inner[MARGIN - 1].sum() == 0
    assert inner[MARGIN, MARGIN] == 1
    assert inner[40 - MARGIN, 55] == 0
    assert inner[40 - MARGIN - 1, 55] == 1


def test_bad_pixels_and_lost_rows_cost_no_more_than_themselves():
    weight = ones()
    weight[..., 20:24, :] = 0
    weight[..., 40, 50] = weight[..., 41, 52] = 0
    lost = (weight[0, 0] == 0)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert ((inner_weight(weight)[0, 0, MARGIN:-MARGIN, MARGIN:-MARGIN] == 0) == lost).all()
    # Both pictures are filled there.
    assert faded_weight(weight)[0, 0, 10:-10, 10:-10].min() > 0.99


def test_a_radial_response_is_read_at_each_frequency():
    s = spectrum(tensor(np.zeros(SIZE)), ones())
    table = RadialResponse(np.linspace(0, np.sqrt(0.5), 9))
    fy, fx = s.frequencies()
    torch.testing.assert_close(table.on(s), torch.hypot(fy.expand(-1, len(fx)), fx.expand(len(fy), -1)))


def noisy_pair(colour, sigma=0.2, size=(160, 160)):
    rng = np.random.default_rng(5)
    clean = render(Blobs(4, 160, sigma=(3, 7)), size)
    noise = rng.normal(0, sigma, (2, *size))
    if colour:
        noise = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))) / 2
    return [tensor(clean + n) for n in noise], torch.ones(1, 1, *size, dtype=torch.float64)


def test_white_noise_needs_no_whitening():
    (fixed, moving), weight = noisy_pair(colour=False)
    model = noise_model(fixed, moving, weight)
    assert model.whitening is None


@pytest.mark.parametrize(("scale", "whitened"), [(6.0, False), (1.5, True)])
def test_noise_is_whitened_where_slopes_gain_by_it(scale, whitened):
    """Noise that is five times as strong where a scene of large shapes has nothing costs it nothing."""
    rng = np.random.default_rng(9)
    clean = render(Blobs(4, 160, 400, sigma=(scale, 1.2 * scale)), (160, 160))
    fy, fx = np.fft.fftfreq(160)[:, None], np.fft.fftfreq(160)
    colour = np.where(np.hypot(fy, fx) < 0.12, 1.0, 5**0.5)
    fixed, moving = (
        tensor(clean + 0.05 * np.fft.ifft2(np.fft.fft2(rng.normal(0, 1, clean.shape)) * colour).real) for _ in range(2)
    )
    assert (noise_model(fixed, moving, torch.ones_like(fixed)).whitening is not None) == whitened


def test_signal_is_kept_where_it_is_and_noise_is_not():
    (fixed, moving), weight = noisy_pair(colour=False)
    amplitude = noise_model(fixed, moving, weight).denoising.amplitude
    # Blobs of 3 px and more have nothing beyond 0.2 cycles per pixel (ring 7 of 24).
    assert amplitude[1] > 0.9
    assert amplitude[10:].max() < 0.2


def ripple():
    """A scene that is nothing at the border, so that its power needs no taper, and that on the ring of its wave."""
    y, x = np.mgrid[:160, :160].astype(float)
    clean = np.exp(-((x - 80) ** 2 + (y - 80) ** 2) / (2 * 22**2)) * wave(x, y, 0.16, 0.12) * 0.7
    fy, fx = np.fft.fftfreq(160)[:, None], np.fft.fftfreq(160)
    ring = np.hypot(fy, fx) * 23 / np.sqrt(0.5)
    shares = np.clip(1 - np.abs(ring - np.round(0.2 * 23 / np.sqrt(0.5))), 0, None)
    return clean, (shares * np.abs(np.fft.fft2(clean)) ** 2).sum() / shares.sum() / clean.size


def test_structure_in_the_middle_is_not_taken_for_everywhere():
    rng = np.random.default_rng(6)
    clean, power = ripple()
    fixed, moving = (tensor(clean + rng.normal(0, 1, clean.shape)) for _ in range(2))
    found = noise_model(fixed, moving, torch.ones_like(fixed)).denoising
    expected = power / (power + 0.5)
    assert 0.2 < expected < 0.8
    # The average over some 800 frequencies; a window that falls from the middle on triples the power.
    assert found.amplitude.max() == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize("sigmas", [(1.0, 0.2), (0.2, 1.0), (0.5, 0.5)])
def test_each_picture_counts_by_the_inverse_of_its_noise(sigmas):
    rng = np.random.default_rng(7)
    clean, power = ripple()
    clean, power = 3 * clean, 9 * power
    fixed, moving = (tensor(clean + sigma * rng.normal(0, 1, clean.shape)) for sigma in sigmas)
    model = noise_model(fixed, 0.7 * moving, torch.ones_like(fixed))
    of_fixed, of_moving = np.square(sigmas)
    assert model.contrast == pytest.approx(1 / 0.7, rel=0.1)
    assert model.share == pytest.approx(of_moving / (of_fixed + of_moving), abs=0.05)
    of_mean = of_fixed * of_moving / (of_fixed + of_moving)
    assert model.denoising.amplitude.max() == pytest.approx(power / (power + of_mean), abs=0.02)


def test_the_noise_filter_is_the_same_for_an_inverted_picture_of_other_gain():
    (fixed, moving), weight = noisy_pair(colour=False)
    plain, inverted = noise_model(fixed, moving, weight), noise_model(fixed, 5 - 3 * moving, weight)
    np.testing.assert_allclose(inverted.denoising.amplitude, plain.denoising.amplitude, atol=1e-6)


@pytest.mark.parametrize(("seed", "axis"), [(11, 1), (22, 0)])
def test_pictures_that_share_nothing_keep_their_contrast_within_bounds(seed, axis):
    rng = np.random.default_rng(seed)
    fixed, moving = (tensor(rng.normal(0, 1, (96, 96)).cumsum(axis)) for _ in range(2))
    found = noise_model(fixed, moving, torch.ones_like(fixed)).contrast
    assert 0.2 < found * float(moving.std() / fixed.std()) < 5


def test_no_noise_passes_all_that_there_is():
    (clean, _), weight = noisy_pair(colour=False, sigma=0.0)
    assert noise_model(clean, clean, weight).denoising.amplitude[:5].min() > 0.98
