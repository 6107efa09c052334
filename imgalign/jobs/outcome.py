"""What comes of a job: the files it asks for, written in an order in which the parameter file vouches for the rest."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imgalign.alignment import Alignment
from imgalign.files import images, record
from imgalign.files.images import Picture
from imgalign.files.outputs import Job, check_new
from imgalign.files.paths import shown, take_away
from imgalign.files.reading import comparable
from imgalign.jobs.laying import Laid, WriteOptions, lay, left_in_place, naming, numbers_like, write


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


def check_writable(job: Job, *, overwrite: bool) -> None:
    """Refuse a job whose outputs exist, or whose picture would have no format, before any work is done for it.

    Raises:
        WriteError: Naming the file.
    """
    if job.image is not None:
        images.check_name(job.image)
    if not overwrite:
        check_new(job.outputs)


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

    A picture that is left out, for it is not to be trusted, leaves none from before either, if that may be replaced.

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
    earlier = job.image if skipped and writing.overwrite else None
    if earlier is not None and take_away(earlier, inputs=[fixed.path, moving.path]):
        notes.append(f"no picture is written, and {shown(earlier)} from before was taken away")
    if image is not None or job.aligned_gradmap is not None:
        with _timed(taken, "warp"), naming(moving):
            laid = lay(moving, alignment, writing, alpha=image is not None and images.can_hold_alpha(image))
        with _timed(taken, "write"):
            if image is not None:
                notes += write(image, laid.pixels, moving, writing, has_alpha=laid.has_alpha)
                written.append(image)
            written += _write_gradmaps(job, fixed, moving, laid, writing)
        shaping |= laid.grid
        notes += laid.notes
    alignment = replace(alignment, seconds=taken, options={**alignment.options, **shaping})
    if job.params is not None:
        alignment.save(job.params, overwrite=writing.overwrite)
        written.append(job.params)
    return Outcome(job, alignment, tuple(written), tuple(notes))


def _write_gradmaps(job: Job, fixed: Picture, moving: Picture, laid: Laid, writing: WriteOptions) -> list[Path]:
    """Maps of both pictures in true units; what nothing lies under is NaN."""
    from imgalign.gradmap import gradmap

    written = []
    if job.fixed_gradmap is not None:
        write(job.fixed_gradmap, gradmap(comparable(fixed)), numbers_like(fixed), writing, has_alpha=False)
        written.append(job.fixed_gradmap)
    if job.aligned_gradmap is not None:
        seen = comparable(replace(moving, pixels=laid.pixels, has_alpha=laid.has_alpha))
        known = np.where(laid.covered if seen.ndim == 2 else laid.covered[..., None], seen, np.nan)
        write(job.aligned_gradmap, gradmap(known), numbers_like(fixed), writing, has_alpha=False)
        written.append(job.aligned_gradmap)
    return written


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
