"""A full disk, or nothing, behind stdout and stderr."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
SAYS = "Error: standard output: the disk is full; free some space, nothing was written\n"


@pytest.fixture
def shell(workdir):
    """Run `imgalign` with redirections; gives its exit status and what stderr got."""

    def call(line):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = f"'{sys.executable}' -m imgalign {line}"
        done = subprocess.run(
            ["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=120, env=environment
        )
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
        return done.returncode, done.stderr

    return call


@pytest.mark.parametrize("line", ["--help", "affine --help", "--version"])
def test_help_on_a_full_disk_is_one_line(line, shell):
    assert shell(f"{line} > /dev/full") == (1, SAYS)


@pytest.mark.parametrize("option", ["--json", "--params - --overwrite"])
def test_pictures_are_done_though_stdout_takes_nothing(option, pair, shell):
    Path("again.png").write_bytes(pair.moving.read_bytes())
    status, said = shell(f"translate {pair.fixed} {pair.moving} again.png missing.png {option} > /dev/full")
    assert status == 1
    assert said.count(SAYS) == 1
    assert "2 done, 1 failed" in said
    assert Path("moving.aligned.png").exists()
    assert Path("again.aligned.png").exists()


@pytest.mark.parametrize("option", ["", "--json"])
def test_info_on_a_full_disk_is_one_line(option, pair, shell, invoke):
    assert invoke("translate", pair.fixed, pair.moving, "--no-image").exit_code == 0
    assert shell(f"info {option} moving.params.json > /dev/full") == (1, SAYS)


def test_a_batch_is_done_though_stdout_takes_nothing(pair, shell):
    Path("pairs.csv").write_text("fixed,moving\nfixed.png,moving.png\n", "utf-8")
    status, said = shell("batch pairs.csv --model translate --output-dir out --json > /dev/full")
    assert status == 1
    assert said.count(SAYS) == 1
    assert Path("out/moving.aligned.png").exists()


@pytest.mark.parametrize("streams", [">&-", "2>&-", "2>&- >&-", "2>/dev/full", "2>/dev/full >&-"])
def test_streams_that_take_nothing_do_not_change_what_the_work_was(streams, pair, shell):
    Path("again.png").write_bytes(pair.moving.read_bytes())
    json = "" if "2>" in streams else "--json"
    assert shell(f"translate {pair.fixed} {pair.moving} again.png {json} {streams}")[0] == 0
    assert Path("again.aligned.png").exists()
    assert shell(f"info moving.params.json nothing.json {streams}")[0] == 1


@pytest.mark.parametrize("line", ["affine", "nonsense", "--nonsense", "", "info", "rigid --levels x a.png b.png"])
@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "2>/dev/full >&-"])
def test_wrong_usage_is_2_though_nobody_hears_of_it(line, streams, shell):
    assert shell(f"{line} {streams}") == (2, "")
