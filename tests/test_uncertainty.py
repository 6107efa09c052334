import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import Blobs, about_centre, pair, problem, render, tensor
from scipy.linalg import sqrtm
from scipy.stats import chi2

from imgalign.refine.levenberg_marquardt import evaluate, refine
from imgalign.refine.uncertainty import (
    BlurredNoise,
    Tiles,
    _evened,
    _strength,
    _unfitted,
    covariance,
    noise_information,
    tile_scores,
)
from imgalign.transforms import MODELS

SIZE = (90, 110)


def test_tile_scores_sum_to_the_slope_without_gain_and_bias():
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    state = evaluate(two, about_centre(SIZE, scale=0.9, shift=(0.3, 0))[None], MODELS["affine"], 4.0)
    normal, slope = state.normal[0], state.slope[0]
    expected = slope[:6] - normal[:6, 6:] @ np.linalg.solve(normal[6:, 6:], slope[6:])
    scores, information = tile_scores(two, *two.read(state.matrices[:1]), state, MODELS["affine"], 4.0, 16).listed()
    np.testing.assert_allclose(scores.sum(0), expected, atol=0.02 * np.abs(slope).max())
    np.testing.assert_allclose(information.sum(0), normal[:6, :6], atol=0.02 * np.abs(normal[:6, :6]).max())


def test_scores_of_a_shift_are_exact():
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    at = about_centre(SIZE, scale=0.9, shift=(0.3, 0))[None]
    state = evaluate(two, at, MODELS["translate"], 4.0)
    normal, slope = state.normal[0], state.slope[0]
    expected = slope[:2] - normal[:2, 2:] @ np.linalg.solve(normal[2:, 2:], slope[2:])
    scores, information = tile_scores(two, *two.read(state.matrices[:1]), state, MODELS["translate"], 4.0, 16).listed()
    np.testing.assert_allclose(scores.sum(0), expected, atol=1e-5 * np.abs(slope).max())
    np.testing.assert_allclose(information.sum(0), normal[:2, :2], rtol=1e-5)


def test_one_tile_holds_the_sums_over_its_own_pixels():
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    inward = about_centre(SIZE, scale=0.9)[None]
    part = torch.zeros_like(two.weight)
    part[..., 32:48, 96:110] = 1  # the third row of tiles, the last, narrower, of seven columns
    whole = evaluate(two, inward, MODELS["affine"], math.inf)
    _, information = tile_scores(two, *two.read(whole.matrices[:1]), whole, MODELS["affine"], math.inf, 16).listed()
    alone = evaluate(replace(two, weight=part), inward, MODELS["affine"], math.inf)
    seen = two.fixed[..., 32:48, 96:110]
    # Alone the tile is measured at its own contrast.
    contrast = float(seen.std(correction=0) / two.fixed.std(correction=0))
    expected = alone.normal[0, :6, :6] * contrast**2
    # Fields are taken for constant over blocks of an eighth of the half diagonal.
    np.testing.assert_allclose(information[2 * 7 + 6], expected, atol=0.03 * np.abs(expected).max())


def test_scores_are_brought_to_what_they_were_before_the_fit():
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(20, 3, 3))
    shares = roots @ roots.transpose(0, 2, 1)
    shares = shares / np.linalg.eigvalsh(shares).max(1)[:, None, None] * np.linspace(0.01, 0.85, 20)[:, None, None]
    scores = rng.normal(size=(20, 3))
    expected = [np.linalg.solve(sqrtm(np.eye(3) - a), s) for a, s in zip(shares, scores, strict=True)]
    found, _ = _unfitted(Tiles(scores.T[..., None], shares.transpose(1, 2, 0)[..., None], np.ones((20, 1))), np.eye(3))
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)


