"""imgalign among other programs: a real script, pipes, signals, odd names. Real processes throughout."""

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, opened, shift

from imgalign import load
from imgalign.alignment import Alignment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")

SCRIPT = """
set -eu
mkdir -p aligned
# one reference, many pictures, names of every kind
find frames -name '*.png' -print0 | sort -z | xargs -0 imgalign translate fixed.png --output-dir aligned --quiet --
for file in aligned/*.params.json; do
  imgalign info "$file" > /dev/null || echo "doubtful: $file"
done
status=0
imgalign translate fixed.png missing.png --output-dir aligned 2> errors.txt || status=$?
echo "status $status"
imgalign translate fixed.png frames/*plain.png --params - --no-image --quiet | cut -c 1-11
"""


@pytest.fixture
def shell(workdir):
    """Run a script with `imgalign` on the PATH."""
    program = workdir / "bin" / "imgalign"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imgalign "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def call(script, name="bash"):
        return subprocess.run(
            [name, "-c", script], capture_output=True, text=True, timeout=300, env=environment, check=False
        )

    return call


def test_script_with_find_xargs_and_loops(pair, shell):
    names = ["plain.png", "two words.png", "line\nbreak.png", "ünï→.png", "'quote\".png", "$HOME;ls.png"]
    Path("frames").mkdir()
    for name in names:
        opened(pair.moving).save(Path("frames") / name)
    result = shell(SCRIPT)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == 'status 1\n{"schema": \n'
    assert sorted(path.name for path in Path("aligned").glob("*.aligned.png")) == sorted(
        f"{Path(name).stem}.aligned.png" for name in names
    )
    assert Path("errors.txt").read_text() == "Error: missing.png: no such file; check the name\n"


def test_pair_is_aligned_by_a_process(pair, process):
    result = process("translate", pair.fixed, pair.moving)
    assert (result.returncode, result.stdout) == (0, "")
    found = load("moving.params.json")
    assert abs(found.moving_from_fixed - pair.moving_from_fixed).max() < 0.02  # a scene without noise, 8 bit
    assert opened("moving.aligned.png").size == (144, 120)


def test_name_of_undecodable_bytes(pair, process):
    name = os.fsdecode(b"m\xff\xfe.png")
    try:
        pair.moving.rename(name)
    except OSError:
        pytest.skip("this disk wants names in UTF-8")
    result = process("translate", pair.fixed, name, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["output"] == "m\udcff\udcfe.aligned.png"
    assert Path(os.fsdecode(b"m\xff\xfe.aligned.png")).exists()


def test_ascii_locale_is_no_obstacle(pair, process):
    pair.moving.rename("ünï.png")
    result = process("gradmap", "ünï.png", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert result.returncode == 0, result.stderr


def test_leading_dash_after_two_dashes(pair, process):
    pair.moving.rename("-moving.png")
    assert process("gradmap", "--", "-moving.png").returncode == 0
    assert Path("-moving.gradmap.tif").exists()


@pytest.mark.parametrize("command", ["info", "--help"])
def test_closed_pipe_is_quiet(command, pair, shell):
    load_many = "imgalign info --json " + "p.json " * 400 if command == "info" else "imgalign --help"
    save_params()
    result = shell(f"set -o pipefail; {load_many} | true")
    assert result.stderr == ""
    assert result.returncode in {0, 1, 141}


def test_reader_that_leaves_ends_the_run_with_141(pair, shell):
    save_params()
    result = shell("imgalign info --json " + "p.json " * 3000 + '| head -n 1 | cut -c 1-9; echo "${PIPESTATUS[0]}"')
    assert (result.stdout, result.stderr) == ('{"schema"\n141\n', "")


def save_params():
    Alignment("translate", shift(1, 2), (9, 9), (9, 9)).save("p.json")


def wait_for_torch(pid):
    """Until a process is within the import of torch; where the system does not tell, that is half a second later."""
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        time.sleep(0.6)
        return
    for _ in range(3000):
        if "libtorch" in maps.read_text():
            return
        time.sleep(0.01)
    raise AssertionError("torch was never imported")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "kill"])
def test_signal_is_quiet_and_leaves_nothing(number, status, pair):
    command = [sys.executable, "-m", "imgalign", "affine", "fixed.png", "moving.png"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # What runs in the background of a script is deaf to Ctrl-C, and so would be all that it starts.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=listening,  # noqa: PLW1509  (alone)
    ) as process:
        wait_for_torch(process.pid)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (status, b"", b"")
    assert not [path for path in Path().iterdir() if path.name not in {"fixed.png", "moving.png"}]


def test_progress_is_not_shown_without_a_terminal(pair, process):
    opened(pair.moving).save("b.png")
    assert "0/2" not in process("gradmap", "moving.png", "b.png").stderr
    assert "0/2" in process("gradmap", "moving.png", "b.png", "--overwrite", "--progress").stderr


@pytest.mark.parametrize(("names", "shown"), [(["moving.png", "b.png"], True), (["b.png"], False)])
def test_progress_on_a_terminal_for_several_pictures(names, shown, pair):
    import fcntl
    import pty
    import termios

    opened(pair.moving).save("b.png")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "imgalign", "gradmap", *names]
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, env=environment, check=True, timeout=60)
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout == b""
    assert ("0/2" in said) is shown
    assert "wrote b.gradmap.tif" in said
