"""A batch on a real Dask cluster of up to two worker processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from test_batch_faults import OUT, QUICK, finished, lines, pairs, wait_for  # noqa: F401  (pairs is a fixture)

pytest.importorskip("distributed")

PRELOAD = """\
import os, signal
from imgalign.files import images
read = getattr(images.read, "real", images.read)  # a preload may run twice
def deadly(path, **options):
    if "p013" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return read(path, **options)
deadly.real = read
images.read = deadly
"""


@pytest.fixture
def scheduler(workdir):
    """A scheduler without workers; gives its `address` and `process`, and what starts a `worker`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    Path("deadly.py").write_text(PRELOAD, "utf-8")
    Path("elsewhere").mkdir()
    running = []

    def start(module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"]
        with Path(f"{module}{len(running)}.log").open("w") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd="elsewhere", start_new_session=True
            )
        running.append(process)
        return process

    start("dask_scheduler", "--port", "0", "--scheduler-file", "scheduler.json", "--host", "127.0.0.1")
    settings = ("--nthreads", "1", "--scheduler-file", "scheduler.json", "--preload", str(Path("deadly.py").absolute()))
    wait_until(Path("elsewhere/scheduler.json").exists)
    address = json.loads(Path("elsewhere/scheduler.json").read_text("utf-8"))["address"]
    yield SimpleNamespace(
        address=address, process=running[0], worker=lambda *arguments: start("dask_worker", *arguments, *settings)
    )
    for process in reversed(running):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def cluster(scheduler):
    """A worker that is not replaced when it dies, and one that is; gives the first."""
    mortal = scheduler.worker("--no-nanny")
    scheduler.worker("--nanny")
    return mortal


@pytest.fixture
def batch(scheduler):
    """Start the batch on the scheduler; its stderr is a pipe."""
    command = [sys.executable, "-m", "imgalign", "batch", "pairs.csv", *QUICK]
    running = []

    def start():
        running.append(
            subprocess.Popen(
                [*command, "--engine", "dask", "--scheduler", scheduler.address],
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_until(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)


def test_workers_that_die_cost_at_most_the_pair_that_kills_them(pairs, cluster, batch):  # noqa: F811
    count = pairs(24)
    process = batch()
    wait_for(3, process)
    cluster.kill()
    status, stderr = finished(process)
    assert status == 1, stderr
    found = lines()
    assert sorted(line["id"] for line in found) == [f"p{number:03}" for number in range(count)]
    failures = {line["id"]: line["error"] for line in found if line["verdict"] == "failed"}
    assert list(failures) == ["p013"]
    assert "were killed 2 times" in failures["p013"]
    assert all((OUT / line["output"]).is_file() for line in found if line["verdict"] != "failed")
    assert found[0]["fixed"] == "in/fixed.png"  # as the manifest names it, not as the worker does
    assert not (OUT / ".imgalign-attempts").exists()


def test_no_workers_is_said_and_waited_for(pairs, scheduler, batch):  # noqa: F811
    pairs(3)
    waiting = f"no workers at {scheduler.address}; waiting, Ctrl-C stops\n"
    process = batch()
    assert process.stderr.readline() == waiting
    process.send_signal(signal.SIGINT)
    status, stderr = finished(process)
    assert status == 130, stderr
    assert f"still to do   {3:>8}" in stderr
    process = batch()
    assert "going on where it was" in process.stderr.readline()
    assert process.stderr.readline() == waiting
    scheduler.worker("--no-nanny")
    status, stderr = finished(process)
    assert (status, len(lines())) == (0, 3), stderr


def test_scheduler_that_dies_fails_no_pair(pairs, scheduler, batch):  # noqa: F811
    pairs(3)
    process = batch()
    process.stderr.readline()
    scheduler.process.kill()
    status, stderr = finished(process)
    gone = f"Error: the Dask scheduler at {scheduler.address} is gone; the same command goes on from here\n"
    assert (status, stderr, lines()) == (1, gone, [])


def test_no_scheduler_is_one_clear_line(pairs, workdir, process):  # noqa: F811
    pairs(2)
    result = process("batch", "pairs.csv", *QUICK, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert result.returncode == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr
