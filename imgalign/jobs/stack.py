"""A sequence of frames laid over one reference: the first, a chosen one, the one before each, or their mean.

Frames are read one after the other, so that the length of a stack does not matter. With `previous`, each transform is
that of the frame before it followed by the step between the two, refined against the reference: steps alone would add
up their errors. Where the refinement cannot be trusted (a pan that has left the reference), the composition stays. A
frame that is not trusted is no link of the chain: the next one steps from the last that is.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgalign.alignment import Alignment, load
from imgalign.errors import DeviceError, ImgalignError, OptionError, ShapeError, WriteError
from imgalign.files import images, tiff_writing
from imgalign.files.outputs import Job
from imgalign.files.paths import advice, is_stream, replacing, shown
from imgalign.files.picture import Picture
from imgalign.files.reading import FileReader, read_weights
from imgalign.jobs.averages import Floats, Sum, as_floats, float_dtype, median
from imgalign.jobs.laying import WriteOptions, lay, naming
from imgalign.jobs.outcome import Outcome, check_writable, write_result
from imgalign.jobs.pairs import align_pictures
from imgalign.wanted import STARTS, AlignOptions

Reference: TypeAlias = Literal["first", "previous", "mean"] | int
MEAN_PASSES = 2


@dataclass(frozen=True)
class StackFiles:
    """What is written beside a picture and a parameter file a frame."""

    pages: Path | None = None
    """One TIFF with a page a frame."""
    mean: Path | None = None
    median: Path | None = None


def frames_of(names: Sequence[str]) -> tuple[str, ...]:
    """The frames that names stand for: several pictures, or every page of a single file.

    Raises:
        ImageReadError: If that file is missing or no picture.
        OptionError: If there is one frame only.
    """
    frames = tuple(names)
    if len(frames) == 1 and images.file_and_page(frames[0])[1] is None and not is_stream(frames[0]):
        count = images.page_count(frames[0])
        frames = tuple(f"{frames[0]}[{page}]" for page in range(count))
    if len(frames) < 2:
        raise OptionError("a stack is two frames or more: name several pictures, or one file with several pages")
    return frames


def with_further_pages(frames: Sequence[str]) -> tuple[str, ...]:
    """Those of several frames that are the first page of a file that has more; what cannot be read fails later."""
    found = []
    for name in frames:
        with suppress(ImgalignError):
            if images.file_and_page(name)[1] is None and not is_stream(name) and images.page_count(name) > 1:
                found.append(name)
    return tuple(found)


def reference_of(text: str, count: int) -> Reference:
    """What the user calls the reference: `first`, `previous`, `mean`, or the number of a frame counted from 0.

    Raises:
        OptionError: If it is none of them.
    """
    if text in ("first", "previous", "mean"):
        return text  # type: ignore[return-value]  # (the tuple above)
    if text.isdecimal() and int(text) < count:
        return int(text)
    raise OptionError(f"the reference {text!r} is none of first, previous, mean, nor a frame from 0 to {count - 1}")


class Stacker:
    """Aligns the frames of a stack, in their order, and collects what is made of all of them.

    Args:
        jobs: One a frame; `moving` is the frame.
        finding: How transforms are found.
        writing: How frames are written.
        reference: What they are laid over.
        files: What is written of all of them.
        max_pixels: Refuse pictures with more.

    Raises:
        ImgalignError: If the reference, a mask or the parameter file to start from cannot be read, or, for the mean,
            not a single frame; or if what is written of all frames has a name that cannot hold it.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        finding: AlignOptions,
        writing: WriteOptions,
        *,
        reference: Reference = "first",
        files: StackFiles | None = None,
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        self._frames = [job.moving for job in jobs]
        self._finding, self._writing, self._max_pixels = finding, writing, max_pixels
        self._mode = reference
        self._start = finding.init if finding.init in STARTS else load(finding.init)
        self._mask = self._read_mask(finding.mask)
        self._moving_mask = self._read_mask(finding.moving_mask)
        number = reference if isinstance(reference, int) else 0
        self._at = self._frames[number]
        if reference == "mean" and (piped := next(filter(is_stream, self._frames), None)):
            raise OptionError(f"{shown(piped)}: the mean reads its frames more than once, and a pipe ends; name a file")
        self._fixed, self._read_seconds = FileReader(max_pixels=max_pixels).take(self._at)
        self._files = files or StackFiles()
        self._check_held()
        self._last = (self._fixed, _at_rest(self._fixed, finding))
        """The frame that the next one of a chain steps from, and where it lies."""
        self._starts: dict[str, Alignment] = {}
        self._sum = Sum()
        self._scratch: IO[bytes] | None = None
        self._tif: Any = None
        self._lost: WriteError | None = None
        self.pages = 0
        """Frames in the TIFF so far."""
        if reference == "mean":
            self._fixed = self._mean_of_all()
            self._reading = self._reader()
        else:
            self._reading = FileReader([name for name in self._frames if name != self._at], max_pixels=max_pixels)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Around all frames: what is made of all of them is written at the end; after an error only what is whole.

        Raises:
            ImgalignError: If it cannot be written, or there is nothing to make it of.
        """
        files = self._files
        with ExitStack() as opened:
            if files.median is not None:
                self._scratch = opened.enter_context(_scratch(files.median))
            pages = opened.enter_context(ExitStack())
            if files.pages is not None:
                file = pages.enter_context(replacing(files.pages, overwrite=self._writing.overwrite))
                size = len(self._frames) * self._fixed.pixels.nbytes
                self._tif = pages.enter_context(tiff_writing.writer(file, size, self._writing.compression))
            yield
            if self._lost is not None:
                raise self._lost
            if files.pages is not None and not self.pages:
                raise ShapeError(f"{shown(files.pages)}: not a single frame could be aligned, so there are no pages")
            _each(pages.close, self._write_mean, self._write_median)

    def run(self, job: Job) -> Outcome:
        """Align and write one frame.

        Raises:
            ImgalignError: What went wrong, in one line that names the file. The others can still be done.
        """
        if self._lost is not None:
            raise self._lost
        check_writable(job, overwrite=self._writing.overwrite)
        frame, seconds = self._take(job.moving)
        with naming(frame):
            alignment = self._aligned(job.moving, frame)
        outcome = write_result(job, alignment, self._fixed, frame, self._writing, seconds={"read": seconds})
        if alignment.trusted or self._writing.on_untrusted != "skip":
            self._collect(frame, outcome.alignment)
        return outcome

    def _take(self, name: str) -> tuple[Picture, float]:
        """A frame, and the seconds that its decoding took; the reference has been read, and may have been a pipe."""
        at_hand = name == self._at and self._mode != "mean"
        return (self._fixed, self._read_seconds) if at_hand else self._reading.take(name)

    def _aligned(self, name: str, frame: Picture) -> Alignment:
        if self._mode == "mean":
            return self._against_reference(frame, self._starts.get(name, self._start))
        if name == self._at:
            return _at_rest(frame, self._finding)
        if self._mode != "previous":
            return self._against_reference(frame, self._start)
        found = self._chained(frame)
        if found.trusted:
            self._last = (frame, found)
        return found

    def _against_reference(self, frame: Picture, start: str | Alignment) -> Alignment:
        return align_pictures(
            self._fixed, frame, self._finding, start=start, mask=self._mask, moving_mask=self._moving_mask
        )

    def _chained(self, frame: Picture) -> Alignment:
        """The step from the last trusted frame, composed with where that lies, then refined against the reference."""
        before, lies = self._last
        mask = self._mask if before is self._fixed else self._moving_mask
        step = align_pictures(before, frame, self._finding, start=self._start, mask=mask, moving_mask=self._moving_mask)
        composed = replace(lies.compose(step), options={**step.options, "reference": "previous"}, history=step.history)
        refined = self._against_reference(frame, composed)
        if refined.trusted or not composed.trusted:
            return refined
        return replace(
            composed,
            reasons=(*composed.reasons, "although the reference itself could not be found again in this frame"),
        )

    def _mean_of_all(self) -> Picture:
        """The mean of frames aligned to the first, then, once more, to that mean. Frames that fail are left out."""
        reference = self._fixed
        for _ in range(MEAN_PASSES):
            total, reader = Sum(), self._reader()
            self._fixed = reference
            for name in self._frames:
                try:
                    frame, _ = reader.take(name)
                    start = self._starts.get(name, self._start)
                    found = self._against_reference(frame, start)
                    laid = lay(frame, found, WriteOptions(), alpha=False)
                except (OptionError, DeviceError):  # which no frame would fare better with
                    raise
                except ImgalignError:  # said when its own turn comes
                    continue
                if found.trusted:
                    self._starts[name] = found
                    total.add(laid.colours, laid.opaque)
            reference = _picture_of(total.mean(), reference)
        return reference

    def _collect(self, frame: Picture, alignment: Alignment) -> None:
        if self._tif is None and self._files.mean is None and self._scratch is None:
            return
        with naming(frame):
            laid = lay(frame, alignment, replace(self._writing, canvas="fixed"), alpha=False)
            if self._files.mean is not None:
                self._sum.add(laid.colours, laid.opaque)
            if self._scratch is not None:
                known = as_floats(laid.colours, laid.opaque)
                self._sum.check(known.shape, laid.pixels.dtype)
                with self._keeping(self._files.median):
                    self._scratch.write(known.astype(float_dtype(self._sum.dtype), copy=False).tobytes())
                    self._scratch.flush()
        if self._tif is not None:
            with self._keeping(self._files.pages):
                _add_page(self._tif, laid.pixels, frame, laid.has_alpha, self._writing.compression)
            self.pages += 1

    @contextmanager
    def _keeping(self, path: Path | None) -> Iterator[None]:
        """What the disk did not take whole cannot be gone on with: the frames that follow need not be aligned."""
        try:
            yield
        except OSError as error:
            self._lost = WriteError(f"{shown(path or '')}: {advice(error)}")
            raise self._lost from error

    def _write_mean(self) -> None:
        if self._files.mean is not None:
            self._write_one(self._files.mean, self._sum.mean())

    def _write_median(self) -> None:
        if self._files.median is not None and self._scratch is not None:
            self._write_one(self._files.median, median(self._scratch, self._sum.shape, float_dtype(self._sum.dtype)))

    def _write_one(self, path: Path, values: Floats) -> None:
        pixels, has_alpha = _as_kept(path, values, self._sum.dtype)
        writing = self._writing
        images.write(path, pixels, has_alpha=has_alpha, overwrite=writing.overwrite, compression=writing.compression)

    def _check_held(self) -> None:
        """Refuse names that cannot hold what comes of frames like the reference, before the work is done."""
        compression, like = self._writing.compression, self._fixed
        for path in (self._files.mean, self._files.median):
            if path is not None:
                colours = like.channels - like.has_alpha
                shape = (16, 16) if colours == 1 else (16, 16, colours)
                sample = np.full(shape, np.nan, float_dtype(like.pixels.dtype))
                pixels, has_alpha = _as_kept(path, sample, like.pixels.dtype)
                images.check_held(path, pixels, has_alpha=has_alpha, compression=compression)

    def _reader(self) -> FileReader:
        return FileReader(self._frames, max_pixels=self._max_pixels)

    def _read_mask(self, path: Path | None) -> NDArray[np.float32] | None:
        return read_weights(FileReader(max_pixels=self._max_pixels), path)


def _each(*steps: Callable[[], None]) -> None:
    """Take every step, whatever becomes of the others.

    Raises:
        ImgalignError: What went wrong in any.
    """
    errors: list[ImgalignError] = []
    for step in steps:
        try:
            step()
        except ImgalignError as error:  # noqa: PERF203  (three of them)
            errors.append(error)
    if len(errors) > 1:
        raise WriteError("; ".join(map(str, errors)))
    if errors:
        raise errors[0]


def _as_kept(path: Path, values: Floats, kind: np.dtype[Any]) -> tuple[NDArray[Any], bool]:
    """Floats for a TIFF, which holds what averaging gains; else of the frames' own dtype, with alpha for NaN."""
    if path.suffix.lower() in {".tif", ".tiff"} or kind.kind not in "iu":
        return values, False
    limits = np.iinfo(kind)
    pixels = np.nan_to_num(values).round().clip(limits.min, limits.max).astype(kind)
    planes = np.atleast_3d(values)
    missing = np.isnan(planes).any(axis=2, keepdims=True)
    if not missing.any() or planes.shape[2] not in {1, 3} or not images.can_hold_alpha(path):
        return pixels, False
    return np.concatenate([np.atleast_3d(pixels), np.where(missing, 0, limits.max).astype(kind)], axis=2), True


