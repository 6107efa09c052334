"""Bring the brightest structure of one picture to its middle: alignment of a picture with itself.

The picture is `moving`; `fixed` is the same grid with the structure at the middle pixel `(W // 2, H // 2)`. A shift
is how far the content moves on the screen, so that `moving_from_fixed` is the translation by minus the shift.

`brightest` finds the structure.
"""

import math
import time
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Image, SamplerName, Weight
from imgalign.alignment import Alignment
from imgalign.errors import OptionError, ShapeError
from imgalign.planes.weights import as_weights
from imgalign.refine.brightest import Found, Sought, midpoint, robust
from imgalign.wanted import check_number

Objective = Literal["robust", "midpoint"]


def center(
    image: Any,
    *,
    objective: Objective = "robust",
    sampler: SamplerName = "cubic",
    neighbourhood_px: float | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    max_shift: float | None = None,
    mask: Any = None,
    trust: float = 0.5,
) -> Alignment:
    """Find the shift that brings the brightest structure of a picture to its middle pixel.

    `robust` looks at neighbourhoods: the picture without its background and without single hot pixels, blurred by a
    Gaussian. It starts at the brightest place of all and climbs by Newton steps, and says how far the shift can be
    trusted. `midpoint` maximises the plain squared value at the middle by plain gradient descent from no shift, on
    the picture divided by its maximum: it climbs from where it is, and noise stops it.

    Args:
        image: NumPy `(H, W)` or `(H, W, C)` of any real dtype, PIL image, or tensor `(H, W)` or `(C, H, W)`; at least
            2 x 2 pixels. Of 2 or 4 channels the last is alpha and masks; NaN and infinite pixels are masked too.
            Colours are averaged.
        objective: `robust` or `midpoint`.
        sampler: How the picture is read between its pixels. `nearest` is good to about a pixel.
        neighbourhood_px: Standard deviation of the Gaussian of `robust`, px; without it a hundredth of the
            shorter side, at least 1.5.
        iterations: Most steps. Without it as many as it takes (of `midpoint` with `nearest`: 100).
        lr: Learning rate of plain gradient descent on the picture scaled to a maximum of 1, px^2; of `midpoint` 10
            without it. With it, `robust` descends plainly as well.
        max_shift: Look no further than this, px.
        mask: `(H, W)` weights, as `align` takes them; 0 is ignored.
        trust: Least probability at which the result is trusted.

    Returns:
        An `Alignment` of model `translate`. A picture without structure is not moved, and not trusted.

    Raises:
        ShapeError: If the picture or the mask cannot be used.
        OptionError: If an option has a value that cannot work.
    """
    began = time.perf_counter()
    _check_options(objective, sampler, neighbourhood_px, iterations, lr, max_shift, trust)
    picture, weight = _grey(image, mask)
    options = {
        "objective": objective,
        "sampler": sampler,
        "neighbourhood_px": neighbourhood_px,
        "iterations": iterations,
        "lr": lr,
        "max_shift": max_shift,
        "trust": trust,
    }
    sought = Sought(picture, weight, sampler, iterations, lr, math.inf if max_shift is None else max_shift)
    found = robust(sought, neighbourhood_px) if objective == "robust" else midpoint(sought)
    if math.hypot(*found.shift) > sought.max_shift:
        found.doubts.append(f"the shift is over the bound of {max_shift:g} px")
        found.probability = 0.0
    return _alignment(found, sought, trust, options, time.perf_counter() - began)


def _alignment(found: Found, sought: Sought, trust: float, options: dict[str, Any], seconds: float) -> Alignment:
    matrix = np.eye(3)
    matrix[:2, 2] = -np.asarray(found.shift)
    height, width = sought.size_hw
    left = max(0.0, 1 - abs(found.shift[0]) / width) * max(0.0, 1 - abs(found.shift[1]) / height)
    quality = {"overlap": left, **found.quality}
    if found.history:
        quality |= {"loss_before": found.history[0], "loss_after": found.history[-1]}
    covariance, sigma = None, {}
    if found.covariance is not None:
        covariance = np.tile(found.covariance, (4, 4))  # all corners move as one
        sigma = dict(zip(("shift_x", "shift_y"), np.sqrt(np.diag(found.covariance)).tolist(), strict=True))
    return Alignment(
        model="translate",
        moving_from_fixed=matrix,
        fixed_size_hw=sought.size_hw,
        moving_size_hw=sought.size_hw,
        status=found.status,
        trusted=found.probability > 0 and found.probability >= trust,
        probability=found.probability,
        reasons=tuple(found.doubts),
        corner_covariance=covariance,
        parameter_sigma=sigma,
        quality=quality,
        history=tuple(found.history),
        seconds={"refine": seconds},
        options=options,
    )


