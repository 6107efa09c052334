"""Reading TIFF by tifffile: any number of channels, 8 to 64 bits, integers and floats, strips and tiles.

Source: TIFF Revision 6.0 (Adobe 1992).
"""

import logging
import os
import re
import struct
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from imgalign.errors import ImageReadError
from imgalign.files import nodata as no_data
from imgalign.files import strips

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NONE, LZW, _ADOBE_DEFLATE, _DEFLATE, _LZMA = 1, 5, 8, 32946, 34925
_WITHOUT_IMAGECODECS = {_NONE, _ADOBE_DEFLATE, _DEFLATE, _LZMA}  # what tifffile unpacks by itself, and fast
_JPEG = {6, 7}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NOT_READ = {8, 9, 10, 32844, 32845}  # Lab in three encodings, and logarithms of luminance
_ASSOCIATED, _UNASSOCIATED = 1, 2
_SPREAD = {1: 255, 2: 85, 4: 17}  # by bits: what takes their largest number to 255
_DESCRIBING = {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 317, 320, *range(322, 326), 338, 339, 347, 530}
_TYPE_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), start=1)) | {16: 8, 17: 8, 18: 8}
UNITS = {1: "none", 2: "inch", 3: "cm"}

# tifffile logs what it finds odd; unheard, that would go to stderr by Python's handler of last resort.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit, as TIFF has them; `length` is ImageJ's name of the unit, such as `micron`."""

    x: float
    y: float
    unit: str  # inch, cm or none
    length: str | None = None

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch, where the unit says."""
        factor = {"inch": 1.0, "cm": 2.54}.get(self.unit)
        return None if factor is None else (self.x * factor, self.y * factor)


@dataclass(frozen=True)
class TiffPage:
    """A page's pixels and what is worth keeping of its tags."""

    pixels: NDArray[Any]
    has_alpha: bool
    page_count: int
    orientation: int
    icc: bytes | None
    resolution: Resolution | None
    palette: NDArray[np.uint8] | None
    mode: str
    notes: tuple[str, ...]
    nodata: float | None


class ForPillow(Exception):  # noqa: N818 - a signal, not an error that anyone sees
    """This page is a JPEG or has YCbCr colours, in a layout that Pillow reads right."""

    def __init__(self, resolution: Resolution | None) -> None:
        super().__init__()
        self.resolution = resolution
        """As the file has it; Pillow makes one up where there is none."""


def read(data: IO[bytes], page_index: int, max_pixels: int) -> TiffPage:
    """Read one page.

    Args:
        data: The file, open for reading.
        page_index: Counted from 0.
        max_pixels: Refuse pages with more.

    Raises:
        ForPillow: If Pillow is to read it.
        ImageReadError: If there is no such page, or it is too large, truncated, or no picture; without the file's name.
    """
    import tifffile

    data.seek(0)
    with tifffile.TiffFile(data) as tif:
        begins = _begins(tif, data)
        directories = len(begins)
        count = _count(tif) if directories == 1 else directories
        if not count:
            raise ImageReadError("is damaged or truncated: it says that it is TIFF, but has no page; copy it again")
        if not 0 <= page_index < count:
            raise ImageReadError(f"has {count} page{'s' * (count != 1)}, counted from 0; there is no page {page_index}")
        directory = page_index if count == directories else 0
        tif.filehandle.seek(begins[directory])
        page: Any = tifffile.TiffPage(tif, directory)
        _check(page, max_pixels, tif.filehandle.size)
        if _is_for_pillow(page):
            raise ForPillow(_resolution(page))
        return _finished(page, _pixels(page) if count == directories else _in_a_row(page, page_index), count)


_BEGINS: dict[tuple[int, ...], tuple[int, ...]] = {}  # of the last file: a stack is read page by page


