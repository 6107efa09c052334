"""Where to start on bright points over plain ground, as stars are: by the pattern that the points make.

On a hundred pixels, where `search` looks, noise drowns such points, and they are too few to meet those of the other
picture unless rotation and scale are right already. So they are found on the full picture, and each two of one picture
are laid on each two of the other: that says rotation, scale and shift, and the other points say how well. Of brightness
only the ratio of two points counts, and that within a factor: exposures and colours differ.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Image, Matrix3, Weight
from imgalign.decompose import Float, mapped
from imgalign.numerics.neighbours import largest
from imgalign.numerics.residuals import MAD_TO_SIGMA
from imgalign.pyramid import masked_blur
from imgalign.start.consensus import EXACT_PX, closer_and_closer, held, similarity, surprise
from imgalign.start.search import Hypothesis, Range, distinct
from imgalign.transforms import MODELS, Model

_FINE, _GROUND = 1.2, 4.0  # pixels: a spot is what stands out of its ground on this scale
_CLEAR = 5.0  # times the usual difference between the two from which on a peak is a spot
_REACH = 3  # pixels between two spots, at least
_PLAIN = 0.08  # share of pixels that clear: where more do, the picture is no plain ground
_MOST, _FIRST = 60, 24  # spots that are looked at, and of which pairs are made: the brightest
_FEWEST = 5  # spots, of which patterns are too many
_LONG = 0.08  # of the longer side: shorter pairs say little of rotation and scale
_NEAR = 0.02  # of the longer side: spots that come so near to each other may be the same
_ALIKE = math.e  # ratio to which the contrast between two spots may differ from picture to picture
_GIVE = 0.1  # by which scales may lie outside the range: other models' local scales differ
_GIVE_DEG = 6.0  # by which rotations may: a step of the range
_BESIDE = 0.1  # of the diagonal: rough places nearer to each other are fitted to the same
_TRIED, _KEPT = 30, 5  # places that are fitted, and that are handed on
_ROUNDS = 3  # of fits with each model, from the simplest on


@dataclass(frozen=True)
class Spots:
    """The brightest points of a picture, brightest first.

    Attributes:
        points: `(N, 2)` pixels.
        strengths: `(N,)` heights over the ground.
        size_hw: Of the picture.
    """

    points: Float
    strengths: Float
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def complex(self) -> NDArray[np.complex128]:
        """The points as numbers `x + iy`, which turn and grow by one product."""
        return np.asarray(self.points @ [1, 1j])


def detected(image: Image, weight: Weight) -> Spots | None:
    """The spots of a picture `(1, 1, H, W)` with its mask, dark ones where these are more; None where it shows others.

    A picture of other things has edges and texture, which stand out in many places.
    """
    height = masked_blur(image, weight, _FINE) - masked_blur(image, weight, _GROUND)
    seen = weight > 1 - 1e-3
    height *= seen
    # Around a bright spot lies a ring that is lower than its ground, of more pixels than the spot, but not as far.
    height *= torch.where((height**3).mean() < 0, -1, 1)
    clear = height > _CLEAR * MAD_TO_SIGMA * height[seen].abs().median()
    peaks = (height == largest(height, _REACH)) & clear
    if float(clear.sum()) > _PLAIN * float(seen.sum()) or int(peaks.sum()) < _FEWEST:
        return None
    strengths, best = height[peaks].topk(min(_MOST, int(peaks.sum())))
    rows, columns = peaks[0, 0].nonzero()[best].T
    points = torch.stack([columns + _top(height.mT, columns, rows), rows + _top(height, rows, columns)], 1)
    return Spots(points.cpu().double().numpy(), strengths.cpu().double().numpy(), (image.shape[-2], image.shape[-1]))


def _top(height: Image, along: Tensor, across: Tensor) -> Tensor:
    """How far from a peak, along columns, the parabola through it and its two neighbours has its top."""
    h = height[0, 0]
    before, peak, behind = (h[(along + d).clamp(0, len(h) - 1), across] for d in (-1, 0, 1))
    return (0.5 * (before - behind) / (before - 2 * peak + behind).clamp_max(-1e-20)).clamp(-0.5, 0.5)


def matched(fixed: Spots, moving: Spots, model: Model, span: Range) -> list[Hypothesis]:
    """The transforms that lay most spots on spots, best first; matrices in pixels of the pictures.

    A score is how much of a surprise it is, in nats, that by chance so many would meet; what one of all the places
    tried may well come to by chance is left out.

    Args:
        fixed: Spots of the picture that stays.
        moving: Of the one that is brought to it.
        model: Fitted to the spots that meet.
        span: Rotations and scales to try.
    """
    found = _unmirrored(fixed, moving, model, span)
    if span.mirror:
        flip = np.array([[-1, 0, fixed.size_hw[1] - 1], [0, 1, 0], [0, 0, 1.0]])
        flipped = replace(fixed, points=mapped(flip, fixed.points))
        mirrored = _unmirrored(flipped, moving, model, span)
        found += [Hypothesis(h.moving_from_fixed @ flip, h.score) for h in mirrored]
    found.sort(key=lambda h: -h.score)
    return distinct(found, fixed.size_hw, _NEAR * max(fixed.size_hw), _KEPT)


def _unmirrored(fixed: Spots, moving: Spots, model: Model, span: Range) -> list[Hypothesis]:
    """`matched` without mirror images, each place as often as it was found."""
    rough, tried = _laid(fixed, moving, model, span)
    apart = _BESIDE * math.hypot(*fixed.size_hw)
    fitted = (_fitted(fixed, moving, h.moving_from_fixed, model) for h in distinct(rough, fixed.size_hw, apart, _TRIED))
    return [h for h in fitted if h is not None and h.score > math.log(tried)]


def _laid(fixed: Spots, moving: Spots, model: Model, span: Range) -> tuple[list[Hypothesis], int]:
    """Each two bright spots laid on each two: the best similarity of each two fixed ones, and how many were tried."""
    here, there = fixed.complex, moving.complex
    longest = max(*fixed.size_hw, *moving.size_hw)
    near = _Near(moving, _NEAR * longest)
    k, m = (index.ravel() for index in np.nonzero(~np.eye(min(_FIRST, len(moving)), dtype=bool)))
    along, middle = there[m] - there[k], 0.5 * (there[m] + there[k])
    contrast = np.log(moving.strengths[m] / moving.strengths[k])
    best: list[Hypothesis] = []
    tried = 0
    for i, j in zip(*np.triu_indices(min(_FIRST, len(fixed)), 1), strict=True):
        side = here[j] - here[i]
        if abs(side) < _LONG * longest:
            continue
        turn = along / side
        alike = np.abs(contrast - math.log(fixed.strengths[j] / fixed.strengths[i])) < math.log(_ALIKE)
        fits = alike & _within(turn, span)
        if not fits.any():
            continue
        turn = held(turn[fits], model)
        shift = middle[fits] - turn * (0.5 * (here[i] + here[j]))
        score = near.score(turn[:, None] * here + shift[:, None])
        tried += len(turn)
        top = int(score.argmax())
        best.append(Hypothesis(similarity(turn[top], shift[top]), float(score[top])))
    return sorted(best, key=lambda h: -h.score), tried


def _within(turn: NDArray[np.complex128], span: Range) -> NDArray[np.bool_]:
    """Whether turns, numbers of the length of a scale and the angle of a rotation, lie within a range."""
    scale, angle = np.abs(turn), np.abs(np.angle(turn, deg=True))
    furthest = max(abs(rotation) for rotation in span.rotations_deg) + _GIVE_DEG
    low, high = min(span.scales) / (1 + _GIVE), max(span.scales) * (1 + _GIVE)
    return np.asarray((scale > low) & (scale < high) & (angle <= furthest))


class _Near:
    """Which places of a picture have a spot nearby, on a coarse grid."""

    def __init__(self, spots: Spots, reach: float) -> None:
        self._size_hw, self._cell = spots.size_hw, reach / 2
        rows, columns = (math.ceil(n / self._cell) for n in spots.size_hw)
        centres = (np.arange(columns) + 1j * np.arange(rows)[:, None] + 0.5 + 0.5j) * self._cell
        apart = np.abs(centres[..., None] - spots.complex)
        self._near = np.asarray(apart.min(-1) < reach)
        self._chance = float(self._near.mean())

    def score(self, places: NDArray[np.complex128]) -> Float:
        """How surprising it is that of places `(T, N)` so many have a spot nearby, `(T,)`."""
        x, y = places.real, places.imag
        h, w = self._size_hw
        on_it = (x >= 0) & (y >= 0) & (x <= w - 1) & (y <= h - 1)
        row, column = (np.where(on_it, at / self._cell, 0).astype(np.intp) for at in (y, x))
        return surprise((self._near[row, column] & on_it).sum(1), on_it.sum(1), self._chance)


def _fitted(fixed: Spots, moving: Spots, moving_from_fixed: Matrix3, model: Model) -> Hypothesis | None:
    """A model fitted to the spots that meet, from far to near; None where too few do."""

    def meeting(matrix: Matrix3, reach: float) -> tuple[Float, Float]:
        here, there, _ = _meeting(fixed, moving, matrix, reach)
        return fixed.points[here], moving.points[there]

    simple = [MODELS["similarity"], MODELS["affine"]] if model.name in ("affine", "homography") else []
    reach = _NEAR * max(*fixed.size_hw, *moving.size_hw)
    stages = [(stage, max(3, stage.parameter_count // 2 + 1)) for stage in (*simple, model)]
    fitted = closer_and_closer(moving_from_fixed, stages, meeting, reach, _ROUNDS)
    if not fitted:
        return None
    here, _, of = _meeting(fixed, moving, fitted[-1], EXACT_PX)
    chance = min(0.5, len(moving) * math.pi * EXACT_PX**2 / math.prod(moving.size_hw))
    return Hypothesis(fitted[-1], float(surprise(np.array(len(here)), np.array(of), chance)))


def _meeting(
    fixed: Spots, moving: Spots, moving_from_fixed: Matrix3, reach: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Spots of both that are each other's nearest and within reach, and how many of the fixed ones could be."""
    landed = mapped(moving_from_fixed, fixed.points)
    h, w = moving.size_hw
    on_it = np.asarray(((landed >= 0) & (landed <= [w - 1, h - 1])).all(1))
    apart = np.linalg.norm(np.where(on_it[:, None], landed, 1e9)[:, None] - moving.points, axis=-1)
    nearest = apart.argmin(1)
    here = np.arange(len(fixed))
    mutual = apart.argmin(0)[nearest] == here
    meet = np.flatnonzero(mutual & (apart[here, nearest] < reach))
    return meet, nearest[meet], int(on_it.sum())
