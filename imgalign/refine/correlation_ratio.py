"""The correlation ratio: what share of one picture's variance a curve of the other's grey values explains.

Two modalities of one scene show its parts in tones of their own, and their outlines may lie side by side: skin is
bright in one, the bone beneath it in the other. Edges and correlations then hold on to the wrong ones, and agree there.
A curve that says what each grey value of one picture is in the other tells bone from skin.

Source: Roche, Malandain, Pennec and Ayache (1998), *The correlation ratio as a new similarity measure for multimodal
image registration*. Here the curve is continuous, straight between the quantiles of the grey values; it is learnt anew
after each descent, which is Levenberg-Marquardt on what the curve leaves; and of both directions the better one counts.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from imgalign._types import Floats, Image, Matrix3
from imgalign.coords import at_full_size, at_level
from imgalign.decompose import scaled
from imgalign.gradients import central_differences
from imgalign.numerics.devices import gathered
from imgalign.numerics.problem import Problem
from imgalign.numerics.sums import total
from imgalign.planes.levels import Levels, Masked
from imgalign.refine.levenberg_marquardt import State, refine
from imgalign.refine.uncertainty import Known, covariance
from imgalign.sampling import Reader
from imgalign.transforms import Model, corner_distance, local_scale
from imgalign.wanted import MOST_SCALE

_KNOTS = 16  # of a curve
_STIFF = 1e-3  # of the samples at a knot: what bends a curve where there are none
_ROUNDING = 1e-5  # of the largest value: what differs by less is alike
_FEW = 100  # pixels tell no curve
_SAMPLES = 10_000  # at most tell it
_SEEN = 0.5  # weight from which a pixel is one of them
_COARSEST = (16, 24, 48)  # pixels of the longer side of the level to begin with: each leads elsewhere
JUDGED_PIXELS = 192  # of the level on which places are told apart; on the way there each has twice as many as the last
_SCALES = (0.8, 0.86, 0.92, 1.09, 1.16, 1.25)  # at which an outline may lie on one beside it
_CURVED = 0.25  # nats that a curve tells beyond a line, from where on it is followed
_STRAIGHT = 0.8  # share of a variance that a line explains, up to which curves may know better
_TOLD = 0.55  # share of a variance that a curve explains where it is to lead, and
_TOLD_MORE = 0.3  # what it tells more there
_FINEST = 384  # of the level on which what is found is refined
_ROUNDS, _STEPS = 6, 5  # at most, on each level: curves, and steps under each
_CUTOFF = 6.0  # robust standard deviations: what has two tones in one picture for one in the other is no outlier
_TOLERANCE = 0.02  # pixels of a level that end a descent, and
_SETTLED = 0.05  # those by which a round moves the corners that end a level
_TILE = 16  # pixels of a level: what a curve leaves is alike over less


class Curve(NamedTuple):
    """Heights over rising knots, straight between them and level beyond."""

    knots: Floats
    heights: Floats

    def __call__(self, image: Image) -> Image:
        """What a picture's grey values are on the curve."""
        knots, heights = (torch.from_numpy(x).to(image.dtype).to(image.device) for x in self)
        index = torch.bucketize(image, knots[1:-1], right=True)
        width = knots.diff()
        along = (image - knots[index]).clamp_min_(0).minimum(width[index])
        return heights[index] + (heights.diff() / width)[index] * along


class Explained(NamedTuple):
    """Two pictures as a curve makes them alike.

    Attributes:
        problem: Both, one in the tone of the other.
        share: Of the variance of the latter that the curve explains.
        straight: Of it a straight line.
        overlap: Share of the fixed picture that has moving picture under it.
    """

    problem: Problem
    share: float
    straight: float
    overlap: float

    @property
    def information(self) -> float:
        """What one picture tells of the other: twice the nats that normal variables would share, by overlap."""
        return -self.overlap * math.log(max(1 - self.share, 1e-9))

    @property
    def curved(self) -> float:
        """What the curve tells beyond a straight line, likewise, over the overlap."""
        return math.log(max(1 - self.straight, 1e-9) / max(1 - self.share, 1e-9))


