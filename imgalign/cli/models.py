"""`translate`, `rigid`, `similarity`, `affine`, `homography`: one command each, from one factory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from imgalign.cli import options
from imgalign.cli.loading import loading, on_threads
from imgalign.cli.run import run_reporting
from imgalign.cli.talk import Talk
from imgalign.errors import OptionError
from imgalign.files.outputs import Job, check, check_folders, job_outputs, plan
from imgalign.wanted import STARTS, AlignOptions, options_of

_ABOUT = {
    "translate": "shifted",
    "rigid": "shifted and rotated",
    "similarity": "shifted, rotated and scaled",
    "affine": "shifted, rotated, scaled and sheared",
    "homography": "seen from another angle: a plane in perspective",
}
_HELP = """Align pictures that are {about}.

FIXED stays as it is. Each MOVING picture is laid over it and written to <name>.aligned.<ext> in the working folder,
with the transform and how far to trust it in <name>.params.json. A picture is FILE, or FILE[page] of several pages.

\b
Examples:
  imgalign {model} fixed.png moving.png
  imgalign {model} fixed.tif moving*.tif --output-dir aligned
  imgalign {model} fixed.png moving.png --no-image --json | jq .shift_px
"""


def _command(model: str) -> click.Command:
    @click.command(model, cls=options.SectionedCommand, help=_HELP.format(model=model, about=_ABOUT[model]))
    @click.argument("fixed", type=click.Path(readable=False), metavar="FIXED")
    @options.picture_arguments("moving")
    @options.output_options
    @options.gradmap_option
    @options.resample_options
    @options.search_options
    @options.trust_options
    @options.machine_options
    @options.talk_options
    @click.pass_context
    def command(ctx: click.Context, /, fixed: str, moving: Sequence[str], **given: Any) -> None:
        jobs = plan_jobs(fixed, moving, given)
        ctx.exit(align_jobs(model, jobs, given))

    return command


def plan_jobs(fixed: str | None, moving: Sequence[str], given: dict[str, Any]) -> tuple[Job, ...]:
    """Name and check every file before anything is read."""
    to_stdout = given["params"] == Path("-")
    if given["no_image"] and given["output"]:
        raise OptionError("--output and --no-image contradict each other; leave out one")
    jobs = plan(
        fixed,
        moving,
        output=given["output"],
        params=None if to_stdout else given["params"],
        output_dir=given["output_dir"],
        image=not given["no_image"],
        params_file=not to_stdout,
        gradmap=given.get("gradmap", False),
    )
    start = given.get("init", "auto")
    others = (fixed, given["mask"], given.get("moving_mask"), None if start in STARTS else start)
    check(job_outputs(jobs), [*moving, *(str(name) for name in others if name is not None)])
    check_folders(path for job in jobs for path in job.outputs)
    return jobs


def align_jobs(model: str, jobs: Sequence[Job], given: dict[str, Any]) -> int:
    """Align and write every job, and return the exit status."""
    from imgalign.jobs.laying import WriteOptions
    from imgalign.jobs.pairs import Aligner

    talk = Talk.of(given)
    answers = given["as_json"] or given["params"] == Path("-")
    finding = options_of(AlignOptions, given, model=model)
    writing = options_of(WriteOptions, given)
    with loading():
        aligner = Aligner(jobs, finding, writing, max_pixels=given["max_pixels"])
    with on_threads(given["threads"]):
        return run_reporting(jobs, aligner.run, talk, answers=answers)


translate = _command("translate")
rigid = _command("rigid")
similarity = _command("similarity")
affine = _command("affine")
homography = _command("homography")
