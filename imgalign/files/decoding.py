"""Pictures through Pillow: any format it knows, into NumPy arrays, upright.

Source for the orientations: Exif 2.32 (CIPA DC-008), tag 274.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
from PIL import Image

from imgalign.errors import ImageReadError
from imgalign.files import nodata, png
from imgalign.files.picture import Metadata, Pixels
from imgalign.files.tiff import Resolution, check_size

_ORIENTATION = 274
_EXIF_HEADS = (b"II*\0", b"MM\0*")
_BAND_BYTES = 1 << 24
_LIMIT = threading.Lock()  # Pillow's limit is a global of its module: held while it is set aside
_AS_STORED = ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "F")  # modes whose values are those of the file
_NOT_PAGES = ("MPO",)  # a camera's JPEG with previews behind it is one picture

_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, 1),
}


@dataclass(frozen=True)
class Decoded:
    """Pixels and what the file says of them."""

    pixels: Pixels
    has_alpha: bool
    page_count: int
    metadata: Metadata
    full_size_hw: tuple[int, int]
    reduction: int = 1
    notes: tuple[str, ...] = ()


def decode(data: IO[bytes], page: int, max_pixels: int, reduce: int) -> Decoded:
    """Decode one page of a picture by Pillow.

    Args:
        data: The file, open for reading.
        page: Counted from 0.
        max_pixels: Refuse pictures with more.
        reduce: Decode a JPEG at about 1/2, 1/4 or 1/8 of its size.

    Raises:
        ImageReadError: If there is no such page, or it is too large; without the file's name.
        Exception: Whatever Pillow's decoders make of damaged files.
    """
    with opened(data) as image:
        check_size(*image.size, max_pixels)
        count = 1 if image.format in _NOT_PAGES else int(getattr(image, "n_frames", 1))
        if page >= count:
            raise ImageReadError(f"has {count} page{'s' * (count != 1)}, counted from 0; there is no page {page}")
        if page:
            image.seek(page)
            check_size(*image.size, max_pixels)
        full_size = image.size
        if reduce > 1:
            image.draft(None, (max(1, full_size[0] // reduce), max(1, full_size[1] // reduce)))
        said = str(getattr(image, "tag_v2", {}).get(nodata.TAG, ""))
        metadata, orientation = _metadata(image), _orientation(image)
        notes = _notes(image)
        if image.info.get("exif") and metadata.exif is None:
            notes += ("its EXIF is damaged and was left out",)
        pixels, has_alpha = _pixels(image, data)
        if image.mode in _AS_STORED:
            number = nodata.declared(said, pixels.dtype)
            pixels, has_alpha, number = nodata.marked(pixels, number, has_alpha=has_alpha)
            metadata = replace(metadata, nodata=number)
        reduction = round(max(full_size) / max(image.size))
    pixels = upright(pixels, orientation)
    if orientation != 1:
        notes += ("turned upright, as its EXIF orientation says",)
    full_hw = full_size if orientation >= 5 else full_size[::-1]
    return Decoded(pixels, has_alpha, count, metadata, full_hw, reduction, notes)


@contextmanager
def opened(data: IO[bytes]) -> Iterator[Image.Image]:
    """Open by Pillow without its own limit on the size: ours is checked, and names the option that raises it."""
    data.seek(0)
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(data)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror pixels as an EXIF orientation (1 to 8) says; anything else leaves them."""
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def upright_exif(exif: bytes) -> bytes:
    """EXIF with its orientation set to upright in place, so that maker notes and all offsets stay."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return exif
    out = bytearray(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return exif
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        if struct.unpack_from(order + "H", exif, entry)[0] == _ORIENTATION:
            struct.pack_into(order + "H", out, entry + 8, 1)
    return bytes(out)


def _metadata(image: Image.Image) -> Metadata:
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        exif = exif.removeprefix(b"Exif\0\0")
        exif = upright_exif(exif) if exif[:4] in _EXIF_HEADS and len(exif) >= 10 else None
    dpi = image.info.get("dpi")
    good = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(v) < 1e9 for v in dpi)
    profile = image.info.get("icc_profile")
    return Metadata(
        format=image.format or "",
        mode=image.mode,
        icc=profile if isinstance(profile, bytes) and profile and image.mode != "CMYK" else None,
        exif=exif if isinstance(exif, bytes) and exif else None,
        resolution=Resolution(float(dpi[0]), float(dpi[1]), "inch") if good and dpi else None,
        palette=_palette(image),
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 for TIFF, which Pillow turns upright itself, and where EXIF cannot be read."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - the parser raises nearly anything, and the pixels are whole
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _palette(image: Image.Image) -> Pixels | None:
    if image.mode != "P" or image.palette is None:
        return None
    image.load()  # until then that of a BMP is not unpacked
    colours = np.frombuffer(bytes(image.palette.tobytes()), np.uint8)
    if image.palette.mode != "RGB" or colours.size % 3:
        return None
    out = np.full((colours.size // 3, 4), 255, np.uint8)
    out[:, :3] = colours.reshape(-1, 3)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and transparent < len(out):
        out[transparent, 3] = 0
    elif isinstance(transparent, bytes):
        alpha = np.frombuffer(transparent, np.uint8)[: len(out)]
        out[: len(alpha), 3] = alpha
    return out


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = {"CMYK": "CMYK converted to RGB, without its colour profile", "P": "palette expanded to RGB"}
    note = notes.get(image.mode)
    return () if note is None else (note,)


def _pixels(image: Image.Image, data: IO[bytes]) -> tuple[Pixels, bool]:
    """The pixels, and whether the last channel is alpha."""
    data_at = data.tell()
    data.seek(0)
    header = data.read(29)
    deep = png.is_deep(header)
    data.seek(data_at)
    if deep and image.format == "PNG":
        pixels: Pixels = png.read_deep(data)
        return pixels, pixels.shape[2] in (2, 4)
    image.load()
    key = image.info.get("transparency")
    if image.format == "PNG" and isinstance(key, int) and image.mode in ("1", "L", "I", "I;16"):
        grey = _exact(image, _in_bands(image, "L" if image.mode == "1" else image.mode))
        return png.keyed(grey[..., None], [png.as_decoded(key, header)]), True
    mode = _target_mode(image)
    return _exact(image, _in_bands(image, mode)), mode in ("LA", "RGBA")


def _target_mode(image: Image.Image) -> str:
    """The mode in which NumPy shall see the picture."""
    transparent = "transparency" in image.info
    if image.mode in ("L", "LA", "RGB", "RGBA", "I", "F") or image.mode.startswith("I;16"):
        return {"L": "LA", "RGB": "RGBA"}.get(image.mode, image.mode) if transparent else image.mode
    if image.mode == "1":
        return "L"
    if image.mode in ("P", "PA", "RGBa", "La"):
        own = image.mode != "P" or transparent
        return {"La": "LA"}.get(image.mode, "RGBA" if own else "RGB")
    if image.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        return "RGB"
    raise ImageReadError(f"has pixels of kind {image.mode}, which is not read here; convert it to RGB or grey")


def _in_bands(image: Image.Image, mode: str) -> Pixels:
    """Convert band by band, so that beside Pillow's picture and ours no third one stands in memory."""
    width, height = image.size
    step = max(1, _BAND_BYTES // max(1, 4 * width))
    out: Pixels | None = None
    for top in range(0, height, step):
        band = image.crop((0, top, width, min(top + step, height)))
        part = np.asarray(band if band.mode == mode else band.convert(mode))
        if out is None:
            out = np.empty((height, *part.shape[1:]), part.dtype.newbyteorder("="))
        out[top : top + step] = part
    assert out is not None
    return out


def _exact(image: Image.Image, pixels: Pixels) -> Pixels:
    """The dtype of the file where Pillow holds it in a wider one."""
    if image.mode == "I" and image.format in ("PNG", "PPM") and pixels.min() >= 0 and pixels.max() < 65536:
        return pixels.astype(np.uint16)
    return pixels
