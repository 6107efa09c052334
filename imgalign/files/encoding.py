"""Pictures into files, by the ending of the name: what each format holds, and how it is written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgalign.errors import WriteError
from imgalign.files import netpbm, png, tiff_writing
from imgalign.files.picture import Metadata, Picture, Pixels

Compression: TypeAlias = Literal["fast", "small", "none", "lzw"]

_NETPBM = {".pgm", ".ppm", ".pnm"}
_OWN = {".png", ".tif", ".tiff", *_NETPBM}  # written without Pillow
_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}
# Pillow knows more, among them such that narrow or shrink pictures without a word.
_BY_PILLOW = {*_JPEG, ".webp", ".bmp", ".dib", ".gif", ".tga", ".pcx", ".jp2", ".j2k", ".avif"}
_ALPHA = {".png", ".tif", ".tiff", ".webp", ".gif", ".avif", ".jp2", ".j2k", ".tga"}
_PROFILE_AND_EXIF = {*_JPEG, ".webp", ".avif"}


@dataclass(frozen=True)
class Plan:
    """A picture made ready for a format."""

    suffix: str
    pixels: Pixels
    has_alpha: bool
    metadata: Metadata
    notes: tuple[str, ...] = ()
    palette: NDArray[np.uint8] | None = None
    one_bit: bool = False


def can_hold_alpha(path: Path) -> bool:
    """True where the format of the name's ending has transparency."""
    return path.suffix.lower() in _ALPHA


def plan(path: Path, pixels: Pixels, *, like: Picture | None, has_alpha: bool | None) -> Plan:
    """Make a picture ready for the format of a name, or say why it cannot be held.

    Raises:
        WriteError: If the format is unknown or cannot hold the pixels; without the file's name.
    """
    suffix = path.suffix.lower()
    check_suffix(suffix)
    pixels = _tidied(pixels)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if has_alpha is None:
        has_alpha = channels in (2, 4) and pixels.dtype in (np.uint8, np.uint16)
    ready = Plan(suffix, pixels, has_alpha, Metadata() if like is None else like.metadata)
    if has_alpha and suffix not in _ALPHA:
        ready = _without_alpha(ready)
    _check_held(ready)
    return _repacked(ready)


def encode(file: IO[bytes], ready: Plan, *, compression: Compression, quality: int) -> None:
    """Write a planned picture to an open file.

    Raises:
        WriteError: If the encoder fails.
        OSError: If the disk does.
    """
    if ready.suffix in (".tif", ".tiff"):
        _encode_tiff(file, ready, compression)
    elif ready.suffix == ".png":
        _encode_png(file, ready, "small" if compression == "lzw" else compression)
    elif ready.suffix in _NETPBM:
        netpbm.write(file, ready.pixels)
    else:
        _encode_by_pillow(file, ready, quality)


def check_suffix(suffix: str) -> None:
    """Refuse an ending, in small letters, that stands for no format that is written.

    Raises:
        WriteError: Without the file's name.
    """
    if not suffix:
        raise WriteError("has no ending, so that its format is unknown; call it something.png or something.tif")
    if suffix in _OWN or (suffix in _BY_PILLOW and _is_by_pillow(suffix)):
        return
    raise WriteError(f"pictures are not written as {suffix!r}; use .png, .tif, .jpg, .webp or .bmp")


def _is_by_pillow(suffix: str) -> bool:
    """Asks the plugins for common formats first: loading all of them takes Pillow 15 ms."""
    for load in (Image.preinit, Image.init):
        load()
        if Image.EXTENSION.get(suffix) in Image.SAVE:
            return True
    return False


