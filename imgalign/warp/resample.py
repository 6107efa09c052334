"""Laying a picture on another grid: the output warp, tile by tile, with the dtype and range that came in.

Convention: `moving_from_fixed` takes output pixels `(x, y)` to pixels of the picture that is read, `(0, 0)` the centre
of the top-left pixel. An output pixel is covered where its centre falls on the picture's area, half a pixel beyond the
outermost centres; between them and the edge the outermost pixel continues.

Where the picture shrinks, the output is first read on a finer grid, about as dense as the picture, and then averaged
down with the kernel's window, as anti-aliased resizing does: no frequency folds over, whatever the rotation.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign.decompose import Float, jacobians, mapped
from imgalign.errors import OptionError, ShapeError
from imgalign.warp.kernels import KERNELS, Kernel, average, read, read_shifted
from imgalign.warp.source import Source
from imgalign.warp.tiles import Tile, box_of, covered_pixels, is_on, misses, positions, tiles, whole_shift

Interpolation: TypeAlias = Literal["nearest", "bilinear", "cubic", "lanczos"]
Fill: TypeAlias = float | Sequence[float] | None
Pixels: TypeAlias = NDArray[Any]

_TILE = 512  # output pixels a side: a few megabytes a plane, which stays in the cache
_MOST_THREADS = 16
_SHRINKS = 1.1  # moving pixels an output pixel, from which on averaging pays: below it would only soften
_MOST = 12  # finest reading, per output pixel; near a horizon the scale has no bound


def warp(
    pixels: Pixels,
    *,
    moving_from_fixed: Float,
    size_hw: tuple[int, int],
    interpolation: Interpolation = "cubic",
    antialias: bool = True,
    fill: Fill = None,
    has_alpha: bool = False,
    add_alpha: bool = False,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Read a picture where a matrix takes the pixels of another grid.

    Colours under alpha are weighted by it, pixels that are not finite by nothing; integers are rounded and clamped to
    their range. The identity and shifts by whole pixels are exact copies, and so is every value with `nearest`.

    Args:
        pixels: `(H, W)` or `(H, W, C)`, bool, integer or float.
        moving_from_fixed: 3 x 3: output pixel to picture pixel.
        size_hw: Height and width of the output.
        interpolation: `nearest`, `bilinear`, `cubic` (B-spline) or `lanczos` (six taps).
        antialias: Average where the picture shrinks; not with `nearest`.
        fill: What stands where the picture does not reach, a number or one a channel; None is NaN in floats, else 0. An
            alpha channel is 0 there by default, and opaque under a fill.
        has_alpha: The last channel is alpha.
        add_alpha: Put an alpha channel behind the others: opaque where the picture reaches (and is finite).

    Returns:
        The output, in the dtype of `pixels`, and `(H, W)` true where it is covered.

    Raises:
        ShapeError: If `pixels` is no picture.
        OptionError: If there is no such interpolation, or `fill` does not fit.
    """
    pixels = _checked(pixels, interpolation)
    picture = pixels if pixels.ndim == 3 else pixels[..., None]
    matrix = np.asarray(moving_from_fixed, float)
    out = _blank(picture, size_hw, fill, has_alpha, add_alpha)
    covered = np.zeros(size_hw, bool)
    job = _Job(picture, matrix, interpolation, has_alpha, add_alpha)
    shift = whole_shift(matrix, size_hw)
    if shift is not None:
        job.copy(out, covered, shift)
    elif interpolation == "nearest" or picture.dtype == bool:
        job.pick(out, covered)
    else:
        job.interpolate(out, covered, KERNELS[interpolation], antialias)
    flat = pixels.ndim == 2 and not add_alpha
    return (out[..., 0] if flat else out), covered


