"""Pictures from files to files: read, align, warp, write. The command line and `batch` share it.

Nothing here prints; everything that happened is in the `Outcome`, everything that went wrong is raised.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from imgalign import images, record
from imgalign.alignment import Alignment, load
from imgalign.canvas import grid_of
from imgalign.decompose import corners_of, mapped
from imgalign.errors import DeviceError, ImgalignError, OptionError, ShapeError, WriteError
from imgalign.images import Picture
from imgalign.outputs import Job, check_new
from imgalign.paths import shown

if TYPE_CHECKING:
    from imgalign.canvas import Canvas
    from imgalign.encoding import Compression
    from imgalign.resample import Interpolation

STARTS = ("auto", "identity", "center", "phase")


@dataclass(frozen=True)
class AlignOptions:
    """How transforms are found, as `imgalign.align` takes it; masks and `init` may be files."""

    model: str = "affine"
    loss: str = "auto"
    optimizer: str = "lm"
    sampler: str = "cubic"
    levels: int | None = None
    iterations: int | None = None
    lr: float | None = None
    init: str = "auto"
    mask: Path | None = None
    moving_mask: Path | None = None
    max_shift: float | None = None
    max_rotation: float | None = None
    max_scale: float | None = None
    allow_mirror: bool = False
    precision: float = 0.01
    trust: float = 0.5
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    max_pixels: int = images.MAX_PIXELS

    def keywords(self) -> dict[str, Any]:
        """Those that `align` takes as they are."""
        ours = {"init", "mask", "moving_mask", "max_pixels"}
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ours}


@dataclass(frozen=True)
class WriteOptions:
    """How results are written."""

    interpolation: "Interpolation" = "cubic"
    canvas: "Canvas" = "fixed"
    fill: tuple[float, ...] | None = None
    antialias: bool = True
    compression: "Compression" = "fast"
    overwrite: bool = False
    on_untrusted: Literal["keep", "skip", "identity"] = "keep"


_Options = TypeVar("_Options", AlignOptions, WriteOptions)


def options_of(kind: type[_Options], given: Mapping[str, Any], **more: Any) -> _Options:
    """The options of a kind out of a larger mapping, such as all that a command was given."""
    known = {entry.name for entry in fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in known}, **more)


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    job: Job
    alignment: Alignment
    written: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The parameter file's content, with the names of the files that were written."""
        names = {"output": self.job.image, "params": self.job.params}
        written = {key: str(path) if path in self.written else None for key, path in names.items()}
        return {**record.to_dict(self.alignment), **written}