class Climbed(NamedTuple):
    """Where curves of grey values lead.

    Attributes:
        moving_from_fixed: In pixels of the given pictures.
        known: How well its parameters are known (`transforms.Model.generators` of the fixed size).
        before: What the pictures told of each other where the climb began, at the level where that is judged.
        after: The same where it ended.
    """

    moving_from_fixed: Matrix3
    known: Known
    before: Explained
    after: Explained

    @property
    def gained(self) -> float:
        """What the pictures tell of each other that they did not before: of all, and over the overlap."""
        over_overlap = math.log(max(1 - self.before.share, 1e-9) / max(1 - self.after.share, 1e-9))
        return min(self.after.information - self.before.information, over_overlap)


def fitted(values: Floats, wanted: Floats) -> tuple[Curve, float] | None:
    """The curve that takes values to what is wanted, `(N,)` each, and the share of its variance that it explains.

    None where either is alike everywhere.
    """
    knots = np.unique(np.quantile(values, np.linspace(0, 1, _KNOTS)))
    if len(knots) < 2 or not all(x.std() > _ROUNDING * abs(x).max() for x in (values, wanted)):
        return None
    # One knot's share of a value between two falls as the other's rises: least squares is a matrix of three diagonals.
    index = (np.searchsorted(knots, values, side="right") - 1).clip(0, len(knots) - 2)
    after = (values - knots[index]) / np.diff(knots)[index]
    count = len(knots)
    normal, side = np.zeros((count, count)), np.zeros(count)
    shares = (1 - after, after)
    for i in range(2):
        side += np.bincount(index + i, shares[i] * wanted, count)
        for j in range(2):
            sums = np.bincount(index, shares[i] * shares[j], count - 1)
            normal[np.arange(count - 1) + i, np.arange(count - 1) + j] += sums
    bend = np.diff(np.eye(count), 2, axis=0)
    mean = normal.trace() / count
    curve = Curve(knots, np.linalg.solve(normal + mean * (_STIFF * bend.T @ bend + 1e-9 * np.eye(count)), side))
    left = wanted - np.interp(values, *curve)
    return curve, float(1 - (left * left).mean() / wanted.var())


def explained(fixed: Masked, moving: Masked, matrix: Matrix3) -> Explained | None:
    """Two pictures, `(1, 1, H, W)` with masks, as the better curve makes them alike; None where nothing tells one."""
    image, weight = fixed
    plain = Problem(image, image, image, weight, Reader.of(*moving))
    under, valid = plain.read(matrix[None])
    stride = max(1, math.ceil((valid.numel() / _SAMPLES) ** 0.5))
    f, m, seen = gathered(*(x[0, 0, ::stride, ::stride].flatten() for x in (image, under, valid)))
    there = seen > _SEEN
    if there.sum() < _FEW:
        return None
    f, m = f[there], m[there]
    of_fixed, of_moving = fitted(f, m), fitted(m, f)
    if of_fixed is None or of_moving is None:
        return None
    if of_fixed[1] >= of_moving[1]:
        (curve, share), image = of_fixed, of_fixed[0](image)
    else:
        curve, share = of_moving
        moving = curve(moving[0]), moving[1]
    problem = Problem(image, *central_differences(image), weight, Reader.of(*moving))
    straight = float(np.corrcoef(f, m)[0, 1] ** 2)
    return Explained(problem, share, straight, float(total(valid) / total(weight).clamp_min(1e-9)))


def climb(levels: Levels, moving_from_fixed: Matrix3, model: Model) -> Climbed | None:
    """Follow curves of grey values from a transform to a place where one picture tells far more of the other.

    None if they lead to none such. Nor are they followed where a straight line tells about as much, or most of it: of
    one modality least squares know more, and what lies over the scene in one picture bends the curve.

    Args:
        levels: Of the two pictures.
        moving_from_fixed: Where to start.
        model: Which steps are allowed.
    """
    pair = _Scaled(levels, model)
    before = pair.explained(moving_from_fixed, JUDGED_PIXELS)
    if before is None or before.curved < _CURVED or before.straight > _STRAIGHT:
        return None
    # From coarser levels they lead farther, and lose more of what is fine and of what lies beside the border.
    starts = [(moving_from_fixed, side) for side in _COARSEST]
    if model.name not in ("translate", "rigid"):
        starts.append((pair.rescaled(moving_from_fixed, _COARSEST[-1]), _COARSEST[-1]))
    ends = (pair.descended(*start) for start in starts)
    told = [
        (end, after) for end in ends if end is not None and (after := pair.explained(end, JUDGED_PIXELS)) is not None
    ]
    if not told:
        return None
    best, after = max(told, key=lambda t: t[1].information)
    if after.share < _TOLD or after.information < before.information + _TOLD_MORE:
        return None
    return pair.settled(best, before, after)


