"""The batch on a Dask cluster: tasks carry paths and options, workers read and write shared storage themselves.

Dask moves a task whose worker died to another one. Each start leaves a mark in the output folder, so that a pair which
kills its worker twice is recorded as failed, whatever the cluster itself would allow.
"""

import logging
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from imgalign.errors import ImgalignError, OptionError
from imgalign.files.outputs import Job
from imgalign.jobs.ledger import digest
from imgalign.jobs.work import Bench, Result, Task, failed
from imgalign.wanted import STARTS

MARKS = ".imgalign-attempts"
_STRIKES = 2
_CONNECT_S = 10
_QUEUE = 2  # tasks a thread of the cluster: one in work, one waiting
_COUNT_AGAIN_S = 5.0  # workers come and go
_benches = threading.local()


class DaskEngine:
    """Work on a Dask cluster that runs already.

    Args:
        address: Of its scheduler, `tcp://host:8786`.
        threads: For PyTorch, for each task; 1 by default, for clusters run one worker a core.

    Raises:
        OptionError: If Dask is not installed.
        ImgalignError: If nothing answers there.
    """

    def __init__(self, address: str, *, threads: int | None = None) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise OptionError("--engine dask needs Dask; pip install 'imgalign[dask]'") from None
        for name in ("distributed", "distributed.client"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters comes as results
        try:
            connect: Any = Client  # it has no annotations
            self._client: Any = connect(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ImgalignError(
                f"no Dask scheduler answers at {address} ({error}); start one with: dask scheduler"
            ) from None
        self._address = address
        self._threads = threads or 1
        self._tasks: dict[int, tuple[Task, Any]] = {}
        self._ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._next = 0
        self._slots, self._counted = 0, 0.0
        self._marks: set[Path] = set()
        self.lost_workers = True
        """Nobody says so if they have not."""

    @property
    def working(self) -> int:
        """Tasks that were taken and have not ended."""
        return len(self._tasks)

    @property
    def stalled(self) -> str:
        """That there are no workers, where there are none."""
        return "" if self._count() else f"no workers at {self._address}"

    def has_room(self) -> bool:
        """True where a thread of the cluster would soon be free; some tasks for a cluster that grows by them."""
        return len(self._tasks) < _QUEUE * max(self._count(), 1)

    def submit(self, task: Task) -> None:
        """Send a task; names become absolute, for workers have another working folder."""
        there = _absolute(task)
        marks = there.folder / MARKS
        if marks not in self._marks:
            shutil.rmtree(marks, ignore_errors=True)  # of a batch that was killed
            marks.mkdir()
            self._marks.add(marks)
        number, self._next = self._next, self._next + 1
        future = self._client.submit(_work, there, self._threads, pure=False, key=f"imgalign-{os.getpid()}-{number}")
        self._tasks[number] = task, future
        future.add_done_callback(lambda done: self._ended.put((number, done)))

    def wait(self, seconds: float) -> list[tuple[Task, Result]]:
        """What has ended, after at most some seconds.

        Raises:
            ImgalignError: If the scheduler is gone.
        """
        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except Empty:
            pass
        if self._client.status not in {"running", "connecting"}:
            raise self._gone()
        return [self._taken(number, future) for number, future in ended]

    def close(self) -> None:
        """Leave the cluster; tasks that have not begun are withdrawn."""
        self._client.cancel([future for _, future in self._tasks.values()], force=True)
        self._client.close(timeout=5)
        for marks in self._marks:
            shutil.rmtree(marks, ignore_errors=True)

    def _count(self) -> int:
        """Threads of the cluster, which come and go."""
        if not self._slots or time.monotonic() - self._counted > _COUNT_AGAIN_S:
            try:
                threads = self._client.nthreads()
            except OSError:
                raise self._gone() from None
            self._slots, self._counted = sum(threads.values()), time.monotonic()
        return self._slots

    def _gone(self) -> ImgalignError:
        return ImgalignError(f"the Dask scheduler at {self._address} is gone; the same command goes on from here")

    def _taken(self, number: int, future: Any) -> tuple[Task, Result]:
        if future.status == "cancelled" and self._client.status != "running":
            raise self._gone()  # which is no failure of the pair
        task, _ = self._tasks.pop(number)
        if future.status == "finished":
            result: Result = future.result()
            line = result.line | {"fixed": task.job.fixed, "moving": task.job.moving}  # as the manifest names them
            return task, replace(result, line=line)
        error = future.exception() if future.status == "error" else ImgalignError("Dask withdrew the task")
        if type(error).__name__ == "KilledWorker":
            error = ImgalignError(_epitaph(task))
        return task, failed(task, error)


def _work(task: Task, threads: int) -> Result:
    """Do a task on a worker of the cluster."""
    mark = task.folder / MARKS / digest(task.id).hex()
    if _mark(mark) > _STRIKES:
        return failed(task, ImgalignError(_epitaph(task)))
    if not hasattr(_benches, "bench"):
        import torch

        torch.set_num_threads(threads)
        _benches.bench = Bench(threads=threads)
    result: Result = _benches.bench.do(task)
    mark.unlink(missing_ok=True)
    return result


def _mark(path: Path) -> int:
    """Count a start where it survives the worker."""
    try:
        with path.open("ab") as file:
            file.write(b".")
            return file.tell()
    except OSError:  # the folder is gone (the batch has ended), or full: the work itself will say so
        return 1


def _epitaph(task: Task) -> str:
    return f"{task.job.moving}: the workers that took it were killed {_STRIKES} times; most likely out of memory"


def _absolute(task: Task) -> Task:
    def path(name: Path | None) -> Path | None:
        return None if name is None else name.absolute()

    def text(name: str) -> str:  # FILE[page] is no path, but its beginning is
        return str(Path(name).absolute())

    job, finding = task.job, task.finding
    return replace(
        task,
        folder=task.folder.absolute(),
        job=Job(
            fixed=text(str(job.fixed)),
            moving=text(job.moving),
            image=path(job.image),
            params=path(job.params),
            fixed_gradmap=path(job.fixed_gradmap),
            aligned_gradmap=path(job.aligned_gradmap),
        ),
        finding=replace(
            finding,
            mask=path(finding.mask),
            moving_mask=path(finding.moving_mask),
            init=finding.init if finding.init in STARTS else text(finding.init),
        ),
    )
