"""From where the ladder came to, to the answer: as exact as the pictures know, by whatever they share.

place -> polish, level by level -> edges, or fine detail alone, where these know better
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from imgalign._types import Matrix3
from imgalign.coords import at_full_size, at_level
from imgalign.decompose import corners_of, jacobians, plain_sigma, scaled
from imgalign.gradients import central_differences
from imgalign.judge.agreement import distinctness
from imgalign.judge.verdict import right_px
from imgalign.numerics.noise import noise_variance
from imgalign.numerics.problem import Problem
from imgalign.numerics.residuals import normalised, sampled
from imgalign.numerics.sums import mean
from imgalign.planes.appearance import fine_detail
from imgalign.planes.levels import Masked
from imgalign.planes.plane import Plane, even_reduction
from imgalign.refine.ladder import Ladder
from imgalign.refine.polish import Polished, polish
from imgalign.refine.uncertainty import Known
from imgalign.sampling import Reader
from imgalign.start.search import Hypothesis, Slack, allowed
from imgalign.transforms import Model, corner_distance, get_model, local_scale
from imgalign.wanted import Wanted

_FEW_PIXELS = 1e5  # up to this size all detail is used, whatever precision was asked: it takes little time
_MOST_PIXELS = 4.2e6  # and no further than this, whatever is asked: what finer levels add is not worth their memory
_RESOLVED = 0.5  # pixels of a level: who does not know the place as well is lost in finer detail
_KNOWN = 0.05  # pixels of the base level: predicted errors below are out of the reach of anything else
_BESIDE = 0.2  # of the last ladder level: grey values that move an answer further may be led astray
_ACROSS = 8  # pixels of a level's shortest side: on fewer nothing is left inside of what filters spoil
_WHITE = 1.5  # times what white noise alone leaves of a residual: less is noise
_CLEARLY = 2.0  # times as exact, by predicted errors, others have to be, and may waver at most
_CONTRADICT = 4.0  # standard deviations between two answers: one of them does not know its error
_FITS_BETTER = 0.02  # share of their score by which features have to fit better where they lead, just so far apart
_DISTINCT = 15.0  # standard deviations by which fine detail must agree better there than beside: chance comes to five
_NEARLY = 0.9  # of that, where blurred detail leads: all of it changes this by some hundredths
_HINT, _WITHIN = 8.0, 3.0  # of them so many pixels around the place: with less it is not worth looking
_HOPELESS = 4.0  # times what is known: where blurred detail promises no less, all of it will hardly know better
_DETAIL_APART = 8.0  # of them from what was known before: error bars of features miss what pulls them
_DETAIL_NOISE = 4.0  # times the shared contrast: where residuals are more, error bars are not to be relied on, and
_OFF = 0.05  # pixels of the base level that an answer may be off by whatever its error bar says, and
_SIGMAS = 3.0  # of its error bar: so far outside a bound it may lie on it
_STILL = 0.4  # of the error bar before stands still


class Finish:
    """One pair of pictures at its finest levels.

    Args:
        fixed: The picture that stays.
        moving: The other.
        wanted: What was asked for.
        ladder: Of both, for feature pictures.
        base: Reduction of the level that is polished first.
        between: Called after each polish.
    """

    def __init__(
        self, fixed: Plane, moving: Plane, wanted: Wanted, ladder: Ladder, base: int, between: Callable[[], None]
    ) -> None:
        self._fixed, self._moving, self._wanted, self._between = fixed, moving, wanted, between
        self._ladder, self.base = ladder, base
        self.model = get_model(wanted.model)
        self.size_hw = fixed.size_hw

    def polish(
        self,
        moving_from_fixed: Matrix3,
        far: float = math.inf,
        *,
        precise: bool = True,
        so_far: Polished | None = None,
    ) -> Polished:
        """The last levels: as fine as the precision asks, or (not `precise`) the base level alone.

        Args:
            moving_from_fixed: Where to start.
            far: An answer that the base level moves by more of its pixels is not polished further.
            precise: Whether to go on to finer levels.
            so_far: What the base level has made of it already.
        """
        done = so_far or self._based(moving_from_fixed, far)
        if corner_distance(moving_from_fixed, done.moving_from_fixed, self.size_hw) > far * self.base:
            return done
        reduction, finest = self.base, self.finest
        while precise and reduction > finest and self._wanted.precision < self.sigma(done) < _RESOLVED * reduction:
            reduction = max(finest, even_reduction(reduction / 2) if reduction > 2 else 1)
            done = self._polish_at(done.moving_from_fixed, reduction)
        return done

    def _based(self, moving_from_fixed: Matrix3, far: float) -> Polished:
        """A place on the base level; no further than blurred pictures where these move it by more than `far`."""
        place = moving_from_fixed
        for coarse in self._on_the_way():
            done = self._polish_at(place, coarse, rounds=1)
            place = done.moving_from_fixed
            if corner_distance(moving_from_fixed, place, self.size_hw) > far * self.base:
                return done
        return self._polish_at(place, self.base, far=far)

    @property
    def finest(self) -> int:
        """The reduction of the finest level that is ever polished."""
        pixels = math.prod(self.size_hw)
        return 1 if pixels <= _MOST_PIXELS else 2 * math.ceil(0.5 * math.sqrt(pixels / _MOST_PIXELS))

    def glance(self, moving_from_fixed: Matrix3) -> Polished:
        """What blurred pictures of the base level make of a place: enough to tell how well it fits."""
        return self._polish_at(moving_from_fixed, self.base, rounds=1)

    def best_known(self, place: Hypothesis, polished: Polished) -> Polished:
        """A polished place, or what edges or fine detail make of it where they know better, doubts in its error bar.

        Two modalities of one scene may share no more than these. Grey values then pull from a good place to a worse,
        and their error bar, made of noise, does not see it.
        """
        if self.is_known(place, polished):
            return polished.doubted()
        return self.by_detail(place, self.by_features(place, polished)).doubted()

    def is_known(self, place: Hypothesis, polished: Polished) -> bool:
        """Whether grey values know all there is to know: their error is small, or they differ by noise alone."""
        if self._beside(place, polished) and self.sigma(polished) < _KNOWN * self.base:
            return True
        plain, white = self._differing(polished.moving_from_fixed)
        return min(polished.noise, plain) < _WHITE * white

    def _beside(self, place: Hypothesis, polished: Polished) -> bool:
        """Whether grey values have hardly moved an answer from where the ladder left it."""
        return self.apart(place, polished) < _BESIDE * self._last

    @property
    def _last(self) -> float:
        """Full-size pixels per pixel of the ladder's last level."""
        return self.base * self._ladder.reductions[-1]

    def by_features(self, best: Hypothesis, polished: Polished) -> Polished:
        """A polished place, or what its feature pictures make of it where they know better.

        They do where they promise clearly less of an error and do not waver from detail to detail by more than that,
        and where not both promises can be true.
        """
        known = self.sigma(polished)
        found = self._ladder.finest(best.moving_from_fixed, polished.moving_from_fixed, self.model, self.size_hw)
        other = told(polished, found.moving_from_fixed, found.known, found.doubt_px)
        if not self.is_allowed(other):
            return polished
        theirs = self.sigma(other)
        contradiction = self.apart(other, polished) / (_CONTRADICT * math.hypot(known, theirs, 1e-9))
        # The farther apart, the less the features have to fit better where they lead.
        contradicted = contradiction > 1 and found.better * contradiction**2 > _FITS_BETTER
        better = _CLEARLY * theirs < known and found.doubt_px < _CLEARLY * known
        if not contradicted and not better:
            return polished
        return self.as_seen(other)

    def by_detail(self, place: Hypothesis, polished: Polished) -> Polished:
        """An answer, or what the finest detail makes of it, or of the ladder's place, where that knows better.

        Bands of light, stains and channels of one scene may differ in all that is large and share grain, fibres and
        outlines. A descent finds some agreement in any two pictures, and its error bar believes in it: that the detail
        is shared is told by how much less of it agrees some pixels away. Grey values that contradict each other may
        have led astray from a place beside the right one, and be sure of it.
        """
        known = self.sigma(polished.doubted())
        astray = not self._beside(place, polished)
        if known < _KNOWN * self.base and not astray:
            return polished
        scale = local_scale(polished.moving_from_fixed, self.size_hw)
        (f, wf), (m, wm) = self._fixed.at(self.base), self._moving.at(self.base)
        pictures = (fine_detail(f, wf, max(1.0, 1 / scale)), wf), (fine_detail(m, wm, max(1.0, scale)), wm)
        starts = [polished.moving_from_fixed, *([place.moving_from_fixed] if astray else [])]
        best = self._most_distinct(starts, pictures, known)
        if best is None or not self.is_allowed(best):
            return polished
        theirs, moved = self.sigma(best), self.apart(best, polished)
        both = math.hypot(known, theirs, 1e-9)
        better = _CLEARLY * theirs < known and moved < _DETAIL_APART * both
        # What detail blur and another tone leave is shared, but may lie beside.
        back = astray and self.apart(best, place) < self._last and moved > _CONTRADICT * both
        if not better and not back:
            return polished
        return self.as_seen(replace(best, converged=True))

    def _most_distinct(self, starts: list[Matrix3], pictures: tuple[Masked, Masked], known: float) -> Polished | None:
        """What fine detail of the base level makes of the first place from which it stands out; None if of none."""

        def worth(blurred: Polished) -> bool:
            if blurred.white_sigma_px * self.base > _HOPELESS * known:
                return False
            return distinctness(*pictures, blurred.moving_from_fixed) >= _NEARLY * _DISTINCT

        hints = [distinctness(*pictures, at_level(start, self.base), within=_WITHIN) for start in starts]
        for hint, start in sorted(zip(hints, starts, strict=True), key=lambda pair: -pair[0]):
            if hint < _HINT:
                return None
            found = self._polished(pictures, start, self.base, worth=worth)
            if distinctness(*pictures, at_level(found.moving_from_fixed, self.base)) >= _DISTINCT:
                doubt_px = max(found.doubt_px, _STILL * known) if found.noise > _DETAIL_NOISE else found.doubt_px
                return replace(found, doubt_px=doubt_px).doubted()
        return None

    def as_seen(self, answer: Polished) -> Polished:
        """An answer from something else, with what grey values say where it lies."""
        seen = self._polish_at(answer.moving_from_fixed, self.base, rounds=1, iterations=0)
        return replace(answer, correlation=seen.correlation, overlap=seen.overlap, noise=seen.noise, loss=seen.loss)

    def is_allowed(self, polished: Polished) -> bool:
        """Whether an answer lies within the bounds that were set, or no further outside than its error explains.

        What lies on a bound is found on either side of it.
        """
        if not self._wanted.is_bounded:
            return True
        matrix, size_hw = polished.moving_from_fixed, self.size_hw
        right = right_px(size_hw)
        # Rounding and sampling err by some hundredths at most; what is off by more than counts as right is no answer.
        least, most = (Slack.of(px, 0.5 * math.hypot(*size_hw)) for px in (_OFF * self.base, right))
        known = corner_covariance(polished, self.model, size_hw)
        sigma = plain_sigma(matrix, size_hw, known, self.model.name)
        scale = sigma.get("scale", 0.5 * math.hypot(sigma.get("scale_x", 0.0), sigma.get("scale_y", 0.0)))
        error = math.hypot(sigma["shift_x"], sigma["shift_y"]), sigma.get("rotation_deg", 0.0), scale
        own = (_SIGMAS * e for e in error)
        slack = Slack(*(min(max(e, low), high) for e, low, high in zip(own, least, most, strict=True)))
        return allowed(self._wanted, matrix, size_hw, slack)

    def apart(self, one: Hypothesis | Polished, other: Hypothesis | Polished) -> float:
        """Mean distance of the mapped corners, px."""
        return corner_distance(one.moving_from_fixed, other.moving_from_fixed, self.size_hw)

    def _on_the_way(self) -> list[int]:
        """Reductions between the ladder's last level and the base, halving: each brings the next within its basin."""
        coarsest = min(0.75 * self._last, min(*self.size_hw, *self._moving.size_hw) / _ACROSS)
        return [self.base * k for k in (8, 4, 2) if self.base * k < coarsest]

    def _polish_at(
        self,
        moving_from_fixed: Matrix3,
        reduction: int,
        rounds: int = 3,
        iterations: int | None = None,
        far: float = math.inf,
    ) -> Polished:
        pictures = self._fixed.at(reduction), self._moving.at(reduction)
        return self._polished(pictures, moving_from_fixed, reduction, rounds, iterations, far)

    def _polished(
        self,
        pictures: tuple[Masked, Masked],
        moving_from_fixed: Matrix3,
        reduction: int,
        rounds: int = 3,
        iterations: int | None = None,
        far: float = math.inf,
        worth: Callable[[Polished], bool] = lambda _: True,
    ) -> Polished:
        """`polish` of two pictures of a level, in full-size pixels; `far` and `worth` in those of the level."""
        start = at_level(moving_from_fixed, reduction)
        level_hw = pictures[0][0].shape[-2], pictures[0][0].shape[-1]
        # The finest detail takes as long as all before it, and is not worth it once the precision is reached.
        enough = 0.5 * self._wanted.precision / reduction if math.prod(self.size_hw) > _FEW_PIXELS else 0.0

        def not_done(blurred: Polished) -> bool:
            near = corner_distance(start, blurred.moving_from_fixed, level_hw) <= far
            return near and blurred.white_sigma_px >= enough and worth(blurred)

        done = polish(
            *pictures,
            start,
            self.model,
            rounds=rounds,
            worth=not_done,
            iterations=iterations if iterations is not None else self._wanted.iterations or 10,
            robust=self._wanted.loss in ("auto", "robust", "lncc"),
            light={"auto": None, "lncc": True}.get(self._wanted.loss, None if self._wanted.loss == "robust" else False),
        )
        self._between()
        return in_full(done, reduction)

    def _differing(self, moving_from_fixed: Matrix3) -> tuple[float, float]:
        """By how much the pictures of the base level differ as they are, over the contrast; and by white noise alone.

        Both are robust standard deviations. The contrast is that of what both show: what is masked, or lies beyond the
        border of the other, may be brighter than all of it.
        """
        (fixed, weight), (moving, seen) = self._fixed.at(self.base), self._moving.at(self.base)
        problem = Problem(fixed, *central_differences(fixed), weight, Reader.of(moving, seen))
        under, both = problem.read(at_level(moving_from_fixed, self.base)[None])
        shown = (mean((x - mean(x, both)).square_(), both).clamp_min(1e-20) for x in (fixed, under))
        white = sum(noise_variance(x) / contrast for x, contrast in zip((fixed, moving), shown, strict=True))
        fixed, under, *_ = normalised(fixed, under, both)
        return float(sampled(problem, under - fixed, both).scale()), math.sqrt(float(white))

    def sigma(self, polished: Polished) -> float:
        """Predicted error of its corners, px, without doubt and misfit that are not in its covariance yet."""
        return corner_sigma(polished, self.model, self.size_hw)


