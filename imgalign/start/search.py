"""Where to start: hypotheses over the whole range of rotation and scale, ranked.

Each rotation and scale of the moving picture is correlated with the fixed one at all shifts at once, by FFT,
with masks: a correlation over the overlap of each shift, normalised by the energy in it (Padfield 2012,
"Masked object registration in the Fourier domain"). What is correlated is the orientation field of the edges
(`appearance.edges`), a complex number a pixel, on pictures of about a hundred pixels: it holds under
uneven light, inverted contrast and most changes of modality.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Matrix3, Weight
from imgalign.coords import at_full_size
from imgalign.decompose import decompose
from imgalign.numerics.neighbours import largest
from imgalign.numerics.sums import total
from imgalign.planes.levels import Levels
from imgalign.pyramid import block_mean, fast_length
from imgalign.sampling import Reader
from imgalign.transforms import first_apart, local_scale
from imgalign.wanted import Wanted

SEARCH_PIXELS = 96  # longer side of the pictures that are searched
ACROSS = 8  # pixels of the shortest side of a level that says anything
LEAST_OVERLAP = 0.2  # of the smaller picture; less says too little at this size
_SPARE = 0.4  # of the shorter side: shifts at both ends whose overlap is too small to be looked at
_APART = 3  # pixels between two peaks of one rotation and scale, at least
_ROTATION_STEPS = 60
_SCALE_STEP = 2.0**0.2


@dataclass(frozen=True)
class Hypothesis:
    """A transform to refine from: its matrix in full-size pixels, and how well its pictures agree.

    `score` is Fisher's z of the correlation times the square root of the overlap in pixels: large for a high
    correlation over a large area. `correlation` is that alone where the ladder has seen it, else 0.
    """

    moving_from_fixed: Matrix3
    score: float
    correlation: float = 0.0


@dataclass(frozen=True)
class Range:
    """Which rotations (degrees) and scales (moving pixels per fixed pixel) are searched."""

    rotations_deg: tuple[float, ...] = (0.0,)
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False


def full_range(model_name: str, max_rotation_deg: float, max_scale: float, mirror: bool) -> Range:
    """The range that a model leaves open, as hypotheses a step apart that refinement can bridge."""
    if model_name == "translate":
        return Range(mirror=mirror)
    step = 360 / _ROTATION_STEPS
    reach = min(max_rotation_deg, 180.0)
    turns = np.arange(-math.floor(reach / step), math.floor(reach / step) + 1) * step
    rotations = tuple(float(t) for t in turns if t > -180)
    if model_name == "rigid":
        return Range(rotations, mirror=mirror)
    count = math.floor(math.log(max_scale) / math.log(_SCALE_STEP) + 1e-6)
    return Range(rotations, tuple(_SCALE_STEP**k for k in range(-count, count + 1)), mirror)


class Slack(NamedTuple):
    """How far beyond its bound each number may lie: as far as it may be wrong."""

    shift_px: float
    rotation_deg: float
    scale: float

    @classmethod
    def of(cls, px: float, radius: float) -> "Slack":
        """What points so many pixels from the centre move when they are off by `px`."""
        return cls(px, math.degrees(px / radius), px / radius)


def allowed(wanted: Wanted, moving_from_fixed: Matrix3, size_hw: tuple[int, int], slack: Slack) -> bool:
    """Whether a transform of full-size pixels lies within the bounds that the user set, or as near as it is known."""
    w = wanted
    if not w.is_bounded:
        return True
    numbers = decompose(moving_from_fixed, size_hw)
    scale = local_scale(moving_from_fixed, size_hw)
    return (
        (w.max_shift is None or math.hypot(*numbers.shift_px) <= w.max_shift + slack.shift_px)
        and (w.max_rotation is None or abs(numbers.rotation_deg) <= w.max_rotation + slack.rotation_deg)
        # A scale and its inverse are known alike, by their logarithms.
        and (w.max_scale is None or abs(math.log(max(scale, 1e-30))) <= math.log(w.max_scale) + slack.scale)
    )


def search(levels: Levels, span: Range, *, peaks: int = 1, contrast: bool = False) -> list[Hypothesis]:
    """Score every rotation and scale of a range at all shifts, best first.

    Args:
        levels: Of the two pictures.
        span: What to try.
        peaks: Shifts to keep for each rotation and scale.
        contrast: Correlate local contrast as well as edges: what texture that repeats differs by.
    """
    furthest: float = levels.longest
    if not any(span.rotations_deg):  # canvases to turn long and thin pictures on would be as wide as they are long
        furthest = reach(furthest, levels.shortest)
    reduction = max(1.0, furthest / SEARCH_PIXELS)
    found: list[Hypothesis] = []
    for scale in span.scales:
        of_fixed, of_moving = reduction * max(1.0, 1 / scale), reduction * max(1.0, scale)
        level = levels.at(of_fixed, of_moving)
        fixed, moving = level.features if contrast else level.edges
        for mirror in (False, True)[: 1 + span.mirror]:
            part = _correlate(fixed, moving, span.rotations_deg, mirror, peaks, contrast)
            found += [Hypothesis(at_full_size(h.moving_from_fixed, of_fixed, of_moving), h.score) for h in part]
    return sorted(found, key=lambda h: -h.score)


def reach(longest: float, shortest: float) -> float:
    """The longer side, in pixels, of pictures whose levels are as fine as those of pictures of these sides.

    Levels of long and thin pictures are finer than their length alone asks for.
    """
    return min(longest, shortest * SEARCH_PIXELS / ACROSS)


def distinct(hypotheses: list[Hypothesis], size_hw: tuple[int, int], apart: float, count: int) -> list[Hypothesis]:
    """The best `count` hypotheses of a ranked list of which no two lie within `apart` pixels at the corners."""
    if not hypotheses:
        return []
    matrices = np.stack([h.moving_from_fixed for h in hypotheses])
    return [hypotheses[k] for k in first_apart(matrices, size_hw, apart, count)]


def _correlate(
    fixed: tuple[Image, Weight],
    moving: tuple[Image, Weight],
    rotations_deg: tuple[float, ...],
    mirror: bool,
    peaks: int,
    contrast: bool,
) -> list[Hypothesis]:
    """Masked correlation of one fixed field with a moving field turned every way; matrices in their own pixels."""
    h, w = fixed[0].shape[-2:]
    moving_hw = moving[0].shape[-2:]
    sides, ours_hw = (moving_hw[0], moving_hw[1]), (h, w)
    if any(rotations_deg):
        sides, ours_hw = (math.ceil(math.hypot(*moving_hw)) + 1,) * 2, (max(h, w),) * 2
    side_hw = sides[0] + sides[0] % 2, sides[1] + sides[1] % 2
    # Shifts of little overlap are not looked at, so they may share their places in a smaller, periodic frame.
    spare = int(_SPARE * min(h, w, *moving_hw))
    frame_hw = fast_length(ours_hw[0] + side_hw[0] - spare), fast_length(ours_hw[1] + side_hw[1] - spare)
    first, opposite = _halved(rotations_deg)
    field, mask, turned = _turn(moving, first, mirror, side_hw)
    energy_fixed = fixed[0].square().sum(1, keepdim=True)
    energy_moving = field.square().sum(1, keepdim=True)
    least = max(16.0, LEAST_OVERLAP * min(float(total(fixed[1])), float(total(moving[1]))))
    ours, theirs = (torch.fft.rfft2(x, s=frame_hw) for x in (fixed[0], field))
    coarse = [(fixed[1], mask), (energy_fixed, mask), (fixed[1], energy_moving)]
    coarse_spectra = [(_coarse_spectrum(a, frame_hw), _coarse_spectrum(b, frame_hw)) for a, b in coarse]
    half_hw = frame_hw[0] // 2, frame_hw[1] // 2
    found: list[Hypothesis] = []
    for half_turned in (False, True)[: 1 + opposite]:
        inner = _correlated(ours[:, -2:], theirs[:, -2:], frame_hw, half_turned)
        if contrast:  # inverted or not
            inner = inner.add_(_correlated(ours[:, :1], theirs[:, :1], frame_hw, half_turned).abs_())
        overlap, own_fixed, own_moving = (_correlated(a, b, half_hw, half_turned).mul_(4) for a, b in coarse_spectra)
        norm = (own_fixed.clamp_min_(1e-3) * own_moving.clamp_min_(1e-3)).rsqrt_()
        overlap = torch.where(overlap > least, overlap, 0.0)
        for row, z, place in _peaks(inner, norm, overlap, peaks):
            matrix, shift = turned[row], place
            if half_turned:
                # A canvas turned by half a circle is itself read backwards, and so correlating is convolving.
                last_x, last_y = side_hw[1] - 1, side_hw[0] - 1
                matrix = matrix @ np.array([[-1, 0, last_x], [0, -1, last_y], [0, 0, 1.0]])
                shift = ((last_x - place[0]) % frame_hw[1], (last_y - place[1]) % frame_hw[0])
            dy, dx = (
                d - frame if d >= side - spare // 2 else d
                for d, side, frame in zip(reversed(shift), side_hw, frame_hw, strict=True)
            )
            found.append(Hypothesis(matrix @ np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]]), z))
    return found


def _correlated(a: Tensor, b: Tensor, size_hw: tuple[int, int], convolve: bool) -> Tensor:
    """For every shift of `a` (read backwards with `convolve`) over `b`, the sum of `a * b` over pixels and channels.

    Both are half-plane spectra of so many pixels.
    """
    a = a if convolve else a.conj().resolve_conj()
    product = a[:, 0] * b[:, 0]
    for channel in range(1, a.shape[1]):
        product.addcmul_(a[:, channel], b[:, channel])
    return torch.fft.irfft2(product, s=size_hw)


def _halved(rotations_deg: tuple[float, ...]) -> tuple[tuple[float, ...], bool]:
    """The first half of the rotations and true, where the others are the same turned by half a circle."""
    half = len(rotations_deg) // 2
    first, second = rotations_deg[:half], rotations_deg[half:]
    if half and len(first) == len(second) and np.allclose(np.asarray(second) - first, 180):
        return first, True
    return rotations_deg, False


def _turn(
    moving: tuple[Image, Weight], rotations_deg: tuple[float, ...], mirror: bool, side_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, np.ndarray]:
    """The moving field on canvases, one a rotation, its angles turned along; and canvas-to-moving matrices."""
    h, w = moving[0].shape[-2:]
    angle = np.deg2rad(np.asarray(rotations_deg))
    c, s = np.cos(angle), np.sin(angle)
    flip = -1.0 if mirror else 1.0
    matrices = np.zeros((len(angle), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = c * flip, -s, s * flip, c
    centre = np.array([(side_hw[1] - 1) / 2, (side_hw[0] - 1) / 2])
    matrices[:, :2, 2] = np.array([(w - 1) / 2, (h - 1) / 2]) - matrices[:, :2, :2] @ centre
    matrices[:, 2, 2] = 1
    reader = Reader.of(torch.cat([moving[0], moving[1]], 1))
    out, valid = reader.on_grid(matrices, side_hw)
    out = out * valid
    doubled = np.stack([np.cos(2 * angle), np.sin(2 * angle)])[..., None, None]
    c2, s2 = torch.as_tensor(doubled, dtype=out.dtype).to(out.device)
    re, im = out[:, -3], out[:, -2]
    field = torch.cat([out[:, :-3], torch.stack([c2 * re + s2 * im, flip * (c2 * im - s2 * re)], 1)], 1)
    return field, out[:, -1:], matrices


def _coarse_spectrum(image: Image, frame_hw: tuple[int, int]) -> Tensor:
    """Spectrum of something smooth (a mask, an energy), on half the pixels of the frame per axis."""
    even = nn.pad(image, (0, image.shape[-1] % 2, 0, image.shape[-2] % 2))
    return torch.fft.rfft2(block_mean(even, 2), s=(frame_hw[0] // 2, frame_hw[1] // 2))


def _peaks(inner: Tensor, norm: Tensor, overlap: Tensor, peaks: int) -> Iterator[tuple[int, float, tuple[int, int]]]:
    """Where scores are highest: the row, the score and the place `(x, y)` of each.

    A score is the correlation (`inner` times `norm`) as Fisher's z, times the root of the overlap. `norm` and
    `overlap` stand on half the pixels per axis.
    """
    rows, (height, width) = inner.shape[0], inner.shape[-2:]
    coarse = (norm * overlap.sqrt())[:, :, None, :, None]
    # z grows with the correlation: it is taken of the peaks alone.
    score = (inner.reshape(rows, height // 2, 2, width // 2, 2) * coarse).reshape(rows, height, width)
    if peaks > 1:
        # Shifts run round the frame, and no shift at all lies in its corner.
        rounded = nn.pad(score[:, None], (_APART,) * 4, mode="circular")
        highest = largest(rounded, _APART)[:, 0, _APART:-_APART, _APART:-_APART]
        score = torch.where(score == highest, score, 0.0)
    value, index = score.flatten(1).topk(peaks, dim=1)
    y, x = index // width, index % width
    root = overlap.flatten(1).gather(1, (y // 2) * (width // 2) + x // 2).sqrt()
    z = torch.atanh((value / root.clamp_min(1e-9)).clamp_max(0.99)) * root
    # Places in a frame this small are exact in any float: one transfer for all.
    for row, places in enumerate(zip(*torch.stack([z, x.to(z), y.to(z)]).tolist(), strict=True)):
        yield from ((row, score, (int(i), int(j))) for score, i, j in zip(*places, strict=True) if score > 0)
