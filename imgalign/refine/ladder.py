"""From many hypotheses to one: refined as a batch, coarse to fine, the weaker ones dropped at each level."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgalign._types import Floats, Matrices, Matrix3
from imgalign.coords import at_full_size, at_level
from imgalign.decompose import scaled
from imgalign.gradients import central_differences
from imgalign.numerics.problem import Problem
from imgalign.numerics.sums import total
from imgalign.planes.levels import Levels
from imgalign.pyramid import masked_blur
from imgalign.refine.levenberg_marquardt import CUTOFF, State, evaluate, refine
from imgalign.refine.uncertainty import Known, covariance, rough_corner_sigma
from imgalign.sampling import Reader
from imgalign.start.search import SEARCH_PIXELS, Hypothesis, distinct
from imgalign.transforms import MODELS, Model, corner_distance, first_apart, local_scale
from imgalign.wanted import MOST_SCALE

_WIDE_BLUR = 3.0  # level pixels: the second descent from each hypothesis, for a wider basin
_LEVELS = 2  # of the ladder: 96 and 192 pixels on the longer side
_ALIKE = 1.0  # level pixels: of two hypotheses that have come so near to each other one is enough
_HEATS = ((0, 0.4), (3, 0.6))  # after so many steps, those below that share of the best score are dropped
_TOLERANCE = 0.1  # level pixels: the level above starts from there
_FINEST = 1.5  # more detail than so many times that of the last level features do not share
_APART = 3.0  # standard deviations by which answers of two levels may differ
_HALVED = 0.5  # what an answer is still pulled by, as a share of how far the last level moved it
_SETTLED = 0.01  # level pixels: where nothing finer follows
_TILE = 16  # level pixels: features of two pictures differ alike over less
_BEHIND = 0.65  # a hypothesis whose score is less than this share of the best one's is dropped


@dataclass(frozen=True)
class Rung:
    """Feature pictures on one level, for hypotheses of about one scale."""

    problem: Problem
    reductions: tuple[float, float]  # full-size pixels per pixel of the fixed and of the moving picture

    def to_level(self, moving_from_fixed: Matrix3) -> Matrix3:
        """A full-size matrix in pixels of this level."""
        return at_level(moving_from_fixed, *self.reductions)

    def to_full(self, level_matrix: Matrix3) -> Matrix3:
        """And back."""
        return scaled(at_full_size(level_matrix, *self.reductions))


class Settled(NamedTuple):
    """Where feature pictures of one level came to rest."""

    rung: Rung
    state: State

    @property
    def moving_from_fixed(self) -> Matrix3:
        """Full-size matrix."""
        return self.rung.to_full(self.state.final[0])

    def known(self, model: Model) -> Known:
        """How well the parameters of `Model.generators` of the fixed size are known."""
        known = covariance(self.rung.problem, self.state, model, CUTOFF, _TILE, None)
        return known.scaled(self.rung.reductions[0])


class Finest(NamedTuple):
    """An answer of feature pictures.

    Attributes:
        moving_from_fixed: Full-size matrix.
        known: How well its parameters are known.
        doubt_px: By how much answers of different detail differ. What pulls a level pulls the next half as far.
        better: By how much the score there is above that at the answer of grey values, as a share of the latter.
    """

    moving_from_fixed: Matrix3
    known: Known
    doubt_px: float
    better: float


class Ladder:
    """The levels on which hypotheses are refined, from coarse to fine.

    Args:
        levels: Of two pictures, reduced or not.
        reduction: Full-size pixels per pixel of both.
        pixels: Of the longer side of the coarsest level.
    """

    def __init__(self, levels: Levels, reduction: int, pixels: int = SEARCH_PIXELS) -> None:
        self._levels, self._reduction = levels, reduction
        coarsest = max(1.0, levels.longest / pixels)
        steps = [max(1.0, coarsest / 2**k) for k in range(_LEVELS)]
        self.reductions = list(dict.fromkeys(steps))
        self._rungs: dict[tuple[float, float, float], Rung] = {}

    @property
    def middle(self) -> float:
        """Reduction of the level on which answers are judged."""
        return self.reductions[min(1, len(self.reductions) - 1)]

    def rung(self, reduction: float, scale: float, blur_sigma: float = 0.0) -> Rung:
        """Feature pictures at a reduction of the given ones, the finer of the two reduced to the other's density."""
        r_fixed, r_moving = self._levels.reductions(reduction, scale)
        key = (r_fixed, r_moving, blur_sigma)
        if key not in self._rungs:
            (ff, wf), (fm, wm) = self._levels.at(r_fixed, r_moving).features
            if blur_sigma > 0:
                ff, fm = masked_blur(ff, wf, blur_sigma), masked_blur(fm, wm, blur_sigma)
            gx, gy = central_differences(ff)
            self._rungs[key] = Rung(
                Problem(ff, gx, gy, wf, Reader.of(fm, wm), oriented=True),
                (r_fixed * self._reduction, r_moving * self._reduction),
            )
        return self._rungs[key]

    def climb(
        self, hypotheses: list[Hypothesis], model: Model, size_hw: tuple[int, int], *, wide: bool, keep: int = 8
    ) -> list[Hypothesis]:
        """Refine hypotheses over the levels; what is left, best first, with scores of the last level.

        Args:
            hypotheses: Where to start, full-size matrices.
            model: The steps allowed.
            size_hw: Of the fixed picture.
            wide: Descend from each hypothesis on blurred features as well.
            keep: Hypotheses kept after the first level; half as many after each further one, but at least two.
        """
        for index, reduction in enumerate(self.reductions):
            found = self._refine(
                hypotheses, model, reduction, first=index == 0, wide=wide and index == 0, size_hw=size_hw
            )
            found = [h for h in found if h.score >= _BEHIND * found[0].score]
            apart, count = 0.02 * math.hypot(*size_hw), max(2, keep >> index)
            hypotheses = distinct(found, size_hw, apart, count)
            # Texture that repeats scores by the overlap that a shift leaves: the right place only correlates better.
            better = [h for h in found if h.correlation > hypotheses[0].correlation]
            ahead = distinct(better, size_hw, apart, count)
            hypotheses = distinct(sorted([*hypotheses, *ahead], key=lambda h: -h.score), size_hw, apart, 2 * count)
        return hypotheses

    def again(self, moving_from_fixed: Matrix3, model: Model, size_hw: tuple[int, int]) -> Hypothesis | None:
        """The last level once more, from a better start."""
        start = [Hypothesis(moving_from_fixed, 0.0)]
        found = self._refine(start, model, self.reductions[-1], first=False, wide=False, size_hw=size_hw)
        return found[0] if found else None

    def finest(self, best: Matrix3, grey: Matrix3, model: Model, size_hw: tuple[int, int]) -> "Finest":
        """As exact as feature pictures get.

        Args:
            best: An answer of the last level.
            grey: What grey values make of it.
            model: The steps allowed.
            size_hw: Of the fixed picture.
        """
        coarsest, last = self.reductions[0], self.reductions[-1]
        coarse = self._settled(best, model, size_hw, coarsest)
        found = self._settled(best, model, size_hw, last) if last < coarsest else coarse
        first, known = found.moving_from_fixed, found.known(model)
        moved = corner_distance(coarse.moving_from_fixed, first, size_hw)
        doubt = _HALVED * moved
        if last > 1:
            finer = self._settled(first, model, size_hw, max(1.0, last / _FINEST))
            finer_known = finer.known(model)
            apart = corner_distance(first, finer.moving_from_fixed, size_hw)
            scatter = math.hypot(*(rough_corner_sigma(k.covariance) for k in (known, finer_known)))
            scatter *= local_scale(first, size_hw)
            doubt = math.hypot(_HALVED * doubt, apart)
            # What two modalities do not share may grow with detail, and pull. Where it does not, answers of finer and
            # finer levels agree, or come to rest.
            if apart < max(_APART * scatter, _HALVED * moved):
                found, known = finer, finer_known
        matrix, rung = found.moving_from_fixed, found.rung
        both = np.stack([rung.to_level(m) for m in (grey, matrix)])
        there, here = _scores(evaluate(rung.problem, both, model, CUTOFF), rung).tolist()
        return Finest(matrix, known, doubt, here / there - 1 if there > 0 else math.inf)

    def _settled(self, moving_from_fixed: Matrix3, model: Model, size_hw: tuple[int, int], reduction: float) -> Settled:
        rung = self.rung(reduction, local_scale(moving_from_fixed, size_hw))
        start = rung.to_level(moving_from_fixed)[None]
        return Settled(rung, refine(rung.problem, start, model, iterations=12, tolerance_px=_SETTLED, cutoff=CUTOFF))

    def _refine(
        self, hypotheses: list[Hypothesis], model: Model, reduction: float, *, first: bool, wide: bool,
        size_hw: tuple[int, int],
    ) -> list[Hypothesis]:  # fmt: skip
        groups = defaultdict(list)
        for h in hypotheses:
            scale = local_scale(h.moving_from_fixed, size_hw)
            if math.isfinite(scale) and 1 / MOST_SCALE < scale < MOST_SCALE:
                groups[round(2 * math.log2(scale))].append(h.moving_from_fixed)
        found = []
        for octave, matrices in groups.items():
            rung = self.rung(reduction, 2 ** (octave / 2))
            start = np.stack([rung.to_level(m) for m in matrices])
            starts = [_eased(rung.problem, start) if first and model.name == "homography" else start]
            if wide:
                blurred = self.rung(reduction, 2 ** (octave / 2), _WIDE_BLUR).problem
                simple = MODELS["similarity"] if model.name in ("affine", "homography") else model
                far = refine(
                    blurred, start, simple, iterations=10, tolerance_px=0.05, cutoff=math.inf, hold_overlap=True
                )
                far = refine(
                    blurred, far.final, model, iterations=10, tolerance_px=0.05, cutoff=math.inf, hold_overlap=True
                )
                starts.append(far.final)
            state: Matrices | State = np.concatenate(starts)
            for steps, behind in _HEATS:
                if len(state) > 1:
                    state = refine(
                        rung.problem, state, model, iterations=steps, tolerance_px=_TOLERANCE, hold_overlap=first
                    )
                    state = state.select(_survivors(state, rung, behind))
            state = refine(rung.problem, state, model, iterations=12, tolerance_px=_TOLERANCE, hold_overlap=first)
            found += _ranked(state, rung)
        return sorted(found, key=lambda h: -h.score)


