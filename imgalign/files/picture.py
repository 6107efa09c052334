"""What is known of a picture that came from a file."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgalign.files.paths import sha256_of
from imgalign.files.tiff import Resolution

Pixels: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Metadata:
    """What travels from an input to its output beside the pixels."""

    format: str = ""
    """Pillow's name of the file format: `PNG`, `JPEG`, `TIFF`, ..."""
    mode: str = ""
    """How the file held its pixels, in Pillow's words: `P`, `1`, `CMYK`, `I;16`, ..."""
    icc: bytes | None = None
    """Colour profile."""
    exif: bytes | None = None
    """EXIF as a TIFF structure (no `Exif` in front), its orientation reset to upright."""
    resolution: Resolution | None = None
    """Pixels per inch, cm or other unit."""
    palette: NDArray[np.uint8] | None = None
    """`(N, 4)` RGBA colours of a palette picture."""
    nodata: float | None = None
    """The number that stood for "no data" in the file: such pixels came as NaN, or transparent where integers, and get
    it back in a TIFF."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: upright, palette expanded, bits as 0 and 255, CMYK as RGB; else as the file holds it."""

    pixels: Pixels
    """`(H, W)` or `(H, W, C)` in the file's own dtype and range."""
    path: Path
    """The file, without a `[page]`."""
    page: int | None = None
    """The page asked for, counted from 0; None where none was."""
    has_alpha: bool = False
    """The last channel is opacity, 0 = transparent; colours are not multiplied by it."""
    notes: tuple[str, ...] = ()
    """What had to be done to the picture, in words."""
    metadata: Metadata = field(default_factory=Metadata)
    reduction: int = 1
    """The picture was decoded at 1/2, 1/4 or 1/8 of its size: 2, 4 or 8."""
    full_size_hw: tuple[int, int] = (0, 0)
    """Height and width before that reduction."""
    stream_sha256: str | None = None
    """Hash of a picture that came through a pipe, which cannot be read again."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of `pixels`."""
        return (self.pixels.shape[0], self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """Number of channels, alpha included; 1 for `(H, W)`."""
        return 1 if self.pixels.ndim == 2 else self.pixels.shape[2]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hexadecimal; computed when first asked for."""
        return self.stream_sha256 or sha256_of(self.path)
