import json
import math
import os

import jsonschema
import numpy as np
import pytest

from imgalign.alignment import Alignment
from imgalign.errors import ParamsError, WriteError
from imgalign.files.record import SCHEMA, dumps, from_dict, json_schema, read_params, to_dict, write_params

SHIFT = np.array([[1, 0, 3.5], [0, 1, -2], [0, 0, 1.0]])


def minimal(**changes):
    record = {
        "schema": SCHEMA,
        "model": "translate",
        "moving_from_fixed": SHIFT.tolist(),
        "fixed": {"size_hw": [30, 40]},
        "moving": {"size_hw": [30, 41]},
    }
    return {**record, **changes}


def full():
    return Alignment(
        "homography",
        np.array([[1, 0, 3.5], [0, 1, -2], [1e-4, 0, 1]]),
        (30, 40),
        (30, 41),
        status="converged",
        trusted=False,
        probability=0.25,
        reasons=("a\nreason",),
        corner_covariance=np.eye(8),
        parameter_sigma={"shift_x": 0.1, "shift_y": math.nan},
        quality={"overlap": np.float32(0.5), "loss_after": math.inf},
        history=(2.0, math.nan),
        seconds={"start": 0.1},
        options={"seed": 0, "init": SHIFT, "levels": None, "mask": os.fspath("ü.png")},
        files={"fixed": {"name": os.fsdecode(b"b\xff.png"), "page": 2, "sha256": "0" * 64}},
    )


def test_the_record_fits_its_schema():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for record in (to_dict(full()), minimal(), to_dict(from_dict(minimal()))):
        jsonschema.validate(json.loads(json.dumps(record)), schema)


def test_every_key_of_the_record_is_in_the_schema():
    assert set(to_dict(full())) == set(json_schema()["properties"])


def test_the_text_is_strict_json_with_one_line_a_row():
    text = dumps(full())
    json.loads(text, parse_constant=pytest.fail)
    assert "[1.0, 0.0, 3.5],\n" in text


def test_reading_gives_back_what_was_written(tmp_path):
    write_params(tmp_path / "p.json", full())
    again = read_params(tmp_path / "p.json")
    assert np.array_equal(again.moving_from_fixed, full().moving_from_fixed)
    assert (again.status, again.trusted, again.probability, again.reasons) == ("converged", False, 0.25, ("a\nreason",))
    assert math.isnan(again.quality["loss_after"])
    assert again.files["fixed"] == {"name": "b\\udcff.png", "page": 2, "sha256": "0" * 64}


def test_a_file_by_hand_needs_little(tmp_path):
    (tmp_path / "p.json").write_text("\ufeff" + json.dumps(minimal()), "utf-8")
    assert read_params(tmp_path / "p.json").moving_size_hw == (30, 41)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": None}, "no schema"),
        ({"schema": "other/1"}, "is no parameter file"),
        ({"schema": "imgalign/params/2"}, "update imgalign"),
        ({"model": "elastic"}, "model must be one of"),
        ({"moving_from_fixed": [[1, 0], [0, 1]]}, "3 rows of 3 numbers"),
        ({"moving_from_fixed": [[1, 0, "a"], [0, 1, 0], [0, 0, 1]]}, "must be a number"),
        ({"moving_from_fixed": [[1, 0, True], [0, 1, 0], [0, 0, 1]]}, "must be a number"),
        ({"moving_from_fixed": [[1, 0, 10**400], [0, 1, 0], [0, 0, 1]]}, "must be finite"),
        ({"moving_from_fixed": [[1, 0, 0], [0, 0, 0], [0, 0, 1]]}, "singular"),
        ({"moving_from_fixed": [[1, 2, 0], [2, 4, 0], [0, 0, 1]]}, "singular"),
        ({"moving_from_fixed": [[0, 0, 0]] * 2 + [[0, 0, 1]]}, "singular"),
        ({"moving_from_fixed": [[1, 0, 0], [0, 1, 0], [1e-3, 0, 1]]}, "must end in the row"),
        ({"fixed_from_moving": SHIFT.tolist()}, "contradict"),
        ({"fixed": {"size_hw": [0, 40]}}, "whole pixels"),
        ({"fixed": {"size_hw": [30.5, 40]}}, "whole pixels"),
        ({"fixed": None}, "fixed must be an object"),
        ({"trusted": "yes"}, "true or false"),
        ({"probability": 2}, "between 0 and 1"),
        ({"reasons": [1]}, "list of texts"),
        ({"uncertainty": {"corner_covariance_px2": [[-1.0] * 8] * 8}}, "no covariance"),
        ({"options": []}, "must be an object"),
    ],
)
def test_impossible_records_are_refused(changes, words):
    with pytest.raises(ParamsError, match=words):
        from_dict(minimal(**changes))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello", "is not JSON"),
        (b"\x89PNG\r\n\x1a\n\xff", "no text in UTF-8"),
        (b'{"schema": NaN}', "NaN"),
        (b"[1, 2]", "must be an object"),
        (b"[" * 100_000, "nested|not JSON"),
        (b'{"schema": "imgalign/params/1"', "is not JSON"),
        (b" " * (17 << 20), "larger than"),
    ],
)
def test_files_that_are_no_parameter_files_are_named_with_a_reason(tmp_path, content, words):
    path = tmp_path / "new\nline.json"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=words) as caught:
        read_params(path)
    assert "new\\nline.json: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        read_params(tmp_path / "no.json")
    with pytest.raises(ParamsError, match="is a folder"):
        read_params(tmp_path)


def test_nothing_is_overwritten_unasked(tmp_path):
    write_params(tmp_path / "p.json", full())
    with pytest.raises(WriteError, match="exists"):
        write_params(tmp_path / "p.json", full())
    write_params(tmp_path / "p.json", full(), overwrite=True)


def test_a_homography_may_carry_any_factor():
    matrix = (-2 * np.array([[1, 0, 3], [0, 1, 4], [1e-4, 0, 1]])).tolist()
    loaded = from_dict(minimal(model="homography", moving_from_fixed=matrix))
    assert loaded.numbers.shift_px == pytest.approx(
        from_dict(minimal(model="homography", moving_from_fixed=[[1, 0, 3], [0, 1, 4], [1e-4, 0, 1]])).numbers.shift_px
    )
