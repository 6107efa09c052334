"""Options that several commands share, each written once, so that `--levels` means the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from imgalign.wanted import LOSSES, MODELS, MOST_SCALE, OPTIMIZERS, SAMPLERS, AlignOptions, Wanted

F = TypeVar("F", bound=Callable[..., Any])

INTERPOLATIONS = ("nearest", "bilinear", "cubic", "lanczos")
CANVASES = ("fixed", "union", "intersection")
COMPRESSIONS = ("fast", "small", "none", "lzw")
DEFAULT_MAX_PIXELS = 500_000_000


class SectionedOption(click.Option):
    """An option that belongs under a heading of the help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help shows its options by section: thirty in one list are no help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options under their headings, those about talking last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if row is not None:
                sections.setdefault(getattr(param, "section", "Talk"), []).append(row)
        sections["Talk"] = sections.pop("Talk")  # to the end
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows, col_max=26)


class Fill(click.ParamType):  # type: ignore[type-arg]  # (no generic before click 8.2)
    """A value for the area with nothing under it: a number, or one a channel with commas between."""

    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Split at the commas."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no number and no list like 255,255,255", param, ctx)


class Device(click.ParamType):  # type: ignore[type-arg]  # (no generic before click 8.2)
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`: names are checked here, presence when torch is there to ask."""

    name = "auto|cpu|cuda|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        kind, colon, index = str(value).partition(":")
        if kind not in {"auto", "cpu", "cuda", "mps"} or (colon and not (kind == "cuda" and index.isdecimal())):
            self.fail(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps", param, ctx)
        return str(value)


class Count(click.ParamType):  # type: ignore[type-arg]  # (no generic before click 8.2)
    """A whole number that may be written `200_000_000`, `200M` or `1.5G`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number and its unit."""
        text = str(value).strip().upper()
        unit = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:], 1)
        try:
            count = int(float(text.rstrip("KMG").replace("_", "")) * unit)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no number like 500000000 or 500M", param, ctx)
        if count < 1:
            self.fail(f"{value!r} is less than 1", param, ctx)
        return count


def option(section: str, *names: str, **attributes: Any) -> Callable[[F], F]:
    """`click.option` under a heading."""
    return click.option(*names, cls=SectionedOption, section=section, **attributes)


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, help in the order given."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _path(**attributes: Any) -> click.Path:
    # Nothing here is click's to check: a missing or unreadable picture is an error of that pair (1), not of usage (2).
    return click.Path(path_type=Path, readable=False, **attributes)


def search_options(function: F) -> F:
    """How the transform is found."""
    section = "Finding the transform"
    positive = click.FloatRange(min=0, min_open=True)
    return stack(
        option(section, "--loss", type=click.Choice(LOSSES), default=Wanted.loss, show_default=True,
               help="What is made small. ssd: squared difference, gain and bias solved; robust: the same, deaf to "
               "occluders; ncc, lncc: correlation, whole or in windows; gradient: edges; mi: mutual information, "
               "for different modalities."),
        option(section, "--optimizer", type=click.Choice(OPTIMIZERS), default=Wanted.optimizer, show_default=True,
               help="lm: Levenberg-Marquardt; sgd, adam, lbfgs: as in torch.optim."),
        sampler_option(section, "How the moving image is read by optimizers other than lm, which reads cubic splines."),
        option(section, "--levels", type=click.IntRange(min=1), metavar="N",
               help="Pyramid levels of optimizers other than lm, whose levels follow from the size.  [default: 2]"),
        option(section, "--iterations", type=click.IntRange(min=1), metavar="N", help="Most steps on a level."),
        option(section, "--lr", type=positive, metavar="RATE", help="Learning rate of optimizers other than lm."),
        option(section, "--init", type=str, default=AlignOptions.init, show_default=True, metavar="START",
               help="Where to start: auto, identity, center, phase (phase correlation), or a parameter FILE."),
        option(section, "--max-shift", type=positive, metavar="PX", help="Largest shift of the image centre."),
        option(section, "--max-rotation", type=click.FloatRange(0, 180), metavar="DEG", help="Largest rotation."),
        option(section, "--max-scale", type=click.FloatRange(1, MOST_SCALE), metavar="FACTOR",
               help="Largest scale; 2 allows 1/2 to 2."),
        option(section, "--allow-mirror", is_flag=True, help="Look for a mirror image too."),
        option(section, "--mask", type=_path(), metavar="FILE",
               help="Weights of the fixed image: 0 is ignored, full scale counts in full. Alpha and NaN count as "
               "masks by themselves."),
        option(section, "--moving-mask", type=_path(), metavar="FILE", help="The same for the moving images."),
        option(section, "--precision", type=positive, default=Wanted.precision, show_default=True, metavar="PX",
               help="Stop when the predicted error of the corners is below this."),
        option(section, "--seed", type=click.IntRange(min=0), default=Wanted.seed, show_default=True, metavar="N",
               help="Kept in the parameter file; nothing is left to chance."),
    )(function)  # fmt: skip


def sampler_option(section: str, text: str) -> Callable[[F], F]:
    """Sampling while searching, apart from that of the written picture."""
    return option(section, "--sampler", type=click.Choice(SAMPLERS), default=Wanted.sampler, show_default=True,
                  help=text)  # fmt: skip


def trust_options(function: F) -> F:
    """What counts as good, and what happens to the rest."""
    section = "Trust"
    return stack(
        option(section, "--trust", type=click.FloatRange(0, 1), default=Wanted.trust, show_default=True, metavar="P",
               help="Least probability of being right at which a result is trusted."),
        option(section, "--on-untrusted", type=click.Choice(("keep", "skip", "identity")), default="keep",
               show_default=True,
               help="What is written for a result that is not trusted: the result all the same, no picture, or the "
               "moving image left where it is."),
    )(function)  # fmt: skip


def output_options(function: F) -> F:
    """Where results go."""
    section = "Output"
    return stack(
        option(section, "-o", "--output", type=_path(), metavar="FILE",
               help="The picture written.  [default: <name>.aligned.<ext> in the working folder]"),
        option(section, "-p", "--params", type=_path(allow_dash=True), metavar="FILE",
               help="The parameter file; - writes one JSON line a picture to stdout instead.  "
               "[default: <name>.params.json]"),
        output_dir_option(section),
        option(section, "--no-image", is_flag=True, help="Write no picture, only the parameters."),
        overwrite_option(section),
        option(section, "--json", "as_json", is_flag=True, help="Also print one JSON line a picture on stdout."),
    )(function)  # fmt: skip


def batch_options(function: F) -> F:
    """Which pairs, and where each result goes."""
    section = "Pairs and output"
    return stack(
        option(section, "--model", type=click.Choice(MODELS), default=Wanted.model, show_default=True,
               help="Of the pairs that name none."),
        option(section, "--fixed", type=str, metavar="FILE", help="The fixed image of every pair."),
        option(section, "--fixed-dir", type=_path(), metavar="DIR", help="Fixed images, instead of PAIRS."),
        option(section, "--moving-dir", type=_path(), metavar="DIR", help="Moving images with the same stems."),
        option(section, "-d", "--output-dir", type=_path(), metavar="DIR",
               help="Where everything goes; made if need be.  [default: the working folder]"),
        option(section, "--output-template", default="{id}.aligned{ext}", show_default=True, metavar="NAME",
               help="Name of a picture. Words: {id} {moving} {fixed} (stems) {parent} {fixed_parent} (their folders) "
               "{line} {model} {ext}."),
        option(section, "--params-template", default="{id}.params.json", show_default=True, metavar="NAME",
               help="Name of a parameter file."),
        option(section, "--id-template", default="{moving}", show_default=True, metavar="TEXT",
               help="Id of the pairs that have none."),
        option(section, "--allow-outside", is_flag=True,
               help="Let names in the manifest leave the output folder (.., absolute paths, links)."),
        option(section, "--retry", type=click.Choice(("untrusted", "failed", "none")), default="failed",
               show_default=True,
               help="What is tried again beside what is missing or changed; untrusted includes failed."),
        option(section, "--no-image", is_flag=True, help="Write no pictures, only the parameters."),
        overwrite_option(section),
        option(section, "--json", "as_json", is_flag=True, help="Also print each line of results.jsonl on stdout."),
    )(function)  # fmt: skip


def stack_options(function: F) -> F:
    """What frames are laid over, and what is made of them."""
    section = "Frames and output"
    return stack(
        option(section, "--model", type=click.Choice(MODELS), default=Wanted.model, show_default=True,
               help="What may lie between two frames."),
        option(section, "--reference", default="first", show_default=True, metavar="WHAT",
               help="first; the number of a frame, from 0; previous (step by step from the frame before, then refined "
               "against the first, so that nothing drifts); or mean (of all frames, on the grid of the first)."),
        option(section, "-o", "--output", type=_path(), metavar="FILE",
               help="One TIFF with a page a frame, instead of one picture a frame."),
        option(section, "--mean", type=_path(), metavar="FILE", help="Write the mean of the aligned frames."),
        option(section, "--median", type=_path(), metavar="FILE", help="Write their median."),
        output_dir_option(section),
        option(section, "--no-image", is_flag=True, help="Write no picture a frame."),
        overwrite_option(section),
        option(section, "--json", "as_json", is_flag=True, help="Also print one JSON line a frame on stdout."),
    )(function)  # fmt: skip


def crew_options(function: F) -> F:
    """Who works on a batch."""
    section = "Machine"
    return stack(
        option(section, "--workers", type=click.IntRange(min=1), metavar="N",
               help="Processes; they share the threads.  [default: one a core]"),
        option(section, "--engine", type=click.Choice(("local", "dask")), default="local", show_default=True,
               help="dask: on the machines of a Dask cluster (pip install 'imgalign[dask]')."),
        option(section, "--scheduler", type=str, metavar="ADDRESS", help="The Dask scheduler, tcp://host:8786."),
    )(function)  # fmt: skip


def gradmap_option(function: F) -> F:
    """The maps beside an alignment."""
    return option("Output", "--gradmap", is_flag=True,
                  help="Write gradient-magnitude maps of the fixed and the aligned picture too, as float TIFF: "
                  "<name>.gradmap.tif.")(function)  # fmt: skip


def output_dir_option(section: str = "Output") -> Callable[[F], F]:
    """Where names without a folder of their own go."""
    return option(section, "-d", "--output-dir", type=_path(), metavar="DIR",
                  help="An existing folder for what has no name of its own.  "
                  "[default: the working folder]")  # fmt: skip


def overwrite_option(section: str = "Output") -> Callable[[F], F]:
    """Permission to replace."""
    return option(section, "--overwrite", is_flag=True, help="Replace files that exist.")


def resample_options(function: F) -> F:
    """How the written picture is made from the moving one."""
    section = "The written picture"
    return stack(
        option(section, "--interpolation", type=click.Choice(INTERPOLATIONS), default="cubic", show_default=True,
               help="How the written picture is interpolated; nearest for label maps."),
        option(section, "--canvas", type=click.Choice(CANVASES), default="fixed", show_default=True,
               help="The written area: the fixed image, all of both, or what both show."),
        option(section, "--fill", type=Fill(),
               help="Value where nothing lies: a number, or one a channel (255,255,255).  [default: transparent]"),
        option(section, "--antialias/--no-antialias", default=True, show_default=True,
               help="Smooth first where the picture shrinks."),
        compression_option(section),
    )(function)  # fmt: skip


def compression_option(section: str) -> Callable[[F], F]:
    """Time against size of PNG and TIFF."""
    return option(section, "--compression", type=click.Choice(COMPRESSIONS), default="fast", show_default=True,
                  help="PNG and TIFF: time against file size; lzw is for TIFF.")  # fmt: skip


def machine_options(function: F) -> F:
    """What the work may use."""
    section = "Machine"
    return stack(
        option(
            section,
            "--device",
            type=Device(),
            default=AlignOptions.device,
            show_default=True,
            metavar="NAME",
            help="Where to compute: auto (the CPU), cpu, cuda, cuda:1, mps.",
        ),
        option(
            section, "--threads", type=click.IntRange(min=1), metavar="N", help="Threads to use.  [default: every core]"
        ),
        max_pixels_option(section),
    )(function)


def max_pixels_option(section: str = "Machine") -> Callable[[F], F]:
    """The limit against decompression bombs."""
    return option(section, "--max-pixels", type=Count(), metavar="N", default=DEFAULT_MAX_PIXELS, show_default=True,
                  help="Refuse pictures with more pixels; 2G means 2,000,000,000.")  # fmt: skip


def talk_options(function: F) -> F:
    """How much is said."""
    section = "Talk"
    return stack(
        option(section, "-q", "--quiet", is_flag=True, help="Say only what went wrong or is in doubt."),
        option(section, "-v", "--verbose", is_flag=True, help="Say more: reasons, uncertainty, seconds by stage."),
        option(
            section,
            "--progress/--no-progress",
            default=None,
            help="A progress bar on stderr.  [default: on a terminal, for several pictures]",
        ),
    )(function)


def picture_arguments(name: str, *, required: bool = True) -> Callable[[F], F]:
    """One or more pictures, as FILE or FILE[page]; kept as text, for a page is no part of a path."""
    kind = click.Path(readable=False)
    return click.argument(name, nargs=-1, required=required, type=kind, metavar=f"{name.upper()}...")
