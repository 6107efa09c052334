"""Decoded pictures laid over a grid by a known transform, and written.

Convention: as in `alignment`; the canvas says which part of the fixed picture's plane is written.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgalign.alignment import Alignment
from imgalign.decompose import corners_of, mapped
from imgalign.errors import DeviceError, ImgalignError, OptionError, ShapeError, WriteError
from imgalign.files import images
from imgalign.files.images import Picture
from imgalign.files.paths import shown
from imgalign.warp.canvas import grid_of

if TYPE_CHECKING:
    from imgalign.files.encoding import Compression
    from imgalign.warp.canvas import Canvas
    from imgalign.warp.resample import Interpolation

_BLACK = "black: this format has no transparency"
_ZERO = "0 in every channel: only grey and RGB become transparent; another number is --fill"


@dataclass(frozen=True)
class WriteOptions:
    """How results are written."""

    interpolation: "Interpolation" = "cubic"
    canvas: "Canvas" = "fixed"
    fill: tuple[float, ...] | None = None
    antialias: bool = True
    compression: "Compression" = "fast"
    overwrite: bool = False
    on_untrusted: Literal["keep", "skip", "identity"] = "keep"

    def shaping(self) -> dict[str, Any]:
        """Those that shape the written picture, for the record."""
        names = ("interpolation", "canvas", "fill", "antialias", "on_untrusted")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Laid:
    """A picture on its new grid."""

    pixels: NDArray[Any]
    covered: NDArray[np.bool_]  # (H, W): true where there was something under the grid, and no "no data"
    has_alpha: bool
    grid: Mapping[str, Any]  # where it lies in the fixed picture, for the record
    notes: tuple[str, ...] = ()

    @property
    def colours(self) -> NDArray[Any]:
        """`(H, W)` or `(H, W, C)`: the pixels without their opacity."""
        if not self.has_alpha:
            return self.pixels
        colours = self.pixels[..., :-1]
        return colours[..., 0] if colours.shape[2] == 1 else colours

    @property
    def opaque(self) -> NDArray[np.bool_]:
        """`(H, W)`: true where there is something to be seen, which is more than half opaque."""
        if not self.has_alpha:
            return self.covered
        alpha = self.pixels[..., -1]
        one = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
        return self.covered & (alpha > one / 2)


def lay(picture: Picture, alignment: Alignment, writing: WriteOptions, *, alpha: bool) -> Laid:
    """Lay a picture over the fixed grid, or the canvas asked for.

    Args:
        picture: Of the moving picture's size.
        alignment: By what.
        writing: Interpolation, canvas, fill.
        alpha: The area with nothing under it may become transparent; floats hold NaN there instead.

    Raises:
        ShapeError: If the picture has not the moving picture's size.
        WriteError: If there is no such canvas, or the fill does not fit the picture.
    """
    from imgalign.warp import resample

    if picture.size_hw != alignment.moving_size_hw:
        (height, width), (h, w) = picture.size_hw, alignment.moving_size_hw
        raise ShapeError(
            f"has {width} x {height} pixels, the transform is for pictures of {w} x {h}; use one, or --rescale"
        )
    nodata, fill = picture.metadata.nodata, writing.fill
    if fill is not None and nodata is not None and set(fill) == {nodata}:
        fill = None  # the file's own word for nothing
    with _as_write_error():
        grid = grid_of(writing.canvas, alignment.moving_from_fixed, alignment.fixed_size_hw, alignment.moving_size_hw)
        matrix = alignment.moving_from_fixed @ grid.fixed_from_canvas
        whole = _reaches_everywhere(matrix, grid.size_hw, picture.size_hw)
        known = picture.channels in {1, 3} or nodata is not None
        plain = picture.pixels.dtype.kind in "iu" and not picture.has_alpha
        add_alpha = (alpha or nodata is not None) and plain and known and not whole and fill is None
        pixels, covered = resample.warp(
            picture.pixels,
            moving_from_fixed=matrix,
            size_hw=grid.size_hw,
            interpolation=writing.interpolation,
            antialias=writing.antialias,
            fill=fill,
            has_alpha=picture.has_alpha,
            add_alpha=add_alpha,
        )
    black = plain and not add_alpha and not whole and fill is None
    has_alpha = picture.has_alpha or add_alpha
    by_nodata = has_alpha and nodata is not None and picture.pixels.dtype.kind in "iu"
    if by_nodata:
        covered &= pixels[..., -1] > np.iinfo(pixels.dtype).max // 2
    return Laid(
        pixels,
        covered,
        has_alpha=has_alpha,
        grid={"canvas_offset_xy": list(grid.offset_xy), "canvas_size_hw": list(grid.size_hw)},
        notes=(f"what the picture does not reach is {_BLACK if known else _ZERO}",) if black else (),
    )


def _reaches_everywhere(matrix: NDArray[np.float64], size_hw: tuple[int, int], picture_hw: tuple[int, int]) -> bool:
    """True where the picture lies under the whole grid: both are convex, so the corners tell."""
    landed = mapped(matrix, corners_of(size_hw))
    limit = np.array(picture_hw[::-1]) - 0.5
    return bool((np.isfinite(landed) & (landed >= -0.5) & (landed <= limit)).all())


def at_density(alignment: Alignment, size_hw: tuple[int, int]) -> Alignment:
    """The alignment for pictures that show the moving picture's field in another number of pixels."""
    scale_y, scale_x = np.array(size_hw) / alignment.moving_size_hw
    rescaled = np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]])
    return replace(alignment, moving_from_fixed=rescaled @ alignment.moving_from_fixed, moving_size_hw=size_hw)


def left_in_place(alignment: Alignment) -> Alignment:
    """The alignment that moves nothing, in place of one that is not to be trusted."""
    return replace(
        alignment,
        moving_from_fixed=np.eye(3),
        status="left in place",
        reasons=(*alignment.reasons, "the moving picture was left where it is (--on-untrusted identity)"),
        corner_covariance=None,
        parameter_sigma={},
    )


def numbers_like(picture: Picture) -> Picture:
    """What a map of numbers inherits from a picture: its resolution, and no colours."""
    return replace(picture, metadata=images.Metadata(resolution=picture.metadata.resolution))


def write(
    path: Path, pixels: NDArray[Any], like: Picture, writing: WriteOptions, *, has_alpha: bool
) -> tuple[str, ...]:
    """Write pixels with what travels along from a picture that was read, never over that picture.

    Returns:
        Notes on what the format could not hold.

    Raises:
        WriteError: If they could not be written.
    """
    return images.write(
        path,
        pixels,
        like=like,
        has_alpha=has_alpha,
        overwrite=writing.overwrite,
        compression=writing.compression,
        inputs=[like.path],
    )


@contextmanager
def naming(picture: Picture) -> Iterator[None]:
    """Put the file's name in front of what the library says of its pixels."""
    try:
        yield
    except (OptionError, DeviceError):
        raise
    except ImgalignError as error:
        name = shown(picture.path)
        raise (error if name in str(error) else type(error)(f"{name}: {error}")) from error.__cause__


@contextmanager
def _as_write_error() -> Iterator[None]:
    """An option that does not fit one picture is that picture's failure, and no wrong usage of the whole run."""
    try:
        yield
    except OptionError as error:
        raise WriteError(str(error)) from error
