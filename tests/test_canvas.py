import numpy as np
import pytest

from imgalign.errors import OptionError
from imgalign.warp.canvas import grid_of
from imgalign.warp.resample import warp


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_fixed_is_the_fixed_grid():
    assert grid_of("fixed", shift(3, 4), (20, 30), (9, 9)).size_hw == (20, 30)


def test_union_of_a_shift_holds_both():
    grid = grid_of("union", shift(5, -3), (20, 30), (20, 30))  # moving lies 5 px to the left, 3 px down
    assert (grid.size_hw, grid.offset_xy) == ((23, 35), (-5, 0))
    assert grid.fixed_from_canvas @ [0, 0, 1] == pytest.approx([-5, 0, 1])


def test_intersection_of_a_shift_is_what_both_show():
    grid = grid_of("intersection", shift(5, -3), (20, 30), (20, 30))
    assert (grid.size_hw, grid.offset_xy) == ((17, 25), (0, 3))


def matrices():
    c, s = np.cos(0.3), np.sin(0.3)
    yield np.array([[c, -s, 20], [s, c, -10], [0, 0, 1]])
    yield np.array([[0.7 * c, -s, 20], [s, 1.2 * c, -10], [4e-4, -3e-4, 1]])


@pytest.mark.parametrize("matrix", list(matrices()))
def test_union_covers_every_pixel_of_the_moving_picture(matrix):
    size = (90, 110)
    grid = grid_of("union", matrix, size, size)
    wide = warp(np.ones(size, np.uint8), moving_from_fixed=matrix @ shift(-300, -300), size_hw=(700, 700))[1]
    rows, columns = np.nonzero(wide)
    (h, w), (x, y) = grid.size_hw, grid.offset_xy
    assert min(columns.min() - 300, 0) == x
    assert min(rows.min() - 300, 0) == y
    assert max(columns.max() - 300, size[1] - 1) == x + w - 1
    assert max(rows.max() - 300, size[0] - 1) == y + h - 1


@pytest.mark.parametrize("matrix", list(matrices()))
def test_intersection_is_the_largest_rectangle_without_a_gap(matrix):
    size = (90, 110)
    grid = grid_of("intersection", matrix, size, size)
    covered = warp(np.ones(size, np.uint8), moving_from_fixed=matrix, size_hw=size)[1]
    (h, w), (x, y) = grid.size_hw, grid.offset_xy
    assert covered[y : y + h, x : x + w].all()
    assert h * w == largest_rectangle(covered)


def largest_rectangle(mask):
    """By trying: heights of columns of true pixels, and every pair of columns below each row."""
    heights, best = np.zeros(mask.shape[1], int), 0
    for row in mask:
        heights = np.where(row, heights + 1, 0)
        for left in range(len(heights)):
            lowest = np.minimum.accumulate(heights[left:])
            best = max(best, int((lowest * np.arange(1, len(lowest) + 1)).max()))
    return best


def test_no_overlap_has_no_intersection():
    with pytest.raises(OptionError, match="do not overlap"):
        grid_of("intersection", shift(100, 0), (20, 30), (20, 30))


def test_a_union_without_end_is_refused():
    beyond = np.linalg.inv(np.array([[1, 0, 0], [0, 1, 0], [-0.05, 0, 1.0]]))
    with pytest.raises(OptionError, match=r"no end|would be"):
        grid_of("union", beyond, (30, 30), (30, 30))
    with pytest.raises(OptionError, match="would be"):
        grid_of("union", shift(1e6, 1e6), (30, 30), (30, 30))


def test_an_unknown_canvas_is_refused():
    with pytest.raises(OptionError, match="choose fixed, union or intersection"):
        grid_of("both", shift(0, 0), (2, 2), (2, 2))
