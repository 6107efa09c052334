import numpy as np
import pytest

from imgalign.alignment import Alignment


def described(matrix, model, **more):
    return Alignment(model, np.array(matrix, float), (101, 101), (101, 101), **more).describe()


@pytest.mark.parametrize(
    ("fixed_from_moving", "words"),
    [
        ([[1, 0, 3.2], [0, 1, 1.1], [0, 0, 1]], "moves 3.20 px right and 1.10 px down"),
        ([[1, 0, -3.2], [0, 1, -1.1], [0, 0, 1]], "moves 3.20 px left and 1.10 px up"),
    ],
)
def test_the_moving_picture_is_what_moves(fixed_from_moving, words):
    assert words in described(np.linalg.inv(fixed_from_moving), "translate")


def test_clockwise_is_what_the_eye_sees():
    """A quarter turn clockwise takes the top middle of the moving picture to the right middle."""
    fixed_from_moving = np.array([[0, -1, 100], [1, 0, 0], [0, 0, 1.0]])
    assert (fixed_from_moving @ [50, 0, 1]).tolist() == [100, 50, 1]
    text = described(np.linalg.inv(fixed_from_moving), "rigid")
    assert "turns 90.000 degrees clockwise" in text
    assert "moves 0.00 px" in text


def test_growth_is_the_moving_pictures():
    assert "grows to 200.000 %" in described(np.diag([0.5, 0.5, 1]), "similarity")
    assert "200.000 % as wide and 100.000 % as high" in described(np.diag([0.5, 1, 1]), "affine")


def test_the_side_that_recedes_is_the_one_that_becomes_smaller():
    fixed_from_moving = np.array([[1, 0, 0], [0, 1, 0], [1e-3, 0, 1]])  # deeper, so smaller, to the right
    assert "right side recedes" in described(np.linalg.inv(fixed_from_moving), "homography")


def test_the_verdict_and_its_reasons_are_said():
    text = described(np.eye(3), "rigid", trusted=False, probability=0.2, reasons=("the pictures hardly overlap",))
    assert "is NOT to be trusted (probability 0.20" in text
    assert "note: the pictures hardly overlap" in text
    assert "corner error" not in text


def test_the_error_bar_is_said():
    assert "corner error about 0.042 px (1 sigma)" in described(
        np.eye(3), "rigid", corner_covariance=np.eye(8) * 0.0009
    )


def test_a_mirror_is_said():
    assert "is mirrored" in described(np.array([[-1, 0, 100], [0, 1, 0], [0, 0, 1]]), "affine")


def test_what_a_name_or_a_reason_holds_breaks_no_line():
    files = {"moving": {"name": "new\nline.png"}, "fixed": {"name": "\x1b[2Jf.png"}}
    lines = described(np.eye(3), "translate", files=files, reasons=("a\rb",)).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("to lie on \\x1b[2Jf.png, new\\nline.png moves")
    assert lines[2] == "note: a\\rb"