class Reader:
    """Reads pictures in threads ahead of their use: decoding overlaps the import of torch and the pair before.

    Only what was started and not yet taken is held.
    """

    def __init__(self, *, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="read")
        self._ahead: dict[str, Future[tuple[Picture, float]]] = {}

    def start(self, name: str) -> None:
        """Begin to read a picture that `take` will ask for."""
        if name not in self._ahead:
            self._ahead[name] = self._threads.submit(self._read, name)

    def take(self, name: str) -> tuple[Picture, float]:
        """The picture, and the seconds that its decoding took.

        Raises:
            ImageReadError: If it cannot be read.
        """
        self.start(name)
        return self._ahead.pop(name).result()

    def close(self) -> None:
        """Drop what was not taken."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, name: str) -> tuple[Picture, float]:
        began = time.perf_counter()
        return images.read(name, max_pixels=self._max_pixels), time.perf_counter() - began


class Aligner:
    """Aligns jobs that share FIXED and the options: those are read once, and the next MOVING is read ahead.

    Args:
        jobs: What is to be done, in this order; all with one `fixed`.
        finding: How transforms are found.
        writing: How results are written.

    Raises:
        ImgalignError: If FIXED, a mask or the parameter file to start from cannot be used: no job could be done.
    """

    def __init__(self, jobs: Sequence[Job], finding: AlignOptions, writing: WriteOptions) -> None:
        self._finding, self._writing = finding, writing
        todo = [job.moving for job in jobs if writing.overwrite or not any(path.exists() for path in job.outputs)]
        self._next = dict(pairwise(todo))
        self._reader = Reader(max_pixels=finding.max_pixels)
        first = jobs[0]
        assert first.fixed is not None
        for name in (first.fixed, *todo[:1]):
            self._reader.start(name)
        if images.file_and_page(first.fixed)[0].is_file():  # else the error need not wait for torch
            import imgalign.align  # noqa: F401  (while the threads decode)
        self._fixed, self._fixed_seconds = self._reader.take(first.fixed)
        self._start = finding.init if finding.init in STARTS else load(finding.init)
        self._mask = self._weights(finding.mask)
        self._moving_mask = self._weights(finding.moving_mask)

    def __enter__(self) -> "Aligner":  # noqa: PYI034  (typing.Self came with Python 3.11)
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.close()

    def run(self, job: Job) -> Outcome:
        """Read, align, warp and write one job.

        Raises:
            ImgalignError: What went wrong, in one line that names the file.
        """
        if not self._writing.overwrite:
            check_new(job.outputs)
        moving, seconds = self._reader.take(job.moving)
        if job.moving in self._next:
            self._reader.start(self._next[job.moving])
        alignment = self._aligned(moving)
        read = {"read": seconds + self._fixed_seconds}
        return write_result(job, alignment, self._fixed, moving, self._writing, seconds=read)

    def _aligned(self, moving: Picture) -> Alignment:
        with naming(moving):
            return align_pictures(
                self._fixed,
                moving,
                self._finding,
                start=self._start,
                mask=self._mask,
                moving_mask=self._moving_mask,
            )

    def _weights(self, path: Path | None) -> NDArray[np.float32] | None:
        return None if path is None else weights(self._reader.take(str(path))[0])


def align_pictures(
    fixed: Picture,
    moving: Picture,
    finding: AlignOptions,
    *,
    start: str | Alignment = "auto",
    mask: NDArray[np.float32] | None = None,
    moving_mask: NDArray[np.float32] | None = None,
) -> Alignment:
    """Align decoded pictures; the result knows their files and every option.

    Raises:
        ImgalignError: As `imgalign.align`.
    """
    from imgalign.align import align

    result = align(
        comparable(fixed), comparable(moving), init=start, mask=mask, moving_mask=moving_mask, **finding.keywords()
    )
    files = {"fixed": _known(fixed), "moving": _known(moving)}
    named = {"init": finding.init, "mask": finding.mask, "moving_mask": finding.moving_mask}
    given = {name: value if value is None else str(value) for name, value in named.items()}
    return replace(result, files=files, options={**result.options, **given})


def write_result(
    job: Job,
    alignment: Alignment,
    fixed: Picture,
    moving: Picture,
    writing: WriteOptions,
    *,
    seconds: Mapping[str, float] | None = None,
) -> Outcome:
    """Warp and write what a job asks for: the picture, gradient maps, and the parameter file last.

    Args:
        job: Names of the files.
        alignment: What was found.
        fixed: The picture that stays.
        moving: The picture to be laid over it.
        writing: How.
        seconds: Stages before this, for the record.

    Raises:
        ImgalignError: If something could not be written.
    """
    taken = dict(seconds or {}) | dict(alignment.seconds)
    doubted = not alignment.trusted
    if doubted and writing.on_untrusted == "identity":
        alignment = left_in_place(alignment)
    picture = None if doubted and writing.on_untrusted == "skip" else job.image
    written: list[Path] = []
    notes: list[str] = [*fixed.notes, *moving.notes]
    shaped = {name: getattr(writing, name) for name in ("interpolation", "canvas", "fill", "antialias", "on_untrusted")}
    if picture is not None or job.aligned_gradmap is not None:
        with _timed(taken, "warp"), naming(moving):
            laid = lay(moving, alignment, writing, alpha=picture is not None and images.can_hold_alpha(picture))
            shaped |= laid.options
            notes += laid.notes
        with _timed(taken, "write"):
            if picture is not None:
                notes += _write(picture, laid.pixels, moving, writing, has_alpha=laid.has_alpha)
                written.append(picture)
            written += _write_gradmaps(job, fixed, laid, writing)
    alignment = replace(alignment, seconds=taken, options={**alignment.options, **shaped})
    if job.params is not None:
        alignment.save(job.params, overwrite=writing.overwrite)
        written.append(job.params)
    return Outcome(job, alignment, tuple(written), tuple(notes))


@dataclass(frozen=True)
class Laid:
    """A picture on its new grid."""

    pixels: NDArray[Any]
    covered: NDArray[np.bool_]  # (H, W): true where there was something under the grid
    has_alpha: bool
    options: Mapping[str, Any]  # the grid, for the record
    notes: tuple[str, ...] = ()


def lay(picture: Picture, alignment: Alignment, writing: WriteOptions, *, alpha: bool) -> Laid:
    """Lay a picture over the fixed grid, or the canvas asked for.

    Args:
        picture: Of the moving picture's size.
        alignment: By what.
        writing: Interpolation, canvas, fill.
        alpha: The area with nothing under it may become transparent; floats hold NaN there instead.

    Raises:
        ShapeError: If the picture has not the moving picture's size.
        WriteError: If there is no such canvas, or the fill does not fit the picture.
    """
    from imgalign import resample

    if picture.size_hw != alignment.moving_size_hw:
        (height, width), (h, w) = picture.size_hw, alignment.moving_size_hw
        raise ShapeError(
            f"has {width} x {height} pixels, the transform is for pictures of {w} x {h}; use one, or --rescale"
        )
    with _as_write_error():
        grid = grid_of(writing.canvas, alignment.moving_from_fixed, alignment.fixed_size_hw, alignment.moving_size_hw)
        matrix = alignment.moving_from_fixed @ grid.fixed_from_canvas
        whole = _reaches_everywhere(matrix, grid.size_hw, picture.size_hw)
        plain = picture.pixels.dtype.kind in "iu" and picture.channels in {1, 3} and not picture.has_alpha
        add_alpha = alpha and plain and not whole and writing.fill is None
        pixels, covered = resample.warp(
            picture.pixels,
            moving_from_fixed=matrix,
            size_hw=grid.size_hw,
            interpolation=writing.interpolation,
            antialias=writing.antialias,
            fill=writing.fill,
            has_alpha=picture.has_alpha,
            add_alpha=add_alpha,
        )
    black = plain and not add_alpha and not whole and writing.fill is None
    return Laid(
        pixels,
        covered,
        has_alpha=picture.has_alpha or add_alpha,
        options={"canvas_offset_xy": list(grid.offset_xy), "canvas_size_hw": list(grid.size_hw)},
        notes=("what the picture does not reach is black: this format has no transparency",) if black else (),
    )


def _reaches_everywhere(matrix: NDArray[np.float64], size_hw: tuple[int, int], picture_hw: tuple[int, int]) -> bool:
    """True where the picture lies under the whole grid: both are convex, so the corners tell."""
    landed = mapped(matrix, corners_of(size_hw))
    limit = np.array(picture_hw[::-1]) - 0.5
    return bool((np.isfinite(landed) & (landed >= -0.5) & (landed <= limit)).all())


def apply_file(
    job: Job, alignment: Alignment, writing: WriteOptions, reader: Reader, *, rescale: bool = False
) -> tuple[str, ...]:
    """Lay a file by a transform that is known.

    Args:
        job: Its name and that of the output.
        alignment: The transform.
        writing: How the result is written.
        reader: Reads it; it may have begun.
        rescale: The file shows the same field in another number of pixels.

    Returns:
        Notes on what had to be done to the picture.

    Raises:
        ImgalignError: If it cannot be read, has not the size the transform is for, or cannot be written.
    """
    assert job.image is not None
    if not writing.overwrite:
        check_new(job.outputs)
    picture, _ = reader.take(job.moving)
    if rescale:
        alignment = at_density(alignment, picture.size_hw)
    with naming(picture):
        laid = lay(picture, alignment, writing, alpha=images.can_hold_alpha(job.image))
    written = _write(job.image, laid.pixels, picture, writing, has_alpha=laid.has_alpha)
    return (*picture.notes, *laid.notes, *written)


def comparable(picture: Picture) -> NDArray[Any]:
    """Pixels as arrays are understood: with 2 or 4 channels the last is alpha. Other bands are averaged."""
    if picture.channels in {2, 4} and not picture.has_alpha:
        return picture.pixels.mean(axis=2, dtype=np.float32)
    return picture.pixels


def at_density(alignment: Alignment, size_hw: tuple[int, int]) -> Alignment:
    """The alignment for pictures that show the moving picture's field in another number of pixels."""
    scale_y, scale_x = np.array(size_hw) / alignment.moving_size_hw
    rescaled = np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]])
    return replace(alignment, moving_from_fixed=rescaled @ alignment.moving_from_fixed, moving_size_hw=size_hw)