def _begins(tif: Any, data: IO[bytes]) -> tuple[int, ...]:
    """Where the pages begin, which takes a walk along all of them: once a file, as long as it stays what it is."""
    try:
        info = os.fstat(data.fileno())
    except OSError:  # it lies in memory
        return _walked(tif)
    key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    found = _BEGINS.get(key)
    if found is None:
        found = _walked(tif)
        _BEGINS.clear()
        _BEGINS[key] = found
    return found


def _walked(tif: Any) -> tuple[int, ...]:
    """By TIFF 6.0, section 2: a count of tags, the tags, and where the next page begins."""
    count, file, kind = len(tif.pages), tif.filehandle, tif.tiff
    found = [tif.pages.first.offset] if count else []
    while len(found) < count:
        file.seek(found[-1])
        (tags,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
        file.seek(found[-1] + kind.tagnosize + tags * kind.tagsize)
        found += struct.unpack(kind.offsetformat, file.read(kind.offsetsize))
    return tuple(found)


def page_count(data: IO[bytes]) -> int:
    """How many pages an open file has."""
    import tifffile

    data.seek(0)
    with tifffile.TiffFile(data) as tif:
        return _count(tif)


def _count(tif: Any) -> int:
    """Pages, also where ImageJ or tifffile describe only the first, and the others' pixels follow its own."""
    count = len(tif.pages)
    if count != 1 or not (tif.is_imagej or tif.is_shaped) or tif.series[0].dataoffset is None:
        return count
    page, series = tif.pages[0], tif.series[0]
    return int(series.size) // (page.imagelength * page.imagewidth * page.samplesperpixel)


def _in_a_row(page: Any, index: int) -> NDArray[Any]:
    """The pixels of one of the pages that `_count` finds behind the first."""
    size = page.imagelength * page.imagewidth * page.samplesperpixel
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    file = page.parent.filehandle
    file.seek(page.dataoffsets[0] + index * size * dtype.itemsize)
    data = file.read(size * dtype.itemsize)
    if len(data) < size * dtype.itemsize:
        raise ImageReadError(f"is truncated: it ends in the pixels of page {index}; copy it again")
    return _channels_last(page, np.frombuffer(data, dtype))


def _is_plain(page: Any) -> bool:
    """True where tifffile needs no help to unpack a page."""
    return (
        int(page.compression) in _WITHOUT_IMAGECODECS
        and int(page.predictor) in (1, 2)
        and page.bitspersample in (1, 8, 16, 32, 64)
        and int(page.fillorder) == 1
    )


def _is_for_pillow(page: Any) -> bool:
    """True where the bytes are no samples yet, and Pillow makes the right ones of them: 8 bits, planes not apart."""
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric != _YCBCR and compression not in _JPEG:
        return False
    channels, extra = page.samplesperpixel, tuple(int(v) for v in page.extrasamples)
    layouts: dict[int, list[tuple[int, tuple[int, ...]]]] = {
        _WHITE_IS_ZERO: [(1, ())],
        _BLACK_IS_ZERO: [(1, ()), (2, (_UNASSOCIATED,))],
        _RGB: [(3, ()), (4, ()), (4, (_ASSOCIATED,)), (4, (_UNASSOCIATED,))],
        _CMYK: [(4, ())],
        _YCBCR: [(3, ())],
    }
    contiguous = channels == 1 or int(page.planarconfig) == 1
    return page.bitspersample == 8 and contiguous and (channels, extra) in layouts.get(photometric, [])


def _pixels(page: Any) -> NDArray[Any]:
    """The samples as the file has them, `(H, W)` or `(H, W, C)`."""
    if int(page.photometric) in _NOT_READ or (int(page.photometric) == _YCBCR and int(page.compression) not in _JPEG):
        raise ImageReadError(f"holds colours as {page.photometric.name}, in a layout that is not read; save it as RGB")
    if not _is_plain(page) and strips.can_unpack(page):
        pixels = strips.unpacked(page)
        return pixels[..., 0] if pixels.shape[2] == 1 else pixels
    try:
        return _channels_last(page, page.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise ImageReadError(f"wants a decoder that is not installed: pip install imagecodecs ({error})") from error


def _check(page: Any, max_pixels: int, file_bytes: int) -> None:
    if page.imagedepth > 1:
        raise ImageReadError("holds a volume; save its slices as pages, or as files")
    _check_tags(page, file_bytes)
    if page.dtype is None:
        raise ImageReadError(
            f"says that it holds numbers of {page.bitspersample} bits in the format {int(page.sampleformat)}, which"
            " there are not; copy it again, or save it anew as integers or floats"
        )
    if page.dtype.kind not in "biuf":
        raise ImageReadError("holds complex numbers; wanted integers or floats: save their magnitude")
    if int(page.photometric) == _PALETTE and page.colormap is None:
        raise ImageReadError("is damaged: its pixels are entries of a palette that is not in the file; copy it again")
    check_size(page.imagewidth, page.imagelength, max_pixels)
    ends = [o + c for o, c in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > file_bytes:
        came = (
            f"the file ends at byte {file_bytes}, its pixels at {max(ends)}"
            if ends
            else "its pixels are not in the file"
        )
        raise ImageReadError(f"is truncated: {came}; copy it again")


def _check_tags(page: Any, file_bytes: int) -> None:
    """Refuse a page of which a tag is cut off that says what pixels are: tifffile goes on as if there were none."""
    file, order = page.parent.filehandle, page.parent.byteorder
    count_format, entry_format = ("Q", "HHQQ") if page.parent.is_bigtiff else ("H", "HHII")
    entry_size, inline = struct.calcsize(f"<{entry_format}"), struct.calcsize(f"<{entry_format[-1]}")
    file.seek(page.offset)
    (count,) = struct.unpack(order + count_format, file.read(struct.calcsize(f"<{count_format}")))
    for tag, kind, values, offset in struct.iter_unpack(order + entry_format, file.read(count * entry_size)):
        size = _TYPE_BYTES.get(kind, 0) * values
        if tag in _DESCRIBING and size > inline and offset + size > file_bytes:
            raise ImageReadError(f"is truncated: the file ends at byte {file_bytes}, its tag {tag} at {offset + size}")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse pictures beyond the limit, which keeps a small file from unpacking into all of the memory.

    Raises:
        ImageReadError: If there are more; without the file's name.
    """
    if width < 1 or height < 1:
        raise ImageReadError(f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageReadError(
            f"is {width} x {height}, {width * height / 1e6:.6g} megapixels; the limit is {max_pixels / 1e6:.6g}."
            " If it is what you expect, raise the limit with --max-pixels (max_pixels=)"
        )


def _finished(page: Any, pixels: NDArray[Any], count: int) -> TiffPage:
    """Native byte order, black as zero, few bits on 0 to 255, RGB; alpha not multiplied in."""
    notes: list[str] = []
    photometric, bits = int(page.photometric), page.bitspersample
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    nodata = no_data.declared(_tag(page, no_data.TAG, ""), pixels.dtype)
    if bits in _SPREAD and photometric != _PALETTE:
        pixels = pixels.astype(np.uint8) * np.uint8(_SPREAD[bits])
        nodata = None if nodata is None or nodata * _SPREAD[bits] > 255 else nodata * _SPREAD[bits]
    if photometric == _WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
        nodata = None if nodata is None else np.iinfo(pixels.dtype).max - nodata
    palette = None
    extra = [int(v) for v in page.extrasamples]
    if photometric == _RGB and page.samplesperpixel == 4 and not extra and pixels.dtype.kind == "u":
        extra = [_UNASSOCIATED]  # OpenCV, among others, does not say so
    has_alpha = pixels.ndim == 3 and bool(extra) and extra[-1] in (_ASSOCIATED, _UNASSOCIATED)
    if photometric == _PALETTE and page.colormap is not None:
        palette = _palette(page.colormap)
        if nodata is not None and (pixels == nodata).any():
            palette[int(nodata), 3], has_alpha = 0, True
        pixels, nodata = palette[np.minimum(pixels, len(palette) - 1), : 3 + has_alpha], None
        notes.append("palette expanded to RGB")
    pixels, has_alpha, nodata = no_data.marked(pixels, nodata, has_alpha=has_alpha)
    if has_alpha and extra and extra[-1] == _ASSOCIATED:
        pixels = _unmultiplied(pixels)
        notes.append("alpha was multiplied into the colours and has been divided out")
    if photometric == _CMYK:
        pixels = _rgb(page, pixels)
        notes.append("CMYK converted to RGB, without its colour profile")
    return TiffPage(
        pixels=pixels,
        has_alpha=has_alpha,
        page_count=count,
        orientation=_tag(page, "Orientation", 1),
        icc=None if photometric == _CMYK else _tag(page, "InterColorProfile", None),
        resolution=_resolution(page),
        palette=palette,
        mode="P" if palette is not None else "CMYK" if photometric == _CMYK else "1" if bits == 1 else "",
        notes=tuple(notes),
        nodata=nodata,
    )


def _rgb(page: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """Red, green, blue, and what lies behind the four inks of CMYK."""
    if _tag(page, "InkSet", 1) != 1 or page.samplesperpixel < 4 or pixels.dtype.kind != "u":
        raise ImageReadError("holds inks other than CMYK in whole numbers; convert it to RGB")
    full = np.iinfo(pixels.dtype).max
    light = (full - pixels[..., :4]) / full
    colours = np.rint(light[..., :3] * light[..., 3:] * full).astype(pixels.dtype)
    return np.concatenate([colours, pixels[..., 4:]], -1)


def _channels_last(page: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """`(H, W)` or `(H, W, C)` from tifffile's shape, in which planes may come first and axes of one are left out."""
    shape = (page.imagelength, page.imagewidth)
    if page.samplesperpixel == 1:
        return pixels.reshape(shape)
    if int(page.planarconfig) == 2:
        return np.ascontiguousarray(np.moveaxis(pixels.reshape(page.samplesperpixel, *shape), 0, -1))
    return pixels.reshape(*shape, page.samplesperpixel)


def _palette(colormap: NDArray[Any]) -> NDArray[np.uint8]:
    """`(N, 4)` RGBA from TIFF's three rows of 16 bits; some writers leave the upper byte empty."""
    colours = colormap.T if colormap.max() < 256 else colormap.T >> 8
    out = np.full((len(colours), 4), 255, np.uint8)
    out[:, :3] = colours
    return out


def _unmultiplied(pixels: NDArray[Any]) -> NDArray[Any]:
    """Colours divided by alpha; where that is zero there is no colour."""
    one = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    alpha = pixels[..., -1:].astype(np.float64) / one
    colour = np.divide(pixels[..., :-1], alpha, out=np.zeros(pixels[..., :-1].shape), where=alpha > 0)
    if pixels.dtype.kind in "iu":
        colour = np.clip(np.rint(colour), 0, one)
    return np.concatenate([colour.astype(pixels.dtype), pixels[..., -1:]], -1)


def _tag(page: Any, name: str | int, default: Any) -> Any:
    tag = page.tags.get(name)
    return default if tag is None else tag.value


def _resolution(page: Any) -> Resolution | None:
    x, y = _tag(page, "XResolution", None), _tag(page, "YResolution", None)
    if x is None or y is None or not (x[0] and x[1] and y[0] and y[1]):
        return None
    unit = UNITS.get(int(_tag(page, "ResolutionUnit", 2)), "none")
    imagej = re.match(r"ImageJ=.*?^unit=([^\r\n]+)", page.description or "", re.DOTALL | re.MULTILINE)
    return Resolution(x[0] / x[1], y[0] / y[1], unit, imagej[1] if imagej else None)