def follow(levels: Levels, moving_from_fixed: Matrix3, model: Model) -> Climbed | None:
    """Follow curves of grey values from a transform that is about right, wherever they lead; None if nowhere.

    Args:
        levels: Of the two pictures.
        moving_from_fixed: Where to start.
        model: Which steps are allowed.
    """
    pair = _Scaled(levels, model)
    before = pair.explained(moving_from_fixed, JUDGED_PIXELS)
    end = None if before is None else pair.descended(moving_from_fixed, _COARSEST[-1])
    after = None if end is None else pair.explained(end, JUDGED_PIXELS)
    return None if before is None or end is None or after is None else pair.settled(end, before, after)


class _Round(NamedTuple):
    """What came of curves and descents on one level."""

    moving_from_fixed: Matrix3
    problem: Problem
    state: State
    pixel: float  # of the level, in pixels of the given fixed picture


class _Scaled:
    """One pair of pictures at any level, the finer one reduced to about the other's density."""

    def __init__(self, levels: Levels, model: Model) -> None:
        self._levels, self._model = levels, model
        self._size_hw = levels.fixed_hw

    def explained(self, matrix: Matrix3, side: int) -> Explained | None:
        """Both where a transform stands, with so many pixels on the longer side."""
        reductions = self._reductions(matrix, side)
        return explained(*self._levels.at(*reductions).pictures, at_level(matrix, *reductions))

    def rescaled(self, matrix: Matrix3, side: int) -> Matrix3:
        """The same at another scale, at which the pictures tell most of each other."""
        h, w = self._size_hw
        centre = np.array([[1, 0, 0.5 * (w - 1)], [0, 1, 0.5 * (h - 1)], [0, 0, 1]])
        others = [matrix @ centre @ np.diag([s, s, 1.0]) @ np.linalg.inv(centre) for s in _SCALES]
        told = [self.explained(other, side) for other in others]
        return others[int(np.argmax([-math.inf if t is None else t.information for t in told]))]

    def descended(self, matrix: Matrix3, side: int) -> Matrix3 | None:
        """Where curves lead on one level after the other."""
        while side <= JUDGED_PIXELS:
            found = self._round(matrix, side)
            if found is None:
                return None
            matrix, side = found.moving_from_fixed, 2 * side
        return matrix

    def settled(self, matrix: Matrix3, before: Explained, after: Explained) -> Climbed | None:
        """A place as exact as curves know it."""
        found = self._round(matrix, _FINEST)
        if found is None:
            return None
        known = covariance(found.problem, found.state, self._model, _CUTOFF, _TILE, None)
        return Climbed(found.moving_from_fixed, known.scaled(found.pixel), before, after)

    def _reductions(self, matrix: Matrix3, side: int) -> tuple[float, float]:
        """Of either picture, at a level of so many pixels on the longer side."""
        return self._levels.reductions(max(1.0, self._levels.longest / side), local_scale(matrix, self._size_hw))

    def _round(self, matrix: Matrix3, side: int) -> _Round | None:
        """Curves and descents in turn on one level, until nothing moves."""
        reductions = self._reductions(matrix, side)
        pictures, level = self._levels.at(*reductions).pictures, at_level(matrix, *reductions)
        for _ in range(_ROUNDS):
            alike = explained(*pictures, level)
            if alike is None:
                return None
            problem = alike.problem
            state = refine(
                problem, level[None], self._model, iterations=_STEPS, tolerance_px=_TOLERANCE, cutoff=_CUTOFF
            )
            before, level = level, state.final[0]
            if corner_distance(before, level, problem.size_hw) < _SETTLED:
                break
        full = at_full_size(level, *reductions)
        if not np.isfinite(full).all() or not 1 / MOST_SCALE < local_scale(full, self._size_hw) < MOST_SCALE:
            return None
        return _Round(scaled(full), problem, state, reductions[0])
