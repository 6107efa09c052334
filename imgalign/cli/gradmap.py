"""`imgalign gradmap`: gradient magnitude of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from imgalign.cli import OK, options
from imgalign.cli.run import run
from imgalign.cli.talk import Talk
from imgalign.errors import OptionError
from imgalign.files.outputs import Job, check, check_folders, job_outputs, plan
from imgalign.files.paths import shown

_SECTION = "The map"


@click.command(cls=options.SectionedCommand)
@options.picture_arguments("image")
@options.option(
    "Output",
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The map: .tif holds true units as floats, other formats 8 or 16 bit.  "
    "[default: <name>.gradmap.tif, or .png with --bits, --normalize or --colormap]",
)
@options.output_dir_option()
@options.overwrite_option()
@options.option(
    _SECTION,
    "--operator",
    type=click.Choice(("central", "sobel", "scharr", "gaussian")),
    default="central",
    show_default=True,
    help="central: differences of neighbours, one-sided at the border, as numpy.gradient; gaussian: "
    "derivative of a Gaussian.",
)
@options.option(
    _SECTION,
    "--sigma",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PX",
    help="Width of that Gaussian.  [default: 1]",
)
@options.option(
    _SECTION,
    "--channels",
    type=click.Choice(("max", "luminance")),
    default="max",
    show_default=True,
    help="Colour: the largest magnitude of the channels, or that of the luminance.",
)
@options.option(
    _SECTION,
    "--level",
    type=click.IntRange(0, 20),
    default=0,
    show_default=True,
    metavar="K",
    help="The gradient seen at pyramid level K (1/2^K of the size), given back at full size.",
)
@options.option(
    _SECTION,
    "--bits",
    type=click.Choice(("8", "16")),
    help="Integers: the full range of the picture becomes the full range of the map.",
)
@options.option(_SECTION, "--normalize", is_flag=True, help="Make the largest gradient white.")
@options.option(_SECTION, "--colormap", type=click.Choice(("gray", "heat", "cubehelix")), help="Colours, 8 bit.")
@options.compression_option("Output")
@options.max_pixels_option()
@options.talk_options
@click.pass_context
def gradmap(ctx: click.Context, /, image: Sequence[str], **given: Any) -> None:
    """Write the gradient magnitude of pictures, in grey levels per pixel.

    \b
    Examples:
      imgalign gradmap photo.png
      imgalign gradmap photo.png --output edges.png --normalize --colormap heat
      imgalign gradmap scan.tif --operator gaussian --sigma 2 --bits 16 --output edges.png
    """
    if given["sigma"] is not None and given["operator"] != "gaussian":
        raise OptionError(f"--sigma belongs to --operator gaussian, got --operator {given['operator']}")
    if given["colormap"] and given["bits"] == "16":
        raise OptionError("--colormap gives 8 bit pictures, got --bits 16; leave out one of the two")
    jobs = _plan(image, given)
    talk = Talk.of(given)
    ctx.exit(run(jobs, lambda job: _write_map(job, given, talk), talk))


def _plan(names: Sequence[str], given: dict[str, Any]) -> tuple[Job, ...]:
    looking = given["bits"] or given["normalize"] or given["colormap"]
    jobs = plan(
        None,
        names,
        word="gradmap",
        suffix=".png" if looking else ".tif",
        output=given["output"],
        output_dir=given["output_dir"],
        params_file=False,
    )
    check(job_outputs(jobs), names)
    check_folders(path for job in jobs for path in job.outputs)
    return jobs


def _write_map(job: Job, given: dict[str, Any], talk: Talk) -> int:
    from imgalign.files import images
    from imgalign.files.reading import measurable
    from imgalign.gradmap import as_picture, full_scale, gradmap, largest
    from imgalign.jobs.laying import naming, numbers_like
    from imgalign.jobs.outcome import check_writable

    assert job.image is not None
    check_writable(job, overwrite=given["overwrite"])
    picture = images.read(job.moving, max_pixels=given["max_pixels"])
    floats = job.image.suffix.lower() in {".tif", ".tiff"} and not (given["bits"] or given["colormap"])
    with naming(picture):
        values, has_alpha = measurable(picture)
        lengths = gradmap(
            values,
            operator=given["operator"],
            sigma_px=given["sigma"] or 1.0,
            channels=given["channels"],
            level=given["level"],
            has_alpha=has_alpha,
        )
        pixels = as_picture(
            lengths,
            full_scale=full_scale(picture.pixels.dtype),
            bits=None if floats else int(given["bits"] or 8),
            normalize=given["normalize"],
            colormap=given["colormap"],
        )
    notes = images.write(
        job.image,
        pixels,
        like=numbers_like(picture),
        overwrite=given["overwrite"],
        compression=given["compression"],
    )
    for note in (*picture.notes, *notes):
        talk.say(f"{job.moving}: {note}")
    talk.say(f"{job.moving}: largest gradient {largest(lengths):.4g} per px; wrote {shown(job.image)}")
    return OK