@dataclass(frozen=True)
class _Job:
    """One warp: the picture `(H, W, C)` and the matrix that says where to read it."""

    picture: Pixels
    matrix: Float
    interpolation: str
    has_alpha: bool
    add_alpha: bool

    @property
    def opaque(self) -> float:
        dtype = self.picture.dtype
        return np.iinfo(dtype).max if dtype.kind in "iu" else 1

    def copy(self, out: Pixels, covered: NDArray[np.bool_], shift: tuple[int, int]) -> None:
        """Whole-pixel shift: the overlapping rectangle, bit by bit."""
        (height, width), (h, w), (dx, dy) = out.shape[:2], self.picture.shape[:2], shift
        top, left, bottom, right = max(0, -dy), max(0, -dx), min(height, h - dy), min(width, w - dx)
        if top >= bottom or left >= right:
            return
        here, there = np.s_[top:bottom, left:right], np.s_[top + dy : bottom + dy, left + dx : right + dx]
        covered[here] = True
        self.put(out[here], self.picture[there], None)

    def pick(self, out: Pixels, covered: NDArray[np.bool_]) -> None:
        """Nearest: values are moved, never computed with."""
        h, w, channels = self.picture.shape
        flat = np.ascontiguousarray(self.picture).reshape(h * w, channels)

        def lay(tile: Tile) -> None:
            x, y = positions(self.matrix, tile)
            inside = is_on(x, y, (h, w))
            # Ties, as when an image is halved, all go one way whatever the rounding of the matrix.
            with np.errstate(invalid="ignore"):
                column = np.clip(np.floor(x + (0.5 + 1e-7)), 0, w - 1).astype(np.intp)
                row = np.clip(np.floor(y + (0.5 + 1e-7)), 0, h - 1).astype(np.intp)
            covered[tile.slices] = inside
            self.put(out[tile.slices], flat.take(row * w + column, axis=0), inside)

        self.each_tile(lay, covered.shape, _TILE)

    def each_tile(self, lay: Callable[[Tile], None], size_hw: tuple[int, ...], side: int) -> None:
        """Lay every tile that may show the picture, one a thread.

        Threads each take whole tiles, with PyTorch's own threads set aside meanwhile (its setting is a global one):
        they meet once a tile rather than after every operation, which on a busy machine is seconds for minutes.
        """
        some = [tile for tile in tiles(size_hw, side) if not misses(self.matrix, tile, self.picture.shape[:2])]
        threads = min(torch.get_num_threads(), _MOST_THREADS, len(some))
        if threads <= 1:
            for tile in some:
                lay(tile)
            return
        own = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(lay, some))
        finally:
            torch.set_num_threads(own)

    def interpolate(self, out: Pixels, covered: NDArray[np.bool_], kernel: Kernel, antialias: bool) -> None:
        """Bilinear, cubic, Lanczos: tile by tile in floating point."""
        density = _Density.of(self.matrix, covered.shape, self.picture.shape[:2]) if antialias else _Density((1, 1), 1)
        source = Source(self.picture, has_alpha=self.has_alpha).reduced(density.reduction)
        matrix = source.reduced_from_full @ self.matrix

        def lay(tile: Tile) -> None:
            inside = covered_pixels(self.matrix, tile, self.picture.shape[:2])
            if inside is not None and not inside.any():
                return
            covered[tile.slices] = True if inside is None else inside
            values, weight = _read_tile(source, matrix, tile, kernel, density)
            self.finish(out[tile.slices], values, weight, inside)

        self.each_tile(lay, covered.shape, density.tile_side)

    def finish(self, out: Pixels, values: Tensor, weight: Tensor | None, inside: NDArray[np.bool_] | None) -> None:
        """From weighted floats to pixels: divide by the weight, bring alpha back, round and clamp."""
        values, alpha = _unweighted(values, weight, self.has_alpha, self.opaque)
        if alpha is not None:
            values = torch.cat([values, alpha])
        array = values.numpy()
        if self.picture.dtype.kind in "iu":
            limits = np.iinfo(self.picture.dtype)
            array = _rounded(array, limits.min, limits.max)
        self.put(out, array.astype(self.picture.dtype, copy=False).transpose(1, 2, 0), inside)

    def put(self, out: Pixels, values: Pixels, inside: NDArray[np.bool_] | None) -> None:
        """Write values, and the alpha asked for, where there is picture."""
        channels = values.shape[2]
        shown: Any = True if inside is None or inside.all() else inside
        for channel in range(channels):  # several times as fast as all at once
            np.copyto(out[..., channel], values[..., channel], where=shown)
        if self.add_alpha:
            known = np.isfinite(values).all(-1) if values.dtype.kind == "f" else True
            np.copyto(out[..., channels], 0)
            np.copyto(out[..., channels], self.picture.dtype.type(self.opaque), where=shown & known)


@dataclass(frozen=True)
class _Density:
    """How densely a picture shrunk by `reduction` is read: at least `fine` times (along x, y) an output pixel."""

    fine: tuple[int, int]
    reduction: int
    matrix: Float | None = None

    @staticmethod
    def of(matrix: Float, out_hw: tuple[int, int], picture_hw: tuple[int, int]) -> "_Density":
        """What the local scales ask for, at places all over the output that lie on the picture."""
        h, w = out_hw
        places = np.stack(np.meshgrid(np.linspace(0, w - 1, 17), np.linspace(0, h - 1, 17)), -1).reshape(-1, 2)
        landed = mapped(matrix, places)
        on_it = np.isfinite(landed).all(1) & is_on(landed[:, 0], landed[:, 1], picture_hw)
        places = places[on_it] if on_it.any() else places[np.isfinite(landed).all(1)]
        if not len(places):
            return _Density((1, 1), 1)
        scales = np.linalg.norm(jacobians(matrix, places), axis=1)  # (N, 2): moving pixels along output x and y
        if scales.max() <= _SHRINKS:
            return _Density((1, 1), 1)
        reduction = max(1, int(scales.min() / 4))  # a box a quarter of an output pixel wide costs no sharpness
        fine_x, fine_y = (2 if s > _SHRINKS else 1 for s in scales.max(0))
        return _Density((fine_x, fine_y), reduction, matrix)

    @property
    def averages(self) -> bool:
        return self.matrix is not None

    @property
    def tile_side(self) -> int:
        return _TILE // 4 if self.averages else _TILE

    def factors(self, tile: Tile) -> tuple[int, int]:
        """Reads an output pixel along x and y in this tile, so that they lie at most a picture's pixel apart."""
        if self.matrix is None:
            return 1, 1
        corners = tile.corners(0.5)
        with np.errstate(all="ignore"):
            scales = np.linalg.norm(jacobians(self.matrix, corners), axis=1).max(0) / self.reduction
        wanted = np.ceil(np.where(np.isfinite(scales), scales, _MOST) - 1e-6)
        # An axis that shrinks nowhere is read once a pixel, where the window is a single tap.
        nx, ny = (1 if f == 1 else int(np.clip(n, f, _MOST)) for f, n in zip(self.fine, wanted, strict=True))
        return nx, ny


