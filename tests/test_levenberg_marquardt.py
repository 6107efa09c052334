import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scenes import TRUTHS, Blobs, about_centre, corner_error, pair, problem, render
from scipy.linalg import expm

from imgalign.numerics.problem import turned
from imgalign.numerics.residuals import robust
from imgalign.refine.levenberg_marquardt import evaluate, refine
from imgalign.transforms import MODELS

SIZE = (90, 110)
NAMES = list(MODELS)


def found(two, name, **options):
    options = {"iterations": 30, "tolerance_px": 1e-4, **options}
    state = refine(two, np.eye(3)[None], MODELS[name], **options)
    return state, state.final[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_model_is_recovered_on_a_scene_from_a_formula(name, seed):
    truth = about_centre(SIZE, **TRUTHS[name])
    two = problem(*pair(Blobs(seed, 110, sigma=(3, 7)), SIZE, truth))
    state, matrix = found(two, name)
    # Splines read blobs of 3 px to 1e-4 of their height.
    assert corner_error(matrix, truth, SIZE) < 1e-3
    assert state.converged.all()
    assert state.correlation[0] > 0.9999


@pytest.mark.parametrize("gain", [0.3, -1.7])
def test_gain_and_bias_and_their_sign_do_not_move_the_answer(gain):
    truth = about_centre(SIZE, **TRUTHS["affine"])
    fixed, moving = pair(Blobs(4, 110, sigma=(3, 7)), SIZE, truth)
    state, matrix = found(problem(fixed, gain * moving + 12), "affine")
    assert corner_error(matrix, truth, SIZE) < 1e-3
    assert state.correlation[0] > 0.9999


def test_masked_rubbish_in_either_picture_is_not_seen():
    truth = about_centre(SIZE, **TRUTHS["rigid"])
    fixed, moving = pair(Blobs(5, 110, sigma=(3, 7)), SIZE, truth)
    mask, moving_mask = np.ones(SIZE), np.ones(SIZE)
    mask[20:50, 20:50], moving_mask[60:80, 60:90] = 0, 0
    two = problem(fixed, moving, mask, moving_mask)
    # Rubbish with gradients of its own, but a moving picture that stays smooth for the spline.
    rubbish = torch.where(two.weight > 0, two.fixed, two.fixed + 30)
    _, matrix = found(replace(two, fixed=rubbish), "rigid")
    assert corner_error(matrix, truth, SIZE) < 2e-3


def test_an_occluder_is_let_go():
    truth = about_centre(SIZE, **TRUTHS["rigid"])
    fixed, moving = pair(Blobs(6, 110, sigma=(3, 7)), SIZE, truth)
    moving[40:75, 20:70] = render(Blobs(60, 110, sigma=(3, 7)), SIZE)[40:75, 20:70]
    two = problem(fixed, moving)
    _, robust = found(two, "rigid", cutoff=2.0)
    _, plain = found(two, "rigid", cutoff=math.inf)
    assert corner_error(robust, truth, SIZE) < 0.3 * corner_error(plain, truth, SIZE)
    assert corner_error(robust, truth, SIZE) < 0.05


@pytest.mark.parametrize("change", [0.3, 0.6])
@pytest.mark.parametrize("seed", [1, 17, 21])
def test_an_answer_stays_where_it_is_although_much_of_the_scene_has_changed(seed, change):
    # Living cells: the scale of the residuals changes from step to step, and they yield less than noise would.
    fixed, moving = pair(Blobs(seed, 110, sigma=(3, 7)), SIZE, about_centre(SIZE, **TRUTHS["rigid"]))
    gone, come = (render(Blobs(seed + new, 20, sigma=(3, 7)), SIZE) for new in (100, 200))
    two = problem(fixed + change * gone, moving + change * come)
    options = {"iterations": 30, "tolerance_px": 1e-3, "cutoff": 6.0, "held": 1.0}
    first = refine(two, np.eye(3)[None], MODELS["rigid"], **options)
    again = refine(two, first.final, MODELS["rigid"], **options)
    assert first.converged.all()
    assert corner_error(again.final[0], first.final[0], SIZE) < 0.02


def test_descents_side_by_side_each_go_by_the_scale_of_their_own_residuals():
    fixed, moving = pair(Blobs(1, 110, sigma=(3, 7)), SIZE, about_centre(SIZE, **TRUTHS["rigid"]))
    gone, come = (render(Blobs(seed, 20, sigma=(3, 7)), SIZE) for seed in (101, 201))
    two = problem(fixed + 0.6 * gone, moving + 0.6 * come)
    options = {"iterations": 30, "tolerance_px": 1e-3, "cutoff": 6.0, "held": 1.0}
    there = refine(two, np.eye(3)[None], MODELS["rigid"], **options).final[0]
    # The first has nothing left to do, so that the others are written back row by row.
    starts = np.stack([there, *(about_centre(SIZE, shift=(x, 0)) for x in (1, 2))])
    together = refine(two, starts, MODELS["rigid"], **options)
    for row, start in enumerate(starts):
        alone = refine(two, start[None], MODELS["rigid"], **options)
        assert corner_error(together.final[row], alone.final[0], SIZE) < 1e-4
        assert together.scale[row] == pytest.approx(alone.scale[0], rel=1e-4)


def warped_normalised(two, matrix):
    """Both pictures at zero mean and unit contrast, by NumPy, over all pixels."""
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    q = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]).astype(float))
    moving = two.moving.values(*(torch.as_tensor(q[i] / q[2])[None] for i in (0, 1)))[0, 0].numpy()
    f = two.fixed[0, 0].numpy()
    return [(z - z.mean()) / z.std() for z in (f, moving)]


