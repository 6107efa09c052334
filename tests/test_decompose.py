import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imgalign.decompose import (
    PlainNumbers,
    corners_of,
    decompose,
    is_affine,
    jacobians,
    mapped,
    plain_sigma,
    point_covariance,
    scaled,
    theta_of,
)

SIZE = (300, 400)


def turned(degrees, scale=1.0):
    a = np.radians(degrees)
    return scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def about_centre(linear, shift=(0, 0)):
    centre = np.array([199.5, 149.5])
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = linear, centre + shift - linear @ centre
    return out


def test_a_rotation_about_the_centre_reads_as_that_alone():
    numbers = decompose(about_centre(turned(30), (4, -2)), SIZE)
    assert numbers.shift_px == pytest.approx((4, -2), abs=1e-10)
    assert numbers.rotation_deg == pytest.approx(30)
    assert numbers.scale == pytest.approx((1, 1))
    assert numbers.shear == pytest.approx(0, abs=1e-12)
    assert numbers.perspective == (0, 0)


def test_a_positive_angle_takes_right_to_down():
    to = mapped(about_centre(turned(90)), [[209.5, 149.5]])
    assert to == pytest.approx(np.array([[199.5, 159.5]]))


def test_a_mirror_has_a_negative_scale():
    assert decompose(about_centre(np.diag([1.0, -1.0])), SIZE).scale == pytest.approx((1, -1))


def recompose(numbers):
    """The matrix of plain numbers, step by step as `PlainNumbers` says."""
    linear = turned(numbers.rotation_deg) @ [[1, numbers.shear], [0, 1]] @ np.diag(numbers.scale)
    about, to_centre = np.eye(3), np.eye(3)
    about[:2, :2] = linear + np.outer(numbers.shift_px, numbers.perspective)
    about[:2, 2], about[2, :2] = numbers.shift_px, numbers.perspective
    to_centre[:2, 2] = 199.5, 149.5
    return to_centre @ about @ np.linalg.inv(to_centre)


@given(
    shift=st.tuples(*[st.floats(-300, 300)] * 2),
    rotation=st.floats(-179, 179),
    scale=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5) | st.floats(-5, -0.2)),
    shear=st.floats(-1, 1),
    perspective=st.tuples(*[st.floats(-1e-3, 1e-3)] * 2),
)
def test_the_numbers_make_the_matrix_again(shift, rotation, scale, shear, perspective):
    matrix = recompose(PlainNumbers(shift, rotation, scale, shear, perspective))
    again = recompose(decompose(matrix, SIZE))
    assert np.allclose(mapped(again, corners_of(SIZE)), mapped(matrix, corners_of(SIZE)), rtol=1e-6, atol=1e-6)


def test_theta_is_what_affine_grid_wants():
    matrix = about_centre(turned(20, 1.1), (3, 5))
    theta = torch.tensor(theta_of(matrix, SIZE, (250, 500)))[None]
    grid = torch.nn.functional.affine_grid(theta, (1, 1, *SIZE), align_corners=False)[0]
    pixels = (grid.numpy() + 1) * [500, 250] / 2 - 0.5
    assert np.allclose(pixels[[0, 0, -1, -1], [0, -1, -1, 0]], mapped(matrix, corners_of(SIZE)))
    assert theta_of(np.array([[1, 0, 0], [0, 1, 0], [1e-5, 0, 1.0]]), SIZE, SIZE) is None


def test_jacobians_are_finite_differences():
    matrix = np.array([[1.1, 0.1, 3], [-0.2, 0.9, 5], [1e-4, 2e-4, 1]])
    point, h = np.array([120.0, 80.0]), 1e-4
    numeric = np.stack(
        [(mapped(matrix, [point + d]) - mapped(matrix, [point - d]))[0] / (2 * h) for d in h * np.eye(2)], 1
    )
    assert np.allclose(jacobians(matrix, [point])[0], numeric, atol=1e-8)


@pytest.mark.parametrize("matrix", [np.eye(3), np.array([[1.1, 0.1, 3], [-0.2, 0.9, 5], [1e-4, 2e-4, 1]])])
def test_covariance_of_points_agrees_with_perturbed_corners(matrix):
    """The outside answer: fit a homography to corners moved a little, and look where the points go."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    root = rng.normal(size=(8, 8)) * 1e-3
    points = np.array([[10.0, 20.0], [350.0, 250.0]])
    corners = corners_of(SIZE)
    landed = mapped(matrix, corners)
    moved = []
    for _ in range(4000):
        fitted = cv2.getPerspectiveTransform(
            corners.astype(np.float32),
            (landed + (root @ rng.normal(size=8)).reshape(4, 2)).astype(np.float64).astype(np.float32),
        )
        moved.append(mapped(fitted, points).ravel())
    sampled = np.cov(np.array(moved).T)
    expected = point_covariance(matrix, SIZE, root @ root.T, points)
    assert np.allclose(sampled, expected, rtol=0.1, atol=0.05 * expected.max())


def test_a_sure_shift_of_all_corners_is_a_sigma_of_the_shift():
    common = np.zeros((8, 8))
    common[0::2, 0::2] = 0.04  # all corners move together along x, by 0.2 px
    sigma = plain_sigma(np.eye(3), SIZE, common, "affine")
    assert sigma["shift_x"] == pytest.approx(0.2, rel=1e-4)
    assert max(v for name, v in sigma.items() if name != "shift_x") < 1e-6


def test_a_common_turn_of_the_corners_is_a_sigma_of_the_angle():
    arms = corners_of(SIZE) - [199.5, 149.5]
    field = np.stack([-arms[:, 1], arms[:, 0]], 1).ravel() * np.radians(0.1)
    sigma = plain_sigma(np.eye(3), SIZE, np.outer(field, field), "rigid")
    assert sigma["rotation_deg"] == pytest.approx(0.1, rel=1e-4)
    assert plain_sigma(about_centre(turned(179.999)), SIZE, np.outer(field, field), "rigid")["rotation_deg"] < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_images_one_pixel_wide_do_not_break_it(size):
    sigma = plain_sigma(np.eye(3), size, np.eye(8), "homography")
    assert all(np.isfinite(v) for v in sigma.values())


def test_corners_run_clockwise_from_the_top_left():
    assert corners_of((3, 5)).tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]


def test_points_behind_the_horizon_are_infinite():
    assert np.isinf(mapped(np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]]), [[20.0, 0.0]])).all()


def test_a_scaled_matrix_has_a_one_in_its_last_place_if_it_can():
    assert scaled(np.diag([2.0, 4.0, 2.0])).tolist() == np.diag([1.0, 2.0, 1.0]).tolist()
    assert scaled(np.diag([2.0, 4.0, 0.0])).tolist() == np.diag([2.0, 4.0, 0.0]).tolist()


def test_is_affine():
    assert is_affine(np.diag([1, 1, 2.0]))
    assert not is_affine(np.array([[1, 0, 0], [0, 1, 0], [0, 1e-9, 1]]))
