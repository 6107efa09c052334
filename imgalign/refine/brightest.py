"""Where the brightest structure of a picture lies, how sure that is, and the error of it.

The objective is the squared value that arrives at the middle pixel; `climb` descends it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from imgalign._types import Image, SamplerName, Weight
from imgalign.errors import ShapeError
from imgalign.numerics.histograms import regular_subset, weighted_quantile
from imgalign.numerics.neighbours import largest
from imgalign.numerics.residuals import MAD_TO_SIGMA
from imgalign.pyramid import blur, reduce
from imgalign.refine.climb import Climb, climb_by_newton, descend

# In standard deviations of the blurred noise: the brightest of a million independent places reaches 5 by chance.
_STANDS_OUT = 6.0
_LR, _NEAREST_STEPS, _MOST_STEPS = 10.0, 100, 20_000


@dataclass(frozen=True)
class Sought:
    """What is looked at, and how: options as of `center`."""

    picture: Image  # (1, 1, H, W)
    weight: Weight
    sampler: SamplerName
    iterations: int | None
    lr: float | None
    max_shift: float

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.picture.shape[2], self.picture.shape[3])

    @property
    def middle(self) -> tuple[int, int]:
        """The middle pixel, `(x, y)`."""
        return (self.size_hw[1] // 2, self.size_hw[0] // 2)


@dataclass
class Found:
    """The shift that brings the structure to the middle pixel, and how sure it is."""

    shift: tuple[float, float]
    status: str
    history: list[float]
    probability: float
    doubts: list[str]
    covariance: NDArray[np.float64] | None
    quality: dict[str, float]


def midpoint(sought: Sought) -> Found:
    """By plain descent from the middle pixel."""
    lowest = sought.picture[sought.weight > 0].min()
    filled = torch.where(sought.weight > 0, sought.picture, lowest)
    peak = float(filled.abs().max())
    if not peak > 0 or float(filled.max()) == float(lowest):
        return _nothing("no structure", "the picture has one value everywhere")
    most = sought.iterations or (_NEAREST_STEPS if sought.sampler == "nearest" else _MOST_STEPS)
    climb = Climb(filled / peak, (0, 0), sought.sampler)
    position, status, history = descend(climb, sought.middle, sought.lr or _LR, most)
    doubts = [] if status != "no overlap" else ["the descent left the picture"]
    found = Found(_shift_of(position, sought), status, history, 0.0 if doubts else 1.0, doubts, None, {})
    if status == "iteration limit" and sought.sampler != "nearest":
        found.doubts.append("the descent was still moving when its steps ran out")
    return found


def robust(sought: Sought, sigma: float | None) -> Found:
    """The brightest neighbourhood, by Newton steps from the brightest place of a smaller picture.

    Args:
        sought: What to look at, and how.
        sigma: Standard deviation of the Gaussian that is a neighbourhood, px; None for one that suits the picture.

    Raises:
        ShapeError: If it is wider than the picture.
    """
    sigma = max(1.5, 0.01 * min(sought.size_hw)) if sigma is None else sigma
    if sigma > max(1.5, min(sought.size_hw)):
        h, w = sought.size_hw
        raise ShapeError(f"a neighbourhood of {sigma:g} px is wider than the picture, {w} x {h}; take a smaller one")
    level, dark = _median(sought.picture, sought.weight), sought.weight <= 0
    noise = _noise(*(_cut(part, sought.middle, 512)[0] for part in (sought.picture, sought.weight)))
    picture = torch.where(dark, 0.0, sought.picture - level)
    weight = sought.weight * ~_hot(picture, noise) if sigma < 6 else sought.weight
    # Peaks as wide as sigma lose nothing on a grid of a third of it.
    reduction = max(1, min(int(sigma / 3), min(sought.size_hw) // 2))
    places = _Places.of(*reduce(picture, weight, reduction), sigma / reduction, reduction, sought)
    if places is None:
        return _nothing("no structure", "nothing is brighter than the background")
    reach = math.ceil(10 * sigma) + 8
    crop, corner = _cut(picture, places.brightest, reach)
    crop_weight, _ = _cut(weight, places.brightest, reach)
    blurred = blur((crop * crop_weight).double(), sigma).clamp_min(0)
    peak = float(blurred.max())
    if not peak > 0:
        return _nothing("no structure", "nothing is brighter than the background")
    climb = Climb(blurred / peak, corner, sought.sampler)
    if sought.lr is None:
        position, status, history = climb_by_newton(climb, places.brightest, sigma, sought.iterations or 100)
    else:
        position, status, history = descend(climb, places.brightest, sought.lr, sought.iterations or _MOST_STEPS)
    curvature = climb.curvature(position)[1] * peak
    found = _judged(_shift_of(position, sought), status, history, places, curvature, noise, sigma)
    cut = _cut_by_border(position, peak, curvature, sought.size_hw)
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
) -> Found:
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
    return Found(moved, status, history, probability, doubts, covariance, {"noise": noise, "stands_out": stands_out})


def _nothing(status: str, why: str) -> Found:
    return Found((0.0, 0.0), status, [], 0.0, [why], None, {})


@dataclass(frozen=True)
class _Places:
    """The two brightest neighbourhoods of a picture, in its full-size pixels."""

    brightest: tuple[float, float]
    height: float
    second: tuple[float, float]
    second_height: float

    @classmethod
    def of(cls, image: Image, weight: Weight, sigma: float, reduction: int, sought: Sought) -> "_Places | None":
        # Not a mean of what is seen: beyond the border and under the mask counts as background, or half a star that is
        # cut by the border would be as bright as a whole one.
        blurred = blur(image * weight, sigma)
        height, width = blurred.shape[2:]
        x = (torch.arange(width) + 0.5) * reduction - 0.5
        y = (torch.arange(height) + 0.5) * reduction - 0.5
        allowed = weight[0, 0] > 0
        if math.isfinite(sought.max_shift):
            distance = torch.hypot(x - sought.middle[0], (y - sought.middle[1])[:, None])
            allowed &= distance <= sought.max_shift
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


def _shift_of(position: tuple[float, float], sought: Sought) -> tuple[float, float]:
    return (sought.middle[0] - position[0], sought.middle[1] - position[1])


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
    return MAD_TO_SIGMA * _median(rest, seen) / 6


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