def left_in_place(alignment: Alignment) -> Alignment:
    """The alignment that moves nothing, in place of one that is not to be trusted."""
    return replace(
        alignment,
        moving_from_fixed=np.eye(3),
        status="left in place",
        reasons=(*alignment.reasons, "the moving picture was left where it is (--on-untrusted identity)"),
        corner_covariance=None,
        parameter_sigma={},
    )


def weights(picture: Picture) -> NDArray[np.float32]:
    """A mask picture as weights `(H, W)` from 0 to 1: full scale counts in full, floats count as they are."""
    pixels = picture.pixels
    whole = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "iu" else 1.0
    values = np.nan_to_num(pixels.astype(np.float32) / whole, posinf=0.0).clip(0, 1)
    if values.ndim == 2:
        return values
    if not picture.has_alpha:
        return values.mean(axis=2)
    colours = values[..., :-1].mean(axis=2) if values.shape[2] > 1 else 1.0
    return colours * values[..., -1]


def numbers_like(picture: Picture) -> Picture:
    """What a map of numbers inherits from a picture: its resolution, and no colours."""
    return replace(picture, metadata=images.Metadata(resolution=picture.metadata.resolution))


@contextmanager
def naming(picture: Picture) -> Iterator[None]:
    """Put the file's name in front of what the library says of its pixels."""
    try:
        yield
    except (OptionError, DeviceError):
        raise
    except ImgalignError as error:
        name = shown(picture.path)
        raise (error if name in str(error) else type(error)(f"{name}: {error}")) from error.__cause__


