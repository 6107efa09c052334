"""Binary PGM and PPM with more than 8 bits, which Pillow cuts to 8 in colour.

Source: the netpbm manual pages pgm(5) and ppm(5).
"""

import re
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from imgalign.errors import ImageReadError
from imgalign.tiff import check_size

_GAP = rb"(?:\s+|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")


def is_deep(header: bytes) -> bool:
    """True for the first bytes of a binary PGM or PPM with two bytes a sample."""
    found = _HEADER.match(header)
    return found is not None and 255 < int(found[4]) < 65536


def read_deep(data: IO[bytes], max_pixels: int) -> NDArray[np.uint16]:
    """The samples as they are: `(H, W)` or `(H, W, 3)` uint16.

    Raises:
        ImageReadError: If there are too many or too few pixels; without the file's name.
    """
    data.seek(0)
    found = _HEADER.match(data.read(512))
    assert found is not None
    width, height = int(found[2]), int(found[3])
    check_size(width, height, max_pixels)
    shape = (height, width) if found[1] == b"5" else (height, width, 3)
    data.seek(found.end())
    samples = np.frombuffer(data.read(2 * int(np.prod(shape))), ">u2")
    if samples.size < np.prod(shape):
        raise ImageReadError(f"is truncated: {samples.size} of {int(np.prod(shape))} samples came; copy it again")
    return samples.reshape(shape).astype(np.uint16)


def write(file: IO[bytes], pixels: NDArray[Any]) -> None:
    """Write `(H, W)` or `(H, W, 3)` uint8 or uint16."""
    kind = b"P5" if pixels.ndim == 2 else b"P6"
    height, width = pixels.shape[:2]
    file.write(b"%s\n%d %d\n%d\n" % (kind, width, height, np.iinfo(pixels.dtype).max))
    file.write(np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"))).tobytes())
