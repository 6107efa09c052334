"""Many pairs: one failure never stops the rest, and a batch that was cut off goes on where it was.

    manifest -> names, checked -> what is still to be done -> engine (processes here, or Dask) -> results.jsonl

Nothing here prints; what happens is told to an `Observer`.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from imgalign.errors import OptionError, WriteError
from imgalign.files.paths import is_file, shown, sweep
from imgalign.jobs import layout as names
from imgalign.jobs.laying import WriteOptions
from imgalign.jobs.layout import Layout
from imgalign.jobs.ledger import Known, Ledger, Verdict, names_digest, work_digest
from imgalign.jobs.manifest import Entry
from imgalign.jobs.work import Result, Task, contents, failed
from imgalign.wanted import STARTS, AlignOptions

Retry = Literal["untrusted", "failed", "none"]
_AHEAD = 32  # pairs whose inputs are hashed ahead of their turn on resume: reading them is most of the work
_NO_MATTER = {"threads", "device", "mask", "moving_mask", "init"}  # files count by their content, the rest not at all


class Engine(Protocol):
    """Works on tasks somewhere; the queue is short."""

    def has_room(self) -> bool:
        """True where one more task would not have to wait long."""

    def submit(self, task: Task) -> None:
        """Take a task."""

    def wait(self, seconds: float) -> list[tuple[Task, Result]]:
        """What has ended, after at most some seconds."""

    @property
    def working(self) -> int:
        """Tasks that were taken and have not ended."""

    @property
    def stalled(self) -> str:
        """Why nobody works on them, which may yet change; empty where somebody does."""

    @property
    def lost_workers(self) -> bool:
        """True where a worker may have died, and left an unfinished file."""

    def close(self) -> None:
        """End the workers; what is still in work is lost."""


class Pairs(Protocol):
    """Pairs that can be gone through again and again."""

    @property
    def note(self) -> str:
        """What people should know about them once they were gone through, if anything."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that they come from, beside the pictures."""

    def __iter__(self) -> Iterator[Entry]: ...


class Observer(Protocol):
    """Is told what happens, and says when to stop."""

    def planned(self, total: int, notes: tuple[str, ...]) -> None:
        """All names are checked."""

    def ended(self, line: dict[str, Any]) -> None:
        """A pair has ended, and its line is on the disk."""

    def skipped(self, verdict: Verdict) -> None:
        """A pair was done before."""

    def waiting(self, why: str) -> None:
        """Nobody works; told again and again while it is so."""

    def stopping(self) -> bool:
        """True where no further pair shall be begun."""


@dataclass
class Tally:
    """What became of a manifest."""

    total: int = 0
    ended: Counter[Verdict] = field(default_factory=Counter)
    """In this run."""
    before: Counter[Verdict] = field(default_factory=Counter)
    """In runs before it."""
    stopped: str = ""
    """Why pairs are left, if not because somebody stopped it."""

    @property
    def verdicts(self) -> Counter[Verdict]:
        """Of all runs."""
        return self.ended + self.before

    @property
    def left(self) -> int:
        """Pairs that are still to be done."""
        return self.total - self.verdicts.total()


@dataclass(frozen=True)
class Settings:
    """Everything that says how a batch is done."""

    layout: Layout
    finding: AlignOptions
    writing: WriteOptions
    max_pixels: int
    retry: Retry = "failed"

    def task(self, entry: Entry) -> Task:
        """What is to be done for an entry that has its id."""
        given: dict[str, Any] = {
            "model": entry.model,
            "init": entry.init,
            "mask": None if entry.mask is None else Path(entry.mask),
            "moving_mask": None if entry.moving_mask is None else Path(entry.moving_mask),
        }
        finding = replace(self.finding, **{name: value for name, value in given.items() if value is not None})
        return Task(
            id=str(entry.id),
            job=self.layout.job(entry),
            finding=finding,
            writing=self.writing,
            options_hash=options_hash(finding, self.writing),
            folder=self.layout.folder,
            max_pixels=self.max_pixels,
        )


def options_hash(finding: AlignOptions, writing: WriteOptions) -> str:
    """A fingerprint of every option that shapes a result; the content of files comes apart from it."""
    shaping = {name: value for name, value in vars(finding).items() if name not in _NO_MATTER}
    shaping |= writing.shaping() | {"compression": writing.compression, "start": _start(finding)}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


def _start(finding: AlignOptions) -> str:
    return finding.init if finding.init in STARTS else "file"


