"""Pictures on their way in: decoded ahead of their use, and as `align` understands them."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgalign.files import images
from imgalign.files.images import Picture
from imgalign.files.outputs import Job
from imgalign.files.paths import is_file
from imgalign.planes.weights import shares


class FileReader:
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

    def _read(self, name: str) -> tuple[Picture, float]:
        began = time.perf_counter()
        picture = images.read(name, max_pixels=self._max_pixels)
        return picture, time.perf_counter() - began


def to_read(jobs: Sequence[Job], *, overwrite: bool) -> list[str]:
    """The moving pictures of the jobs that can run: the others end on an output that exists."""
    return [job.moving for job in jobs if overwrite or not any(map(is_file, job.outputs))]


def comparable(picture: Picture) -> NDArray[Any]:
    """Pixels as `align` understands arrays: of 2 or 4 channels the last is alpha. Other bands are averaged."""
    pixels, has_alpha = measurable(picture)
    if pixels.ndim == 3 and pixels.shape[2] in {2, 4} and not has_alpha:
        with np.errstate(over="ignore", invalid="ignore"):  # of numbers at the end of their range, which count as none
            return pixels.mean(axis=2, dtype=np.float32)
    return pixels


def measurable(picture: Picture) -> tuple[NDArray[Any], bool]:
    """Pixels that can be computed with, NaN where the file says "no data", and whether their last channel is alpha."""
    pixels = picture.pixels
    if picture.metadata.nodata is None or not picture.has_alpha or pixels.dtype.kind == "f":
        return pixels, picture.has_alpha
    colours = pixels[..., :-1].astype(np.float32 if pixels.dtype.itemsize <= 2 else np.float64)
    colours[pixels[..., -1] <= np.iinfo(pixels.dtype).max // 2] = np.nan
    return colours, False


def weights(picture: Picture) -> NDArray[np.float32]:
    """A mask picture as weights `(H, W)` (`shares`), a mean over its colours; what is transparent in it is ignored."""
    pixels = picture.pixels
    if not picture.has_alpha:
        values = shares(pixels)
        return values if values.ndim == 2 else values.mean(axis=2)
    alpha = pixels[..., -1] / (np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1)
    colours = shares(pixels[..., :-1]).mean(axis=2) if pixels.shape[2] > 1 else 1.0
    return np.asarray(colours * alpha, np.float32)


def read_weights(reader: FileReader, path: Path | None) -> NDArray[np.float32] | None:
    """The weights in a file, if there is one.

    Raises:
        ImageReadError: If it cannot be read.
    """
    return None if path is None else weights(reader.take(str(path))[0])
