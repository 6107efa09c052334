"""PGM and PPM with more than 8 bits, which Pillow cuts to 8 in colour.

Source: the netpbm manual pages pgm(5) and ppm(5).
"""

import re
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from imgalign.errors import ImageReadError
from imgalign.files.tiff import check_size

_GAP = rb"(?:\s+|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([2356])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")
_GREY, _TEXT = (b"2", b"5"), (b"2", b"3")


def is_deep(header: bytes) -> bool:
    """True for the first bytes of a PGM or PPM, binary or in text, with numbers beyond 255."""
    found = _HEADER.match(header)
    return found is not None and 255 < int(found[4]) < 65536


def read_deep(data: IO[bytes], max_pixels: int) -> NDArray[np.uint16]:
    """The samples, spread so that the file's largest number is 65535: `(H, W)` or `(H, W, 3)` uint16.

    Raises:
        ImageReadError: If there are too many or too few pixels, or numbers too large; without the file's name.
    """
    data.seek(0)
    found = _HEADER.match(data.read(512))
    assert found is not None
    width, height, most = (int(found[k]) for k in (2, 3, 4))
    check_size(width, height, max_pixels)
    shape = (height, width) if found[1] in _GREY else (height, width, 3)
    count = int(np.prod(shape))
    data.seek(found.end())
    if found[1] in _TEXT:
        words = re.sub(rb"#[^\n]*", b"", data.read()).split()[:count]
        samples = np.array([min(int(word), 65536) for word in words], np.uint32)
    else:
        samples = np.frombuffer(data.read(2 * count), ">u2")
    if samples.size < count:
        raise ImageReadError(f"is truncated: {samples.size} of {count} samples came; copy it again")
    if samples.max() > most:
        raise ImageReadError(f"is damaged: it says that no number exceeds {most}, and one does; save it anew")
    if most < 65535:
        samples = np.rint(samples * (65535 / most))
    return samples.reshape(shape).astype(np.uint16)


def write(file: IO[bytes], pixels: NDArray[Any]) -> None:
    """Write `(H, W)` or `(H, W, 3)` uint8 or uint16."""
    kind = b"P5" if pixels.ndim == 2 else b"P6"
    height, width = pixels.shape[:2]
    file.write(b"%s\n%d %d\n%d\n" % (kind, width, height, np.iinfo(pixels.dtype).max))
    file.write(np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"))).tobytes())
