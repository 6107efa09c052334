"""The local engine: one process a core, each with its share of PyTorch's threads.

A process decodes the next pair and writes the last one while it aligns. One that dies (killed for memory, crashed)
is replaced; the pairs it held are done again, each alone, so that it shows which of them kills: that one has failed.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from imgalign.jobs.work import Bench, Found, Result, Task, failed

_HELD = 3  # pairs a process holds: one decoded ahead, one aligned, one written
_STRIKES = 2  # a pair whose process dies that often has failed
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerDiedError(Exception):
    """A process ended under a pair."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class _Worker:
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    held: dict[int, Task] = field(default_factory=dict)
    alone: bool = False
    """Its one pair was there when a process died."""


class LocalPool:
    """Processes on this machine.

    Args:
        workers: How many; one a core by default.
        threads: Cores to use in all, which the processes share; every core by default.
    """

    def __init__(self, *, workers: int | None = None, threads: int | None = None) -> None:
        total = min(threads or cores(), cores())  # more would wait for each other
        self._count = workers or total
        self._threads = max(1, total // self._count)
        self._context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
        self._workers: list[_Worker] = []
        self._tasks: dict[int, Task] = {}
        self._strikes: dict[int, int] = {}
        self._suspects: deque[int] = deque()
        self._done: list[tuple[Task, Result]] = []
        self._next = 0
        self.lost_workers = False
        """A process has died."""
        self.stalled = ""
        """Processes are always there."""

    @property
    def working(self) -> int:
        """Tasks that were taken and have not ended."""
        return len(self._tasks) + len(self._done)

    def has_room(self) -> bool:
        """True where a process can begin to decode one more pair."""
        return not self._suspects and (len(self._workers) < self._count or self._free() is not None)

    def submit(self, task: Task) -> None:
        """Give a task to the process that holds fewest; start one while there are fewer than wanted."""
        worker = self._free()
        if len(self._workers) < self._count and (worker is None or worker.held):
            worker = self._start()
        assert worker is not None, "asked without room"
        number, self._next = self._next, self._next + 1
        self._tasks[number] = task
        self._hand(worker, number)

    def wait(self, seconds: float) -> list[tuple[Task, Result]]:
        """What has ended, after at most some seconds."""
        if not self._done:
            pipes = {worker.pipe: worker for worker in self._workers}
            for pipe in wait(list(pipes), timeout=seconds):
                self._hear(pipes[pipe])  # type: ignore[index]  # (what comes back is what was put in)
        self._try_suspects()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """End the processes; what is still in work is lost, and no file is half written."""
        for worker in self._workers:
            worker.pipe.close()  # which a process takes as its end
        until = time.monotonic() + 2
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _free(self) -> _Worker | None:
        room = [worker for worker in self._workers if not worker.alone and len(worker.held) < _HELD]
        return min(room, key=lambda worker: len(worker.held), default=None)

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._threads), name="imgalign-worker", daemon=True)  # type: ignore[attr-defined]
        with _prepared(self._context, self._threads):
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _hand(self, worker: _Worker, number: int) -> None:
        worker.held[number] = self._tasks[number]
        with suppress(OSError):  # it has died; its end is heard of at the next wait
            worker.pipe.send((number, self._tasks[number]))

    def _hear(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                number, result = worker.pipe.recv()
                worker.held.pop(number)
                self._end(number, result)
            worker.alone = worker.alone and bool(worker.held)
        except (EOFError, OSError):
            self._bury(worker)

    def _end(self, number: int, result: Result) -> None:
        self._strikes.pop(number, None)
        self._done.append((self._tasks.pop(number), result))

    def _bury(self, worker: _Worker) -> None:
        """A process has died: its pairs come under suspicion, or one of them is found out."""
        self.lost_workers = True
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        for number in worker.held:
            self._strikes[number] = self._strikes.get(number, 0) + 1
            if self._strikes[number] < _STRIKES:
                self._suspects.append(number)
                continue
            task = self._tasks[number]
            error = WorkerDiedError(_epitaph(task, worker.process.exitcode))
            result = failed(task, error)
            self._end(number, Result(result.line | {"error": str(error), "trace": None}))

    def _try_suspects(self) -> None:
        """Give each suspect a process of its own, as soon as one is idle."""
        while self._suspects:
            worker = next((worker for worker in self._workers if not worker.held), None)
            if worker is None and len(self._workers) < self._count:
                worker = self._start()
            if worker is None:
                return
            worker.alone = True
            self._hand(worker, self._suspects.popleft())


def _epitaph(task: Task, code: int | None) -> str:
    why = f"exit status {code}"
    if code is not None and code < 0:
        why = f"signal {-code}, {signal.Signals(-code).name}" + (
            "; most likely there was not enough memory" if code == -signal.SIGKILL else ""
        )
    return f"{task.job.moving}: the process that worked on it was killed {_STRIKES} times ({why})"


@contextmanager
def _prepared(context: Any, threads: int) -> Iterator[None]:
    """What processes inherit: a deaf ear for Ctrl-C, which the terminal sends to all, and BLAS with few threads.

    A fork server imports PyTorch once, so that a process more costs a few milliseconds.
    """
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["__main__", "imgalign.align", "imgalign.warp.resample", "imgalign.jobs.work"])
    before = {name: os.environ.get(name) for name in _BLAS}
    os.environ.update(dict.fromkeys(_BLAS, str(threads)))
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _serve(pipe: "Connection[Any, Any]", threads: int) -> None:
    """The life of a process: take tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    bench, tasks = Bench(threads=threads), SimpleQueue[tuple[int, Task]]()
    threading.Thread(target=_listen, args=(pipe, bench, tasks), daemon=True).start()
    last: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        while True:
            number, task = tasks.get()
            found = bench.find(task)
            if last is not None:
                last.result()  # one written at a time, or pictures would pile up
            last = writer.submit(_finish, pipe, bench, number, task, found)


def _listen(pipe: "Connection[Any, Any]", bench: Bench, tasks: "SimpleQueue[tuple[int, Task]]") -> None:
    """Take tasks as they come, and begin to decode. A closed pipe means that nobody waits for results any more."""
    while True:
        try:
            number, task = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        bench.expect(task)
        tasks.put((number, task))


def _finish(pipe: "Connection[Any, Any]", bench: Bench, number: int, task: Task, found: Found | Result) -> None:
    result = bench.finish(task, found)
    try:
        pipe.send((number, result))
    except OSError:
        os._exit(0)
