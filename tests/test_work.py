"""One pair of a batch: what is decoded ahead is taken, once."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import render, shift
from PIL import Image

from imgalign.files import images
from imgalign.files.outputs import Job
from imgalign.jobs.laying import WriteOptions
from imgalign.jobs.work import Bench, Found, Task
from imgalign.wanted import AlignOptions


@pytest.fixture
def task(workdir, fake_align):
    """Make the task of a moving picture, a.png to d.png, and a fixed one, f.png or g.png."""
    for name in "fgabcd":
        Image.fromarray(render((24, 32), shift(ord(name), 0))).save(f"{name}.png")

    def make(moving, fixed="f"):
        job = Job(f"{fixed}.png", f"{moving}.png", params=Path(f"{moving}.json"))
        return Task(moving, job, AlignOptions(), WriteOptions(overwrite=True), "", Path())

    return make


@pytest.fixture
def reads(monkeypatch):
    """Names of the pictures that were read; f.png waits for `reads.go`."""

    class Reads(list):
        go = threading.Event()

    found, read = Reads(), images.read

    def slow(name, **options):
        found.append(name)
        if name == "f.png":
            found.go.wait(60)
        return read(name, **options)

    monkeypatch.setattr(images, "read", slow)
    yield found
    found.go.set()


def test_fixed_that_is_just_being_taken_is_not_read_again(task, reads):
    """`expect` runs in a thread of its own, in the middle of `find`."""
    bench, first, second = Bench(), task("a"), task("b")
    bench.expect(first)
    finding = threading.Thread(target=bench.find, args=(first,))
    finding.start()
    reader = bench._reader(first)
    while "f.png" in reader._begun:
        time.sleep(0.001)
    bench.expect(second)
    reads.go.set()
    finding.join()
    assert isinstance(bench.find(second), Found)
    assert reads.count("f.png") == 1
    assert not reader._begun


def test_nothing_stays_decoded_after_a_pair_that_ended_early(task, reads):
    reads.go.set()
    bench = Bench()
    in_the_way = replace(task("b", "g"), writing=WriteOptions())
    in_the_way.job.params.touch()
    for each in (task("a"), in_the_way, task("c"), task("d", "g")):
        bench.expect(each)
        bench.find(each)
    assert not bench._reader(in_the_way)._begun
