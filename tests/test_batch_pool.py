"""The local pool with real processes: a pair that kills its process costs itself and nothing else."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import render, shift
from PIL import Image

from imgalign.files.outputs import Job
from imgalign.jobs.laying import WriteOptions
from imgalign.jobs.pool import LocalPool
from imgalign.jobs.work import Task
from imgalign.wanted import AlignOptions


@dataclass(frozen=True)
class Deadly(Task):
    """A pair that ends its process as the kernel does when memory runs out."""

    def __reduce__(self):
        return _arrived, (os.getpid(), *(getattr(self, name) for name in self.__dataclass_fields__))


def _arrived(sender, *fields):
    if os.getpid() != sender:
        os.kill(os.getpid(), signal.SIGKILL)
    return Deadly(*fields)


@pytest.fixture
def job(workdir):
    Image.fromarray(render((32, 48))).save("fixed.png")
    Image.fromarray(render((32, 48), shift(-1, 0.5))).save("moving.png")

    def make(name, kind=Task):
        files = Job("fixed.png", "moving.png", image=Path(f"{name}.png"), params=Path(f"{name}.json"))
        finding = AlignOptions(model="translate", init="identity", trust=0)
        # As the batch hands them out: a pair whose process died may have left its files before it was done again.
        return kind(name, files, finding, WriteOptions(overwrite=True), "", Path())

    return make


def test_pair_that_kills_its_process_fails_alone(job):
    tasks = [job(str(number), Deadly if number == 3 else Task) for number in range(8)]
    done, waiting = {}, tasks.copy()
    pool = LocalPool(workers=2, threads=2)
    try:
        while waiting or pool.working:
            while waiting and pool.has_room():
                pool.submit(waiting.pop(0))
            for task, result in pool.wait(1.0):
                assert task.id not in done
                done[task.id] = result.line
    finally:
        pool.close()
    assert sorted(done) == [str(number) for number in range(8)]
    failed = {name: line["error"] for name, line in done.items() if line["verdict"] == "failed"}
    assert list(failed) == ["3"], failed
    assert "killed 2 times (signal 9, SIGKILL; most likely there was not enough memory)" in done["3"]["error"]
    assert pool.lost_workers
    assert len({line["worker"] for line in done.values()}) > 2  # the dead were replaced


@pytest.mark.parametrize(
    ("workers", "threads", "each"), [(None, 4, 1), (2, 4, 2), (8, 4, 1), (1, 6, 6), (1, 100_000, 8), (2, None, 4)]
)
def test_threads_are_shared_and_never_too_many(workers, threads, each, monkeypatch):
    monkeypatch.setattr("imgalign.jobs.pool.cores", lambda: 8)
    pool = LocalPool(workers=workers, threads=threads)
    assert pool._threads == each
    pool.close()