def _grey(image: Any, mask: Any) -> tuple[Image, Weight]:
    """`(1, 1, H, W)` mean of the colours and its weight; what is masked is 0."""
    planes, alpha = _planes(image)
    wide = planes.dtype == torch.float64 or planes.dtype in {torch.int32, torch.int64}
    planes = planes.to(torch.float64 if wide else torch.float32)
    if planes.shape[0] < 1 or min(planes.shape[1:]) < 2:
        raise ShapeError(
            f"image must have at least 2 x 2 pixels, got {planes.shape[2]} x {planes.shape[1]}; use a larger one"
        )
    grey = planes.mean(0)
    weight = grey.isfinite().to(grey.dtype)
    if alpha is not None:
        weight = weight * alpha.to(grey.dtype).nan_to_num(0.0).clamp(0, 1)
    if mask is not None:
        weight = weight * torch.from_numpy(as_weights(mask, (grey.shape[0], grey.shape[1]), "image"))
    if not bool((weight > 0).any()):
        raise ShapeError("image must have pixels to look at, but all are masked, transparent or NaN; check the mask")
    return torch.where(weight > 0, grey, 0.0)[None, None], weight[None, None]


def _planes(image: Any) -> tuple[Tensor, Tensor | None]:
    """`(C, H, W)` colours and `(H, W)` alpha of 0 to 1, from any kind of picture."""
    if hasattr(image, "getbands"):
        image = np.asarray(image.convert("RGBA") if image.mode in {"P", "CMYK", "YCbCr"} else image)
    if isinstance(image, Tensor):
        planes = image.detach().cpu()
        planes = planes[None] if planes.ndim == 2 else planes
        if planes.dtype in {torch.uint16, torch.uint32, torch.uint64}:  # which few of PyTorch's functions take
            planes = planes.to(torch.float32 if planes.dtype == torch.uint16 else torch.float64)
    else:
        array = np.asarray(image)
        if array.dtype.kind not in "buif" or array.ndim not in {2, 3}:
            raise ShapeError(f"image must be (H, W) or (H, W, C) of real numbers, got {array.shape} of {array.dtype}")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)  # torch lacks these
        array = array.astype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array
        array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])  # else torch complains
        planes = torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0))
    if planes.ndim != 3 or planes.is_complex():
        raise ShapeError(
            f"image must be (H, W) or (C, H, W) of real numbers, got {tuple(planes.shape)}; pick one image"
        )
    if planes.shape[0] not in {2, 4}:
        return planes, None
    top = 255.0 if planes.dtype == torch.uint8 else max(1.0, float(planes[-1].nan_to_num(0.0).max()))
    return planes[:-1], planes[-1].double() / top


def _check_options(
    objective: str,
    sampler: str,
    neighbourhood_px: float | None,
    iterations: int | None,
    lr: float | None,
    max_shift: float | None,
    trust: float,
) -> None:
    if objective not in get_args(Objective):
        raise OptionError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")
    if sampler not in get_args(SamplerName):
        raise OptionError(f"sampler must be one of {', '.join(get_args(SamplerName))}, got {sampler!r}")
    limits = {"neighbourhood_px": neighbourhood_px, "iterations": iterations, "lr": lr, "max_shift": max_shift}
    for name, value in limits.items():
        if value is not None:
            check_number(name, value, whole=name == "iterations")
        if value is not None and not (math.isfinite(value) and value > 0):
            raise OptionError(f"{name} must be above zero, got {value}; leave it out for the default")
    check_number("trust", trust)
    if not 0 <= trust <= 1:
        raise OptionError(f"trust is a probability between 0 and 1, got {trust}")