def _picture_of(mean: Floats, like: Picture) -> Picture:
    """A mean as a picture to align to."""
    digest = hashlib.sha256(mean.tobytes()).hexdigest()
    return replace(
        like,
        pixels=mean,
        path=Path("mean"),
        page=None,
        has_alpha=False,
        notes=(),
        metadata=replace(like.metadata, nodata=None),
        stream_sha256=digest,
    )


def _at_rest(frame: Picture, finding: AlignOptions) -> Alignment:
    """The reference lies on itself."""
    known = {"name": str(frame.path), "page": frame.page, "sha256": frame.sha256}
    return Alignment(
        model=finding.model,
        moving_from_fixed=np.eye(3),
        fixed_size_hw=frame.size_hw,
        moving_size_hw=frame.size_hw,
        status="the reference itself",
        corner_covariance=np.zeros((8, 8)),
        options={"reference": str(frame.path)},
        files={"fixed": known, "moving": known},
    )


def _add_page(tif: Any, pixels: NDArray[Any], frame: Picture, has_alpha: bool, compression: str) -> None:
    meta = frame.metadata
    tiff_writing.add_page(
        tif,
        pixels,
        has_alpha=has_alpha,
        compression=compression,
        icc=meta.icc,
        resolution=meta.resolution,
        nodata=meta.nodata,
    )


def _scratch(beside: Path) -> IO[bytes]:
    """A file without a name, on the disk where the median goes: all frames as floats may be large."""
    import tempfile

    return tempfile.TemporaryFile(dir=beside.parent, prefix=".imgalign-")
