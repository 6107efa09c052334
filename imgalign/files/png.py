"""PNG beyond Pillow: 16 bits in colour, read and written, and writing on all cores.

Pillow holds 16 bits in grey only. Reading borrows its decoder twice (see `read_deep`); writing is done here, for it
also is several times as fast: blocks of rows are filtered with NumPy and deflated by threads, and the blocks make one
stream, as pigz does it.

Source: PNG specification, third edition (W3C 2023), sections 7, 9 and 11; RFC 1950 for the checksum.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_TYPE_OF_CHANNELS = {1: _GREY, 2: _GREY_ALPHA, 3: _RGB, 4: _RGBA}
_BLOCK_BYTES = 1 << 18  # deflated in one go: few enough for all cores to have some of a small picture
_STRIPS, _STRIP_BYTES = 4, 1 << 13  # that tell the recipe
_NO_FILTER, _UP, _AVERAGE = 0, 2, 3

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Recipe:
    """How rows become bytes: the row filter, and zlib's level and strategy."""

    row_filter: int
    level: int
    strategy: int


# Measured on a photograph of 48 MB, two cores: averages and run lengths 0.40 s, 43 % of the size; Pillow at its level 1
# 1.8 s and 54 %, at its default level 6 7.3 s and 46 %. Drawings and label maps want the ordinary search for repeats.
_RECIPES = {
    "none": (_Recipe(_NO_FILTER, 0, zlib.Z_DEFAULT_STRATEGY),),
    "fast": (
        _Recipe(_AVERAGE, 1, zlib.Z_RLE),
        _Recipe(_UP, 1, zlib.Z_DEFAULT_STRATEGY),
        _Recipe(_NO_FILTER, 1, zlib.Z_DEFAULT_STRATEGY),
    ),
    "small": (
        _Recipe(_AVERAGE, 9, zlib.Z_FILTERED),
        _Recipe(_UP, 9, zlib.Z_DEFAULT_STRATEGY),
        _Recipe(_NO_FILTER, 9, zlib.Z_DEFAULT_STRATEGY),
    ),
}


def is_deep(header: bytes) -> bool:
    """True for the first 29 bytes of a PNG with 16 bits and more than one channel."""
    return header.startswith(SIGNATURE) and len(header) >= 26 and header[24] == 16 and header[25] != _GREY


def read_deep(data: IO[bytes]) -> NDArray[np.uint16]:
    """The pixels of a PNG with 16 bits and 2 to 4 channels, `(H, W, C)` uint16.

    Pillow keeps one byte of each sample, by the name `RGB;16B` the first and by `RGB;16L` the second: decoding under
    both names gives all of it. Grey with alpha has the layout of four 8-bit channels, and is declared as that.
    """
    data.seek(0)
    header = data.read(33)
    if header[25] == _GREY_ALPHA:
        data.seek(0)
        with Image.open(_as_rgba8(data.read())) as image:
            quads = np.asarray(image)
        return quads.reshape(-1, quads.shape[1] * 2, 2).view(">u2").astype(np.uint16).reshape(*quads.shape[:2], 2)
    with Image.open(data) as image:
        name = image.mode
        high = np.asarray(image).astype(np.uint16)
        key = image.info.get("transparency")
    data.seek(0)
    with Image.open(data) as image:
        unpack_as(image, f"{name};16L")
        pixels = (high << 8) | np.asarray(image)
    return pixels if key is None else keyed(pixels, key)


