import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgalign.errors import WriteError
from imgalign.files import paths
from imgalign.files.paths import refuse_input_as_output, replacing, settle, sha256_of, shown, sweep, take_away


def names(folder):
    return [path.name for path in folder.iterdir()]


def write(path, data=b"new", **options):
    with replacing(path, **options) as file:
        file.write(data)


@pytest.mark.parametrize(
    "name", ["plain.bin", "with space.bin", "new\nline.bin", "-dash.bin", "überß 星.bin", "x" * 250]
)
def test_replacing_takes_any_name(tmp_path, name):
    write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"new"
    assert names(tmp_path) == [name]


def test_replacing_refuses_an_existing_file(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(WriteError, match="exists; use --overwrite"):
        write(target)
    assert target.read_bytes() == b"old"


def test_replacing_overwrites_when_asked_and_keeps_the_mode(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    target.chmod(0o640)
    write(target, overwrite=True, sync=True)
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_replacing_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), ValueError("bug")])
def test_replacing_leaves_nothing_behind_when_the_block_fails(tmp_path, error):
    wanted = WriteError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted), replacing(tmp_path / "a") as file:  # noqa: PT012 - the block is what fails
        file.write(b"half")
        raise error
    assert names(tmp_path) == []


def test_replacing_does_not_overwrite_a_file_that_came_in_between(tmp_path):
    with pytest.raises(WriteError, match="meanwhile"), replacing(tmp_path / "a") as file:  # noqa: PT012
        file.write(b"mine")
        (tmp_path / "a").write_bytes(b"theirs")
    assert (tmp_path / "a").read_bytes() == b"theirs"


def test_replacing_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_replacing_says_what_is_wrong_with_the_place(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="does not exist; create it first"):
        write(tmp_path / "no" / "a")
    with pytest.raises(WriteError, match="is a folder"):
        write(tmp_path)
    with pytest.raises(WriteError, match="is not a folder"):
        write(tmp_path / "file" / "a")


def test_a_disk_that_is_full_leaves_the_old_file_and_says_so(tmp_path):
    code = (
        "import resource, signal, sys\n"
        "from imgalign.files.paths import replacing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with replacing(sys.argv[1], overwrite=True) as file:\n"
        "    file.write(bytes(100_000))\n"
    )
    target = tmp_path / "a"
    target.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, target], capture_output=True, text=True, check=False)
    assert "WriteError" in done.stderr
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="no permission"):
        write(tmp_path / "a")


def test_sweep_takes_what_a_killed_process_left_and_nothing_in_work(tmp_path):
    code = (
        "import sys\n"
        "from imgalign.files.paths import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    print(flush=True)\n"
        "    sys.stdin.read()\n"
    )
    (tmp_path / "sub").mkdir()
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen([*command, tmp_path / "alive"], **pipes) as alive,
        subprocess.Popen([*command, tmp_path / "sub" / "dead"], **pipes) as dead,
    ):
        alive.stdout.readline()
        dead.stdout.readline()
        dead.kill()
        dead.wait()
        assert len(names(tmp_path / "sub")) == 1
        sweep(tmp_path)
        assert names(tmp_path / "sub") == []
        alive.communicate(b"")
    assert alive.returncode == 0
    assert sorted(names(tmp_path)) == ["alive", "sub"]


def test_file_that_was_swept_before_it_was_locked_is_begun_again(tmp_path, monkeypatch):
    lock, swept = paths._lock, []

    def late(file):
        if not swept:
            swept.append(file.name)
            sweep(tmp_path)
        lock(file)

    monkeypatch.setattr(paths, "_lock", late)
    write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_streams_are_written_to_and_never_replaced():
    write("/dev/null", overwrite=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_pipe_gets_everything(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (tmp_path / "copy").open("wb") as copy, subprocess.Popen(["cat", pipe], stdout=copy):
        write(pipe, bytes(300_000))
    assert (tmp_path / "copy").stat().st_size == 300_000


def test_take_away_leaves_inputs_and_what_is_no_file(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(WriteError, match="also an input"):
        take_away(tmp_path / "a", inputs=[tmp_path / "a"])
    assert take_away(tmp_path / "a")
    assert not take_away(tmp_path / "a")
    assert not take_away("/dev/null")
    assert names(tmp_path) == []


def test_inputs_are_never_outputs(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refuse_input_as_output(tmp_path / "new", [tmp_path / "a"])
    with pytest.raises(WriteError, match="also an input"):
        refuse_input_as_output(tmp_path / "b", [tmp_path / "a"])
    with pytest.raises(WriteError, match="also an input"):
        refuse_input_as_output(tmp_path / "sub" / ".." / "a", [tmp_path / "a"])


@pytest.mark.parametrize("posix", [True, False])
def test_settle_waits_for_files_and_for_folders_where_it_can(posix, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    monkeypatch.setattr(paths, "_POSIX", posix)
    settle([tmp_path / "a", tmp_path])
    assert synced == ([False, True] if posix else [False])


def test_sha256_reads_a_file_again_only_when_it_may_have_changed(tmp_path):
    path, old = tmp_path / "a", time.time_ns() - 10**11
    sums = {data: hashlib.sha256(data).hexdigest() for data in (b"one", b"two", b"3")}

    def found(data, date):
        path.write_bytes(data)
        os.utime(path, ns=(date, date))
        return sha256_of(path)

    assert found(b"one", old) == sums[b"one"]
    assert found(b"two", old) == sums[b"one"]  # so that it was not read
    assert found(b"two", old + 1) == sums[b"two"]
    assert found(b"3", old + 1) == sums[b"3"]
    now = time.time_ns()
    assert found(b"one", now) == sums[b"one"]
    assert found(b"two", now) == sums[b"two"]


def test_shown_is_one_printable_line():
    assert shown("a\nb\tü\x1b[0m") == "a\\nb\\tü\\x1b[0m"
    assert shown(os.fsdecode(b"bad\xff.png")) == "bad\\udcff.png"
