import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
pytest.importorskip("scipy")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from benchmarks import bound, geometry, pairs, peers, precision, scenes, speed_process

KINDS = (*pairs.DIFFICULTIES, *pairs.KINDS)


# ------------------------------------------------------------------------- pairs
@pytest.mark.parametrize("kind", KINDS)
def test_pair_depends_on_seed_and_number_alone(kind):
    whole = list(pairs.pairs(kind, 3, seed=5))
    alone = pairs.pair(kind, 2, seed=5)
    assert np.array_equal(whole[2].fixed, alone.fixed)
    assert np.array_equal(whole[2].moving, alone.moving)
    assert not np.array_equal(pairs.pair(kind, 2, seed=6).fixed.ravel()[:500], alone.fixed.ravel()[:500])


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_pictures_of_the_said_kind(kind):
    for p in pairs.pairs(kind, 5, seed=1):
        assert p.fixed.dtype in (np.uint8, np.uint16)
        assert 80 <= min(p.fixed.shape[:2]) <= 400
        assert (p.moving_from_fixed is None) == (kind == "unrelated")
        assert p.fixed.std() > 1


def test_hard_pairs_reach_as_far_as_they_claim():
    shown = list(pairs.pairs("hard", 60, seed=2))
    turns = [abs(np.degrees(np.arctan2(p.moving_from_fixed[1, 0], p.moving_from_fixed[0, 0]))) for p in shown]
    scales = [np.sqrt(abs(np.linalg.det(p.moving_from_fixed[:2, :2]))) for p in shown]
    assert max(turns) > 160
    assert min(scales) < 0.7
    assert max(scales) > 1.5
    assert min(p.overlap for p in shown) < 0.45


@pytest.mark.parametrize("model", geometry.MODELS)
def test_moving_picture_lies_where_the_truth_says(model):
    from scipy.ndimage import gaussian_filter, map_coordinates

    p = pairs.pair("easy", geometry.MODELS.index(model), seed=11, model=model)
    fixed, moving = (gaussian_filter(peers.grey(x), 1.0) for x in (p.fixed, p.moving))

    def likeness(matrix):
        x, y = geometry.project(matrix, scenes.grid(fixed.shape)).T
        inside = (x > 2) & (y > 2) & (x < moving.shape[1] - 3) & (y < moving.shape[0] - 3)
        return np.corrcoef(map_coordinates(moving, [y[inside], x[inside]], order=3), fixed.ravel()[inside])[0, 1]

    best = likeness(p.moving_from_fixed)
    assert best > 0.95
    for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
        assert likeness(peers.shift_by(dx, dy) @ p.moving_from_fixed) < best


def test_render_gives_the_mean_of_a_ramp():
    from benchmarks.photos import render

    ramp = np.add.outer(2.0 * np.arange(60), 3.0 * np.arange(80))[..., None].astype(np.float32)
    seen = render(ramp, geometry.about(2.5 * geometry.rotation(0.1), np.zeros(2), np.array([9.0, 5.0])), (10, 12), 3)
    x, y = geometry.project(
        geometry.about(2.5 * geometry.rotation(0.1), np.zeros(2), np.array([9.0, 5.0])), scenes.grid((10, 12))
    ).T
    assert np.allclose(seen.ravel(), 3 * x + 2 * y, atol=1e-3)  # the mean of a plane is its middle


# ------------------------------------------------------------------- scenes and bound
def _tilted(model, size_hw):
    small = np.array([[1.0, 0.01, 3.3], [-0.015, 0.99, -1.7], [0, 0, 1]])
    if model == "homography":
        small[2, :2] = 2e-4, -1e-4
    return small if model in ("affine", "homography") else precision.small_transform(
        np.random.default_rng(1), model, size_hw
    )  # fmt: skip


@pytest.mark.parametrize("name", ["field0.4", "natural", "spots"])
@pytest.mark.parametrize("model", ["affine", "homography"])
def test_scene_slopes_match_finite_differences(name, model):
    size = (21, 26)
    scene, look = scenes.make(name, np.random.default_rng(3), size), _tilted(model, size)
    step = 1e-4
    for k, move in enumerate(((step, 0), (0, step))):
        ahead, behind = (scene.picture(look @ peers.shift_by(s * move[0], s * move[1]), size) for s in (1, -1))
        assert np.allclose(scene.slopes(look, size)[..., k], (ahead - behind) / (2 * step), atol=1e-4)