def run(entries: Pairs, settings: Settings, make_engine: Callable[[], Engine], observer: Observer) -> Tally:
    """Do every pair that is missing, changed or failed.

    Args:
        entries: The pairs; gone through several times.
        settings: How.
        make_engine: Called when there is work that it can do.
        observer: Is told.

    Returns:
        What became of them.

    Raises:
        OptionError: If names collide, or the options cannot work: nothing was done.
        DeviceError: If there is no such device.
        WriteError: If another batch works in the folder, files that are none of a batch lie under its names, or the
            results cannot be kept. Everything until then is, and the same call goes on.
    """
    read_by_all = [*entries.inputs, *settings.finding.files.values()]
    tally, folder = Tally(total=names.check(entries, settings.layout, read_by_all)), settings.layout.folder
    ledger = Ledger(_made(folder), overwrite=settings.writing.overwrite)
    try:
        observer.planned(tally.total, _notes(entries, ledger))
        with closing(make_engine()) as engine:
            _work(_to_do(entries, settings, ledger, tally, observer), engine, ledger, tally, observer)
            unfinished = engine.working > 0
            litter = ledger.interrupted or engine.lost_workers
        ledger.close(unfinished=unfinished)
        if litter and not unfinished:
            sweep(folder)
    finally:
        ledger.release()
    return tally


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{shown(folder)}: the output folder cannot be made: {error.strerror}") from error
    return folder


def _notes(entries: Pairs, ledger: Ledger) -> tuple[str, ...]:
    notes = [entries.note] if entries.note else []
    if ledger.interrupted:
        notes.append("the batch before this one was cut off; going on where it was")
    if ledger.unreadable:
        notes.append(f"{ledger.unreadable} lines of {ledger.path.name} are damaged; their pairs are done again")
    return tuple(notes)


def _work(tasks: Iterator[Task], engine: Engine, ledger: Ledger, tally: Tally, observer: Observer) -> None:
    """Keep the engine busy, and every line on the disk as soon as it comes."""
    more = True
    while True:
        while more and not tally.stopped and not observer.stopping() and engine.has_room():
            task = next(tasks, None)
            if task is None:
                more = False
            elif refusal := _begin(task, engine, ledger):
                _keep(refusal, ledger, tally, observer)
        if not engine.working:
            return
        for _, result in engine.wait(0.5):
            _keep(result, ledger, tally, observer)
        if why := engine.stalled:
            if tally.stopped or observer.stopping():
                return  # nothing is in work that could be finished
            observer.waiting(why)


def _keep(result: Result, ledger: Ledger, tally: Tally, observer: Observer) -> None:
    if result.usage:
        raise OptionError(result.fatal)
    ledger.append(result.line)
    tally.ended[result.line["verdict"]] += 1
    tally.stopped = tally.stopped or result.fatal
    observer.ended(result.line)


def _begin(task: Task, engine: Engine, ledger: Ledger) -> Result | None:
    """Hand a task out, unless files lie under its names that did not come from the pair: then it has failed."""
    names, there = names_digest(task.names), task.there
    foreign = [name for name in there if not ledger.owns(task.id, names, name)]
    task = replace(task, foreign=frozenset(foreign))
    if foreign and not task.writing.overwrite:
        where = shown(there[foreign[0]])
        return failed(task, WriteError(f"{where}: exists; use --overwrite to replace it, or another name"))
    ledger.begin(task.id, names)
    engine.submit(replace(task, writing=replace(task.writing, overwrite=True)))  # what lies there is the pair's
    return None


def _to_do(entries: Pairs, settings: Settings, ledger: Ledger, tally: Tally, observer: Observer) -> Iterator[Task]:
    """The tasks that are missing, changed or to be retried; whether one has changed is found out ahead of its turn."""
    ahead: deque[tuple[Task, Known | None, Future[bool] | None]] = deque()
    with ThreadPoolExecutor(2, thread_name_prefix="hash") as threads:
        for entry in entries:
            task = settings.task(settings.layout.named(entry))
            known = ledger.known(task.id)
            undone = known is None or _to_retry(known, settings.retry)
            ahead.append((task, known, None if undone else threads.submit(_is_current, task, known)))
            if len(ahead) > _AHEAD:
                yield from _undone(*ahead.popleft(), tally, observer)
        while ahead:
            yield from _undone(*ahead.popleft(), tally, observer)


def _undone(
    task: Task, known: Known | None, current: "Future[bool] | None", tally: Tally, observer: Observer
) -> Iterator[Task]:
    if known is None or current is None or not current.result():
        yield task
        return
    tally.before[known.verdict] += 1
    observer.skipped(known.verdict)


def _to_retry(known: Known, retry: Retry) -> bool:
    again: dict[Retry, set[Verdict]] = {"untrusted": {"untrusted", "failed"}, "failed": {"failed"}, "none": set()}
    return known.verdict in again[retry]


def _is_current(task: Task, known: Known | None) -> bool:
    """True where options, inputs and names are those of the pair's line, and its files are there."""
    assert known is not None
    if known.names != names_digest(task.names) or known.work != work_digest(task.options_hash, contents(task)):
        return False
    if known.verdict == "failed":
        return True
    skipped = known.verdict == "untrusted" and task.writing.on_untrusted == "skip"
    return all(is_file(path) or (skipped and path == task.job.image) for path in task.job.outputs)
