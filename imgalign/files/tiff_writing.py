"""Writing TIFF by tifffile: any number of channels, 8 to 64 bits, integers and floats, in strips.

Source: TIFF Revision 6.0 (Adobe 1992).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from numpy.typing import NDArray

from imgalign.files import nodata as no_data
from imgalign.files import strips
from imgalign.files.tiff import LZW, UNITS, Resolution

_CLASSIC_BYTES = 3 * 2**30  # beyond this BigTIFF: offsets of 32 bits end at 4 GB


@contextmanager
def writer(file: IO[bytes], expected_bytes: int, compression: str) -> Iterator[Any]:
    """A `tifffile.TiffWriter` for `add_page`, whose pages all have one compression.

    Args:
        file: Where to, open for writing, reading and seeking.
        expected_bytes: Of all pixels: whether it takes a BigTIFF.
        compression: As in `add_page`.
    """
    import tifffile

    with tifffile.TiffWriter(file, bigtiff=expected_bytes > _CLASSIC_BYTES) as tif:
        yield tif
    if compression == "lzw":
        # tifffile writes this number only with the package that would pack, also where all is packed already.
        file.seek(0)
        with tifffile.TiffFile(file) as written:
            pages: Any = written.pages
            for page in pages:
                page.tags["Compression"].overwrite(LZW)


def add_page(
    tif: Any,
    pixels: NDArray[Any],
    *,
    has_alpha: bool,
    compression: str,
    icc: bytes | None = None,
    resolution: Resolution | None = None,
    nodata: float | None = None,
) -> None:
    """Write one page into an open `writer`.

    Args:
        tif: The writer.
        pixels: `(H, W)` or `(H, W, C)`, any number dtype that TIFF knows.
        has_alpha: The last channel is (unassociated) alpha.
        compression: `none`, `fast` or `small` (both deflate), or `lzw`, as the writer was told.
        icc: Colour profile.
        resolution: Pixels per unit.
        nodata: The number that is written for NaN, or for what is transparent in integers, and said in a tag.
    """
    if nodata is not None:
        pixels, has_alpha = no_data.with_number(pixels, nodata, has_alpha=has_alpha)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colours = channels - has_alpha
    rgb = colours == 3 and pixels.dtype.kind == "u"
    beyond = channels - (3 if rgb else 1)
    extra = ["unassalpha" if has_alpha and i == beyond - 1 else "unspecified" for i in range(beyond)]
    options: dict[str, Any] = {"extrasamples": extra} if extra else {}
    if nodata is not None:
        options["extratags"] = [(no_data.TAG, "s", 0, str(nodata), True)]
    data: Any = pixels
    if compression == "lzw":
        parts, height = strips.lzw(pixels)
        data = iter(parts)  # `writer` puts the compression's own name in the end
        options |= {"compression": "zlib", "shape": pixels.shape, "dtype": pixels.dtype, "rowsperstrip": height}
    elif compression != "none":
        options |= {
            "compression": "zlib",
            "compressionargs": {"level": {"fast": 1, "small": 9}[compression]},
            "predictor": pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 4,
            "rowsperstrip": max(1, (1 << 18) // max(1, pixels[:1].nbytes)),
        }
    if resolution is not None:
        options |= {"resolution": (resolution.x, resolution.y), "resolutionunit": _unit_number(resolution.unit)}
        if resolution.length:
            options["description"] = f"ImageJ=1.11a\nunit={_as_ascii(resolution.length)}\n"
    tif.write(
        data,
        photometric="rgb" if rgb else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        metadata=None,
        software="imgalign",
        iccprofile=icc,
        **options,
    )


def _as_ascii(name: str) -> str:
    """Signs beyond ASCII as ImageJ writes them, such as `\\u00B5m` for micrometres."""
    return "".join(c if c.isascii() else f"\\u{ord(c):04X}" for c in name)


def _unit_number(unit: str) -> int:
    return next(number for number, name in UNITS.items() if name == unit)
