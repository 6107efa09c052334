"""Pictures of any kind a caller may hold: NumPy arrays, PIL images, tensors. In and out as the same kind."""

from typing import TYPE_CHECKING, Any

import numpy as np

from imgalign.errors import ShapeError
from imgalign.warp.canvas import Canvas, Grid, grid_of
from imgalign.warp.resample import Fill, Interpolation, Pixels, warp

_WITH_ALPHA = (2, 4)  # channels, the last of which is alpha

if TYPE_CHECKING:
    from imgalign.alignment import Alignment


def warp_any(
    alignment: "Alignment", image: Any, *, interpolation: Interpolation, canvas: Canvas, fill: Fill, antialias: bool
) -> Any:
    """Lay a picture of any kind over the fixed grid; see `Alignment.warp`."""
    grid = grid_of(canvas, alignment.moving_from_fixed, alignment.fixed_size_hw, alignment.moving_size_hw)

    def lay(pixels: Pixels, *, has_alpha: bool = False, add_alpha: bool = False) -> Pixels:
        _check_size(pixels, alignment)
        return warp(
            pixels,
            moving_from_fixed=alignment.moving_from_fixed @ grid.fixed_from_canvas,
            size_hw=grid.size_hw,
            interpolation=interpolation,
            antialias=antialias,
            fill=fill,
            has_alpha=has_alpha,
            add_alpha=add_alpha,
        )[0]

    if isinstance(image, np.ndarray):
        return lay(image, has_alpha=image.ndim == 3 and image.shape[2] in _WITH_ALPHA)
    if hasattr(image, "detach"):
        return _warp_tensor(image, lay, grid)
    if hasattr(image, "getbands"):
        return _warp_pil(image, lay, transparent=fill is None)
    raise ShapeError(f"wanted a NumPy array, PIL image or tensor, got {type(image).__name__}; convert it first")


def _warp_pil(image: Any, lay: Any, *, transparent: bool) -> Any:
    """Through NumPy; grey and RGB become transparent where nothing lies, unless there is a fill."""
    from PIL import Image

    plain = {"1": "L", "P": "RGBA" if "transparency" in image.info else "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
    image = image.convert(plain[image.mode]) if image.mode in plain else image
    has_alpha = image.mode in ("LA", "RGBA")
    pixels = np.asarray(image)
    return Image.fromarray(lay(pixels, has_alpha=has_alpha, add_alpha=transparent and image.mode in ("L", "RGB")))


def _warp_tensor(image: Any, lay: Any, grid: Grid) -> Any:
    """Through NumPy, each member of a batch by itself; back on the tensor's device."""
    import torch

    if image.ndim not in (2, 3, 4):
        raise ShapeError(f"wanted a tensor (H, W), (C, H, W) or (B, C, H, W), got shape {tuple(image.shape)}")
    known = image.detach().cpu()
    array = (known.float() if known.dtype == torch.bfloat16 else known).numpy()  # which NumPy does not have
    has_alpha = image.ndim > 2 and image.shape[-3] in _WITH_ALPHA
    # Without alpha, channels and members alike are planes of one picture.
    pictures = array.reshape(-1, *array.shape[-3:]) if has_alpha else array.reshape(1, -1, *array.shape[-2:])
    laid = [np.moveaxis(lay(np.moveaxis(planes, 0, -1), has_alpha=has_alpha), -1, 0) for planes in pictures]
    out = np.stack(laid).reshape(*array.shape[:-2], *grid.size_hw)
    return torch.from_numpy(out).to(image.device, image.dtype)


def _check_size(pixels: Pixels, alignment: "Alignment") -> None:
    if pixels.shape[:2] != alignment.moving_size_hw:
        (h, w), (mh, mw) = pixels.shape[:2], alignment.moving_size_hw
        raise ShapeError(f"the picture is {w} x {h}, the alignment is for a moving picture of {mw} x {mh}")
