"""Strips and tiles of a TIFF that tifffile leaves to further packages, unpacked into samples, and LZW packed.

Pillow's libtiff does the compression and no more: what is packed reaches it inside a TIFF of plain bytes that is made
up around it. Planes, byte order, predictor and bits are understood here, since Pillow reads some layouts as others.

Source: TIFF Revision 6.0 (Adobe 1992), sections 2, 8 to 11 and 13 to 15; predictor 3: Adobe Photoshop TIFF Technical
Note 3 (2005).
"""

import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from imgalign.errors import ImageReadError

_FAX = {2, 3, 4}
_ZSTANDARD = 50000
_BY_LIBTIFF = {*_FAX, 5, 32773, _ZSTANDARD}  # fax, LZW, PackBits
_BY_PYTHON: dict[int, Callable[[bytes], bytes]] = {
    1: lambda packed: packed,
    8: zlib.decompress,
    32946: zlib.decompress,
    34925: lzma.decompress,
}
_FAX_OPTIONS = (292, 293)
_BATCH_BYTES = 1 << 22  # unpacked: what stays in the cache
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3

Bytes = NDArray[np.uint8]


def can_unpack(page: Any) -> bool:
    """True where `unpacked` reads a page, whose samples are numbers as TIFF describes them."""
    compression, predictor, bits = int(page.compression), int(page.predictor), page.bitspersample
    if compression not in _BY_LIBTIFF and compression not in _BY_PYTHON:
        return False
    if bits not in {8, 16, 32, 64}:
        return bits in range(1, 17) and page.dtype.kind in "bu" and predictor == 1
    floats = page.dtype.kind == "f"
    return compression not in _FAX and (predictor in {1, _DIFFERENCES} or (predictor == _FLOAT_DIFFERENCES and floats))


def unpacked(page: Any) -> NDArray[Any]:
    """The samples of a page of tifffile's, `(H, W, samples)`; as truth values where they are single bits.

    Raises:
        ImageReadError: If a strip or tile is missing or damaged; without the file's name.
    """
    grid = _Grid.of(page)
    if len(page.dataoffsets) < grid.count or len(page.databytecounts) < grid.count:
        raise ImageReadError(
            f"is damaged: it lists {len(page.dataoffsets)} of {grid.count} strips or tiles; copy it again"
        )
    out = np.full((page.imagelength, page.imagewidth, page.samplesperpixel), page.nodata, page.dtype)
    for batch in _batches(page, grid):
        rows = [grid.rows(index) for index in batch]
        samples = _samples(_unpacked(page, grid, batch), page, grid)
        for index, bottom, count in zip(batch, np.cumsum(rows), rows, strict=True):
            there = out[grid.place(index)]
            there[...] = samples[bottom - count : bottom][: there.shape[0], : there.shape[1]]
    return out


