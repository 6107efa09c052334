"""`imgalign center`: bring the brightest structure of a picture to its middle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from imgalign.cli import options
from imgalign.cli.models import plan_jobs
from imgalign.cli.run import run_reporting
from imgalign.cli.talk import Talk
from imgalign.wanted import options_of

_SECTION = "Finding the structure"
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command(cls=options.SectionedCommand)
@options.picture_arguments("image")
@options.output_options
@options.resample_options
@options.option(
    _SECTION,
    "--objective",
    type=click.Choice(("robust", "midpoint")),
    default="robust",
    show_default=True,
    help="robust: the brightest neighbourhood, deaf to noise and hot pixels; midpoint: climb the squared value that "
    "arrives at the middle, from no shift.",
)
@options.option(
    _SECTION,
    "--neighbourhood",
    "neighbourhood_px",
    type=_POSITIVE,
    metavar="PX",
    help="Width (sigma) of a neighbourhood.  [default: a hundredth of the shorter side, at least 1.5]",
)
@options.sampler_option(_SECTION, "How the picture is read between its pixels.")
@options.option(_SECTION, "--iterations", type=click.IntRange(min=1), metavar="N", help="Most steps.")
@options.option(_SECTION, "--lr", type=_POSITIVE, metavar="RATE", help="Learning rate: descend plainly.")
@options.option(_SECTION, "--max-shift", type=_POSITIVE, metavar="PX", help="Look no further than this.")
@options.option(
    _SECTION, "--mask", type=click.Path(path_type=Path), metavar="FILE", help="Weights of the picture: 0 is ignored."
)
@options.trust_options
@options.max_pixels_option()
@options.talk_options
@click.pass_context
def center(ctx: click.Context, /, image: Sequence[str], **given: Any) -> None:
    """Shift pictures so that their brightest structure lies in the middle.

    The middle is the pixel in column W // 2, row H // 2. What is written is what an alignment writes, the picture
    being MOVING and its centred grid FIXED.

    \b
    Examples:
      imgalign center star.tif
      imgalign center frame*.tif --output-dir centred --fill 0
      imgalign center peak.tif --objective midpoint --sampler nearest --no-image --json
    """
    jobs = plan_jobs(None, image, given)

    from imgalign.jobs.laying import WriteOptions
    from imgalign.jobs.pairs import Centerer, CenterOptions

    centerer = Centerer(
        jobs,
        options_of(CenterOptions, given),
        options_of(WriteOptions, given),
        max_pixels=given["max_pixels"],
    )
    talk = Talk.of(given)
    ctx.exit(run_reporting(jobs, centerer.run, talk, answers=given["as_json"] or given["params"] == Path("-")))