def as_decoded(grey: int, header: bytes) -> int:
    """A grey value that a file names, as its pixels come: those of less than 8 bits are spread over 0 to 255."""
    largest = (1 << header[24]) - 1
    return (grey & largest) * (255 // largest if largest < 255 else 1)


def unpack_as(image: Any, raw_mode: str) -> None:
    """Have a picture that Pillow has opened, but not yet loaded, read its samples under another raw mode."""
    for i, (codec, extents, offset, arguments) in enumerate(image.tile):
        given = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
        plain = (codec, extents, offset, given)
        image.tile[i] = type(image.tile[i])(*plain) if hasattr(image.tile[i], "_fields") else plain


def keyed(pixels: NDArray[Any], key: Sequence[int]) -> NDArray[Any]:
    """Alpha for a picture `(H, W, C)` that declares one colour transparent."""
    alpha = np.where((pixels == np.array(key)).all(-1, keepdims=True), 0, np.iinfo(pixels.dtype).max)
    return np.concatenate([pixels, alpha.astype(pixels.dtype)], -1)


def _as_rgba8(data: bytes) -> BytesIO:
    header = bytearray(data[12:29])  # "IHDR" and its thirteen bytes
    header[12], header[13] = 8, _RGBA
    return BytesIO(data[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + data[33:])


def write(
    file: IO[bytes],
    pixels: NDArray[Any],
    *,
    compression: str = "fast",
    palette: Bytes | None = None,
    one_bit: bool = False,
    chunks: Mapping[bytes, bytes] | None = None,
) -> None:
    """Write a PNG.

    Args:
        file: Where to, open for writing.
        pixels: `(H, W)` or `(H, W, 1..4)`, uint8 or uint16; with `palette` the indices.
        compression: `none`, `fast` or `small`.
        palette: `(N, 4)` RGBA colours of the indices.
        one_bit: Pack `(H, W)` zeros and 255s into bits.
        chunks: Further chunks by name, such as `pHYs`.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    depth = 1 if one_bit else pixels.dtype.itemsize * 8
    colour = _TYPE_OF_CHANNELS[channels] if palette is None else _PALETTE
    file.write(SIGNATURE)
    _put(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    for name, content in (chunks or {}).items():
        _put(file, name, content)
    if palette is not None:
        _put(file, b"PLTE", palette[:, :3].tobytes())
        if (palette[:, 3] < 255).any():
            _put(file, b"tRNS", palette[:, 3].tobytes())
    step = 1 if one_bit else channels * pixels.dtype.itemsize
    for part in _deflated(_Rows(pixels, one_bit), step, compression):
        _put(file, b"IDAT", part)
    _put(file, b"IEND", b"")


def icc_chunk(profile: bytes) -> bytes:
    """The content of `iCCP`."""
    return b"ICC profile\0\0" + zlib.compress(profile)


def dpi_chunk(dpi: tuple[float, float]) -> bytes:
    """The content of `pHYs`: pixels per metre."""
    return struct.pack(">IIB", round(dpi[0] / 0.0254), round(dpi[1] / 0.0254), 1)


def _put(file: IO[bytes], name: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + name)
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))


@dataclass(frozen=True)
class _Rows:
    """The bytes of a picture's rows, made block by block so that no second picture stands in memory."""

    pixels: NDArray[Any]
    one_bit: bool

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> Bytes:
        part = self.pixels[rows]
        if self.one_bit:
            return np.packbits(part > 0, axis=1)
        if part.dtype.itemsize == 2:
            part = part.astype(">u2")
        return np.ascontiguousarray(part).reshape(len(part), -1).view(np.uint8)


def _deflated(rows: _Rows, step: int, compression: str) -> Iterator[bytes]:
    """The parts of one zlib stream that holds all filtered rows."""
    count = max(1, _BLOCK_BYTES // max(1, rows[0:1].shape[1]))
    starts = range(0, len(rows), count)
    recipe = _best_recipe(rows, step, compression)
    checksum = 1
    yield b"\x78\x01"  # deflate, 32 KB window
    with ThreadPoolExecutor(_threads()) as pool:
        for part, own, size in pool.map(lambda s: _block(rows, s, s + count, step, recipe), starts):
            checksum = _joined_checksum(checksum, own, size)
            yield part
    yield b"\x03\x00" + struct.pack(">I", checksum)  # an empty last block ends the stream


def _threads() -> int:
    """As many as there are cores, or as what started this process allows it, such as a batch that has one a core."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(8, int(allowed) if allowed.isdecimal() else os.cpu_count() or 1))


def _best_recipe(rows: _Rows, step: int, compression: str) -> _Recipe:
    """The recipe that makes a few strips from all over the picture smallest, earlier ones preferred by a tenth."""
    recipes = _RECIPES[compression]
    if len(recipes) == 1:
        return recipes[0]
    few = max(4, _STRIP_BYTES // max(1, rows[0:1].shape[1]))
    starts = {round(k * max(0, len(rows) - few) / (_STRIPS - 1)) for k in range(_STRIPS)}

    def size(recipe: _Recipe) -> int:
        return sum(len(_block(rows, s, s + few, step, recipe)[0]) for s in starts)

    sizes = [size(recipe) * 1.1 ** min(i, 1) for i, recipe in enumerate(recipes)]
    return recipes[int(np.argmin(sizes))]


def _block(rows: _Rows, start: int, stop: int, step: int, recipe: _Recipe) -> tuple[bytes, int, int]:
    """Filter and deflate some rows: the bytes, and the checksum and length of what they unpack to."""
    filtered = _filtered(rows, start, min(stop, len(rows)), step, recipe.row_filter)
    packer = zlib.compressobj(recipe.level, zlib.DEFLATED, -15, 9, recipe.strategy)
    part = packer.compress(filtered.data) + packer.flush(zlib.Z_FULL_FLUSH)
    return part, zlib.adler32(filtered.data), filtered.nbytes


def _filtered(rows: _Rows, start: int, stop: int, step: int, row_filter: int) -> Bytes:
    """Rows with their filter byte in front, each byte less what its left and upper neighbours predict."""
    block = rows[start:stop]
    out = np.empty((block.shape[0], block.shape[1] + 1), np.uint8)
    out[:, 0] = row_filter
    if row_filter == _NO_FILTER:
        out[:, 1:] = block
        return out
    up = np.zeros_like(block)
    up[1:] = block[:-1]
    if start:
        up[0] = rows[start - 1 : start][0]
    if row_filter == _AVERAGE:
        left = np.zeros_like(block)
        left[:, step:] = block[:, :-step]
        up = (left >> 1) + (up >> 1) + (left & up & 1)  # floor of the mean, without leaving uint8
    np.subtract(block, up, out=out[:, 1:])
    return out


def _joined_checksum(first: int, second: int, second_size: int) -> int:
    """Adler-32 of two pieces of data in a row, from those of the pieces (as zlib's adler32_combine)."""
    base = 65521
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % base
    high = ((first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)) % base
    return high << 16 | low
