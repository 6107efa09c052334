import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import about_centre
from scipy.linalg import expm
from torch.autograd import gradcheck

from imgalign.errors import OptionError
from imgalign.transforms import (
    MODELS,
    corner_distance,
    exponential,
    exponentials,
    first_apart,
    fit,
    get_model,
    local_scale,
)

SIZE = (90, 120)
NAMES = list(MODELS)
CORNERS = np.array([[0, 0], [119, 0], [119, 89], [0, 89.0]])
SMALL = st.lists(st.floats(-20, 20), min_size=8, max_size=8)


def member(name, numbers):
    """A matrix of the model, by SciPy's exponential."""
    model = MODELS[name]
    return expm(np.einsum("p,pij->ij", np.array(numbers[: model.parameter_count]), model.generators(SIZE)))


def moved(matrix, points):
    q = np.c_[points, np.ones(len(points))] @ matrix.T
    return q[:, :2] / q[:, 2:]


def belongs(name, matrix):
    """Whether a matrix has the form that the model's name promises."""
    a = matrix[:2, :2] / matrix[2, 2]
    tall = np.abs(matrix[2, :2]).max() < 1e-12
    turn = np.allclose(a[0, 0], a[1, 1]) and np.allclose(a[0, 1], -a[1, 0])
    return {
        "translate": tall and np.allclose(a, np.eye(2)),
        "rigid": tall and turn and np.isclose(np.linalg.det(a), 1),
        "similarity": tall and turn,
        "affine": tall,
        "homography": True,
    }[name]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(numbers=SMALL)
def test_exponential_stays_in_the_group_and_agrees_with_scipy(name, numbers):
    model = MODELS[name]
    params = torch.tensor([numbers[: model.parameter_count]], dtype=torch.float64)
    out = exponential(params, torch.as_tensor(model.generators(SIZE)))[0].numpy()
    np.testing.assert_allclose(out, member(name, numbers), rtol=1e-9, atol=1e-9)
    assert belongs(name, out)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(first=SMALL, second=SMALL)
