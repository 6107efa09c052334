"""`imgalign info`: parameter files in words."""

from pathlib import Path

import pytest
from conftest import json_lines, shift

from imgalign.alignment import Alignment


@pytest.fixture
def files(workdir):
    Alignment("translate", shift(3.25, -2.5), (10, 12), (10, 12)).save("good.json")
    Alignment("rigid", shift(1, 1), (9, 9), (9, 9), trusted=False, reasons=("overlap 12 %",)).save("doubt.json")


def test_words(files, invoke):
    result = invoke("info", "good.json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "good.json"
    assert "can be trusted" in result.stdout
    assert "moves 3.25 px left and 2.50 px down" in result.stdout


def test_untrusted_is_exit_status_3(files, invoke):
    result = invoke("info", "good.json", "doubt.json")
    assert result.exit_code == 3
    assert "overlap 12 %" in result.stdout


def test_json_is_one_line_a_file(files, invoke):
    lines = json_lines(invoke("info", "--json", "good.json", "doubt.json").stdout)
    assert [(line["params"], line["trusted"]) for line in lines] == [("good.json", True), ("doubt.json", False)]


def test_bad_file_is_an_error_and_the_rest_is_said(files, invoke):
    Path("bad.json").write_text("[]")
    result = invoke("info", "missing.json", "bad.json", "good.json")
    assert result.exit_code == 1
    assert "can be trusted" in result.stdout
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == [" missing.json", " bad.json"]
