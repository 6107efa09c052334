"""Image files: read a picture with all its bits, write one whole or not at all. No PyTorch.

The kinds of file, and what becomes of each, are in docs/formats.md.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image

from imgalign.errors import ImageReadError, WriteError
from imgalign.files import encoding, netpbm, png, tiff
from imgalign.files.decoding import Decoded, decode, upright
from imgalign.files.encoding import Compression, can_hold_alpha
from imgalign.files.paths import refuse_input_as_output, replacing, shown
from imgalign.files.picture import Metadata, Picture, Pixels

__all__ = [
    "MAX_PIXELS",
    "Metadata",
    "Picture",
    "can_hold_alpha",
    "check_held",
    "check_name",
    "file_and_page",
    "page_count",
    "read",
    "write",
]

MAX_PIXELS = 500_000_000
"""Pictures with more are refused unless the caller raises the limit: a small file can unpack into all of the memory."""

_EMPTY = "is empty (0 bytes); wanted a picture"
_PAGE = re.compile(r"(?P<file>.+)\[(?P<page>\d{1,9})\]", re.DOTALL)


def read(
    path: str | os.PathLike[str], *, page: int | None = None, max_pixels: int = MAX_PIXELS, reduce: int = 1
) -> Picture:
    """Read a picture.

    Args:
        path: The file, or `FILE[page]` with pages counted from 0; a file that is literally called so is taken first.
        page: The same as a number; wins over `[page]`.
        max_pixels: Refuse pictures with more.
        reduce: Decode a JPEG at about 1/2, 1/4 or 1/8 of its size, which is faster; other formats come whole, and
            `Picture.reduction` says what came.

    Returns:
        The picture, upright, with notes on what was done to it.

    Raises:
        ImageReadError: If it is missing, no picture, damaged, or too large. The message names the file.
    """
    file, written_page = file_and_page(path)
    page = written_page if page is None else page
    try:
        data = _opened(file)
        with data:
            decoded = _decoded(data, page or 0, max_pixels, reduce)
            digest = hashlib.sha256(data.getbuffer()).hexdigest() if isinstance(data, BytesIO) else None
    except ImageReadError as error:
        raise ImageReadError(f"{shown(path)}: {error}") from error.__cause__
    notes = decoded.notes
    if page is None and decoded.page_count > 1:
        notes += (f"has {decoded.page_count} pages: the first is used; name another as {shown(file.name)}[1]",)
    return Picture(
        pixels=decoded.pixels,
        path=file,
        page=page,
        has_alpha=decoded.has_alpha,
        notes=notes,
        metadata=decoded.metadata,
        reduction=decoded.reduction,
        full_size_hw=decoded.full_size_hw,
        stream_sha256=digest,
    )


def page_count(path: str | os.PathLike[str]) -> int:
    """How many pages or frames a file has, without decoding them.

    Raises:
        ImageReadError: If it is missing or no picture.
    """
    try:
        with _opened(Path(path)) as data:
            if data.read(4).startswith(tiff.SIGNATURES):
                return tiff.page_count(data)
            with Image.open(data) as image:
                return int(getattr(image, "n_frames", 1))
    except ImageReadError as error:
        raise ImageReadError(f"{shown(path)}: {error}") from error.__cause__
    except Exception as error:  # as in `_decoded`
        raise ImageReadError(f"{shown(path)}: its pages cannot be counted: {error}") from error


def file_and_page(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """Split `FILE[page]`; a file that is literally called so keeps its name."""
    text = os.fspath(path)
    found = _PAGE.fullmatch(text)
    if found is None or os.path.lexists(text):
        return Path(text), None
    return Path(found["file"]), int(found["page"])


def write(
    path: str | os.PathLike[str],
    pixels: Pixels,
    *,
    like: Picture | None = None,
    has_alpha: bool | None = None,
    overwrite: bool = False,
    compression: Compression = "fast",
    quality: int = 95,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> tuple[str, ...]:
    """Write a picture in the format of the name's ending; the file is there whole or not at all.

    Args:
        path: Where to.
        pixels: `(H, W)` or `(H, W, C)`; dtype and channels are kept, and refused where the format cannot hold them.
        like: Whose colour profile, resolution and EXIF it gets; and whose palette or single bit, where the pixels
            still have no other values.
        has_alpha: The last channel is opacity; None: with 2 or 4 channels of 8 or 16 bits.
        overwrite: Replace an existing file.
        compression: `fast`, `small` or `none`, for formats that keep every value; TIFF also `lzw`.
        quality: Of JPEG and other formats that do not keep every value, 1 to 100.
        inputs: Files that were read, never to be written over.

    Returns:
        Notes on what the format could not hold, in words.

    Raises:
        WriteError: If the format cannot hold these pixels (the message says which can), or the file cannot be written.
    """
    refuse_input_as_output(path, inputs)
    try:
        plan = encoding.plan(Path(path), pixels, like=like, has_alpha=has_alpha)
    except WriteError as error:
        raise WriteError(f"{shown(path)}: {error}") from None
    with replacing(path, overwrite=overwrite) as file:
        encoding.encode(file, plan, compression=compression, quality=quality)
    return plan.notes


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name whose ending stands for no format that is written, before the work is done for it.

    Raises:
        WriteError: Naming the file.
    """
    try:
        encoding.check_suffix(Path(path).suffix.lower())
    except WriteError as error:
        raise WriteError(f"{shown(path)}: {error}") from None


