"""`batch`: many pairs, with resume."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgalign.cli import ERROR, INTERRUPTED, OK, UNTRUSTED, options
from imgalign.cli.talk import Talk
from imgalign.errors import OptionError
from imgalign.wanted import AlignOptions, options_of

if TYPE_CHECKING:
    from imgalign.jobs.batch import Engine, Settings, Tally
    from imgalign.jobs.manifest import FolderPairs, Manifest

_QUIET_S = 10.0  # between plain lines of progress
_PATIENCE_S, _REMIND_S = 5.0, 60.0  # before it is said that nobody works, and between saying so again
_HELP = """Align many pairs, and go on where it was if cut off.

PAIRS is a CSV file with the header `fixed,moving` (and, as wanted, `id`, `model`, `output`, `params`, `mask`,
`moving_mask`, `init`), JSON Lines with the same names, or a list of paths, separated by NULs or line ends, that come in
turns: FIXED, MOVING, FIXED, MOVING. `-` is stdin. --fixed-dir and --moving-dir pair the files of two folders by stem.

The output folder gets the pictures, the parameter files, results.jsonl with one line a pair as it ends, and summary.csv
for spreadsheets. The same command again does what is missing, changed or failed, and nothing else.

\b
Examples:
  imgalign batch pairs.csv --model rigid --output-dir aligned
  imgalign batch --fixed-dir before --moving-dir after --output-dir aligned
  find frames -name '*.tif' -print0 | imgalign batch - --fixed reference.tif --output-dir aligned
