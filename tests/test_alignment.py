import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from imgalign.alignment import Alignment, load
from imgalign.decompose import corners_of, mapped
from imgalign.errors import ShapeError

MATRIX = np.array([[1.01, -0.04, 3.2], [0.05, 0.99, -7], [1e-5, -2e-5, 1]])


def alignment(**changes):
    root = np.random.default_rng(0).normal(size=(8, 8)) * 0.01
    return dataclasses.replace(
        Alignment("homography", MATRIX, (300, 400), (310, 390), corner_covariance=root @ root.T), **changes
    )


def test_arrays_are_copies_that_cannot_be_changed():
    matrix = MATRIX.copy()
    result = alignment(moving_from_fixed=matrix)
    matrix[0, 0] = 7
    assert result.moving_from_fixed[0, 0] == 1.01
    with pytest.raises(ValueError, match="read-only"):
        result.moving_from_fixed[0, 0] = 7


@pytest.mark.parametrize("matrix", [np.eye(2), np.full((3, 3), np.nan)])
def test_no_matrix_is_refused(matrix):
    with pytest.raises(ShapeError, match="3 x 3"):
        alignment(moving_from_fixed=matrix)


def test_a_singular_matrix_has_no_inverse():
    with pytest.raises(ShapeError, match="no inverse"):
        _ = alignment(moving_from_fixed=np.zeros((3, 3))).fixed_from_moving


def test_inverse_twice_is_the_same():
    again = alignment().inverse().inverse()
    assert np.allclose(again.moving_from_fixed, MATRIX, atol=1e-12)
    assert np.allclose(again.corner_covariance, alignment().corner_covariance)
    assert again.fixed_size_hw == (300, 400)


def test_compose_matches_applying_in_turn():
    second = alignment(fixed_size_hw=(310, 390), moving_size_hw=(200, 200), model="affine")
    both = alignment().compose(second)
    corners = corners_of((300, 400))
    assert np.allclose(mapped(both.moving_from_fixed, corners), mapped(MATRIX, mapped(MATRIX, corners)))
    assert (both.fixed_size_hw, both.moving_size_hw, both.model) == ((300, 400), (200, 200), "homography")


def test_compose_adds_independent_errors():
    shift = alignment(
        moving_from_fixed=np.eye(3), model="translate", moving_size_hw=(300, 400), corner_covariance=np.eye(8)
    )
    assert shift.compose(shift).corner_sigma_px == pytest.approx(2)  # each corner: sqrt(2) px, twice


def test_compose_refuses_pictures_that_do_not_meet():
    with pytest.raises(ShapeError, match="390 x 310.*400 x 300"):
        alignment().compose(alignment())


def test_compose_trusts_only_what_both_trust():
    first = alignment(moving_size_hw=(300, 400))
    assert not first.compose(alignment(trusted=False, probability=0.1)).trusted


def test_sigma_at_the_corners_is_the_covariance_diagonal():
    result = alignment()
    assert np.allclose(result.sigma(corners_of((300, 400))).ravel(), np.sqrt(np.diag(result.corner_covariance)))


def test_sigma_is_nan_where_nothing_is_known():
    result = alignment(corner_covariance=None)
    assert np.isnan(result.sigma([[1, 2]])).all()
    assert np.isnan(result.corner_sigma_px)


def test_save_and_load_give_the_same(tmp_path):
    result = alignment(reasons=("because",), quality={"overlap": 0.5}, options={"seed": 0})
    result.save(tmp_path / "a.params.json")
    again = load(tmp_path / "a.params.json")
    assert np.array_equal(again.moving_from_fixed, result.moving_from_fixed)
    assert np.array_equal(again.corner_covariance, result.corner_covariance)
    assert (again.reasons, again.quality, again.options) == (result.reasons, result.quality, result.options)


def test_holding_and_saving_a_result_needs_no_torch(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from imgalign.alignment import Alignment, load\n"
        "a = Alignment('translate', np.eye(3), (5, 5), (5, 5), corner_covariance=np.eye(8))\n"
        "a.compose(a).inverse().save(sys.argv[1]); load(sys.argv[1]).describe()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.json")], check=True)