def check_held(
    path: str | os.PathLike[str], pixels: Pixels, *, has_alpha: bool, compression: Compression = "fast"
) -> None:
    """Refuse a name whose format cannot hold pixels like these, before the work is done for it.

    Args:
        path: The name.
        pixels: A small sample, `(H, W)` or `(H, W, C)`.
        has_alpha: Its last channel is opacity.
        compression: How it shall be written.

    Raises:
        WriteError: Naming the file, and the ending that can.
    """
    try:
        ready = encoding.plan(Path(path), pixels, like=None, has_alpha=has_alpha)
        encoding.encode(BytesIO(), ready, compression=compression, quality=95)
    except OSError as error:  # of an encoder too: they refuse in words of their own
        raise WriteError(f"{shown(path)}: {error}") from None


def _opened(file: Path) -> IO[bytes]:
    """The file, open; a pipe is read to its end, for decoders jump back and forth."""
    try:
        info = file.stat()
        _refuse_no_picture(info)
        return file.open("rb") if stat.S_ISREG(info.st_mode) else BytesIO(file.read_bytes())
    except ImageReadError:
        raise
    except FileNotFoundError:
        what_to_do = "for standard input say /dev/stdin" if str(file) == "-" else "check the name"
        raise ImageReadError(f"no such file; {what_to_do}") from None
    except PermissionError:
        raise ImageReadError("no permission to read it; check its owner and mode") from None
    except (OSError, ValueError) as error:
        raise ImageReadError(f"could not be opened: {getattr(error, 'strerror', None) or error}") from None


def _refuse_no_picture(info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageReadError("is a folder; name a picture in it")
    if stat.S_ISREG(info.st_mode) and info.st_size == 0:
        raise ImageReadError(_EMPTY)


def _decoded(data: IO[bytes], page: int, max_pixels: int, reduce: int) -> Decoded:
    header = data.read(512)
    if not header:  # a pipe or device, of which no size was known
        raise ImageReadError(_EMPTY)
    try:
        if header.startswith(tiff.SIGNATURES):
            return _decoded_tiff(data, page, max_pixels)
        if netpbm.is_deep(header):
            pixels = netpbm.read_deep(data, max_pixels)
            return Decoded(pixels, False, 1, Metadata(format="PPM"), (pixels.shape[0], pixels.shape[1]))
        return decode(data, page, max_pixels, reduce)
    except ImageReadError:
        raise
    except MemoryError as error:
        raise ImageReadError("needs more memory than there is; use a smaller picture, or a part of it") from error
    except Exception as error:  # decoders raise nearly anything on damaged files: struct.error, KeyError, SyntaxError
        raise ImageReadError(_diagnosis(header, error)) from error


def _decoded_tiff(data: IO[bytes], page: int, max_pixels: int) -> Decoded:
    try:
        return _from_tiff(tiff.read(data, page, max_pixels))
    except tiff.ForPillow as found:
        decoded = decode(data, page, max_pixels, 1)
        return replace(decoded, metadata=replace(decoded.metadata, resolution=found.resolution))


def _from_tiff(page: tiff.TiffPage) -> Decoded:
    metadata = Metadata(
        format="TIFF",
        mode=page.mode,
        icc=page.icc,
        resolution=page.resolution,
        palette=page.palette,
        nodata=page.nodata,
    )
    size_hw = page.pixels.shape[:2]
    pixels = upright(page.pixels, page.orientation)
    full_hw = (pixels.shape[0], pixels.shape[1])
    notes = page.notes
    if page.orientation in range(2, 9):
        notes += ("turned upright, as its orientation tag says",)
    assert sorted(size_hw) == sorted(full_hw)
    return Decoded(pixels, page.has_alpha, page.page_count, metadata, full_hw, 1, notes)


def _diagnosis(header: bytes, error: Exception) -> str:
    """What is wrong with a file that no decoder takes, in words."""
    said = str(error).replace("\n", " ") or type(error).__name__
    if "truncated" in said.lower() or isinstance(error, EOFError):
        return f"is truncated: {said}; copy it again"
    if "cannot identify" in said:
        return _what_it_is(header)
    return f"is damaged: {said}; copy it again, or save it anew from where it came"


def _what_it_is(header: bytes) -> str:
    wanted = "wanted PNG, JPEG, TIFF, WebP, BMP, GIF, PNM or another format that Pillow reads"
    if header.startswith((png.SIGNATURE, b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", *tiff.SIGNATURES)):
        return "is damaged or truncated near its beginning; copy it again"
    text = header.decode("utf-8", "replace")
    if "\ufffd" not in text[:-1] and all(c.isprintable() or c.isspace() for c in text):
        return f"is text, no picture (it begins with {text.split(chr(10))[0][:30]!r}); {wanted}"
    return f"is in no format known here (it begins with the bytes {header[:8].hex(' ')}); {wanted}"