def test_fast_sum_of_waves_equals_the_plain_one():
    scene, look = scenes.natural(np.random.default_rng(4)), _tilted("affine", (9, 11))
    phase = 2 * np.pi * geometry.project(look, scenes.grid((9, 11))) @ scene.frequency.T
    plain = scenes.MEAN + (np.exp(1j * phase) @ scene.strength).real
    assert np.allclose(scene.picture(look, (9, 11)).ravel(), plain, atol=1e-9)


@pytest.mark.parametrize("model", geometry.MODELS)
def test_bound_matches_information_by_finite_differences(model):
    """Move the true corners, look again, and build the information from the changed pictures."""
    size = (40, 48)
    scene, truth = scenes.field(np.random.default_rng(5), 0.15), _tilted(model, size)
    variance = 7.0 + np.random.default_rng(6).uniform(0, 3, size)
    said = bound.corner_bound(
        model, scene.picture(np.eye(3), size), scene.slopes(np.eye(3), size), variance, truth, size, size
    )
    there = geometry.project(truth, scenes.grid(size))
    seen = ((there >= 0) & (there <= [size[1] - 1, size[0] - 1])).all(1)
    about, step = geometry.centre(size), 1e-5

    def moved(k, s):  # scene seen by the moving picture at T x, where T's k-th free number has changed
        points = there[seen] + s * step * bound.directions(model, there[seen], about)[:, :, k]
        back = geometry.project(np.linalg.inv(truth), points)
        phase = 2 * np.pi * back @ scene.frequency.T
        return (np.exp(1j * phase) @ scene.strength).real

    free = bound.FREE[model]
    columns = [(moved(k, 1) - moved(k, -1)) / (2 * step) for k in range(free)]
    rows = np.stack([*columns, scene.picture(np.eye(3), size).ravel()[seen], np.ones(seen.sum())], axis=1)
    covariance = np.linalg.inv(rows.T @ (rows / variance.ravel()[seen, None]))[:free, :free]
    ends = bound.directions(model, geometry.project(truth, geometry.corners(size)), about).reshape(8, -1)
    assert np.allclose(said, ends @ covariance @ ends.T, rtol=1e-4, atol=1e-9)


def test_bound_of_a_shift_is_the_textbook_one():
    """Without nuisances the variance of a shift would be that of the noise over the sum of squared slopes."""
    size = (200, 200)
    scene = scenes.field(np.random.default_rng(7), 0.2)
    slopes = scene.slopes(np.eye(3), size)
    got = bound.corner_bound("translate", scene.picture(np.eye(3), size), slopes, 18.0, np.eye(3), size, size)
    assert got[0, 0] == pytest.approx(18 / (slopes[..., 0] ** 2).sum(), rel=0.02)


@pytest.mark.parametrize("noise", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("other", [1.0, 0.1, 7.0])
def test_an_unknown_white_scene_costs_what_the_formula_says(noise, other):
    scene = np.random.default_rng(9).normal(0, 3, (256, 256))
    expected = math.sqrt(1 + noise * other / (1 + other))
    assert bound.unknown_scene(scene, 9 * noise, 9 * noise * other) == pytest.approx(expected, rel=0.01)


def test_noise_is_as_strong_in_either_picture_as_the_cell_says():
    assert precision.strengths("none") == (0, 0)
    assert precision.strengths("p2") == (2, 2)
    trials = (precision.make_trial(f"field0.15/{noise}/translate", 0, 96) for noise in ("g30-5", "g5-30"))
    for trial, sigmas in zip(trials, ((30, 5), (5, 30)), strict=True):
        for picture, sigma in zip((trial.fixed, trial.moving), sigmas, strict=True):
            # Of the field nothing is left beyond 0.15 of a cycle.
            power = np.abs(np.fft.fft2(picture * np.outer(np.hanning(96), np.hanning(96)))) ** 2
            beyond = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96)) > 0.25
            assert power[beyond].mean() / (np.hanning(96) ** 2).sum() ** 2 == pytest.approx(sigma**2, rel=0.1)


def test_stripes_hide_as_much_of_both_pictures_and_of_the_bound():
    plain, striped = (precision.make_trial(f"field0.15/g10{hiding}/translate", 0, 120) for hiding in ("", "+striped"))
    seen = striped.masks["mask"] > 0
    np.testing.assert_array_equal(striped.masks["moving_mask"], striped.masks["mask"])
    assert seen.mean() == pytest.approx(0.7, abs=0.02)
    for picture in (striped.fixed, striped.moving):
        assert np.ptp(picture[~seen]) == 0
        assert picture[seen].std() > 40
    # Each trial has a scene of its own, of one spectrum.
    ratio = np.trace(striped.bound) / np.trace(plain.bound)
    assert ratio == pytest.approx(1 / 0.7, rel=0.15)