def test_products_and_inverses_stay_in_the_group(name, first, second):
    a, b = member(name, first), member(name, second)
    assert belongs(name, a @ b)
    assert belongs(name, np.linalg.inv(a))
    np.testing.assert_allclose(member(name, [-x for x in first]) @ a, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(moved(a @ b, CORNERS), moved(a, moved(b, CORNERS)), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_any_parameter_moves_corners_by_about_a_pixel(name):
    for generator in MODELS[name].generators(SIZE):
        length = np.linalg.norm(moved(expm(generator), CORNERS) - CORNERS, axis=1).mean()
        # A tilt moves a corner by its normalised x or y, which is less than one.
        assert 0.55 < length < 1.05


def test_the_algebras_are_of_full_rank():
    fields = MODELS["homography"].generators(SIZE).reshape(8, 9)
    assert np.linalg.matrix_rank(np.c_[fields.T, np.eye(3).ravel()]) == 9


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("most_px", [0.01, 10.0, 80.0])
def test_exponentials_agree_with_scipy(name, most_px):
    generators = MODELS[name].generators(SIZE)
    params = np.random.default_rng(3).uniform(-most_px, most_px, (4, len(generators)))
    for found, numbers in zip(exponentials(params, generators), params, strict=True):
        expected = expm(np.tensordot(numbers, generators, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * abs(expected).max())


def test_exponential_passes_gradcheck():
    generators = torch.as_tensor(MODELS["homography"].generators(SIZE))
    params = torch.linspace(-3, 4, 16, dtype=torch.float64).reshape(2, 8).requires_grad_()
    assert gradcheck(lambda p: exponential(p, generators), params)


def test_a_batch_of_exponentials_equals_one_by_one():
    generators = torch.as_tensor(MODELS["affine"].generators(SIZE))
    params = torch.linspace(-5, 5, 18, dtype=torch.float64).reshape(3, 6)
    together = exponential(params, generators)
    torch.testing.assert_close(together, torch.cat([exponential(p[None], generators) for p in params]))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(numbers=SMALL)
def test_fit_returns_a_member_of_the_model(name, numbers):
    truth = member(name, numbers)
    points = np.random.default_rng(0).uniform(0, 90, (12, 2))
    assert corner_distance(fit(MODELS[name], points, moved(truth, points)), truth, SIZE) < 1e-6


def test_a_fit_of_stretched_points_keeps_their_rotation_and_mean_scale():
    targets = moved(about_centre(SIZE, angle_deg=20, linear=np.diag([1.1, 1.1]), shift=(3, 4)), CORNERS)
    out = fit(MODELS["similarity"], CORNERS, targets)
    assert corner_distance(out, about_centre(SIZE, angle_deg=20, scale=1.1, shift=(3, 4)), SIZE) < 1e-9
    rigid = fit(MODELS["rigid"], CORNERS, targets)
    assert corner_distance(rigid, about_centre(SIZE, angle_deg=20, shift=(3, 4)), SIZE) < 1e-9


def test_fit_is_least_squares_of_weighted_points():
    rng = np.random.default_rng(1)
    points, noise, weights = rng.uniform(0, 50, (30, 2)), rng.normal(0, 1, (30, 2)), rng.uniform(0.1, 3, 30)
    targets = points @ np.array([[1.1, -0.2], [0.1, 0.9]]) + [3, 4] + noise
    design = np.c_[points, np.ones(30)]
    expected = np.linalg.solve(design.T @ (weights[:, None] * design), design.T @ (weights[:, None] * targets))
    np.testing.assert_allclose(fit(MODELS["affine"], points, targets, weights)[:2], expected.T, atol=1e-9)


def test_rigid_fit_of_noisy_points_beats_its_neighbours():
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 50, (20, 2))
    targets = moved(about_centre((50, 50), angle_deg=33, shift=(2, 5)), points) + rng.normal(0, 1, (20, 2))
    best = fit(MODELS["rigid"], points, targets)
    least = ((moved(best, points) - targets) ** 2).sum()
    for generator in MODELS["rigid"].generators((50, 50)):
        for step in (-1e-2, 1e-2):
            assert ((moved(best @ expm(step * generator), points) - targets) ** 2).sum() > least


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(OptionError, match="unknown model 'warp'; choose one of translate, rigid"):
        get_model("warp")


def test_of_places_that_are_near_each_other_the_first_is_kept():
    shifts = [(0, 0), (3, 4), (0.5, 0), (3, 5), (-6, 0), (3, 4.4)]
    matrices = [about_centre(SIZE, shift=shift) for shift in shifts]
    assert first_apart(np.stack(matrices), SIZE, 1.5) == [0, 1, 4]
    assert first_apart(np.stack(matrices), SIZE, 1.5, 2) == [0, 1]
    assert first_apart(np.stack(matrices), SIZE, 0.3) == [0, 1, 2, 3, 4, 5]
    # What has no place is like none.
    lost = [np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]]), np.full((3, 3), np.nan)]
    assert first_apart(np.stack([*lost, *matrices]), SIZE, 1.5) == [0, 1, 2, 3, 6]


def test_corner_distance_of_a_shift_is_its_length():
    assert corner_distance(np.eye(3), about_centre(SIZE, shift=(3, 4)), SIZE) == pytest.approx(5)
    assert corner_distance(np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]]), np.eye(3), SIZE) == float("inf")


def test_local_scale_is_the_magnification_at_the_centre():
    assert local_scale(about_centre(SIZE, angle_deg=70, scale=1.3), SIZE) == pytest.approx(1.3)
    assert local_scale(about_centre(SIZE, scale=0.8, tilt=(1e-3, 2e-3)), SIZE) == pytest.approx(0.8)
    mirror = about_centre(SIZE, linear=np.diag([-1.5, 1.5]))
    assert local_scale(mirror, SIZE) == pytest.approx(1.5)