"""


@click.command("batch", cls=options.SectionedCommand, help=_HELP)
@click.argument("pairs", required=False, type=click.Path(allow_dash=True), metavar="PAIRS")
@options.batch_options
@options.gradmap_option
@options.resample_options
@options.search_options
@options.trust_options
@options.machine_options
@options.crew_options
@options.talk_options
@click.pass_context
def batch(ctx: click.Context, /, pairs: str | None, **given: Any) -> None:
    """See `_HELP`."""
    from imgalign.jobs.batch import run

    if (given["engine"] == "dask") != (given["scheduler"] is not None):
        raise OptionError("--engine dask and --scheduler ADDRESS (such as tcp://head:8786) go together")
    settings = _settings(given)
    watch = _Watch(Talk.of(given), answers=given["as_json"])
    with closing(_entries(pairs, given)) as entries, watch.listening():
        tally = run(entries, settings, lambda: _engine(given), watch)
    watch.table(tally, settings)
    ctx.exit(_status(tally, watch))


def _entries(pairs: str | None, given: dict[str, Any]) -> "Manifest | FolderPairs":
    from imgalign.jobs.manifest import FolderPairs, Manifest

    folders = [given["fixed_dir"], given["moving_dir"]]
    if pairs is not None and not any(folders):
        return Manifest(pairs, fixed=given["fixed"])
    if pairs is None and all(folders) and given["fixed"] is None:
        return FolderPairs(*folders)
    raise OptionError("name one list of PAIRS (with --fixed, if all share it), or --fixed-dir and --moving-dir")


def _settings(given: dict[str, Any]) -> "Settings":
    from imgalign.jobs.batch import Settings
    from imgalign.jobs.laying import WriteOptions
    from imgalign.jobs.layout import Layout

    return Settings(
        layout=Layout(
            folder=given["output_dir"] or Path(),
            model=given["model"],
            output_template=given["output_template"],
            params_template=given["params_template"],
            id_template=given["id_template"],
            image=not given["no_image"],
            gradmap=given["gradmap"],
            allow_outside=given["allow_outside"],
        ),
        finding=options_of(AlignOptions, given),
        writing=options_of(WriteOptions, given),
        max_pixels=given["max_pixels"],
        retry=given["retry"],
    )


def _engine(given: dict[str, Any]) -> "Engine":
    if given["engine"] == "dask":
        from imgalign.jobs.dask_engine import DaskEngine

        return DaskEngine(given["scheduler"], threads=given["threads"])
    from imgalign.jobs.pool import LocalPool

    return LocalPool(workers=given["workers"], threads=given["threads"])


class _Watch:
    """Tells people what a batch does, and hears their Ctrl-C."""

    def __init__(self, talk: Talk, *, answers: bool) -> None:
        self._talk, self._answers = talk, answers
        self._bar: Any = None
        self._counts = {"trusted": 0, "untrusted": 0, "failed": 0}
        self._total = self._skipped = 0
        self._began = self._said = time.monotonic()
        self._remind: float | None = None
        self.interrupts = 0

    def planned(self, total: int, notes: tuple[str, ...]) -> None:
        """All names are checked."""
        self._total, self._began = total, time.monotonic()
        for note in notes:
            self._talk.say(note)
        if not total:
            self._talk.warn("the list holds no pairs, so there is nothing to do")
        self._bar = self._talk.bar(total, "pair")

    def ended(self, line: dict[str, Any]) -> None:
        """A pair has ended."""
        self._remind = None
        self._counts[line["verdict"]] += 1
        if line["verdict"] == "failed":
            if line.get("trace"):
                self._talk.trace([line["trace"]])
            self._talk.error(f"{line['id']}: {line['error']}")
        elif line["verdict"] == "untrusted":
            self._talk.say(f"{line['id']}: is NOT to be trusted: {'; '.join(line['reasons'])}")
        else:
            self._talk.detail(f"{line['id']}: can be trusted, corner error {line['corner_sigma_px']} px")
        if self._answers:
            self._talk.answer(line)
        self._show(1)

    def skipped(self, verdict: str) -> None:
        """A pair was done before."""
        self._counts[verdict] += 1
        self._skipped += 1
        self._show(1)

    def waiting(self, why: str) -> None:
        """Nobody works; that may be about to change, so it is not said at once."""
        now = time.monotonic()
        if self._remind is None:
            self._remind = now + _PATIENCE_S
        elif now >= self._remind:
            self._remind = now + _REMIND_S
            self._talk.warn(f"{why}; waiting, Ctrl-C stops")

    @property
    def lost(self) -> bool:
        """Whether stdout takes no more."""
        return self._talk.lost

    def stopping(self) -> bool:
        """True from the first Ctrl-C on."""
        return self.interrupts > 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear Ctrl-C: the first lets the pairs in work end, the second ends everything."""
        main = threading.current_thread() is threading.main_thread()  # only there can signals be handled
        before = signal.signal(signal.SIGINT, self._interrupt) if main else None
        try:
            yield
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
            if self._bar is not None:
                self._bar.close()
            self._talk.drop_bar()

    def table(self, tally: "Tally", settings: "Settings") -> None:
        """The end: what became of all pairs."""
        verdicts, before = tally.verdicts, tally.before.total()
        seconds = time.monotonic() - self._began
        speed = f", {tally.ended.total() / seconds:.2f} pairs a second" if tally.ended.total() else ""
        self._talk.say(f"trusted       {verdicts['trusted']:>8}")
        self._talk.say(f"not trusted   {verdicts['untrusted']:>8}")
        self._talk.say(f"failed        {verdicts['failed']:>8}")
        if tally.left:
            self._talk.say(f"still to do   {tally.left:>8}")
        self._talk.say(
            f"{tally.total} pairs, {before} of them done before; {_duration(seconds)}{speed}; "
            f"see {settings.layout.folder / 'results.jsonl'} and summary.csv"
        )
        if tally.stopped:
            self._talk.error(f"stopped: {tally.stopped}; the same command goes on from here")
        elif tally.left:
            self._talk.warn("stopped; the same command goes on from here")

    def _interrupt(self, number: int, frame: object) -> None:  # noqa: ARG002  (a signal handler's signature)
        self.interrupts += 1
        if self.interrupts > 1:
            raise KeyboardInterrupt
        self._talk.warn("finishing the pairs in work; Ctrl-C again stops at once")

    def _show(self, ended: int) -> None:
        if self._bar is not None:
            self._bar.set_postfix(self._counts, refresh=False)
            self._bar.update(ended)
        elif time.monotonic() - self._said > _QUIET_S:
            self._said = time.monotonic()
            self._talk.say(self._progress())

    def _progress(self) -> str:
        done = sum(self._counts.values())
        speed = (done - self._skipped) / max(time.monotonic() - self._began, 1e-3)
        remaining = f", {_duration((self._total - done) / speed)} to go" if speed else ""
        counts = f"{self._counts['trusted']} trusted, {self._counts['untrusted']} not, {self._counts['failed']} failed"
        return f"{done} of {self._total} pairs: {counts}; {speed:.2f} pairs a second{remaining}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _status(tally: "Tally", watch: _Watch) -> int:
    if tally.stopped or tally.verdicts["failed"] or watch.lost:
        return ERROR
    if watch.interrupts and tally.left:
        return INTERRUPTED
    return UNTRUSTED if tally.verdicts["untrusted"] else OK
