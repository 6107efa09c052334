"""`imgalign apply`: other pictures by a transform that is known."""

from pathlib import Path

import numpy as np
import pytest
from conftest import json_lines, opened, pixels, render, shift
from PIL import Image

from imgalign import load
from imgalign.alignment import Alignment

SIZE = (60, 80)


def save(name, moving_from_fixed, *, fixed_hw=SIZE, moving_hw=SIZE, **fields):
    Alignment("affine", moving_from_fixed, fixed_hw, moving_hw, **fields).save(name)


@pytest.fixture
def labels(workdir):
    """An 8-bit label map in labels.png, and the transform in p.json: a shift by (5, -3)."""
    values = np.zeros(SIZE, np.uint8)
    values[10:30, 20:50] = 7
    values[30:50, 10:40] = 200
    Image.fromarray(values).save("labels.png")
    save("p.json", shift(5, -3))
    return values


def test_label_map_keeps_its_values(labels, invoke):
    save("q.json", np.array([[0.9, 0.2, 3], [-0.2, 1.1, 4], [0, 0, 1]]))
    result = invoke("apply", "q.json", "labels.png", "--interpolation", "nearest", "--fill", "0")
    assert result.exit_code == 0
    assert set(np.unique(pixels("labels.aligned.png"))) == {0, 7, 200}


def test_whole_shift_moves_pixels(labels, invoke):
    invoke("apply", "p.json", "labels.png", "--fill", "1")
    out = pixels("labels.aligned.png")
    np.testing.assert_array_equal(out[3:, :-5], labels[:-3, 5:])
    assert (out[:3] == 1).all()


def test_inverse_goes_back(labels, invoke):
    invoke("apply", "p.json", "labels.png", "--fill", "0", "-o", "there.png")
    invoke("apply", "p.json", "there.png", "--inverse", "--fill", "0", "-o", "back.png")
    np.testing.assert_array_equal(pixels("back.png")[:-3, 5:], labels[:-3, 5:])


def test_parameter_files_compose_in_the_order_given(workdir, invoke):
    """b lies on a by a turn, a on the atlas by a shift and another size; the picture is rendered by the formula."""
    turn = np.array([[0.0, -1, 79], [1, 0, 0], [0, 0, 1]])  # b (60 x 80 high and wide) from a (80 x 60)
    save("b_on_a.json", turn, fixed_hw=(80, 60), moving_hw=(60, 80))
    save("a_on_atlas.json", shift(2, 1), fixed_hw=(50, 40), moving_hw=(80, 60))
    atlas_scene = render((50, 40))
    b = render((60, 80), np.linalg.inv(turn @ shift(2, 1)))
    Image.fromarray(b).save("b.png")
    result = invoke("apply", "b_on_a.json", "b.png", "--then", "a_on_atlas.json", "--params", "all.json")
    assert result.exit_code == 0
    np.testing.assert_array_equal(pixels("b.aligned.png"), atlas_scene)
    np.testing.assert_allclose(load("all.json").moving_from_fixed, turn @ shift(2, 1))


def test_files_that_do_not_follow_each_other_are_refused(labels, invoke):
    save("q.json", shift(0, 0), fixed_hw=(10, 10), moving_hw=(11, 11))
    result = invoke("apply", "p.json", "labels.png", "--then", "q.json")
    assert result.exit_code == 1
    assert "do not follow each other" in result.stderr


def test_picture_of_another_size_is_refused(labels, invoke):
    Image.new("L", (81, 60)).save("wide.png")
    result = invoke("apply", "p.json", "wide.png", "labels.png")
    assert result.exit_code == 1
    assert "wide.png: has 81 x 60 pixels, the transform is for pictures of 80 x 60" in result.stderr
    assert Path("labels.aligned.png").exists()


def test_rescale_takes_the_same_field_at_another_density(workdir, invoke):
    save("p.json", shift(8, -4))
    Image.fromarray(render((30, 40), np.array([[2.0, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]))).save("half.png")
    assert invoke("apply", "p.json", "half.png", "--rescale", "-o", "out.png", "--fill", "0").exit_code == 0
    expected = render(SIZE, shift(8, -4)).astype(float)
    assert np.abs(pixels("out.png").astype(float) - expected)[8:, :-12].max() <= 4  # a spline through every other pixel


def test_untrusted_transform_is_exit_status_3(labels, invoke):
    save("doubt.json", shift(1, 1), trusted=False, reasons=("overlap 3 %",))
    result = invoke("apply", "doubt.json", "labels.png", "--quiet")
    assert result.exit_code == 3
    assert "not to be trusted" in result.stderr
    assert Path("labels.aligned.png").exists()


def test_palette_stays_a_palette(workdir, invoke):
    picture = Image.new("P", (80, 60), 1)
    picture.putpalette([0, 0, 0, 250, 10, 20, 30, 240, 50])
    picture.save("labels.png")
    save("p.json", shift(0.4, 0.3))
    invoke("apply", "p.json", "labels.png", "--interpolation", "nearest", "-o", "out.png")
    assert opened("out.png").mode == "P"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is not JSON"),
        ("{}", "is no parameter file: wanted schema"),
        ('{"schema": "imgalign/params/9"}', "update imgalign"),
        ("", "is empty"),
    ],
)
def test_file_that_is_no_parameter_file(content, said, labels, invoke):
    Path("bad.json").write_text(content)
    result = invoke("apply", "bad.json", "labels.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: bad.json: ")
    assert said in result.stderr
    assert not Path("labels.aligned.png").exists()


def test_parameter_file_is_never_written_over(labels, invoke):
    before = Path("p.json").read_bytes()
    assert invoke("apply", "p.json", "labels.png", "--params", "p.json", "--overwrite").exit_code == 2
    assert Path("p.json").read_bytes() == before


def test_parameter_file_that_exists_costs_itself_alone(labels, invoke):
    save("taken.json", shift(1, 1))
    before = Path("taken.json").read_bytes()
    result = invoke("apply", "p.json", "labels.png", "--params", "taken.json")
    assert result.exit_code == 1
    assert "taken.json: exists" in result.stderr
    assert Path("taken.json").read_bytes() == before
    assert Path("labels.aligned.png").exists()


def test_parameters_to_stdout_are_one_json_line(labels, invoke):
    result = invoke("apply", "p.json", "labels.png", "--inverse", "--params", "-")
    assert result.exit_code == 0
    (record,) = json_lines(result.stdout)
    np.testing.assert_allclose(record["moving_from_fixed"], shift(-5, 3))
    assert not Path("-").exists()