def _eased(problem: Problem, start: Matrices) -> Matrices:
    """A homography starts from the best affine: perspective is free only when the rest is near."""
    return refine(problem, start, MODELS["affine"], iterations=8, tolerance_px=0.05, hold_overlap=True).final


def _scores(state: State, rung: Rung) -> Floats:
    """Scores of a batch as `Hypothesis` has them; those without a position get minus infinity."""
    pixels = state.overlap * float(total(rung.problem.weight))
    score = np.arctanh(state.correlation.clip(0, 0.999)) * np.sqrt(pixels.clip(0))
    finite = np.isfinite(state.final).all((1, 2)) & (state.overlap > 0) & np.isfinite(score)
    return np.where(finite, score, -math.inf)


def _survivors(state: State, rung: Rung, behind: float) -> NDArray[np.intp]:
    """The rows whose score is not too far behind the best one's, each place once; all where none has one."""
    score = _scores(state, rung)
    if not math.isfinite(score.max()):
        return np.arange(len(score))
    ranked = (-score).argsort(kind="stable")
    ranked = ranked[score[ranked] >= behind * score.max()]
    return ranked[first_apart(state.final[ranked], rung.problem.size_hw, _ALIKE)]


def _ranked(state: State, rung: Rung) -> list[Hypothesis]:
    return [
        Hypothesis(rung.to_full(m), float(s), float(c))
        for m, s, c in zip(state.final, _scores(state, rung), state.correlation, strict=True)
        if math.isfinite(float(s))
    ]
