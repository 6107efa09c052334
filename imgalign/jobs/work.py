"""One pair of a batch, wherever it is worked on: in a process of this machine or on a Dask worker.

A task carries paths and options and no pixels; what comes back is the pair's line of `results.jsonl`.
"""

import errno
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imgalign.alignment import Alignment, load
from imgalign.errors import DeviceError, ImgalignError, OptionError, WriteError
from imgalign.files import images
from imgalign.files.outputs import Job
from imgalign.files.paths import advice, settle, sha256_of, shown
from imgalign.files.picture import Picture
from imgalign.files.reading import FileReader, weights
from imgalign.jobs.laying import WriteOptions, naming
from imgalign.jobs.outcome import Outcome, check_writable, write_result
from imgalign.jobs.pairs import align_pictures
from imgalign.wanted import STARTS, AlignOptions

_FULL = {errno.ENOSPC, errno.EDQUOT}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Task:
    """One pair to be done."""

    id: str
    job: Job
    finding: AlignOptions
    writing: WriteOptions
    options_hash: str
    folder: Path
    """The output folder: names in the record are relative to it."""
    max_pixels: int = images.MAX_PIXELS
    foreign: frozenset[str] = frozenset()
    """Files under its names that were there before and are not its own, as the record names them."""

    @property
    def names(self) -> dict[str, Any]:
        """Every file that is written, as the record names it."""
        job = self.job
        image, params, *maps = (
            None if path is None else _within(path, self.folder)
            for path in (job.image, job.params, job.fixed_gradmap, job.aligned_gradmap)
        )
        return {"output": image, "params": params, "gradmaps": [name for name in maps if name is not None]}

    @property
    def there(self) -> dict[str, Path]:
        """Files that lie under its names, by what the record calls them."""
        # `os.path` says no where a folder may not be entered, and the work itself says why; pathlib raises.
        return {_within(path, self.folder): path for path in self.job.outputs if os.path.exists(path)}  # noqa: PTH110

    @property
    def inputs(self) -> dict[str, str]:
        """Every file that is read, by its role."""
        return {"fixed": str(self.job.fixed), "moving": self.job.moving, **self.finding.files}


@dataclass(frozen=True)
class Result:
    """A task's line, and what it means for the rest of the batch."""

    line: dict[str, Any]
    fatal: str = ""
    """Why no other pair would fare better: the disk is full, there is no such device."""
    usage: bool = False
    """It is the options that cannot work."""


@dataclass(frozen=True)
class Found:
    """A pair between alignment and writing."""

    alignment: Alignment
    fixed: Picture
    moving: Picture
    seconds: Mapping[str, float]


