"""Fewer threads where the cores are busy with something else.

PyTorch's threads meet at the end of every operation. Where another process holds one of the cores, each meeting waits
until the system hands that core over: milliseconds for operations of microseconds, and an alignment on two threads
takes several times as long as on one.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    import resource
except ImportError:  # Windows does not tell how often it takes a core away
    resource = None  # type: ignore[assignment]

_SAME_BITS = 3  # threads up to which an answer does not depend on how many there are
_FEW = 4  # times a core is taken away: so often that happens on an idle machine as well, and
_RATE_HZ = 120.0  # as often as this: where pictures are larger than those before it waits for memory as well
_MISSED = 0.25  # of a core's time: threads that have their cores to themselves wait for each other without leaving them
_LEAST_S = 0.02  # clocks tell less in steps
_WAIT_S = 2.0  # after which all threads are tried again


class Cores:
    """Sets all threads but one aside while the cores are busy."""

    _busy_until = 0.0  # of all: what one has seen of the machine the next need not find out
    _fresh = True  # a process's first alignment waits for its code: that tells nothing of the machine

    def __init__(self) -> None:
        self._threads, self._aside, self._learning = torch.get_num_threads(), False, Cores._fresh
        self._began, self._used, self._taken = time.monotonic(), time.process_time(), _taken()
        if self._began < Cores._busy_until:
            self._set_aside()

    def check(self) -> None:
        """Look how busy the cores are; to be called every now and then."""
        threads, seconds = torch.get_num_threads(), time.monotonic() - self._began
        if threads == 1 or seconds < _LEAST_S or self._learning:
            return
        missed = threads * seconds - (time.process_time() - self._used)
        if _taken() - self._taken > max(_FEW, _RATE_HZ * seconds) and missed > _MISSED * seconds:
            Cores._busy_until = time.monotonic() + _WAIT_S
            self._set_aside()

    def give_back(self) -> None:
        """Take all threads again, if it was here that they were set aside."""
        Cores._fresh = False
        if self._aside:
            torch.set_num_threads(self._threads)

    def _set_aside(self) -> None:
        if 1 < self._threads <= _SAME_BITS:
            self._aside = True
            torch.set_num_threads(1)


@contextmanager
def watched() -> Iterator[Cores]:
    """Cores to `Cores.check` every now and then; all threads are back at the end."""
    cores = Cores()
    try:
        yield cores
    finally:
        cores.give_back()


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """So many threads for PyTorch, no more than there are cores, and what there were before at the end; None for those.

    More than there are cores wait for each other: 1,024 on one core did not end two seconds' work in minutes.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(min(threads, os.cpu_count() or threads))
    try:
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _taken() -> int:
    """How often the system took a core away from this process."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