def _tidied(pixels: Pixels) -> Pixels:
    """`(H, W, 1)` as `(H, W)`, truth values as 0 and 255, this machine's byte order."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise WriteError(f"wanted pixels (H, W) or (H, W, C), got shape {pixels.shape}")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _check_held(ready: Plan) -> None:
    """Refuse what would lose bits or channels, naming the ending that keeps them."""
    pixels, suffix = ready.pixels, ready.suffix
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if suffix in (".tif", ".tiff"):
        if pixels.dtype.kind not in "uif":
            raise WriteError(f"pixels of type {pixels.dtype} cannot be written; use integers or floats")
        return
    deep = suffix == ".png" or suffix in _NETPBM
    if pixels.dtype != np.uint8 and not (deep and pixels.dtype == np.uint16):
        better = ".png or .tif" if pixels.dtype == np.uint16 else ".tif"
        raise WriteError(f"{suffix} cannot hold {pixels.dtype} pixels; use {better} instead")
    if channels - ready.has_alpha not in {1, 3}:
        plain = " without alpha" if channels in {2, 4} and not ready.has_alpha else ""
        raise WriteError(f"{suffix} cannot hold {channels} channels{plain}; use .tif instead")


def _without_alpha(ready: Plan) -> Plan:
    """Laid on black, as far as it is opaque."""
    alpha = ready.pixels[..., -1:]
    colour = ready.pixels[..., :-1]
    note = f"{ready.suffix} has no transparency: what is transparent became black; use .png or .tif to keep it"
    if ready.pixels.dtype.kind in "ui" and not (alpha == np.iinfo(alpha.dtype).max).all():
        one = np.iinfo(ready.pixels.dtype).max
        colour = ((colour.astype(np.uint64) * alpha + one // 2) // one).astype(ready.pixels.dtype)
        ready = replace(ready, notes=(*ready.notes, note))
    return replace(ready, pixels=colour[..., 0] if colour.shape[2] == 1 else colour, has_alpha=False)


def _repacked(ready: Plan) -> Plan:
    """Back into the palette or the bits that the input had, where no other value came up."""
    if ready.suffix not in (".png", ".gif") or ready.pixels.dtype != np.uint8:
        return ready
    if ready.suffix == ".gif" and ready.pixels.ndim == 3 and ready.pixels.shape[2] == 2:
        ready = replace(ready, pixels=ready.pixels[..., [0, 0, 0, 1]])
    meta, pixels = ready.metadata, ready.pixels
    if meta.mode == "1" and pixels.ndim == 2 and ready.suffix == ".png" and ((pixels == 0) | (pixels == 255)).all():
        return replace(ready, one_bit=True)
    own = _colours(pixels) if ready.suffix == ".gif" and pixels.ndim == 3 else None
    for colours in (meta.palette, own):
        if colours is not None and pixels.ndim == 3 and pixels.shape[2] in (3, 4):
            indices, palette = _indices(pixels, colours)
            if indices is not None:
                return replace(ready, pixels=indices, palette=palette, has_alpha=False)
    return ready


def _colours(pixels: Pixels) -> NDArray[np.uint8]:
    """The palette `(N, 4)` of a picture whose colours are few enough for GIF, of which one may be transparent.

    Raises:
        WriteError: If they are not.
    """
    colours = np.full((*pixels.shape[:2], 4), 255, np.uint8)
    colours[..., : pixels.shape[2]] = pixels
    colours[colours[..., 3] == 0] = 0
    palette = np.unique(colours.view(np.uint32)).view(np.uint8).reshape(-1, 4)
    if len(palette) > 256 or not np.isin(palette[:, 3], (0, 255)).all():
        raise WriteError(".gif cannot hold more than 256 colours, or any half transparent; use .png instead")
    return palette


def _indices(pixels: Pixels, palette: NDArray[np.uint8]) -> tuple[Pixels | None, NDArray[np.uint8]]:
    """The index of every pixel in a palette, and that palette, with a transparent entry where one was missing.

    None in place of the indices where some pixel has another colour.
    """
    if pixels.shape[2] == 4 and (pixels[..., 3] == 0).any() and not (palette[:, 3] == 0).any():
        if len(palette) == 256:
            return None, palette
        palette = np.concatenate([palette, np.zeros((1, 4), np.uint8)])
    clear = palette[palette[:, 3] == 0][:1]
    keys = np.ascontiguousarray(palette).view(np.uint32)[:, 0]
    order = np.argsort(keys, kind="stable")
    out = np.empty(pixels.shape[:2], np.uint8)
    for top in range(0, len(pixels), 64):  # by bands: most pictures of other colours give up in the first
        band = np.full((*pixels[top : top + 64].shape[:2], 4), 255, np.uint8)
        band[..., : pixels.shape[2]] = pixels[top : top + 64]
        if len(clear):
            band[band[..., 3] == 0] = clear[0]
        wanted = band.view(np.uint32)[..., 0]
        found = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
        out[top : top + 64] = order[found]
        if (keys[out[top : top + 64]] != wanted).any():
            return None, palette
    return out, palette


def _encode_png(file: IO[bytes], ready: Plan, compression: str) -> None:
    meta = ready.metadata
    chunks: dict[bytes, bytes] = {}
    if meta.icc:
        chunks[b"iCCP"] = png.icc_chunk(meta.icc)
    if meta.resolution is not None and meta.resolution.dpi is not None:
        chunks[b"pHYs"] = png.dpi_chunk(meta.resolution.dpi)
    if meta.exif:
        chunks[b"eXIf"] = meta.exif
    png.write(file, ready.pixels, compression=compression, palette=ready.palette, one_bit=ready.one_bit, chunks=chunks)


def _encode_tiff(file: IO[bytes], ready: Plan, compression: Compression) -> None:
    meta = ready.metadata
    with tiff_writing.writer(file, ready.pixels.nbytes, compression) as tif:
        tiff_writing.add_page(
            tif,
            ready.pixels,
            has_alpha=ready.has_alpha,
            compression=compression,
            icc=meta.icc,
            resolution=meta.resolution,
            nodata=meta.nodata,
        )


def _encode_by_pillow(file: IO[bytes], ready: Plan, quality: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(ready.pixels))
    options = _pillow_options(ready.metadata) if ready.suffix in _PROFILE_AND_EXIF else {}
    if ready.palette is not None:
        image.putpalette(ready.palette[:, :3].tobytes())  # grey until then, of which the palette makes indices
        clear = np.flatnonzero(ready.palette[:, 3] == 0)
        options |= {"transparency": int(clear[0])} if len(clear) else {}
    if ready.suffix in (".bmp", ".dib"):
        known = ready.metadata.resolution
        options |= {"dpi": (known and known.dpi) or (0, 0)}  # Pillow would say 96
    elif ready.suffix in _JPEG:
        options |= {"quality": quality, "subsampling": 0}
    elif ready.suffix == ".webp":
        options |= {"lossless": True, "exact": True}
    elif ready.suffix == ".avif":
        options |= {"quality": quality}
        if image.mode != "L":  # said of grey, it makes colour of it
            options |= {"subsampling": "4:4:4"}
    image.save(file, Image.EXTENSION[ready.suffix], **options)  # loaded by `check_suffix`


def _pillow_options(meta: Metadata) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if meta.icc:
        options["icc_profile"] = meta.icc
    if meta.exif and len(meta.exif) < 65000:  # a JPEG segment holds no more
        options["exif"] = b"Exif\0\0" + meta.exif
    if meta.resolution is not None and meta.resolution.dpi is not None:
        options["dpi"] = meta.resolution.dpi
    return options
