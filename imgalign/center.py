"""Bring the brightest structure of one picture to its middle: alignment of a picture with itself.

The picture is `moving`; `fixed` is the same grid with the structure at the middle pixel `(W // 2, H // 2)`. A shift
is how far the content moves on the screen, so that `moving_from_fixed` is the translation by minus the shift.

The objective is the squared value that arrives at the middle pixel; `climb` descends it.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from imgalign._types import Image, SamplerName, Weight
from imgalign.alignment import Alignment
from imgalign.climb import Climb, climb_by_newton, descend
from imgalign.errors import OptionError, ShapeError
from imgalign.histograms import regular_subset, weighted_quantile
from imgalign.neighbours import largest
from imgalign.pyramid import blur, reduce
from imgalign.wanted import check_number
from imgalign.weights import as_weights

Objective = Literal["robust", "midpoint"]

# In standard deviations of the blurred noise: the brightest of a million independent places reaches 5 by chance.
_STANDS_OUT = 6.0
_LR, _NEAREST_STEPS, _MOST_STEPS = 10.0, 100, 20_000


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
    task = _Task(picture, weight, sampler, iterations, lr, math.inf if max_shift is None else max_shift)
    found = _robust(task, neighbourhood_px) if objective == "robust" else _midpoint(task)
    if math.hypot(*found.shift) > task.max_shift:
        found.doubts.append(f"the shift is over the bound of {max_shift:g} px")
        found.probability = 0.0
    return _alignment(found, task, trust, options, time.perf_counter() - began)


@dataclass(frozen=True)
class _Task:
    picture: Image  # (1, 1, H, W)
    weight: Weight
    sampler: SamplerName
    iterations: int | None
    lr: float | None
    max_shift: float

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.picture.shape[2], self.picture.shape[3])

    @property
    def middle(self) -> tuple[int, int]:
        return (self.size_hw[1] // 2, self.size_hw[0] // 2)


@dataclass
class _Found:
    shift: tuple[float, float]
    status: str
    history: list[float]
    probability: float
    doubts: list[str]
    covariance: NDArray[np.float64] | None
    quality: dict[str, float]


def _midpoint(task: _Task) -> _Found:
    lowest = task.picture[task.weight > 0].min()
    filled = torch.where(task.weight > 0, task.picture, lowest)
    peak = float(filled.abs().max())
    if not peak > 0 or float(filled.max()) == float(lowest):
        return _nothing("no structure", "the picture has one value everywhere")
    most = task.iterations or (_NEAREST_STEPS if task.sampler == "nearest" else _MOST_STEPS)
    climb = Climb(filled / peak, (0, 0), task.sampler)
    position, status, history = descend(climb, task.middle, task.lr or _LR, most)
    doubts = [] if status != "no overlap" else ["the descent left the picture"]
    found = _Found(_shift_of(position, task), status, history, 0.0 if doubts else 1.0, doubts, None, {})
    if status == "iteration limit" and task.sampler != "nearest":
        found.doubts.append("the descent was still moving when its steps ran out")
    return found


def _robust(task: _Task, sigma: float | None) -> _Found:
    sigma = max(1.5, 0.01 * min(task.size_hw)) if sigma is None else sigma
    if sigma > max(1.5, min(task.size_hw)):
        h, w = task.size_hw
        raise ShapeError(f"a neighbourhood of {sigma:g} px is wider than the picture, {w} x {h}; take a smaller one")
    level, dark = _median(task.picture, task.weight), task.weight <= 0
    noise = _noise(*(_cut(part, task.middle, 512)[0] for part in (task.picture, task.weight)))
    picture = torch.where(dark, 0.0, task.picture - level)
    weight = task.weight * ~_hot(picture, noise) if sigma < 6 else task.weight
    # Peaks as wide as sigma lose nothing on a grid of a third of it.
    reduction = max(1, min(int(sigma / 3), min(task.size_hw) // 2))
    places = _Places.of(*reduce(picture, weight, reduction), sigma / reduction, reduction, task)
    if places is None:
        return _nothing("no structure", "nothing is brighter than the background")
    reach = math.ceil(10 * sigma) + 8
    crop, corner = _cut(picture, places.brightest, reach)
    crop_weight, _ = _cut(weight, places.brightest, reach)
    blurred = blur((crop * crop_weight).double(), sigma).clamp_min(0)
    peak = float(blurred.max())
    if not peak > 0:
        return _nothing("no structure", "nothing is brighter than the background")
    climb = Climb(blurred / peak, corner, task.sampler)
    if task.lr is None:
        position, status, history = climb_by_newton(climb, places.brightest, sigma, task.iterations or 100)
    else:
        position, status, history = descend(climb, places.brightest, task.lr, task.iterations or _MOST_STEPS)
    curvature = climb.curvature(position)[1] * peak
    found = _judged(_shift_of(position, task), status, history, places, curvature, noise, sigma)
    cut = _cut_by_border(position, peak, curvature, task.size_hw)
    if cut:
        found.doubts.append(f"the structure is cut by the {cut} border of the picture")
        found.probability = min(found.probability, 0.3)
    return found


def _cut_by_border(
    position: tuple[float, float], peak: float, curvature: NDArray[np.float64], size_hw: tuple[int, int]
) -> str:
    """The border that lies within the width of the structure (standard deviation of the Gaussian with its top)."""
    for axis, names in enumerate((("left", "right"), ("top", "bottom"))):
        width = math.sqrt(peak / max(-curvature[axis, axis], 1e-12 * peak))
        for name, distance in zip(names, (position[axis], size_hw[1 - axis] - 1 - position[axis]), strict=True):
            if distance < width:
                return name
    return ""


def _judged(
    moved: tuple[float, float],
    status: str,
    history: list[float],
    places: "_Places",
    curvature: NDArray[np.float64],
    noise: float,
    sigma: float,
) -> _Found:
    """How sure: whether the place stands out of the noise, and of the second brightest place; and its error."""
    # White noise of standard deviation 1, blurred by a Gaussian: 1 / (2 sqrt(pi) sigma); its slope: below.
    blurred_noise = noise / (2 * math.sqrt(math.pi) * sigma)
    stands_out = min(places.height / max(blurred_noise, 1e-6 * places.height), 1e6)
    margin = (places.height - places.second_height) / max(math.sqrt(2) * blurred_noise, 0.002 * places.height)
    probability = 0.5 * (1 + math.erf(margin / math.sqrt(2)))
    doubts = []
    if probability < 0.95:
        x, y = places.second
        doubts.append(f"a second place is almost as bright, at column {x:.0f}, row {y:.0f}")
    if stands_out < _STANDS_OUT:
        doubts.append(f"the brightest place is only {stands_out:.1f} sigma above the background")
        probability = 0.0
    if status == "no overlap":
        doubts.append("the descent left the picture")
        probability = 0.0
    slope_variance = noise**2 / (8 * math.pi * sigma**4)
    covariance = None
    if np.linalg.eigvalsh(curvature).max() < 0:
        inverse = np.linalg.inv(curvature)
        covariance = slope_variance * inverse @ inverse
        if math.sqrt(np.trace(covariance)) > 2 * sigma:
            doubts.append("the structure is flat on top: its middle is uncertain")
    return _Found(moved, status, history, probability, doubts, covariance, {"noise": noise, "stands_out": stands_out})


def _nothing(status: str, why: str) -> _Found:
    return _Found((0.0, 0.0), status, [], 0.0, [why], None, {})


@dataclass(frozen=True)
class _Places:
    """The two brightest neighbourhoods of a picture, in its full-size pixels."""

    brightest: tuple[float, float]
    height: float
    second: tuple[float, float]
    second_height: float

    @classmethod
    def of(cls, image: Image, weight: Weight, sigma: float, reduction: int, task: _Task) -> "_Places | None":
        # Not a mean of what is seen: beyond the border and under the mask counts as background, or half a star that is
        # cut by the border would be as bright as a whole one.
        blurred = blur(image * weight, sigma)
        height, width = blurred.shape[2:]
        x = (torch.arange(width) + 0.5) * reduction - 0.5
        y = (torch.arange(height) + 0.5) * reduction - 0.5
        allowed = weight[0, 0] > 0
        if math.isfinite(task.max_shift):
            distance = torch.hypot(x - task.middle[0], (y - task.middle[1])[:, None])
            allowed &= distance <= task.max_shift
        values = torch.where(allowed, blurred[0, 0], -math.inf)
        row, column = divmod(int(values.argmax()), width)
        top = float(values[row, column])
        if not (math.isfinite(top) and top > 0):
            return None
        reach = max(1, round(2 * sigma))
        surrounding = largest(values, reach)
        far = torch.hypot(torch.arange(width) - column, (torch.arange(height) - row)[:, None].double()) > 4 * sigma
        others = torch.where((values == surrounding) & far, values, -math.inf)
        other_row, other_column = divmod(int(others.argmax()), width)
        second = max(0.0, float(others[other_row, other_column]))
        return cls((float(x[column]), float(y[row])), top, (float(x[other_column]), float(y[other_row])), second)


def _cut(image: Tensor, position: tuple[float, float], reach: int) -> tuple[Tensor, tuple[int, int]]:
    """The surroundings of a position, and where their top left pixel `(x, y)` lies in the image."""
    x, y = round(position[0]), round(position[1])
    left, top = max(0, x - reach), max(0, y - reach)
    return image[..., top : y + reach + 1, left : x + reach + 1], (left, top)


def _shift_of(position: tuple[float, float], task: _Task) -> tuple[float, float]:
    return (task.middle[0] - position[0], task.middle[1] - position[1])


def _median(image: Image, weight: Weight) -> float:
    values, weights = regular_subset(image, size=1 << 18)[:, 0], regular_subset(weight, size=1 << 18)[:, 0]
    return float(weighted_quantile(values, weights, 0.5))


def _noise(image: Image, weight: Weight) -> float:
    """Standard deviation of white noise, from a filter that planes pass to zero (Immerkaer 1996), by the median."""
    if min(image.shape[2:]) < 3:
        return 0.0
    taps = image.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])[None, None]
    rest = functional.conv2d(image.nan_to_num(0.0), taps).abs()
    seen = (-functional.max_pool2d(-weight, 3, 1) > 0).to(image.dtype)
    return 1.4826 * _median(rest, seen) / 6


def _hot(picture: Image, noise: float) -> Tensor:
    """Single pixels far brighter than all their neighbours: no optics makes them. Picture without background."""
    height, width = picture.shape[2:]
    framed = functional.pad(picture, (1, 1, 1, 1), value=-math.inf)
    around = torch.full_like(picture, -math.inf)
    for row in range(3):
        for column in range(3):
            if (row, column) != (1, 1):
                around = torch.maximum(around, framed[..., row : row + height, column : column + width])
    return picture > 4 * around.clamp_min(0) + 8 * noise


def _alignment(found: _Found, task: _Task, trust: float, options: dict[str, Any], seconds: float) -> Alignment:
    matrix = np.eye(3)
    matrix[:2, 2] = -np.asarray(found.shift)
    height, width = task.size_hw
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
        fixed_size_hw=task.size_hw,
        moving_size_hw=task.size_hw,
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