def test_cells_are_chosen_by_pattern_and_in_full():
    chosen = precision.choose("spots/g*/rigid,photo/p3/affine")
    assert chosen[-1] == "photo/p3/affine"
    assert chosen.count("spots/g10/rigid") == 1
    assert precision.choose("photo/p3/affine,spots/none/affine") == ["spots/none/affine", "photo/p3/affine"]


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_noise_has_the_variance_it_says(kind):
    clean = np.full((300, 300), 90.0)
    noisy = scenes.noisy(np.random.default_rng(8), clean, kind, 10.0)
    assert noisy.var() == pytest.approx(scenes.variance(clean, kind, 10.0)[0, 0], rel=0.03)


@pytest.mark.parametrize("model", precision.MODELS)
def test_honesty_of_errors_drawn_from_their_own_covariance(model):
    trial = precision.make_trial(f"field0.15/g10/{model}", 0, 64)
    rng = np.random.default_rng(9)
    ends = geometry.project(trial.truth, geometry.corners((64, 64)))
    ways = bound.directions(model, ends, ends.mean(0)).reshape(8, -1)
    spread = np.linalg.pinv(ways) @ trial.bound @ np.linalg.pinv(ways).T
    drawn = rng.multivariate_normal(np.zeros(len(spread)), spread, 600)
    known = []
    for numbers in drawn:
        moved = ends + (ways @ numbers).reshape(4, 2)
        estimate = geometry.nearest(model if model == "translate" else "affine", geometry.corners((64, 64)), moved)
        known.append(precision.honesty(trial.bound, estimate, trial))
    assert np.mean([n for n, _ in known]) == pytest.approx(1.0, abs=0.15)
    assert np.mean([i for _, i in known]) == pytest.approx(0.95, abs=0.03)


