"""`stack`: a sequence of frames over one reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from imgalign.cli import options
from imgalign.cli.loading import on_threads
from imgalign.cli.run import run_reporting
from imgalign.cli.talk import Talk
from imgalign.errors import OptionError
from imgalign.files.outputs import Job, check, check_folders, job_outputs, plan
from imgalign.files.paths import shown
from imgalign.wanted import AlignOptions, options_of

_HELP = """Align a sequence of frames.

FRAMES are pictures, or one file whose pages are the frames. Each is laid over the reference and written to
<name>.aligned.<ext>, with its transform in <name>.params.json; --output writes one TIFF with a page a frame instead.

\b
Examples:
  imgalign stack frame*.tif --model rigid --output-dir aligned
  imgalign stack movie.tif --model translate --output aligned.tif --mean mean.tif
  imgalign stack pan*.jpg --model homography --reference previous --canvas fixed
"""


@click.command("stack", cls=options.SectionedCommand, help=_HELP)
@options.picture_arguments("frames")
@options.stack_options
@options.resample_options
@options.search_options
@options.trust_options
@options.machine_options
@options.talk_options
@click.pass_context
def stack(ctx: click.Context, /, frames: Sequence[str], **given: Any) -> None:
    """See `_HELP`."""
    from imgalign.jobs.laying import WriteOptions
    from imgalign.jobs.stack import Stacker, StackFiles, frames_of, reference_of, with_further_pages

    names = frames_of(frames)
    reference = reference_of(given["reference"], len(names))
    files = StackFiles(pages=given["output"], mean=given["mean"], median=given["median"])
    jobs = _plan(names, given)
    talk = Talk.of(given)
    if more := with_further_pages(names):
        others = f" (and of {len(more) - 1} others)" if len(more) > 1 else ""
        talk.warn(f"{shown(more[0])}{others}: only the first page is a frame; a file's pages are a stack by themselves")
    stacker = Stacker(
        jobs,
        options_of(AlignOptions, given),
        options_of(WriteOptions, given),
        reference=reference,
        files=files,
        max_pixels=given["max_pixels"],
    )
    with on_threads(given["threads"]), stacker.collecting():
        status = run_reporting(jobs, stacker.run, talk, answers=given["as_json"])
    if given["output"] is not None and stacker.pages < len(jobs):
        talk.warn(f"{given['output']} holds {stacker.pages} of {len(jobs)} frames, in their order")
    ctx.exit(status)


def _plan(frames: Sequence[str], given: dict[str, Any]) -> tuple[Job, ...]:
    """Name and check every file before anything is read."""
    if given["output"] is not None and given["canvas"] != "fixed":
        raise OptionError("pages of one TIFF have one size: --output goes with --canvas fixed only")
    whole = [path for path in (given["output"], given["mean"], given["median"]) if path is not None]
    pictures = not given["no_image"] and given["output"] is None
    jobs = plan(None, frames, output_dir=given["output_dir"], image=pictures, params_file=True)
    everything = [*job_outputs(jobs), *(("the stack", path) for path in whole)]
    check(everything, [*frames, *options_of(AlignOptions, given).files.values()])
    check_folders(path for _, path in everything)
    _check_whole(whole, given)
    return jobs


def _check_whole(paths: Sequence[Path], given: dict[str, Any]) -> None:
    from imgalign.files.images import check_name
    from imgalign.files.outputs import check_new

    for path in paths:
        check_name(path)
    if given["output"] is not None and given["output"].suffix.lower() not in {".tif", ".tiff"}:
        raise OptionError(f"--output of a stack is a TIFF with a page a frame, got {given['output']}")
    if not given["overwrite"]:
        check_new(paths)