def _read_tile(
    source: Source, matrix: Float, tile: Tile, kernel: Kernel, density: _Density
) -> tuple[Tensor, Tensor | None]:
    """The picture's values on a tile, weighted, and the weights where any is less than one."""
    nx, ny = density.factors(tile)
    radius = kernel.radius if density.averages else 0
    fine = np.array(
        [[1 / nx, 0, tile.left - radius + 0.5 / nx - 0.5], [0, 1 / ny, tile.top - radius + 0.5 / ny - 0.5], [0, 0, 1]]
    )
    grid = Tile(0, 0, (tile.height + 2 * radius) * ny, (tile.width + 2 * radius) * nx)
    box = box_of(matrix @ fine, grid, source.size_hw)
    crop = source.crop(box, kernel.margin)
    local = crop.from_picture @ matrix @ fine
    points = crop.positions(local, grid, source.size_hw)
    image = kernel.prepare(crop.planes)
    inner = crop.shifted_inside(local, grid, source.size_hw)
    if inner is None:
        planes = read(kernel, image, points)
    else:
        planes = read_shifted(kernel, image, points, (local[0, 2], local[1, 2]), inner)
    if density.averages:
        planes = average(kernel, average(kernel, planes, ny, 1), nx, 2)
    if crop.weights == 0:
        return planes, None
    return planes[: -crop.weights], planes[-crop.weights :]


def _unweighted(values: Tensor, weight: Tensor | None, has_alpha: bool, opaque: float) -> tuple[Tensor, Tensor | None]:
    """Colours without their weight, and alpha in the dtype's range; NaN where too little of a pixel is known."""
    if weight is None:
        return values, torch.full_like(values[:1], opaque) if has_alpha else None
    floor = 1e-4 if has_alpha else 0.5
    known = weight > floor
    colours = torch.where(known, values / torch.where(known, weight, 1.0), 0.0 if has_alpha else torch.nan)
    return colours, weight[:1].clamp(0, 1) * opaque if has_alpha else None


def _rounded(array: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """To whole numbers within a range; the largest float below a limit that floats cannot express."""
    top = float(high)
    if int(top) > high:
        top = float(np.nextafter(array.dtype.type(top), array.dtype.type(0)))
    np.rint(array, out=array)
    return np.clip(array, float(low), top, out=array)


def _checked(pixels: Pixels, interpolation: str) -> Pixels:
    if interpolation not in get_args(Interpolation):
        raise OptionError(
            f"unknown interpolation {interpolation!r}; choose one of {', '.join(get_args(Interpolation))}"
        )
    pixels = np.asarray(pixels)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.dtype.kind not in "biuf":
        raise ShapeError(
            f"wanted pixels (H, W) or (H, W, C) of numbers, got {pixels.shape} of {pixels.dtype}; convert them first"
        )
    return pixels


def _blank(picture: Pixels, size_hw: tuple[int, int], fill: Fill, has_alpha: bool, add_alpha: bool) -> Pixels:
    """The output before anything is laid on it."""
    channels = picture.shape[2]
    colours = channels - has_alpha
    dtype = picture.dtype
    opaque = np.iinfo(dtype).max if dtype.kind in "iu" else 1
    if fill is None:
        background = [math.nan if dtype.kind == "f" and not has_alpha else 0.0] * colours
    else:
        try:
            background = [float(v) for v in np.atleast_1d(np.asarray(fill, float))]
        except (TypeError, ValueError):
            raise OptionError(f"fill must be a number or one a channel, got {fill!r}") from None
        background = background * colours if len(background) == 1 else background
        if len(background) not in (colours, channels):
            raise OptionError(f"fill has {len(background)} values for {colours} channels; give one, or one for each")
    background += [0.0 if fill is None else opaque] * (channels - len(background))
    background += [0.0 if fill is None else opaque] * add_alpha
    _check_fill(background, dtype)
    out = np.zeros((*size_hw, channels + add_alpha), dtype)
    if any(background):
        out[...] = np.array([_as(v, dtype) for v in background], dtype)
    return out


def _check_fill(background: Sequence[float], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    if any(not limits.min <= v <= limits.max for v in background):
        raise OptionError(
            f"fill must lie between {limits.min} and {limits.max} for {dtype} pixels, got {list(background)}"
        )


def _as(value: float, dtype: np.dtype[Any]) -> Any:
    return round(value) if dtype.kind in "iu" else value