# ------------------------------------------------------------------------- peers
SLACK_PX = {  # what the peer reaches on a scene without noise; a lost half pixel would show in the corners
    "opencv_sift": 0.08,
    "opencv_sift_ecc": 0.05,
    "opencv_ecc": 0.05,
    "opencv_ecc_pyramid": 0.05,
    "opencv_ecc_multiscale": 0.05,
    "sitk_linear": 0.01,
    "sitk_spline": 0.005,
    "itk_elastix": 0.02,
    "greedy": 0.3,
    "kornia_default": 0.35,
    "kornia_tuned": 0.35,
    "pystackreg": 0.005,
    "imreg_dft": 0.6,
    "skimage_phase": 0.3,
}
SLOW = {"kornia_default", "kornia_tuned", "itk_elastix", "sitk_spline", "sitk_linear", "imreg_dft", "greedy"}
CASES = [
    pytest.param(name, model, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, peer in peers.PEERS.items()
    for model in peer.models
    if name in SLACK_PX and (name, model) not in {("kornia_default", "rigid"), ("kornia_default", "similarity")}
]


@pytest.mark.filterwarnings("ignore")  # of other people's packages
@pytest.mark.parametrize(("name", "model"), CASES)
def test_adapter_gives_pixels_fixed_to_moving(name, model):
    if not peers.available(name):
        pytest.skip(f"{name} is not installed")
    size = (180, 220)
    rng = np.random.default_rng(3)
    whitens = name in ("imreg_dft", "skimage_phase")  # these need power at every frequency
    scene = scenes.natural(rng) if whitens else scenes.field(rng, 0.08)
    linear = np.eye(2) if model == "translate" else geometry.rotation(np.radians(1.5))
    if model in ("similarity", "affine", "homography"):
        linear = linear * 1.012
    if model in ("affine", "homography"):
        linear = linear @ np.array([[1.006, 0.007], [-0.004, 0.994]])
    truth = geometry.about(linear, geometry.centre(size), geometry.centre(size) + np.array([2.3, -1.7]))
    if model == "homography":
        ends = geometry.corners(size)
        pushed = geometry.project(truth, ends) + np.array([[1, -0.7], [-0.6, 0.9], [0.5, 0.8], [-0.9, -0.5]])
        truth = geometry.homography_through(ends, pushed)
    fixed, moving = (scene.picture(m, size).astype(np.float32) for m in (np.eye(3), np.linalg.inv(truth)))
    answer = peers.solve(name, fixed, moving, model)
    assert geometry.corner_error(answer.matrix, truth, size) < SLACK_PX[name], answer.why


def test_peer_that_raises_has_refused():
    flat = np.zeros((40, 40), np.uint8)
    answer = peers.solve("opencv_sift", flat, flat, "affine") if peers.available("opencv_sift") else None
    assert answer is None or (answer.matrix is None and not answer.trusted and answer.why)


# ------------------------------------------------------------------ tables of the scripts
def _attempt(**changes):
    from benchmarks.reach import Attempt

    plain = {
        "pair": "a",
        "kind": "easy",
        "model": "affine",
        "difficulty": "easy",
        "tags": (),
        "peer": "imgalign",
        "error_px": 0.1,
        "trusted": True,
        "seconds": 0.1,
        "probability": 0.95,
        "sigma_px": 0.1,
        "tolerance_px": 3.0,
        "overlap": 0.9,
        "rotation_deg": 1.0,
        "scale": 1.0,
        "why": "",
    }
    return Attempt(**{**plain, **changes})


def test_reach_counts_right_false_and_refused():
    from benchmarks.reach import figures

    rows = [
        _attempt(),
        _attempt(error_px=2.0),
        _attempt(error_px=9.0),
        _attempt(error_px=float("inf"), trusted=False),
        _attempt(trusted=False),
    ]
    got = figures(rows)
    assert (got["right"], got["near"], got["false"], got["refused"]) == pytest.approx((0.4, 0.6, 0.2, 0.2))
    assert got["median_px"] == pytest.approx(0.1)


def test_calibration_sets_stated_beside_observed():
    from benchmarks.reach import calibration

    rows = [_attempt(probability=0.95)] * 3 + [_attempt(probability=1.0, error_px=5.0), _attempt(probability=0.12)]
    assert [(low, n, round(seen, 2)) for low, n, _, seen in calibration(rows)] == [(0.1, 1, 1.0), (0.9, 4, 0.75)]


def test_error_bars_are_set_beside_errors():
    from benchmarks.reach import error_bars

    rows = [_attempt(error_px=e, sigma_px=s) for e, s in ((0.1, 0.05), (0.2, 0.1), (0.3, 0.2), (4.0, 1.0))]
    assert error_bars(rows) == (4, 75.0, pytest.approx(1.0))
    assert error_bars([_attempt(error_px=e, sigma_px=1 / e) for e in (1, 2, 3)])[2] == pytest.approx(-1.0)


def test_reach_measures_the_motion_of_a_pair():
    from benchmarks.reach import motion

    turned = geometry.about(1.5 * geometry.rotation(np.radians(-40)), np.zeros(2), np.array([3.0, 4.0]))
    blank = np.zeros((50, 60), np.uint8)
    pair = pairs.Pair("x", "similarity", "hard", (), blank, blank, turned, 0.5)
    assert motion(pair) == pytest.approx((-40, 1.5))


def test_reach_tables_and_pictures_stand_for_every_peer(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import reach, reach_pictures

    rows = [_attempt(peer=p, kind=k) for p in ("imgalign", "opencv_sift") for k in ("easy", "unrelated")]
    text = "\n".join(reach.tables(rows))
    assert "| easy | opencv_sift | 1 | 100.0 |" in text
    assert "| imgalign | 1 | 1 |" in text
    reach_pictures.draw(rows, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "reach_threshold.png",
        "reach_geometry.png",
        "reach_calibration.png",
    }


def test_strips_of_a_large_picture_join_without_a_seam(monkeypatch):
    from benchmarks import speed

    scene = scenes.natural(np.random.default_rng(4), waves=20)
    look = speed.small_motion("affine", (2100, 1000))
    got = speed._look(scene, look, (2100, 1000), 1).astype(float)
    rows = slice(1990, 2010)  # two strips meet at 2000
    want = scene.picture(look @ peers.shift_by(0, 1990), (20, 1000))
    assert np.abs(got[rows] - want.clip(0, 255)).mean() < 3.5  # noise of 3 grey levels


def test_speed_table_compares_with_the_fastest_as_exact():
    from benchmarks.speed import Timing, tables

    rows = [
        Timing("affine", 1.0, "imgalign", 0.1, 0.01, {"start": 0.02}, ""),
        Timing("affine", 1.0, "fast", 0.05, 0.02, {}, ""),
        Timing("affine", 1.0, "exact", 0.4, 0.005, {}, ""),
    ]
    assert "| affine | 1 | exact | 4.00 | start 20 |" in "\n".join(tables(rows))


def test_gpu_script_skips_itself_without_a_device(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    gpu.main()
    assert "nothing measured" in capsys.readouterr().err


# ------------------------------------------------------------------------- speed
@pytest.mark.slow
def test_large_pair_is_aligned_and_written(capsys):
    speed_process._memory(side=500)
    assert "imgalign affine (status 0)" in capsys.readouterr().out
