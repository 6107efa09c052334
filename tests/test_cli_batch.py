"""`imgalign batch` as a command: what it says, its statuses, its options. Real processes, tiny pictures."""

import csv
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, json_lines, render, shift
from PIL import Image

QUICK = ("--model", "translate", "--init", "identity", "--trust", "0", "--workers", "1", "-d", "out")


@pytest.fixture
def pairs(workdir):
    """f/N.png and m/N.png for N = 1, 2, 3, and pairs.csv."""
    for folder in ("f", "m"):
        Path(folder).mkdir()
    for number in (1, 2, 3):
        Image.fromarray(render((48, 64))).save(f"f/{number}.png")
        Image.fromarray(render((48, 64), shift(-number, 0.5))).save(f"m/{number}.png")
    Path("pairs.csv").write_text("fixed,moving\nf/1.png,m/1.png\nf/2.png,m/2.png\nf/3.png,m/3.png\n", "utf-8")


def lines():
    return json_lines(Path("out/results.jsonl").read_text("utf-8"))


def test_csv(pairs, process):
    result = process("batch", "pairs.csv", *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "trusted              3\n" in result.stderr
    assert "3 pairs, 0 of them done before" in result.stderr
    shifts = {line["id"]: np.array(line["moving_from_fixed"])[:2, 2] for line in lines()}
    for number in (1, 2, 3):
        assert np.abs(shifts[str(number)] - (number, -0.5)).max() < 0.1  # tiny 8-bit pictures; a pixel is far off
    with Path("out/summary.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["trusted"] * 3
    again = process("batch", "pairs.csv", *QUICK)
    assert "3 pairs, 3 of them done before" in again.stderr
    assert again.returncode == 0


def test_folders_json_and_template(pairs, process):
    Path("m/4.png").touch()
    named = ("--fixed-dir", "f", "--moving-dir", "m", "--output-template", "{parent}/{id}.tif", "--json")
    result = process("batch", *named, *QUICK)
    assert result.returncode == 0, result.stderr
    assert sorted(line["output"] for line in json_lines(result.stdout)) == ["m/1.tif", "m/2.tif", "m/3.tif"]
    assert Path("out/m/2.tif").is_file()
    assert "1 pictures of f and m have no partner" in result.stderr


def test_stdin_with_one_fixed(pairs):
    command = [sys.executable, "-m", "imgalign", "batch", "-", "--fixed", "f/1.png", *QUICK, "--no-image", "--quiet"]
    result = subprocess.run(
        command,
        input=b"m/1.png\0m/2.png\0",
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert [line["fixed"] for line in lines()] == ["f/1.png"] * 2
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == [
        "1.params.json",
        "2.params.json",
        "results.jsonl",
        "summary.csv",
    ]


def test_untrusted_is_status_3(pairs, process):
    result = process("batch", "pairs.csv", *QUICK, "--trust", "1")
    assert result.returncode == 3
    assert "not trusted          3" in result.stderr
    assert process("batch", "pairs.csv", *QUICK, "--trust", "1").returncode == 3  # it stays so


def test_bar_on_a_terminal(pairs):
    """The bar goes to stderr where that is a terminal, with the counts."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 200))
    command = [sys.executable, "-m", "imgalign", "batch", "pairs.csv", *QUICK]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=slave, env=environment) as process:
        os.close(slave)
        said = b""
        while block := _read(master):
            said += block
    os.close(master)
    assert process.returncode == 0
    assert b"trusted=" in said
    assert b"pair/s" in said


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "name one list of PAIRS"),
            (("pairs.csv", "--fixed-dir", "f", "--moving-dir", "m"), "name one list of PAIRS"),
            (("--fixed-dir", "f"), "name one list of PAIRS"),
            (("missing.csv",), "cannot be read: No such file"),
            (("pairs.csv", "--engine", "dask"), "go together"),
            (("pairs.csv", "--scheduler", "tcp://a:1"), "go together"),
            (("pairs.csv", "--output-template", "same.png"), "lines 2 and 3 have the same output"),
            (("pairs.csv", "--output-template", "../{id}.png"), "leads out of the output folder"),
            (("pairs.csv", "--id-template", "{what}"), "holds {what}"),
        ],
    )
    def test_nothing_is_done(self, arguments, said, pairs, invoke):
        result = invoke("batch", *arguments, "-d", "out")
        assert result.exit_code == 2
        assert said in result.stderr
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        ("manifest", "option"),
        [
            ("summary.csv", ()),
            ("2.params.json", ()),
            ("pairs.csv", ("--mask", "2.aligned.png")),
            ("pairs.csv", ("--moving-mask", "2.aligned.png")),
            ("pairs.csv", ("--init", "2.params.json")),
        ],
    )
    def test_no_input_is_written_over(self, manifest, option, pairs, invoke):
        """Not the list of pairs, nor what an option names, with --overwrite or without."""
        Path("pairs.csv").rename(manifest)
        for name in option[1:]:
            Path(name).write_text("mine", "utf-8")
        before = {path: path.read_bytes() for path in Path().glob("*.*")}
        for overwrite in ((), ("--overwrite",)):
            result = invoke("batch", manifest, *option, *overwrite)
            assert result.exit_code == 2
            assert "input" in result.stderr
            assert result.stderr.count("\n") == 1
        assert {path: path.read_bytes() for path in Path().glob("*.*")} == before

    def test_manifest_cannot_leave_the_folder(self, pairs, invoke):
        line = {"fixed": "f/1.png", "moving": "m/1.png", "output": "../../evil.png"}
        Path("pairs.jsonl").write_text(json.dumps(line), "utf-8")
        result = invoke("batch", "pairs.jsonl", "-d", "out")
        assert result.exit_code == 2
        assert "allow it with --allow-outside" in result.stderr


@pytest.mark.parametrize("text", ["", "\n", "fixed,moving\n"])
def test_list_without_pairs_is_said(text, pairs, invoke):
    Path("pairs.csv").write_text(text, "utf-8")
    result = invoke("batch", "pairs.csv", "-d", "out", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == "the list holds no pairs, so there is nothing to do\n"


def test_folder_that_cannot_be_made(pairs, invoke):
    result = invoke("batch", "pairs.csv", "-d", "pairs.csv/out")
    assert result.exit_code == 1
    assert "the output folder cannot be made" in result.stderr


def test_help_has_examples(invoke):
    result = invoke("batch", "--help")
    assert "imgalign batch pairs.csv --model rigid" in result.stdout
    assert "--retry" in result.stdout


def test_that_nobody_works_is_said_late_and_seldom(monkeypatch, capfd):
    from imgalign.cli import batch
    from imgalign.cli.talk import Talk

    now = [0.0]
    monkeypatch.setattr(batch.time, "monotonic", lambda: now[0])
    watch = batch._Watch(Talk(quiet=True), answers=False)
    for now[0] in range(2 * int(batch._REMIND_S)):
        watch.waiting("no workers at tcp://head:8786")
    assert capfd.readouterr().err == 2 * "no workers at tcp://head:8786; waiting, Ctrl-C stops\n"


def test_plain_lines_where_there_is_no_terminal(pairs, monkeypatch, capfd):
    from imgalign.cli import batch
    from imgalign.cli.talk import Talk

    watch = batch._Watch(Talk(), answers=False)
    watch.planned(1000, ())
    monkeypatch.setattr(batch, "_QUIET_S", -1.0)
    watch.skipped("trusted")
    watch.ended({"id": "a", "verdict": "untrusted", "reasons": ["too little structure"]})
    said = capfd.readouterr().err
    assert "a: is NOT to be trusted: too little structure" in said
    assert "2 of 1000 pairs: 1 trusted, 1 not, 0 failed; " in said
    assert " to go" in said