class Bench:
    """Works on tasks; pictures are decoded ahead, and what many pairs share is read once.

    Args:
        threads: For PyTorch; None leaves them as they are.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        self._threads = threads
        self._readers: dict[int, FileReader] = {}
        self._kept: dict[str, tuple[tuple[Any, ...], Any]] = {}
        self._expected_fixed = ""

    def expect(self, task: Task) -> None:
        """Begin to decode the pictures of a task; tasks come in the order in which they are expected.

        May run beside `find`. What that has kept is not looked at: it may be about to change.
        """
        reader = self._reader(task)
        reader.begin(task.job.moving)
        fixed = str(task.job.fixed)
        if fixed != self._expected_fixed:
            reader.begin(fixed)
        self._expected_fixed = fixed

    def do(self, task: Task) -> Result:
        """Everything, one stage after the other."""
        return self.finish(task, self.find(task))

    def find(self, task: Task) -> Found | Result:
        """Decode and align; what went wrong is already the result."""
        try:
            check_writable(task.job, overwrite=task.writing.overwrite)
            return self._found(task)
        except Exception as error:  # noqa: BLE001  (the other pairs must still be done; a bug keeps its traceback)
            self._forget(task)
            return failed(task, error)

    def finish(self, task: Task, found: Found | Result) -> Result:
        """Lay, write, and wait until the files are on the disk."""
        if isinstance(found, Result):
            return found
        try:
            _make_folders(task.job)
            outcome = write_result(
                task.job, found.alignment, found.fixed, found.moving, task.writing, seconds=found.seconds
            )
            # The line that speaks of files must not be on the disk before them and their names.
            settle([*outcome.written, *sorted({path.parent for path in outcome.written})])
            others = {role: content_of(name) for role, name in task.finding.files.items()}
            inputs = {"fixed": _known(found.fixed), "moving": _known(found.moving), **others}
            return Result(_line(task, outcome, inputs))
        except Exception as error:  # noqa: BLE001  (as above)
            return failed(task, error)

    def _found(self, task: Task) -> Found:
        reader, finding = self._reader(task), task.finding
        fixed, fixed_seconds = self._once("fixed", str(task.job.fixed), reader.take)
        start: str | Alignment = finding.init
        if finding.init not in STARTS:
            start, _ = self._once("init", finding.init, lambda name: (load(name), 0.0))
        masks = {
            role: None if path is None else self._once(role, str(path), lambda name: (_weights(reader, name), 0.0))[0]
            for role, path in (("mask", finding.mask), ("moving_mask", finding.moving_mask))
        }
        moving, moving_seconds = reader.take(task.job.moving)
        with naming(moving):
            alignment = align_pictures(
                fixed, moving, replace(finding, threads=self._threads or finding.threads), start=start, **masks
            )
        return Found(alignment, fixed, moving, {"read": fixed_seconds + moving_seconds})

    def _once(self, role: str, name: str, make: Callable[[str], tuple[_T, float]]) -> tuple[_T, float]:
        """What a file holds, and the seconds that took: the last one of each role is kept while its file stays."""
        file = images.file_and_page(name)[0]
        try:
            info = file.stat()
            key: tuple[Any, ...] = (name, info.st_mtime_ns, info.st_size, info.st_ino)
        except OSError:
            key = (name,)
        kept = self._kept.get(role)
        if kept is not None and kept[0] == key:
            return kept[1], 0.0
        self._kept.pop(role, None)  # not two large pictures at once
        value, seconds = make(name)
        self._kept[role] = (key, value)
        return value, seconds

    def _reader(self, task: Task) -> FileReader:
        if task.max_pixels not in self._readers:
            self._readers[task.max_pixels] = FileReader(max_pixels=task.max_pixels)
        return self._readers[task.max_pixels]

    def _forget(self, task: Task) -> None:
        """Let go of what was decoded ahead for a task that ended early, and of a FIXED before its own."""
        fixed = str(task.job.fixed)
        for name in (task.job.moving, fixed):
            self._reader(task).drop(name)
        kept = self._kept.get("fixed")
        if kept is not None and kept[0][0] != fixed:
            del self._kept["fixed"]  # or the one that `expect` begins after this would never be taken


def failed(task: Task, error: BaseException) -> Result:
    """The line of a pair that came to nothing."""
    full = any(isinstance(cause, OSError) and cause.errno in _FULL for cause in _causes(error))
    if isinstance(error, ImgalignError):
        message, trace = str(error), None
    elif isinstance(error, MemoryError):
        message, trace = f"{task.job.moving}: not enough memory for pictures of this size", None
    else:
        message = f"{task.job.moving}: internal error, please report it with the trace: {error!r}"
        trace = "".join(traceback.format_exception(error))
    written = [name for name in task.there if name not in task.foreign]  # by an earlier run, or before it went wrong
    line = _head(task) | {"verdict": "failed", "error": message, "written": written} | _tail(task, contents(task))
    if trace is not None:
        line["trace"] = trace
    usage = isinstance(error, OptionError | DeviceError)
    return Result(line, fatal=message if usage or full else "", usage=isinstance(error, OptionError))


def contents(task: Task) -> dict[str, str | None]:
    """Fingerprints of every input as it is now; None for what cannot be read."""
    return {role: content_of(name) for role, name in task.inputs.items()}


def content_of(name: str) -> str | None:
    """SHA-256 of a file's bytes, with the page where one is named; None where it cannot be read."""
    file, page = images.file_and_page(name)
    try:
        if not file.is_file():
            return None
        found = sha256_of(file)
    except OSError:
        return None
    return found if page is None else f"{found}[{page}]"


def _make_folders(job: Job) -> None:
    for folder in sorted({path.parent for path in job.outputs}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # noqa: PERF203  (one or two folders)
            raise WriteError(f"{shown(folder)}: the folder cannot be made: {advice(error)}") from error


def _within(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _weights(reader: FileReader, name: str) -> NDArray[np.float32]:
    return weights(reader.take(name)[0])


def _known(picture: Picture) -> str:
    return picture.sha256 if picture.page is None else f"{picture.sha256}[{picture.page}]"


def _head(task: Task) -> dict[str, Any]:
    job = task.job
    return {
        "id": task.id,
        "fixed": job.fixed,
        "moving": job.moving,
        "model": task.finding.model,
        **task.names,
    }


def _tail(task: Task, inputs: Mapping[str, str | None]) -> dict[str, Any]:
    from imgalign import __version__

    return {
        "inputs": dict(inputs),
        "options_hash": task.options_hash,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "imgalign": __version__,
    }


def _line(task: Task, outcome: Outcome, inputs: Mapping[str, str | None]) -> dict[str, Any]:
    record = outcome.record
    wanted = ("status", "probability", "reasons", "moving_from_fixed", "shift_px", "rotation_deg", "scale", "seconds")
    return {
        **_head(task),
        "verdict": "trusted" if record["trusted"] else "untrusted",
        **{name: record[name] for name in wanted},
        "corner_sigma_px": record["uncertainty"]["corner_sigma_px"],
        "notes": list(outcome.notes),
        "written": [_within(path, task.folder) for path in outcome.written],
        "error": None,
        **_tail(task, inputs),
    }


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
