"""Pictures from files to files: read, align, lay, write. The command line and `batch` share it.

Nothing here prints; everything that happened is in the `Outcome`, everything that went wrong is raised.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from imgalign import images, record
from imgalign.alignment import Alignment, load
from imgalign.images import Picture
from imgalign.laying import Laid, WriteOptions, at_density, lay, left_in_place, naming, numbers_like, write
from imgalign.outputs import Job, check_new
from imgalign.wanted import STARTS, AlignOptions

if TYPE_CHECKING:
    from imgalign.plane import Plane


@dataclass(frozen=True)
class CenterOptions:
    """How a structure is centred, as `imgalign.center` takes it; the mask is a file."""

    objective: str = "robust"
    sampler: str = "cubic"
    neighbourhood_px: float | None = None
    iterations: int | None = None
    lr: float | None = None
    max_shift: float | None = None
    mask: Path | None = None
    trust: float = 0.5


_Options = TypeVar("_Options", AlignOptions, CenterOptions, WriteOptions)


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

    Args:
        names: What `take` will ask for, in this order; the first is begun at once, each other when the one before
            it is taken. Only what was begun and not yet taken is held.
        max_pixels: Refuse pictures with more.
    """

    def __init__(self, names: Sequence[str] = (), *, max_pixels: int = images.MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="read")
        self._begun: dict[str, Future[tuple[Picture, float]]] = {}
        self._next = dict(pairwise(names))
        for name in names[:1]:
            self.begin(name)

    def begin(self, name: str) -> None:
        """Begin to read a picture that `take` will ask for."""
        if name not in self._begun:
            self._begun[name] = self._threads.submit(self._read, name)

    def take(self, name: str) -> tuple[Picture, float]:
        """The picture, and the seconds that its decoding took.

        Raises:
            ImageReadError: If it cannot be read.
        """
        self.begin(name)
        try:
            return self._begun.pop(name).result()
        finally:
            if name in self._next:
                self.begin(self._next[name])

    def drop(self, name: str) -> None:
        """Let go of a picture that was begun and will not be taken."""
        begun = self._begun.pop(name, None)
        if begun is not None:
            begun.cancel()

    def close(self) -> None:
        """Drop what was not taken."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, name: str) -> tuple[Picture, float]:
        began = time.perf_counter()
        picture = images.read(name, max_pixels=self._max_pixels)
        return picture, time.perf_counter() - began


def to_read(jobs: Sequence[Job], *, overwrite: bool) -> list[str]:
    """The moving pictures of the jobs that can run: the others end on an output that exists."""
    return [job.moving for job in jobs if overwrite or not any(path.exists() for path in job.outputs)]


def check_writable(job: Job, *, overwrite: bool) -> None:
    """Refuse a job whose outputs exist, or whose picture would have no format, before any work is done for it.

    Raises:
        WriteError: Naming the file.
    """
    if job.image is not None:
        images.check_name(job.image)
    if not overwrite:
        check_new(job.outputs)


class Aligner:
    """Aligns jobs that share FIXED and the options: those are read once, and the next MOVING is read ahead.

    Args:
        jobs: What is to be done, in this order; all with one `fixed`.
        finding: How transforms are found.
        writing: How results are written.
        max_pixels: Refuse pictures with more.

    Raises:
        ImgalignError: If FIXED, a mask or the parameter file to start from cannot be used: no job could be done.
    """

    def __init__(
        self, jobs: Sequence[Job], finding: AlignOptions, writing: WriteOptions, *, max_pixels: int = images.MAX_PIXELS
    ) -> None:
        self._finding, self._writing = finding, writing
        self._start = finding.init if finding.init in STARTS else load(finding.init)
        fixed = jobs[0].fixed
        assert fixed is not None
        self._reader = Reader(to_read(jobs, overwrite=writing.overwrite), max_pixels=max_pixels)
        self._reader.begin(fixed)
        if images.file_and_page(fixed)[0].is_file():  # else the error need not wait for torch
            import imgalign.align  # noqa: F401  (while the threads decode)
        self._fixed, self._read_seconds = self._reader.take(fixed)
        self._fixed_gradmap = jobs[0].fixed_gradmap
        self._mask = read_weights(self._reader, finding.mask)
        self._moving_mask = read_weights(self._reader, finding.moving_mask)

    def run(self, job: Job) -> Outcome:
        """Read, align, lay and write one job.

        Raises:
            ImgalignError: What went wrong, in one line that names the file.
        """
        job = replace(job, fixed_gradmap=self._fixed_gradmap)
        check_writable(job, overwrite=self._writing.overwrite)
        moving, seconds = self._reader.take(job.moving)
        with naming(moving):
            alignment = align_pictures(
                self._fixed,
                moving,
                self._finding,
                start=self._start,
                mask=self._mask,
                moving_mask=self._moving_mask,
            )
        read = {"read": seconds + self._read_seconds}
        outcome = write_result(job, alignment, self._fixed, moving, self._writing, seconds=read)
        self._read_seconds, self._fixed_gradmap = 0.0, None  # FIXED is read, and its map written, once
        return outcome


class Centerer:
    """Centres the brightest structure of each job's picture; the picture is FIXED and MOVING at once."""

    def __init__(
        self,
        jobs: Sequence[Job],
        finding: CenterOptions,
        writing: WriteOptions,
        *,
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        self._finding, self._writing = finding, writing
        self._reader = Reader(to_read(jobs, overwrite=writing.overwrite), max_pixels=max_pixels)
        self._mask = read_weights(self._reader, finding.mask)

    def run(self, job: Job) -> Outcome:
        """Read, centre, lay and write one job.

        Raises:
            ImgalignError: What went wrong, in one line that names the file.
        """
        from imgalign.center import center

        check_writable(job, overwrite=self._writing.overwrite)
        picture, seconds = self._reader.take(job.moving)
        with naming(picture):
            found = center(comparable(picture), **{**vars(self._finding), "mask": self._mask})
        named = {"mask": _name(self._finding.mask)}
        known = replace(
            found,
            files={"fixed": _known(picture), "moving": _known(picture)},
            options={"command": "center", **found.options, **named},
        )
        return write_result(job, known, picture, picture, self._writing, seconds={"read": seconds})


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

    read = {"init": start, "mask": None, "moving_mask": moving_mask}
    result = align(_prepared(fixed, mask, finding.device), comparable(moving), **{**vars(finding), **read})
    named = {"init": finding.init, "mask": _name(finding.mask), "moving_mask": _name(finding.moving_mask)}
    files = {"fixed": _known(fixed), "moving": _known(moving)}
    return replace(result, files=files, options={**result.options, **named})


_PREPARED: WeakKeyDictionary[Picture, tuple[NDArray[np.float32] | None, str, "Plane"]] = WeakKeyDictionary()


def _prepared(fixed: Picture, mask: NDArray[np.float32] | None, device: str) -> "Plane":
    """A picture ready to be aligned to; it is kept as long as the picture, for the next one of the same FIXED."""
    from imgalign.align import prepare

    kept = _PREPARED.get(fixed)
    if kept is None or kept[0] is not mask or kept[1] != device:
        kept = _PREPARED[fixed] = (mask, device, prepare(comparable(fixed), mask=mask, device=device))
    return kept[2]


def write_result(
    job: Job,
    alignment: Alignment,
    fixed: Picture,
    moving: Picture,
    writing: WriteOptions,
    *,
    seconds: Mapping[str, float] | None = None,
) -> Outcome:
    """Lay the moving picture and write what a job asks for: the picture, gradient maps, the parameter file last.

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
    if not alignment.trusted and writing.on_untrusted == "identity":
        alignment = left_in_place(alignment)
    skipped = not alignment.trusted and writing.on_untrusted == "skip"
    image = None if skipped else job.image
    shaping = writing.shaping()
    written: list[Path] = []
    notes = [*dict.fromkeys((*fixed.notes, *moving.notes))]
    if image is not None or job.aligned_gradmap is not None:
        with _timed(taken, "warp"), naming(moving):
            laid = lay(moving, alignment, writing, alpha=image is not None and images.can_hold_alpha(image))
        with _timed(taken, "write"):
            if image is not None:
                notes += write(image, laid.pixels, moving, writing, has_alpha=laid.has_alpha)
                written.append(image)
            written += _write_gradmaps(job, fixed, laid, writing)
        shaping |= laid.grid
        notes += laid.notes
    alignment = replace(alignment, seconds=taken, options={**alignment.options, **shaping})
    if job.params is not None:
        alignment.save(job.params, overwrite=writing.overwrite)
        written.append(job.params)
    return Outcome(job, alignment, tuple(written), tuple(notes))


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
    check_writable(job, overwrite=writing.overwrite)
    picture, _ = reader.take(job.moving)
    if rescale:
        alignment = at_density(alignment, picture.size_hw)
    with naming(picture):
        laid = lay(picture, alignment, writing, alpha=images.can_hold_alpha(job.image))
    written = write(job.image, laid.pixels, picture, writing, has_alpha=laid.has_alpha)
    return (*picture.notes, *laid.notes, *written)


def comparable(picture: Picture) -> NDArray[Any]:
    """Pixels as `align` understands arrays: of 2 or 4 channels the last is alpha. Other bands are averaged."""
    if picture.channels in {2, 4} and not picture.has_alpha:
        return picture.pixels.mean(axis=2, dtype=np.float32)
    return picture.pixels


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


def read_weights(reader: Reader, path: Path | None) -> NDArray[np.float32] | None:
    """The weights in a file, if there is one.

    Raises:
        ImageReadError: If it cannot be read.
    """
    return None if path is None else weights(reader.take(str(path))[0])


def _known(picture: Picture) -> dict[str, Any]:
    return {"name": str(picture.path), "page": picture.page, "sha256": picture.sha256}


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _write_gradmaps(job: Job, fixed: Picture, laid: Laid, writing: WriteOptions) -> list[Path]:
    """Maps of both pictures in true units; what nothing lies under is NaN."""
    from imgalign.gradmap import gradmap

    written = []
    if job.fixed_gradmap is not None:
        write(job.fixed_gradmap, gradmap(comparable(fixed)), numbers_like(fixed), writing, has_alpha=False)
        written.append(job.fixed_gradmap)
    if job.aligned_gradmap is not None:
        seen = comparable(replace(fixed, pixels=laid.pixels, has_alpha=laid.has_alpha))
        known = np.where(laid.covered if seen.ndim == 2 else laid.covered[..., None], seen, np.nan)
        write(job.aligned_gradmap, gradmap(known), numbers_like(fixed), writing, has_alpha=False)
        written.append(job.aligned_gradmap)
    return written


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