def _known(picture: Picture) -> dict[str, Any]:
    return {"name": str(picture.path), "page": picture.page, "sha256": picture.sha256}


def _write(
    path: Path, pixels: NDArray[Any], like: Picture, writing: WriteOptions, *, has_alpha: bool
) -> tuple[str, ...]:
    return images.write(
        path,
        pixels,
        like=like,
        has_alpha=has_alpha,
        overwrite=writing.overwrite,
        compression=writing.compression,
        inputs=[like.path],
    )


def _write_gradmaps(job: Job, fixed: Picture, laid: "Laid", writing: WriteOptions) -> list[Path]:
    """Maps of both pictures in true units; what nothing lies under is NaN."""
    from imgalign.gradmap import gradmap

    written = []
    if job.fixed_gradmap is not None:
        _write(job.fixed_gradmap, gradmap(comparable(fixed)), numbers_like(fixed), writing, has_alpha=False)
        written.append(job.fixed_gradmap)
    if job.aligned_gradmap is not None:
        seen = comparable(replace(fixed, pixels=laid.pixels, has_alpha=laid.has_alpha))
        known = np.where(laid.covered if seen.ndim == 2 else laid.covered[..., None], seen, np.nan)
        _write(job.aligned_gradmap, gradmap(known), numbers_like(fixed), writing, has_alpha=False)
        written.append(job.aligned_gradmap)
    return written


@contextmanager
def _as_write_error() -> Iterator[None]:
    """An option that does not fit one picture is that picture's failure, and no wrong usage of the whole run."""
    try:
        yield
    except OptionError as error:
        raise WriteError(str(error)) from error


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