@pytest.mark.parametrize("parameters", [2, 6])
@pytest.mark.parametrize("tiles", [10, 40, 160])
def test_the_ellipse_of_few_draws_holds_what_it_says(parameters, tiles):
    """Each of which tells of all parameters."""
    rng = np.random.default_rng(2)
    one, alike = np.eye(parameters), np.full(tiles, parameters / tiles)
    limit, inside, trials = chi2.ppf(0.95, parameters), 0, 2500
    for _ in range(trials):
        scores = rng.normal(size=(tiles, parameters)) / math.sqrt(tiles)
        spread = _evened(scores, alike, one, _strength(scores, alike, one)[0])
        error = rng.normal(size=parameters)
        inside += error @ np.linalg.solve(spread, error) < limit
    # Of ten draws of six numbers hardly any is left: the bar is then the wider one.
    assert 0.93 < inside / trials < (0.98 if tiles < 2 * parameters else 0.97)


def scatter(scores, shares, bread):
    """What is made of the scores of tiles in a row."""
    tiles = Tiles(scores.T[..., None], shares.transpose(1, 2, 0)[..., None], np.ones((len(scores), 1)))
    whole, leverage = _unfitted(tiles, bread)
    return _evened(whole, leverage, shares.sum(0), _strength(whole, leverage, bread)[0])


def shifts_at(places, parameters):
    """`(tiles, 2, P)`: what a tile's two shifts say of a translation or an affine map."""
    x, y = places.T[:, :, None]
    along_x = np.concatenate([np.ones_like(x), 0 * x, x, y, 0 * x, 0 * x], 1)
    along_y = np.concatenate([0 * x, np.ones_like(x), 0 * x, 0 * x, x, y], 1)
    return np.stack([along_x, along_y], 1)[..., :parameters]


@pytest.mark.parametrize("uneven", [1, 10])
@pytest.mark.parametrize("parameters", [2, 6])
@pytest.mark.parametrize("side", [4, 6, 12])
def test_the_ellipse_of_few_tiles_holds_what_it_says(parameters, side, uneven):
    """Tiles on a lattice, each with noise of its own in two shifts; variances up to `uneven` times the least."""
    rng = np.random.default_rng(2)
    places = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, side)]), -1).reshape(-1, 2)
    jacobian = shifts_at(places, parameters)
    shares = np.einsum("tai,taj->tij", jacobian, jacobian)
    bread = np.linalg.inv(shares.sum(0))
    limit, inside, trials = chi2.ppf(0.95, parameters), 0, 1500
    for _ in range(trials):
        noise = rng.normal(size=(len(places), 2)) * np.sqrt(rng.choice([1, uneven], (len(places), 1)))
        scores = np.einsum("tai,ta->ti", jacobian, noise)
        error = bread @ scores.sum(0)
        meat = scatter(scores - shares @ error, shares, bread)
        inside += error @ np.linalg.solve(bread @ meat @ bread, error) < limit
    assert 0.92 < inside / trials < 0.98


def test_the_ellipse_of_a_few_stars_among_many_holds_what_it_says():
    """Brightness to the power of two, as gradients squared: a few tiles decide, and many tell how strong noise is."""
    rng = np.random.default_rng(3)
    places = rng.uniform(-1, 1, (80, 2))
    jacobian = shifts_at(places, 6) * np.exp(rng.normal(0, 1, (80, 1, 1)))
    shares = np.einsum("tai,taj->tij", jacobian, jacobian)
    bread = np.linalg.inv(shares.sum(0))
    leverage = np.einsum("tij,ji->t", shares, bread)
    assert leverage.sum() ** 2 / (leverage**2).sum() < 25
    limit, squares = chi2.ppf(0.95, 6), []
    for _ in range(1500):
        noise = rng.normal(size=(80, 2))
        scores = np.einsum("tai,ta->ti", jacobian, noise)
        error = bread @ scores.sum(0)
        meat = scatter(scores - shares @ error, shares, bread)
        squares.append(error @ np.linalg.solve(bread @ meat @ bread, error))
    assert 0.93 < np.mean(np.array(squares) < limit) < 0.97
    assert 0.8 < np.mean(squares) / 6 < 1.15


def bent(scene, size_hw, px):
    """A scene behind a lens that draws what lies half a diagonal from the centre inwards by some pixels, as r cubed."""
    middle, half = (np.array(size_hw[::-1]) - 1) / 2, np.hypot(*size_hw) / 2

    def seen(x, y):
        dx, dy = x - middle[0], y - middle[1]
        factor = 1 - px / half**3 * (dx**2 + dy**2)
        return scene(middle[0] + factor * dx, middle[1] + factor * dy)

    return seen


