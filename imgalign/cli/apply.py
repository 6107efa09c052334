"""`imgalign apply`: lay other pictures by a transform that was found before."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgalign.cli import ERROR, OK, UNTRUSTED, options
from imgalign.cli.run import run
from imgalign.cli.talk import Talk
from imgalign.errors import WriteError
from imgalign.files.outputs import Job, check, check_folders, job_outputs, plan
from imgalign.files.paths import shown
from imgalign.wanted import options_of

if TYPE_CHECKING:
    from imgalign.alignment import Alignment

_SECTION = "The transform"


@click.command(cls=options.SectionedCommand)
@click.argument("params", type=click.Path(path_type=Path), metavar="PARAMS")
@options.picture_arguments("image")
@options.option(
    _SECTION,
    "--then",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PARAMS",
    help="Follow by this parameter file too; may be given again. All of them are one interpolation.",
)
@options.option(
    _SECTION, "--inverse", is_flag=True, help="Go back: lay pictures of the fixed grid over the moving one."
)
@options.option(
    _SECTION, "--rescale", is_flag=True, help="IMAGE shows the moving picture's field in another number of pixels."
)
@options.option(
    "Output",
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The picture written.  [default: <name>.aligned.<ext> in the working folder]",
)
@options.output_dir_option()
@options.overwrite_option()
@options.option(
    "Output",
    "-p",
    "--params",
    "params_out",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write the transform that was used (composed, inverted) as a parameter file; - writes it as one JSON line to "
    "stdout.",
)
@options.resample_options
@options.max_pixels_option()
@options.talk_options
@click.pass_context
def apply(ctx: click.Context, /, params: Path, image: Sequence[str], **given: Any) -> None:
    """Lay pictures over the fixed grid of PARAMS, without searching again.

    For other channels of the moving picture, and for label maps (--interpolation nearest). The first PARAMS is the
    one whose moving picture has the grid of IMAGE; each --then must start where the one before ended.

    \b
    Examples:
      imgalign apply moving.params.json channel2.tif channel3.tif
      imgalign apply moving.params.json labels.png --interpolation nearest
      imgalign apply b_on_a.params.json b.png --then a_on_atlas.params.json
    """
    jobs = plan(None, image, output=given["output"], output_dir=given["output_dir"], params_file=False)
    params_out = None if given["params_out"] == Path("-") else given["params_out"]
    outputs = [*job_outputs(jobs), *([(str(params), params_out)] if params_out else [])]
    check(outputs, [str(params), *map(str, given["then"]), *image])
    check_folders(path for _, path in outputs)
    alignment = _composed([params, *given["then"]], inverse=given["inverse"])
    talk = Talk.of(given)
    if not alignment.trusted:
        talk.warn(f"{shown(params)}: the alignment is not to be trusted; imgalign info says why")

    from imgalign.files.reading import FileReader, to_read
    from imgalign.jobs.laying import WriteOptions
    from imgalign.jobs.pairs import apply_file

    writing = options_of(WriteOptions, given)
    reader = FileReader(to_read(jobs, overwrite=writing.overwrite), max_pixels=given["max_pixels"])

    def lay(job: Job) -> int:
        notes = apply_file(job, alignment, writing, reader, rescale=given["rescale"])
        for line in (*notes, f"wrote {shown(job.image or '')}"):
            talk.say(f"{job.moving}: {line}")
        return OK if alignment.trusted else UNTRUSTED

    status = run(jobs, lay, talk)
    ctx.exit(status if _written(alignment, given, talk) else ERROR)


def _written(alignment: "Alignment", given: dict[str, Any], talk: Talk) -> bool:
    """Write the transform where that was asked for, after the pictures: a name that is taken must not keep them."""
    from imgalign.files import record

    if given["params_out"] == Path("-"):
        talk.answer(record.to_dict(alignment))
        return not talk.lost
    try:
        if given["params_out"]:
            alignment.save(given["params_out"], overwrite=given["overwrite"])
    except WriteError as error:
        talk.error(str(error))
        return False
    return True


def _composed(paths: Sequence[Path], *, inverse: bool) -> "Alignment":
    """The transforms of parameter files applied in turn, as one."""
    from imgalign import load

    composed = load(paths[0])
    for path in paths[1:]:
        composed = load(path).compose(composed)
    return composed.inverse() if inverse else composed