def explicit_jacobian(two, name):
    """Change of the fixed picture, at unit contrast, per parameter; its points moved by finite differences."""
    f = two.fixed[0, 0].numpy()
    gx, gy = (g[0, 0].numpy() / f.std() for g in (two.gradient_x, two.gradient_y))
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    points = np.stack([x, y, np.ones_like(x)]).astype(float)
    columns = []
    for generator in MODELS[name].generators(SIZE):
        ends = [np.einsum("ij,jhw->ihw", expm(s * generator), points) for s in (1e-5, -1e-5)]
        dx, dy = ((ends[0][k] / ends[0][2] - ends[1][k] / ends[1][2]) / 2e-5 for k in (0, 1))
        columns.append((gx * dx + gy * dy).ravel())
    return np.stack(columns, 1)


@pytest.mark.parametrize("name", NAMES)
def test_normal_equations_are_those_of_an_explicit_jacobian(name):
    # Inside the moving picture everywhere, so that all pixels count.
    inward = about_centre(SIZE, scale=0.9, shift=(0.5, -0.5))
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    state = evaluate(two, inward[None], MODELS[name], math.inf)
    f, m = warped_normalised(two, inward)
    mean = (0.5 * (f + m)).ravel()
    jacobian = np.c_[explicit_jacobian(two, name), np.ones(f.size), mean]
    scale = np.sqrt(np.diag(jacobian.T @ jacobian))
    expected = jacobian.T @ jacobian / np.outer(scale, scale)
    np.testing.assert_allclose(state.normal[0] / np.outer(scale, scale), expected, atol=1e-7)
    np.testing.assert_allclose(state.slope[0] / scale, jacobian.T @ (m - f).ravel() / scale, atol=1e-6)
    assert state.loss[0] == pytest.approx(((m - f) ** 2).mean())


def test_robust_weights_are_cauchys():
    inward = about_centre(SIZE, scale=0.9, shift=(0.5, -0.5))
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    state = evaluate(two, inward[None], MODELS["translate"], 2.0, np.array([0.05]))
    f, m = warped_normalised(two, inward)
    r = (m - f).ravel()
    jacobian = explicit_jacobian(two, "translate")
    weights = 1 / (1 + (r / 0.1) ** 2)
    np.testing.assert_allclose(state.normal[0, :2, :2], jacobian.T @ (weights[:, None] * jacobian), rtol=1e-7)
    assert state.loss[0] == pytest.approx((0.01 * np.log1p((r / 0.1) ** 2)).mean())


@pytest.mark.parametrize("cutoff", [1.5, 2.5, 4.0, 6.0])
def test_the_slope_yields_to_noise_as_much_as_it_is_said_to(cutoff):
    two = problem(*[render(Blobs(7, 110, sigma=(3, 7)), SIZE)] * 2)
    noise = torch.as_tensor(np.random.default_rng(0).normal(0, 1, SIZE), dtype=two.fixed.dtype)
    noisy = replace(two, fixed=two.fixed + 0.2 * noise * two.fixed.std())
    scale, h = evaluate(noisy, np.eye(3)[None], MODELS["translate"], cutoff).scale, 0.02

    def slope(shift):
        at = about_centre(SIZE, shift=shift)[None]
        return evaluate(noisy, at, MODELS["translate"], cutoff, scale).slope[0, :2]

    derivative = np.stack([slope((h, 0)) - slope((-h, 0)), slope((0, h)) - slope((0, -h))]) / (2 * h)
    state = evaluate(noisy, np.eye(3)[None], MODELS["translate"], cutoff)
    share = np.trace(derivative) / np.trace(state.normal[0, :2, :2])
    assert state.yielding[0] < 0.96
    assert state.yielding[0] == pytest.approx(share, rel=0.03)


def test_information_is_what_is_left_when_gain_and_bias_are_fitted():
    two = problem(*pair(Blobs(7, 110), SIZE, about_centre(SIZE, scale=0.9)))
    state = evaluate(two, about_centre(SIZE, scale=0.9)[None], MODELS["rigid"], math.inf)
    expected = np.linalg.inv(np.linalg.inv(state.normal[0])[:3, :3])
    np.testing.assert_allclose(state.information(3)[0], expected, rtol=1e-6)