@pytest.mark.parametrize(("bend_px", "least", "most"), [(0.0, 0.999, 1.3), (1.5, 3.0, 100.0)])
def test_what_no_model_follows_is_an_error_that_is_alike_over_more_than_a_tile(bend_px, least, most):
    """Noise is not."""
    size, rng, scene = (288, 320), np.random.default_rng(5), Blobs(9, 320, count=500)
    fixed, moving = (render(bent(scene, size, px), size) + rng.normal(0, 0.02, size) for px in (0.0, bend_px))
    two = problem(fixed, moving)
    state = refine(two, np.eye(3)[None], MODELS["affine"], iterations=20, tolerance_px=1e-4)
    assert least < covariance(two, state, MODELS["affine"], 4.0, 16, None).misfit < most


def test_noise_in_gradients_adds_what_it_adds_on_average():
    rng = np.random.default_rng(0)
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    inward = about_centre(SIZE, scale=0.9)[None]
    state = evaluate(two, inward, MODELS["similarity"], math.inf)
    noise = [tensor(rng.normal(0, 1, SIZE)) for _ in range(2)]
    only = replace(two, gradient_x=noise[0] * two.fixed.std(), gradient_y=noise[1] * two.fixed.std())
    drawn = evaluate(only, inward, MODELS["similarity"], math.inf).normal[0, :4, :4]
    expected = noise_information(two, two.read(state.matrices[:1])[1], MODELS["similarity"], 1.0)
    # 9900 squared normal numbers scatter by 1.4 %.
    np.testing.assert_allclose(drawn, expected, atol=0.05 * np.abs(expected).max())


def test_what_noise_adds_to_the_normal_matrix_is_taken_off_where_it_is_most_of_it():
    rng = np.random.default_rng(1)
    two = problem(*pair(Blobs(7, 110), SIZE, np.eye(3)))
    here = np.eye(3)[None]
    clean = evaluate(two, here, MODELS["translate"], math.inf).information(2)[0]
    blurred = BlurredNoise(variance=2.6 * float(two.fixed.var()), blur_px=1.0)
    sigma = math.sqrt(blurred.blurred / 2)  # of the derivatives: six times as much as there is of signal
    noisy = replace(
        two, **{k: getattr(two, k) + sigma * tensor(rng.normal(0, 1, SIZE)) for k in ("gradient_x", "gradient_y")}
    )
    state = evaluate(noisy, here, MODELS["translate"], math.inf)
    share = np.trace(clean) / np.trace(state.information(2)[0])
    assert 0.1 < share < 0.2
    white = covariance(noisy, state, MODELS["translate"], math.inf, 16, blurred).white
    plain = covariance(noisy, state, MODELS["translate"], math.inf, 16, None).white
    # Covariance is the scatter of the scores between two inverses of the derivative.
    assert np.trace(white) / np.trace(plain) == pytest.approx(share**-2, rel=0.4)


def test_error_bars_of_few_stars_hold_in_all_directions():
    rng = np.random.default_rng(0)
    size = (160, 160)
    y, x = np.mgrid[:160, :160]
    squares = []
    for _ in range(30):
        stars = rng.uniform(15, 145, (10, 2))
        sky = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in stars)
        two = problem(*(sky + 0.03 * rng.normal(0, 1, size) for _ in range(2)))
        gy, gx = np.gradient(sky)
        two = replace(two, gradient_x=tensor(gx), gradient_y=tensor(gy))
        state = refine(two, np.eye(3)[None], MODELS["affine"], cutoff=math.inf)
        known = covariance(two, state, MODELS["affine"], math.inf, 16, None).covariance
        fields = MODELS["affine"].generators(size)[:, :2].reshape(6, 6)
        error = np.linalg.lstsq(fields.T, (state.final[0] - np.eye(3))[:2].ravel())[0]
        squares.append(error @ np.linalg.solve(known, error) / 6)
    # 0.7 here; 1.35 where the scatter of so few is believed in each direction.
    assert 0.6 < np.mean(squares) < 1.1
