"""Where to start: hypotheses over the whole range of rotation and scale, ranked.

Each rotation and scale of the moving picture is correlated with the fixed one at all shifts at once, by FFT,
with masks: a correlation over the overlap of each shift, normalised by the energy in it (Padfield 2012,
"Masked object registration in the Fourier domain"). What is correlated is the orientation field of the edges
(`appearance.orientation`), a complex number a pixel, on pictures of about a hundred pixels: it holds under
uneven light, inverted contrast and most changes of modality.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Image, Matrix3, Weight
from imgalign.appearance import edges
from imgalign.coords import level_from_full
from imgalign.pyramid import fast_length, masked_blur, shrink
from imgalign.sampling import sample_grid
from imgalign.transforms import corner_distance

SEARCH_PIXELS = 96  # longer side of the pictures that are searched
LEAST_OVERLAP = 0.2  # of the smaller picture; less says too little at this size
_ROTATION_STEPS = 60
_SCALE_STEP = 2.0**0.2


@dataclass(frozen=True)
class Hypothesis:
    """A transform to refine from: its matrix in full-size pixels, and how well its pictures agree.

    `score` is Fisher's z of the correlation times the square root of the overlap in pixels: large for a high
    correlation over a large area.
    """

    moving_from_fixed: Matrix3
    score: float


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


def search(
    fixed: tuple[Image, Weight], moving: tuple[Image, Weight], span: Range, *, peaks: int = 1
) -> list[Hypothesis]:
    """Score every rotation and scale of a range at all shifts, best first.

    Args:
        fixed: Picture `(1, 1, H, W)` and its mask.
        moving: The same of the other.
        span: What to try.
        peaks: Shifts to keep for each rotation and scale.
    """
    size_hw = (fixed[0].shape[-2], fixed[0].shape[-1])
    reduction = max(1.0, max(*size_hw, *moving[0].shape[-2:]) / SEARCH_PIXELS)
    found: list[Hypothesis] = []
    for scale in span.scales:
        f = _field(*shrink(*fixed, reduction * max(1.0, 1 / scale)))
        m = _field(*shrink(*moving, reduction * max(1.0, scale)))
        for mirror in (False, True)[: 1 + span.mirror]:
            part = _correlate(f, m, span.rotations_deg, mirror, peaks)
            fixed_level = level_from_full(reduction * max(1.0, 1 / scale))
            moving_full = np.linalg.inv(level_from_full(reduction * max(1.0, scale)))
            found += [Hypothesis(moving_full @ h.moving_from_fixed @ fixed_level, h.score) for h in part]
    return sorted(found, key=lambda h: -h.score)


def distinct(hypotheses: list[Hypothesis], size_hw: tuple[int, int], apart: float, count: int) -> list[Hypothesis]:
    """The best `count` hypotheses of a ranked list of which no two lie within `apart` pixels at the corners."""
    kept: list[Hypothesis] = []
    for h in hypotheses:
        if len(kept) == count:
            break
        if all(corner_distance(h.moving_from_fixed, k.moving_from_fixed, size_hw) > apart for k in kept):
            kept.append(h)
    return kept


def _field(image: Image, weight: Weight) -> tuple[Image, Weight]:
    """The orientation field of a small picture, two channels, and its mask."""
    return edges(masked_blur(image, weight, 0.7), weight), weight


def _correlate(
    fixed: tuple[Image, Weight],
    moving: tuple[Image, Weight],
    rotations_deg: tuple[float, ...],
    mirror: bool,
    peaks: int,
) -> list[Hypothesis]:
    """Masked correlation of one fixed field with a moving field turned every way; matrices in their own pixels."""
    h, w = fixed[0].shape[-2:]
    side = math.ceil(math.hypot(*moving[0].shape[-2:])) + 1
    side += side % 2
    frame = fast_length(max(h, w) + side)
    field, mask, turned = _turn(moving, rotations_deg, mirror, side)
    z_fixed = torch.complex(fixed[0][:, 0], fixed[0][:, 1])
    spectrum = torch.fft.fft2(torch.complex(field[:, 0], field[:, 1]), s=(frame, frame))
    # sum over the overlap of Re(conj(fixed) moving), for every shift of the fixed picture over the moving one
    inner = torch.fft.ifft2(torch.fft.fft2(z_fixed, s=(frame, frame)).conj() * spectrum).real
    energy_fixed = (fixed[0] ** 2).sum(1, keepdim=True)
    energy_moving = (field**2).sum(1, keepdim=True)
    overlap, own_fixed, own_moving = _coarse_correlations(
        [(fixed[1], mask), (energy_fixed, mask), (fixed[1], energy_moving)], frame
    )
    least = LEAST_OVERLAP * min(float(fixed[1].sum()), float(moving[1].sum()))
    rho = inner / (own_fixed.clamp_min(1e-3) * own_moving.clamp_min(1e-3)).sqrt()
    score = torch.atanh(rho.clamp(-0.99, 0.99)) * overlap.clamp_min(0).sqrt()
    score = torch.where(overlap > max(least, 16.0), score, torch.full_like(score, -1e6))
    return _peaks(score, turned, side, peaks)


def _turn(
    moving: tuple[Image, Weight], rotations_deg: tuple[float, ...], mirror: bool, side: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """The moving field on square canvases, one a rotation, its angles turned along; and canvas-to-moving matrices."""
    h, w = moving[0].shape[-2:]
    angle = np.deg2rad(np.asarray(rotations_deg))
    c, s = np.cos(angle), np.sin(angle)
    flip = -1.0 if mirror else 1.0
    matrices = np.zeros((len(angle), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = c * flip, -s, s * flip, c
    centre = np.full(2, (side - 1) / 2)
    matrices[:, :2, 2] = np.array([(w - 1) / 2, (h - 1) / 2]) - matrices[:, :2, :2] @ centre
    matrices[:, 2, 2] = 1
    both = torch.cat([moving[0], moving[1]], 1)
    out, valid = sample_grid(both.expand(len(angle), -1, -1, -1), torch.as_tensor(matrices), (side, side))
    out = out * valid
    c2, s2 = (torch.as_tensor(f(2 * angle), dtype=out.dtype)[:, None, None] for f in (np.cos, np.sin))
    re, im = out[:, 0], out[:, 1]
    field = torch.stack([c2 * re + s2 * im, flip * (c2 * im - s2 * re)], 1)
    return field, out[:, 2:], matrices


def _coarse_correlations(pairs: list[tuple[Tensor, Tensor]], frame: int) -> list[Tensor]:
    """Circular correlations of smooth things (masks, energies) on half the pixels, brought back to the frame."""
    half = frame // 2
    spectra: dict[int, Tensor] = {}

    def transform(x: Tensor) -> Tensor:
        if id(x) not in spectra:
            x_even = torch.nn.functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
            pooled = torch.nn.functional.avg_pool2d(x_even, 2)[:, 0]
            spectra[id(x)] = torch.fft.rfft2(pooled, s=(half, half))
        return spectra[id(x)]

    out = []
    for a, b in pairs:
        product = torch.fft.irfft2(transform(a).conj() * transform(b), s=(half, half)) * 4
        out.append(product.repeat_interleave(2, 1).repeat_interleave(2, 2))
    return out


def _peaks(score: Tensor, turned: np.ndarray, side: int, peaks: int) -> list[Hypothesis]:
    frame = score.shape[-1]
    if peaks > 1:
        top = torch.nn.functional.max_pool2d(score[:, None], 7, stride=1, padding=3)[:, 0]
        score = torch.where(score == top, score, torch.full_like(score, -1e6))
    value, index = score.flatten(1).topk(peaks, dim=1)
    out = []
    for row, matrix in enumerate(turned):
        for v, i in zip(value[row].tolist(), index[row].tolist(), strict=True):
            if v <= 0:
                continue
            dy, dx = (d - frame if d >= side else d for d in divmod(i, frame))
            canvas_from_fixed = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
            out.append(Hypothesis(matrix @ canvas_from_fixed, v))
    return out
