"""Jobs one after the other: one failure never stops the rest, and the exit status tells."""

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from imgalign.cli import ERROR, OK, UNTRUSTED
from imgalign.cli.loading import loading
from imgalign.cli.talk import Talk
from imgalign.errors import DeviceError, ImgalignError, OptionError
from imgalign.files.outputs import Job
from imgalign.files.paths import shown

if TYPE_CHECKING:
    from imgalign.jobs.outcome import Outcome


def run(jobs: Sequence[Job], work: Callable[[Job], int], talk: Talk, *, answers: bool = False) -> int:
    """Do every job, whatever happens to the others.

    Args:
        jobs: What is to be done.
        work: Does one, reports it, and returns 0 or 3 (not to be trusted).
        talk: Says what went wrong.
        answers: Print one JSON line with `error` on stdout for a job that failed.

    Returns:
        The exit status: 1 if anything failed or stdout took no more, else 3 if anything is not to be trusted, else 0.

    Raises:
        OptionError: What would fail every job alike ends the run.
        DeviceError: Likewise.
    """
    statuses = []
    for job in talk.progress(jobs):
        try:
            with loading():  # by the first picture at the latest
                statuses.append(work(job))
        except (OptionError, DeviceError, BrokenPipeError):  # noqa: PERF203  (that is what the loop is for)
            raise
        except Exception as error:  # noqa: BLE001  (the other pictures must still be done; a bug keeps its traceback)
            statuses.append(ERROR)
            _report_failure(job, error, talk, answers=answers)
    if len(jobs) > 1:
        talk.say(_summary(statuses))
    if talk.lost:
        statuses.append(ERROR)
    return next((status for status in (ERROR, UNTRUSTED) if status in statuses), OK)


def run_reporting(jobs: Sequence[Job], work: Callable[[Job], "Outcome"], talk: Talk, *, answers: bool) -> int:
    """`run`, for work whose outcome is to be reported."""
    alone = len(jobs) == 1
    return run(jobs, lambda job: report(work(job), talk, answers=answers, alone=alone), talk, answers=answers)


def report(outcome: "Outcome", talk: Talk, *, answers: bool, alone: bool) -> int:
    """Say the verdict; what was found and written too, where it is the only picture or detail is wanted."""
    alignment, name = outcome.alignment, outcome.job.moving
    verdict, *rest = alignment.describe().splitlines()
    judge = talk.say if alignment.trusted else talk.warn
    tell = talk.say if alone or not alignment.trusted else talk.detail
    judge(f"{name}: {verdict}")
    for line in rest:
        (tell if alignment.trusted else talk.warn)(f"  {line}")
    for note in outcome.notes:
        tell(f"  {note}")
    if outcome.written:
        tell(f"  wrote {', '.join(shown(path) for path in outcome.written)}")
    talk.detail(f"  seconds: {', '.join(f'{stage} {taken:.3f}' for stage, taken in alignment.seconds.items())}")
    if answers:
        talk.answer(outcome.record)
    return OK if alignment.trusted else UNTRUSTED


def _report_failure(job: Job, error: Exception, talk: Talk, *, answers: bool) -> None:
    if isinstance(error, ImgalignError):
        message = str(error)
    elif isinstance(error, MemoryError):
        message = f"{job.moving}: not enough memory for pictures of this size; crop or shrink them first"
    else:
        talk.trace(traceback.format_exception(error))
        message = f"{job.moving}: internal error, please report the lines above: {error!r}"
    talk.error(message)
    if answers:
        talk.answer({"fixed": job.fixed, "moving": job.moving, "error": message})


def _summary(statuses: Sequence[int]) -> str:
    words = {OK: "done", UNTRUSTED: "not to be trusted", ERROR: "failed"}
    counts = [f"{statuses.count(status)} {word}" for status, word in words.items() if status in statuses]
    return f"{len(statuses)} pictures: {', '.join(counts)}"
