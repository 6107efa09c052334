"""What goes wrong in the night, with real processes: whatever happens, the same command again completes the batch."""

import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, render, shift
from PIL import Image

# --trust 0: the fate of the process is tested here, not the verdict on tiny pictures
QUICK = ("--model", "translate", "--init", "identity", "--trust", "0", "--workers", "2", "--output-dir", "out")
OUT = Path("out")
RESULTS = OUT / "results.jsonl"


@pytest.fixture
def pairs(workdir):
    """Write a manifest of n pairs of tiny pictures; gives their number back."""

    def make(count):
        Path("in").mkdir()
        Image.fromarray(render((48, 64))).save("in/fixed.png")
        moved = [Image.fromarray(render((48, 64), shift(-0.5 * k, 0.75))) for k in range(4)]
        for number in range(count):
            moved[number % 4].save(f"in/p{number:03}.png")
        rows = [f"in/fixed.png,in/p{number:03}.png" for number in range(count)]
        Path("pairs.csv").write_text("\n".join(["fixed,moving", *rows]) + "\n", "utf-8")
        return count

    return make


@pytest.fixture
def start(workdir):
    """Start `imgalign batch pairs.csv`; whatever still runs at the end of the test is killed."""
    running = []

    def call(*arguments, **options):
        command = [sys.executable, "-m", "imgalign", "batch", "pairs.csv", *QUICK, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, **options)
        running.append(process)
        return process

    yield call
    for process in running:
        process.kill()
        process.wait()
        process.stderr.close()


def finished(process):
    """Exit status and stderr of a process that ends by itself."""
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def lines():
    """Every whole line of the results."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_bytes().split(b"\n")[:-1]]


def wait_for(count, process, seconds=60):
    """Until that many pairs have ended, or the process has."""
    until = time.monotonic() + seconds
    while len(lines()) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def check_whole(count):
    """Every pair once, every file whole, nothing else left."""
    found = lines()
    assert sorted(line["id"] for line in found) == [f"p{number:03}" for number in range(count)]
    for line in found:
        with Image.open(OUT / line["output"]) as image:
            image.load()
        assert json.loads((OUT / line["params"]).read_text("utf-8"))["model"] == "translate"
    assert not list(OUT.glob(".*.tmp"))


def test_killed_at_five_random_moments_and_resumed(pairs, start):
    count = pairs(40)
    chance = random.Random(11)
    known = []
    for _ in range(5):
        process = start()
        wait_for(len(known) + chance.randint(0, 5), process)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.communicate()
        now = lines()
        assert now[: len(known)] == known  # no line is ever lost or changed
        known = now
    assert len(known) < count, "the moments came too late to test anything"
    status, stderr = finished(start())
    assert status == 0, stderr
    assert lines()[: len(known)] == known  # what was done is not done again
    check_whole(count)


def test_bad_files_cost_their_own_pairs_only(pairs, start):
    pairs(50)
    Path("in/p007.png").write_text("not a picture", "utf-8")
    Path("in/p021.png").write_bytes(bomb(60_000))
    whole = Path("in/p033.png").read_bytes()
    Path("in/p033.png").write_bytes(whole[: len(whole) // 2])
    status, stderr = finished(start())
    assert status == 1
    failures = {line["id"]: line["error"] for line in lines() if line["verdict"] == "failed"}
    assert sorted(failures) == ["p007", "p021", "p033"]
    assert "is text, no picture" in failures["p007"]
    assert "--max-pixels" in failures["p021"]
    assert "truncated" in failures["p033"]
    assert len(lines()) == 50
    assert "failed               3" in stderr
    assert len(list(OUT.glob("*.aligned.png"))) == 47
    Path("in/p033.png").write_bytes(whole)
    status, stderr = finished(start())  # again: only what failed is tried
    assert status == 1
    assert "48 of them done before" not in stderr
    assert "47 of them done before" in stderr
    assert len(lines()) == 50


def bomb(side):
    """A PNG of a few bytes that unpacks into side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_disk_that_fills_up(pairs, start):
    count = pairs(30)
    room = 16 * 1024  # more than a picture or a parameter file needs, less than 30 lines of results

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    status, stderr = finished(start(preexec_fn=small_disk))
    assert status == 1
    assert "results.jsonl: the file is larger than allowed here" in stderr
    assert "the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    kept = lines()
    assert 0 < len(kept) < count
    assert RESULTS.read_bytes().endswith(b"\n")
    assert finished(start())[0] == 0
    assert lines()[: len(kept)] == kept
    check_whole(count)


def test_full_disk_stops_the_batch(pairs, start):
    count = pairs(30)
    OUT.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", "out"]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs can be mounted by root only")
    try:
        status, stderr = finished(start())
        assert status == 1
        assert "the disk is full" in stderr
        assert len(lines()) < count
        subprocess.run(["mount", "-o", "remount,size=8m", "out"], check=True)
        assert finished(start())[0] == 0
        check_whole(count)
    finally:
        subprocess.run(["umount", "-l", "out"], check=True)


def test_second_batch_is_refused_and_interrupts_are_resumable(pairs, start):
    count = pairs(60)
    first = start()
    wait_for(1, first)
    status, stderr = finished(start())
    assert status == 1
    assert f"another batch works in this folder (process {first.pid} on " in stderr
    first.send_signal(signal.SIGINT)
    status, stderr = finished(first)
    assert status == 130
    assert "finishing the pairs in work" in stderr
    done = len(lines())
    assert done < count
    assert f"still to do   {count - done:>8}" in stderr
    second = start()
    wait_for(done + 2, second)
    for _ in range(2):
        second.send_signal(signal.SIGINT)
        time.sleep(0.05)
    status, stderr = finished(second)
    assert status == 130
    assert "Traceback" not in stderr
    assert len(lines()) < count
    assert finished(start())[0] == 0
    check_whole(count)


def test_worker_killed_costs_no_other_pair(pairs, start):
    count = pairs(30)
    process = start()
    wait_for(4, process)
    os.kill(int(lines()[-1]["worker"].rpartition(":")[2]), signal.SIGKILL)
    status, stderr = finished(process)
    assert status == 0, stderr
    check_whole(count)


def test_interrupt_from_a_terminal_reaches_only_the_batch(pairs, start):
    """A terminal sends Ctrl-C to every process of the group: workers must not hear it."""
    pairs(40)
    process = start(start_new_session=True)
    wait_for(2, process)
    os.killpg(process.pid, signal.SIGINT)
    status, stderr = finished(process)
    assert status == 130, stderr
    assert "Traceback" not in stderr
    assert not [line for line in lines() if line["verdict"] == "failed"]
    assert np.isfinite([line["probability"] for line in lines()]).all()