def test_a_batch_equals_its_rows_one_by_one():
    truth = about_centre(SIZE, **TRUTHS["affine"])
    two = problem(*pair(Blobs(8, 110, sigma=(3, 7)), SIZE, truth))
    starts = np.stack([about_centre(SIZE, shift=(dx, 1)) for dx in (-2, 0, 2.0)])
    together = refine(two, starts, MODELS["affine"], iterations=6)
    for row, start in enumerate(starts):
        alone = refine(two, start[None], MODELS["affine"], iterations=6)
        np.testing.assert_allclose(together.matrices[row], alone.matrices[0], rtol=0, atol=1e-7)
        np.testing.assert_allclose(together.loss[row], alone.loss[0], rtol=0, atol=1e-5)


def test_history_falls():
    history = []
    two = problem(*pair(Blobs(8, 110, sigma=(3, 7)), SIZE, about_centre(SIZE, shift=(2, 1))))
    found(two, "translate", history=history, cutoff=math.inf)
    assert len(history) > 2
    assert all(later <= earlier for earlier, later in pairwise(history))
    assert history[-1] < 1e-3 * history[0]


def test_no_overlap_stays_where_it_was_and_says_so():
    two = problem(*pair(Blobs(8, 110), SIZE, np.eye(3)))
    far = about_centre(SIZE, shift=(500, 0))[None]
    state = refine(two, far, MODELS["affine"])
    assert state.overlap[0] == 0
    assert np.array_equal(state.matrices, far)
    assert np.isfinite(state.loss).all()


def test_a_constant_picture_gives_finite_numbers():
    state, matrix = found(problem(np.ones(SIZE), render(Blobs(1, 110), SIZE)), "affine")
    assert np.isfinite(matrix).all()
    assert state.correlation[0] < 0.05


def test_selected_rows_are_written_back():
    two = problem(*pair(Blobs(8, 110), SIZE, np.eye(3)))
    starts = np.stack([about_centre(SIZE, shift=(dx, 0)) for dx in (0, 1, 2.0)])
    state = evaluate(two, starts, MODELS["rigid"], 4.0)
    part = state.select(np.array([2]))
    assert part.loss.tolist() == [float(state.loss[2])]
    state.put(np.array([0]), part)
    assert state.loss[0] == state.loss[2]
    assert np.array_equal(state.matrices[0], starts[2])


MIRROR = np.diag([-1.0, 1.0])


@pytest.mark.parametrize("linear", [np.eye(2), MIRROR])
@pytest.mark.parametrize("angle_deg", [0.0, 25.0, 170.0])
def test_double_angles_are_brought_back_to_the_fixed_picture(angle_deg, linear):
    a = np.radians(angle_deg)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ linear
    edge = np.array([np.cos(0.3), np.sin(0.3)])  # an edge's normal in the fixed picture
    normal = turn @ edge  # and in the moving one: for rotations and mirrors, inverse transpose is the matrix itself
    angle = 2 * np.arctan2(normal[1], normal[0])
    channels = torch.tensor([0.5, np.cos(angle), np.sin(angle)]).reshape(1, 3, 1, 1)
    matrix = np.eye(3)[None].copy()
    matrix[0, :2, :2] = turn
    assert turned(channels, matrix).flatten().tolist() == pytest.approx([0.5, np.cos(0.6), np.sin(0.6)])


def test_steps_worth_their_overlap_are_taken_although_the_scale_of_the_residuals_falls():
    truth = about_centre(SIZE, shift=(2.5, -1.5), angle_deg=1.5)
    two = problem(*pair(Blobs(7, 110, sigma=(3, 7)), SIZE, truth))
    history: list[float] = []
    _, matrix = found(two, "rigid", hold_overlap=True, history=history)
    assert corner_error(matrix, truth, SIZE) < 0.01
    assert len(history) <= 6


def test_a_residual_is_an_outlier_in_units_of_its_own_noise():
    two = problem(*pair(Blobs(4, 110, sigma=(3, 7)), SIZE, np.eye(3)))
    spread = torch.ones_like(two.fixed)
    spread[..., 55:] = 8
    draw = torch.as_tensor(np.random.default_rng(0).normal(0, 1, two.fixed.shape))
    known = replace(two, weight=1 / spread.square(), spread=spread)
    weight, _ = robust(known, draw * spread, known.weight, torch.ones(1), 6.0)
    alike, _ = robust(two, draw, two.weight, torch.ones(1), 6.0)
    torch.testing.assert_close(weight, alike / spread.square())


def test_the_loss_that_knows_of_noise_is_that_of_residuals_in_units_of_it():
    two = problem(*pair(Blobs(4, 110, sigma=(3, 7)), SIZE, np.eye(3)))
    spread = torch.full_like(two.fixed, 3.0)
    known = replace(two, weight=1 / spread.square(), spread=spread)
    draw = torch.as_tensor(np.random.default_rng(0).normal(0, 1, two.fixed.shape))
    for cutoff in (6.0, math.inf):
        loss, plain = (robust(p, r, p.weight, torch.ones(1), cutoff)[1] for p, r in ((known, 3 * draw), (two, draw)))
        torch.testing.assert_close(loss, plain)