def lzw(pixels: NDArray[Any]) -> tuple[list[bytes], int]:
    """Strips in LZW of pixels `(H, W)` or `(H, W, C)`, in this machine's byte order, and how many rows a strip has."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    file = BytesIO()
    Image.fromarray(rows).save(file, "TIFF", compression="tiff_lzw")
    file.seek(0)
    with TiffImagePlugin.TiffImageFile(file) as image:
        starts, counts, height = (image.tag_v2[tag] for tag in (273, 279, 278))
    packed = file.getbuffer()
    return [bytes(packed[start : start + count]) for start, count in zip(starts, counts, strict=True)], height


@dataclass(frozen=True)
class _Grid:
    """How strips or tiles lie on a page: those of a row, the rows of a plane, the planes."""

    height: int
    width: int
    samples: int
    planes: int
    down: int
    across: int
    last_rows: int
    """Of the strips at the bottom; a tile is whole everywhere."""
    row_bytes: int

    @classmethod
    def of(cls, page: Any) -> "_Grid":
        apart = int(page.planarconfig) == 2
        samples, planes = (1, page.samplesperpixel) if apart else (page.samplesperpixel, 1)
        if page.is_tiled:
            height, width = page.tilelength, page.tilewidth
        else:
            height, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
        if height < 1 or width < 1:
            raise ImageReadError(f"is damaged: its strips or tiles are {width} x {height}; copy it again")
        down, across = math.ceil(page.imagelength / height), math.ceil(page.imagewidth / width)
        last_rows = height if page.is_tiled else page.imagelength - (down - 1) * height
        row_bytes = math.ceil(width * samples * page.bitspersample / 8)
        return cls(height, width, samples, planes, down, across, last_rows, row_bytes)

    @property
    def count(self) -> int:
        return self.planes * self.down * self.across

    def rows(self, index: int) -> int:
        return self.last_rows if index // self.across % self.down == self.down - 1 else self.height

    def place(self, index: int) -> tuple[slice, slice, slice]:
        plane, row, column = (int(i) for i in np.unravel_index(index, (self.planes, self.down, self.across)))
        top, left, first = row * self.height, column * self.width, plane * self.samples
        return np.s_[top : top + self.height, left : left + self.width, first : first + self.samples]


def _batches(page: Any, grid: _Grid) -> Iterator[list[int]]:
    """Neighbours that are unpacked in one go: all of full height but the last, as libtiff knows strips.

    Those that the file leaves out, as GDAL does where there is nothing, are passed over.
    """
    most = max(1, _BATCH_BYTES // (grid.height * grid.row_bytes))
    batch: list[int] = []
    for index in range(grid.count):
        if not page.dataoffsets[index] or not page.databytecounts[index]:
            continue
        batch.append(index)
        if len(batch) == most or grid.rows(index) < grid.height:
            yield batch
            batch = []
    if batch:
        yield batch


def _unpacked(page: Any, grid: _Grid, batch: Sequence[int]) -> Bytes:
    """The bytes of some strips or tiles, one under another: `(rows, row_bytes)`."""
    parts = [_packed(page, index) for index in batch]
    compression, rows = int(page.compression), sum(map(grid.rows, batch))
    try:
        if compression in _BY_LIBTIFF:
            return _by_libtiff(parts, page, grid, rows)
        whole = b"".join(
            _BY_PYTHON[compression](part)[: grid.rows(index) * grid.row_bytes]
            for index, part in zip(batch, parts, strict=True)
        )
        return np.frombuffer(whole, np.uint8).reshape(rows, grid.row_bytes)
    except (OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        which = f"{batch[0]}" if len(batch) == 1 else f"one from {batch[0]} to {batch[-1]}"
        damaged = f"is damaged: strip or tile {which} cannot be unpacked"
        if compression == _ZSTANDARD:  # which not every libtiff has, and it does not say so
            damaged += ", or this Pillow lacks Zstandard: update it"
        raise ImageReadError(f"{damaged}; copy it again, or save it anew from where it came") from error


def _packed(page: Any, index: int) -> bytes:
    """As in the file, each byte with its highest bit first."""
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    packed: bytes = file.read(page.databytecounts[index])
    return packed.translate(_TURNED) if int(page.fillorder) == 2 else packed


def _by_libtiff(parts: Sequence[bytes], page: Any, grid: _Grid, rows: int) -> Bytes:
    fax = int(page.compression) in _FAX
    tags = {
        256: [grid.width if fax else grid.row_bytes],
        257: [rows],
        258: [1 if fax else 8],
        259: [int(page.compression)],
        262: [1],  # black is zero: as it comes
        277: [1],
        278: [min(grid.height, rows)],
    }
    tags |= {tag: [int(page.tags[tag].value)] for tag in _FAX_OPTIONS if tag in page.tags}
    # By its class, for `Image.open` has a limit on the size.
    with TiffImagePlugin.TiffImageFile(BytesIO(_tiff(parts, tags))) as image:
        samples = np.asarray(image)
    return np.packbits(samples, axis=1) if fax else samples


def _tiff(strips: Sequence[bytes], tags: dict[int, list[int]]) -> bytes:
    """A TIFF of one page, its tags all of 32 bits."""
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    tags = dict(sorted({**tags, 273: starts[:-1], 279: [len(strip) for strip in strips]}.items()))
    body = b"".join(strips) + b"\0" * (starts[-1] % 2)
    directory = 8 + len(body)
    beyond = directory + 2 + 12 * len(tags) + 4
    entries, lists = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}I", *values)
        inline = packed if len(values) == 1 else struct.pack("<I", beyond + len(lists))
        lists += b"" if len(values) == 1 else packed
        entries += struct.pack("<HHI", tag, 4, len(values)) + inline
    return struct.pack("<2sHI", b"II", 42, directory) + body + struct.pack("<H", len(tags)) + entries + bytes(4) + lists


def _samples(rows: Bytes, page: Any, grid: _Grid) -> NDArray[Any]:
    """`(rows, width, samples)` numbers of the page's dtype from rows of bytes."""
    bits, shape = page.bitspersample, (len(rows), grid.width, grid.samples)
    if bits not in {8, 16, 32, 64}:
        return _from_bits(rows, bits, grid.width * grid.samples).reshape(shape).astype(page.dtype)
    if int(page.predictor) == _FLOAT_DIFFERENCES:
        return _from_float_differences(rows, bits // 8, grid.samples).reshape(shape)
    words = rows.view(f"{page.parent.byteorder}u{bits // 8}").reshape(shape)
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    if int(page.predictor) == _DIFFERENCES:
        words = np.cumsum(words, axis=1, dtype=words.dtype)
    return words.view(page.dtype)


def _from_bits(rows: Bytes, bits: int, count: int) -> NDArray[np.uint16]:
    """Whole numbers of a few bits each, the highest bit first, every row begun on a byte."""
    out = np.empty((len(rows), count), np.uint16)
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint16)
    step = max(1, _BATCH_BYTES // (32 * rows.shape[1]))
    for top in range(0, len(rows), step):
        single = np.unpackbits(rows[top : top + step], axis=1, count=count * bits)
        out[top : top + step] = single.reshape(-1, count, bits) @ weights
    return out


def _from_float_differences(rows: Bytes, size: int, samples: int) -> NDArray[Any]:
    """Floats of which a row has all highest bytes first, then all second ones; each byte less its left neighbour's."""
    summed = np.cumsum(rows.reshape(len(rows), -1, samples), axis=1, dtype=np.uint8)
    planes = summed.reshape(len(rows), size, -1)
    floats = np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{size}")[..., 0]
    return floats.astype(floats.dtype.newbyteorder("="))
