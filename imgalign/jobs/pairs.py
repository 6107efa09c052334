"""Pictures from files to files: read, align, lay, write. The command line and `batch` share it.

Nothing here prints; everything that happened is in the `Outcome`, everything that went wrong is raised.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from imgalign.alignment import Alignment, load
from imgalign.files import images
from imgalign.files.images import Picture
from imgalign.files.outputs import Job
from imgalign.files.paths import is_file
from imgalign.files.reading import FileReader, comparable, read_weights, to_read
from imgalign.jobs.laying import WriteOptions, at_density, lay, naming, write
from imgalign.jobs.outcome import Outcome, check_writable, write_result
from imgalign.wanted import STARTS, AlignOptions

if TYPE_CHECKING:
    from imgalign.planes.plane import Plane


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
        self._reader = FileReader(to_read(jobs, overwrite=writing.overwrite), max_pixels=max_pixels)
        self._reader.begin(fixed)
        if is_file(images.file_and_page(fixed)[0]):  # else the error need not wait for torch
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
        self._reader = FileReader(to_read(jobs, overwrite=writing.overwrite), max_pixels=max_pixels)
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
        ready = prepare(comparable(fixed), mask=mask, device=device, copy=False)
        kept = _PREPARED[fixed] = (mask, device, ready)
    return kept[2]


def apply_file(
    job: Job, alignment: Alignment, writing: WriteOptions, reader: FileReader, *, rescale: bool = False
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


def _known(picture: Picture) -> dict[str, Any]:
    return {"name": str(picture.path), "page": picture.page, "sha256": picture.sha256}


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
