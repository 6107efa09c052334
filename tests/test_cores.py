import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from imgalign import align, cores
from imgalign.cores import Cores, watched


@pytest.fixture
def machine(monkeypatch):
    """A clock, the time that threads have run, how often a core was taken away, and PyTorch's number of threads."""
    now = SimpleNamespace(clock=100.0, used=0.0, taken=0, threads=2)
    monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: now.clock, process_time=lambda: now.used))
    monkeypatch.setattr(cores, "_taken", lambda: now.taken)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(now, "threads", count))
    monkeypatch.setattr(Cores, "_busy_until", 0.0)
    monkeypatch.setattr(Cores, "_fresh", False)
    return now


def work(machine, *, seconds=0.05, missed=0.0, taken=0):
    """So long a time, in which a share of a core's time was missed."""
    machine.clock += seconds
    machine.used += (machine.threads - missed) * seconds
    machine.taken += taken


@pytest.mark.parametrize(("threads", "left"), [(2, 1), (3, 1), (8, 8), (1, 1)])
def test_threads_are_set_aside_while_others_take_the_cores(machine, threads, left):
    """Only where answers do not depend on their number."""
    machine.threads = threads
    with watched() as seen:
        work(machine, missed=0.5, taken=9)
        seen.check()
        assert machine.threads == left
    assert machine.threads == threads


@pytest.mark.parametrize(
    ("missed", "taken"),
    [(0.0, 9), (0.9, 0), (0.0, 0)],
    ids=["cores are handed back at once", "threads sleep by themselves", "an idle machine"],
)
def test_threads_stay_where_nobody_keeps_them_waiting(machine, missed, taken):
    with watched() as seen:
        work(machine, missed=missed, taken=taken)
        seen.check()
        assert machine.threads == 2


def test_who_waits_for_memory_keeps_its_threads(machine):
    with watched() as seen:
        work(machine, seconds=0.25, missed=0.9, taken=20)
        seen.check()
        assert machine.threads == 2
        work(machine, seconds=0.05, missed=0.9, taken=30)
        seen.check()
        assert machine.threads == 1


def test_the_first_alignment_of_a_process_tells_nothing(machine, monkeypatch):
    monkeypatch.setattr(Cores, "_fresh", True)
    for left in (2, 1):
        with watched() as seen:
            work(machine, missed=0.9, taken=30)
            seen.check()
            assert machine.threads == left


def test_what_a_few_milliseconds_say_is_not_believed(machine):
    with watched() as seen:
        work(machine, seconds=0.01, missed=0.9, taken=9)
        seen.check()
        assert machine.threads == 2


def test_the_next_begins_with_one_and_a_later_one_tries_all_again(machine):
    with watched() as seen:
        work(machine, missed=0.5, taken=9)
        seen.check()
    with watched():
        assert machine.threads == 1
    machine.clock += 10
    with watched():
        assert machine.threads == 2


def test_what_begins_on_one_thread_does_not_leave_the_others_on_one(machine):
    """Alignments in threads of one program share PyTorch's number."""
    with watched() as first:
        work(machine, missed=0.5, taken=9)
        first.check()
        second = watched()
        second.__enter__()
    assert machine.threads == 2
    second.__exit__(None, None, None)
    assert machine.threads == 2


def test_threads_are_back_after_an_error(machine):
    def fail():
        with watched() as seen:
            work(machine, missed=0.5, taken=9)
            seen.check()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert machine.threads == 2


@pytest.mark.skipif(os.cpu_count() == 1, reason="a single core")
def test_an_alignment_looks_and_leaves_the_number_as_it_was(monkeypatch):
    taken = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr(cores, "_taken", lambda: next(taken))
    monkeypatch.setattr(cores, "_MISSED", -99.0)
    monkeypatch.setattr(cores, "_LEAST_S", 0.0)
    monkeypatch.setattr(Cores, "_busy_until", 0.0)
    monkeypatch.setattr(Cores, "_fresh", False)
    asked, own = [], torch.get_num_threads()
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: asked.append(count) or set_threads(count))
    try:
        align(np.random.default_rng(0).random((64, 64)), np.random.default_rng(1).random((64, 64)), threads=2)
        assert asked == [2, 1, 2, own]
    finally:
        set_threads(own)