def told(polished: Polished, moving_from_fixed: Matrix3, known: Known, doubt_px: float = 0.0) -> Polished:
    """A polished place, moved to where something else than grey values knows it to be."""
    return replace(
        polished,
        moving_from_fixed=moving_from_fixed,
        covariance=known.covariance,
        misfit=known.misfit,
        doubt_px=doubt_px,
        converged=True,
    )


def in_full(polished: Polished, reduction: int) -> Polished:
    """What was polished on a level, in full-size pixels."""
    # Parameters move corners in pixels of the level: in full-size pixels they move them `reduction` times as far.
    return replace(
        polished,
        moving_from_fixed=scaled(at_full_size(polished.moving_from_fixed, reduction)),
        covariance=polished.covariance * reduction**2,
        doubt_px=polished.doubt_px * reduction,
    )


def corner_sigma(polished: Polished, model: Model, size_hw: tuple[int, int]) -> float:
    """Predicted standard deviation of a mapped corner, px (root mean square over the corners)."""
    c = corner_covariance(polished, model, size_hw)
    return float(math.sqrt(max(np.trace(c), 0.0) / 4))


def corner_covariance(polished: Polished, model: Model, size_hw: tuple[int, int]) -> np.ndarray:
    """`(8, 8)` covariance of the mapped corners, px^2, from that of the parameters."""
    points = corners_of(size_hw)
    moved = model.generators(size_hw) @ np.c_[points, np.ones(4)].T  # (P, 3, corners)
    shift = moved[:, :2] - points.T * moved[:, 2:]
    jacobian = np.einsum("nij,pjn->nip", jacobians(polished.moving_from_fixed, points), shift).reshape(8, -1)
    jacobian = np.nan_to_num(jacobian, nan=1e6, posinf=1e6, neginf=-1e6)
    # What is not known at all has a number as well: infinities would turn to NaN.
    covariance = np.nan_to_num(polished.covariance, nan=1e12, posinf=1e12, neginf=-1e12)
    out = jacobian @ covariance @ jacobian.T
    return np.asarray(0.5 * (out + out.T))
