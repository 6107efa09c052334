"""One pair of pictures on its way from starts to an answer.

planes -> start (cheap ones first) -> ladder -> candidate -> polish -> verdict -> answer
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from imgalign import spots, verdict
from imgalign._types import Matrix3
from imgalign.alignment import Alignment
from imgalign.coords import corners, level_from_full
from imgalign.decompose import decompose, jacobians
from imgalign.descent import descend
from imgalign.errors import OptionError
from imgalign.gradients import central_differences
from imgalign.ladder import Ladder
from imgalign.levels import Levels
from imgalign.light import noise_variance
from imgalign.masks import mask_or_none
from imgalign.plane import Plane
from imgalign.polish import Polished, polish
from imgalign.problem import Problem
from imgalign.residuals import normalised, sampled
from imgalign.sampling import Reader
from imgalign.search import Hypothesis, Range, distinct, full_range, search
from imgalign.sums import variance
from imgalign.transforms import Model, corner_distance, get_model, local_scale
from imgalign.wanted import Wanted

_BASE_PIXELS = 5e5  # up to this size a picture is first polished as it is; above it, reduced
_ENOUGH_PIXELS = 2.6e5  # of the level that a larger picture is first looked at on: half a thousand a side
_FEW_PIXELS = 1e5  # up to this size all detail is used, whatever precision was asked: it takes little time
_FAR = 3.0  # pixels of the base level: from so far away it is not worth more than blurred pictures yet
_NEAR = 1.0  # pixels of the base level: a polish that moves the corners further is done again from a better start
_MOST_PIXELS = 4.2e6  # and no further than this, whatever is asked: what finer levels add is not worth their memory
_LIKE = 0.01  # of the longer side: starts nearer to each other than this lead to one answer
_BASIN = 0.03  # the same of cheap starts: what the coarsest level of the ladder bridges with ease
_FEATURES_KNOW = 0.05  # pixels of the base level: predicted errors below are out of the reach of feature pictures
_WHITE = 1.5  # times what white noise alone leaves of a residual: less is noise
_CLEARLY = 2.0  # times as exact as grey values, by predicted errors, features have to be, and may waver at most
_BESIDE = 0.2  # pixels of the last ladder level: grey values that move an answer further may be led astray
_CONTRADICT = 4.0  # standard deviations between two answers: one of them does not know its error
_FITS_BETTER = 0.02  # share of their score by which features have to fit better where they lead, just so far apart
_SAME = 0.3  # pixels of their level: answers nearer to each other are judged, or refined, to the same
_SAME_NOISE, _SAME_CORRELATION = 0.1, 0.99  # of pictures that hardly differ
_PROMISING = 0.3  # a candidate of less promise is polished only when there is no other
_SURE = 0.97  # a cheap start with this probability needs no search


@dataclass(frozen=True)
class Candidate:
    """What the ladder made of one set of starts, best first, and what speaks for the best."""

    ranked: list[Hypothesis]
    evidence: verdict.Evidence
    promise: float


@dataclass(frozen=True)
class Answer:
    """What came of one candidate."""

    polished: Polished
    evidence: verdict.Evidence
    probability: float
    score: float  # as of a `Hypothesis`

    @property
    def place(self) -> Hypothesis:
        """Where it lies, and how well feature pictures agree there."""
        return Hypothesis(self.polished.moving_from_fixed, self.score)


class Pair:
    """One pair of pictures on its way from starts to an answer; keeps what several attempts share.

    `between` is called between its stages.
    """

    def __init__(self, fixed: Plane, moving: Plane, wanted: Wanted, between: Callable[[], None] = lambda: None) -> None:
        self.fixed, self.moving, self.wanted, self.between = fixed, moving, wanted, between
        self.model = get_model(wanted.model)
        self.size_hw = fixed.size_hw
        pixels = max(math.prod(fixed.size_hw), math.prod(moving.size_hw))
        self.base = 1 if pixels <= _BASE_PIXELS else _even(math.sqrt(pixels / _ENOUGH_PIXELS))
        shortest = min(*fixed.size_hw, *moving.size_hw)
        self.base = min(self.base, 2 * (shortest // 64) or 1)
        self.levels = Levels(fixed.at(self.base), moving.at(self.base))
        self.ladder = Ladder(self.levels, self.base)
        self.near = _LIKE * max(self.size_hw)
        self.seconds = {"start": 0.0, "refine": 0.0, "verdict": 0.0}

    def spent(self, stage: str, began: float) -> None:
        """Note the seconds of a stage."""
        self.seconds[stage] += time.perf_counter() - began
        self.between()

    def best(self, init: Any) -> Answer | None:
        """The most probable answer, from starts as dear as it takes."""
        answers: list[Answer] = []
        waiting: list[Candidate] = []
        seen: list[Hypothesis] = []
        for starts, wide in self.attempts(init):
            candidate = self.candidate(starts, wide=wide)
            if candidate is None or not self.is_new(candidate, seen):
                continue
            seen.append(candidate.ranked[0])
            waiting = sorted([*waiting, candidate], key=lambda c: c.promise)
            # To polish what is not promising takes longer than to look for something better.
            if waiting[-1].promise >= _PROMISING:
                answers.append(self.answer(waiting.pop()))
                best = self.foremost(answers, waiting)
                if best.probability >= _SURE:
                    return best
        if waiting and (not answers or self.foremost(answers, waiting).probability < self.wanted.trust):
            answers.append(self.answer(waiting.pop()))
        return self.foremost(answers, waiting) if answers else None

    def foremost(self, answers: list[Answer], waiting: list[Candidate]) -> Answer:
        """The most probable of some answers, when each knows of the others and of what was not polished."""
        places = [*(answer.place for answer in answers), *(candidate.ranked[0] for candidate in waiting)]
        known = (replace(a, evidence=verdict.beside(a.evidence, a.place, places, self.size_hw)) for a in answers)
        return max(
            (replace(a, probability=verdict.probability(a.evidence)) for a in known), key=lambda a: a.probability
        )

    def is_new(self, candidate: Candidate, seen: list[Hypothesis]) -> bool:
        """Whether a candidate lies apart from all that were seen before."""
        first = candidate.ranked[0].moving_from_fixed
        return all(corner_distance(first, h.moving_from_fixed, self.size_hw) > self.near for h in seen)

    def candidate(self, starts: list[Hypothesis], *, wide: bool) -> Candidate | None:
        """The best that the ladder makes of some starts."""
        began = time.perf_counter()
        ranked = self.ladder.climb(starts, self.model, self.size_hw, wide=wide)
        ranked = [h for h in ranked if self.allowed(h.moving_from_fixed)]
        self.spent("refine", began)
        if not ranked:
            return None
        evidence = self.judge(ranked)
        return Candidate(ranked, evidence, verdict.promise(evidence))

    def answer(self, candidate: Candidate) -> Answer:
        """A candidate as exact as it gets, and what speaks for it."""
        began = time.perf_counter()
        best = candidate.ranked[0]
        # What no detail can tell is not looked for on finer levels.
        precise = candidate.evidence.slide_deg is None
        polished = self.polish(best.moving_from_fixed, _FAR, precise=precise)
        for _ in range(2):
            # Far from where it started, the last level has not seen the neighbourhood of its own answer.
            if self.apart(best, polished) < _NEAR * self.base:
                break
            better = self.ladder.again(polished.moving_from_fixed, self.model, self.size_hw)
            if better is None or better.score < best.score or self.apart(better, best) < _SAME * self.base:
                break
            best = better
            polished = self.polish(best.moving_from_fixed, _FAR, precise=precise)
        if self.apart(best, polished) > _FAR * self.base:
            polished = self.polish(polished.moving_from_fixed, precise=precise)
        polished = self.by_features(best, polished).doubted()
        self.spent("refine", began)
        evidence, matrix = candidate.evidence, polished.moving_from_fixed
        if self.apart(candidate.ranked[0], polished) > _SAME * self.judged_at:
            evidence = self.judge([Hypothesis(matrix, best.score), *candidate.ranked[1:]])
        if evidence.slide_deg is not None:
            polished = self.unknown_along(polished, evidence.slide_deg)
        evidence = replace(
            evidence,
            corner_sigma_px=corner_sigma(polished, self.model, self.size_hw),
            fine_parts=self.fine_agreement(polished),
            overlap=polished.overlap,
            correlation=polished.correlation,
        )
        return Answer(polished, evidence, verdict.probability(evidence), best.score)

    def by_features(self, best: Hypothesis, polished: Polished) -> Polished:
        """A polished hypothesis, or what its feature pictures make of it where they know better.

        Two modalities of one scene may share no more than edges. Grey values then pull from a good place to a worse,
        and their error bar, made of noise, does not see it. Features know better where they promise clearly less of an
        error and do not waver from detail to detail by more than that, and where not both promises can be true.
        """
        known = corner_sigma(polished, self.model, self.size_hw)
        beside = self.apart(best, polished) < _BESIDE * self.base * self.ladder.reductions[-1]
        if beside and known < _FEATURES_KNOW * self.base:
            return polished
        pictures = self.fixed.at(self.base)[0], self.moving.at(self.base)[0]
        white = math.sqrt(sum(float(noise_variance(p) / variance(p).clamp_min(1e-20)) for p in pictures))
        # Where the pictures differ by no more than their own noise, grey values know all there is to know.
        if polished.noise < _WHITE * white or self._plain_noise(polished.moving_from_fixed) < _WHITE * white:
            return polished
        found = self.ladder.finest(best.moving_from_fixed, polished.moving_from_fixed, self.model, self.size_hw)
        other = replace(
            polished,
            moving_from_fixed=found.moving_from_fixed,
            covariance=found.covariance,
            doubt_px=found.doubt_px,
            converged=True,
        )
        if not self.allowed(other.moving_from_fixed):
            return polished
        theirs = corner_sigma(other, self.model, self.size_hw)
        contradiction = self.apart(other, polished) / (_CONTRADICT * math.hypot(known, theirs, 1e-9))
        # The farther apart, the less the features have to fit better where they lead.
        contradicted = contradiction > 1 and found.better * contradiction**2 > _FITS_BETTER
        better = _CLEARLY * theirs < known and found.doubt_px < _CLEARLY * known
        if not contradicted and not better:
            return polished
        seen = self._polish_at(other.moving_from_fixed, self.base, rounds=1, iterations=0)
        return replace(other, correlation=seen.correlation, overlap=seen.overlap, noise=seen.noise, loss=seen.loss)

    def _plain_noise(self, moving_from_fixed: Matrix3) -> float:
        """Robust standard deviation of what the pictures of the base level differ by as they are, over the contrast."""
        (fixed, weight), (moving, seen) = self.fixed.at(self.base), self.moving.at(self.base)
        reader = Reader(moving, mask_or_none(seen), (moving.shape[-2], moving.shape[-1]))
        problem = Problem(fixed, *central_differences(fixed), weight, reader)
        level = level_from_full(self.base)
        matrix = torch.as_tensor(level @ moving_from_fixed @ np.linalg.inv(level))[None]
        under, both = problem.read(matrix)
        fixed, under, *_ = normalised(fixed, under, both)
        return float(sampled(problem, under - fixed, both).scale())

    def descended(self, best: Answer) -> Answer:
        """An answer brought to the minimum of the loss that was asked for, by the optimizer that was asked for."""
        w = self.wanted
        began = time.perf_counter()
        level = level_from_full(self.base)
        full = np.linalg.inv(level)
        # Tensors made for inference cannot be differentiated: copies of them can.
        with torch.inference_mode(False), torch.no_grad():
            (f, wf), (m, wm) = ((x.clone() for x in picture.at(self.base)) for picture in (self.fixed, self.moving))
            matrix, history = descend(
                (f, wf),
                (m, wm),
                level @ best.polished.moving_from_fixed @ full,
                self.model,
                loss="robust" if w.loss == "auto" else w.loss,
                optimizer="lbfgs" if w.optimizer == "lm" else w.optimizer,
                sampler=w.sampler,
                levels=w.levels or 2,
                iterations=w.iterations,
                lr=w.lr,
            )
        matrix = full @ matrix @ level
        polished = replace(best.polished, moving_from_fixed=matrix / matrix[2, 2], history=tuple(history))
        self.spent("refine", began)
        return replace(best, polished=polished)

    def apart(self, one: Hypothesis | Polished, other: Hypothesis | Polished) -> float:
        """Mean distance of the mapped corners, px."""
        return corner_distance(one.moving_from_fixed, other.moving_from_fixed, self.size_hw)

    def polish(self, moving_from_fixed: Matrix3, far: float = math.inf, *, precise: bool = True) -> Polished:
        """The last levels: as fine as the precision asks, or (not `precise`) the base level alone.

        An answer that blurred pictures move by more than `far` pixels of the base level is not polished further.
        """
        for coarse in self._on_the_way():
            moving_from_fixed = self._polish_at(moving_from_fixed, coarse, rounds=1).moving_from_fixed
        reduction = self.base
        done = self._polish_at(moving_from_fixed, reduction, far=far)
        if corner_distance(moving_from_fixed, done.moving_from_fixed, self.size_hw) > far * self.base:
            return done
        finest = self.finest
        while precise and reduction > finest and corner_sigma(done, self.model, self.size_hw) > self.wanted.precision:
            reduction = max(finest, _even(reduction / 2) if reduction > 2 else 1)
            done = self._polish_at(done.moving_from_fixed, reduction)
        return done

    @property
    def finest(self) -> int:
        """The reduction of the finest level that is ever polished."""
        pixels = math.prod(self.size_hw)
        return 1 if pixels <= _MOST_PIXELS else 2 * math.ceil(0.5 * math.sqrt(pixels / _MOST_PIXELS))

    def _on_the_way(self) -> list[int]:
        """Reductions between the ladder's last level and the base, halving: each brings the next within its basin."""
        last = self.ladder.reductions[-1] * self.base
        return [self.base * k for k in (8, 4, 2) if self.base * k < 0.75 * last]

    def _polish_at(
        self,
        moving_from_fixed: Matrix3,
        reduction: int,
        rounds: int = 3,
        iterations: int | None = None,
        far: float = math.inf,
    ) -> Polished:
        level = level_from_full(reduction)
        full = np.linalg.inv(level)
        done = polish(
            self.fixed.at(reduction),
            self.moving.at(reduction),
            level @ moving_from_fixed @ full,
            self.model,
            rounds=rounds,
            far_px=far,
            # The finest detail takes as long as all before it, and is not worth it once the precision is reached.
            enough_px=0.5 * self.wanted.precision / reduction if math.prod(self.size_hw) > _FEW_PIXELS else 0.0,
            iterations=iterations if iterations is not None else self.wanted.iterations or 10,
            robust=self.wanted.loss in ("auto", "robust", "lncc"),
            light={"auto": None, "lncc": True}.get(self.wanted.loss, None if self.wanted.loss == "robust" else False),
        )
        self.between()
        matrix = full @ done.moving_from_fixed @ level
        # Parameters move corners in pixels of the level: in full-size pixels they move them `reduction` times as far.
        return replace(
            done,
            moving_from_fixed=matrix / matrix[2, 2],
            covariance=done.covariance * reduction**2,
            doubt_px=done.doubt_px * reduction,
        )

    def unknown_along(self, polished: Polished, direction_deg: float) -> Polished:
        """An answer whose shift along a direction may be anything up to a quarter of the picture."""
        angle = math.radians(direction_deg)
        along = torch.zeros(self.model.parameter_count, dtype=torch.float64)
        along[:2] = 0.25 * max(self.size_hw) * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        return replace(polished, covariance=polished.covariance + torch.outer(along, along))

    def fine_agreement(self, polished: Polished) -> float:
        """`verdict.fine_agreement` on the base level, both pictures at about one density."""
        if polished.noise < _SAME_NOISE and polished.correlation > _SAME_CORRELATION:
            return 1.0  # no place near can fit better than that
        began = time.perf_counter()
        matrix = polished.moving_from_fixed
        scale = local_scale(matrix, self.size_hw)
        r_fixed, r_moving = (self.base * max(1, round(k)) for k in (1 / scale, scale))
        there = level_from_full(r_moving) @ matrix @ np.linalg.inv(level_from_full(r_fixed))
        share = verdict.fine_agreement(self.fixed.at(r_fixed), self.moving.at(r_moving), there)
        self.spent("verdict", began)
        return share

    @property
    def judged_at(self) -> float:
        """Full-size pixels per pixel of the middle level, on which answers are judged."""
        return self.base * self.ladder.reductions[min(1, len(self.ladder.reductions) - 1)]

    def judge(self, ranked: list[Hypothesis]) -> verdict.Evidence:
        """Evidence for and against the first of some hypotheses, on a middle level."""
        began = time.perf_counter()
        answer = ranked[0].moving_from_fixed
        rung = self.ladder.rung(self.judged_at / self.base, local_scale(answer, self.size_hw))
        evidence = verdict.collect(rung.problem, rung.to_level(answer), ranked, self.size_hw)
        self.spent("verdict", began)
        return evidence

    def allowed(self, moving_from_fixed: Matrix3) -> bool:
        """Within the bounds that the user set."""
        w = self.wanted
        if w.max_shift is None and w.max_rotation is None and w.max_scale is None:
            return True
        numbers = decompose(moving_from_fixed, self.size_hw)
        shift = math.hypot(*numbers.shift_px)
        scale = local_scale(moving_from_fixed, self.size_hw)
        return (
            (w.max_shift is None or shift <= w.max_shift)
            and (w.max_rotation is None or abs(numbers.rotation_deg) <= w.max_rotation + 1e-6)
            and (w.max_scale is None or 1 / w.max_scale - 1e-6 <= scale <= w.max_scale + 1e-6)
        )

    def cheap_starts(self, init: Any) -> list[Hypothesis]:
        """Identity, centres on each other, the best shifts: what a nearly aligned pair needs."""
        centre = np.eye(3)
        for axis in (0, 1):
            centre[axis, 2] = (self.moving.size_hw[1 - axis] - self.size_hw[1 - axis]) / 2
        if isinstance(init, Alignment):
            init = init.moving_from_fixed
        if not isinstance(init, str):
            matrix = np.asarray(init, float)
            if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
                raise OptionError("init must be a 3 x 3 matrix of finite numbers that can be inverted")
            return [Hypothesis(matrix, 0.0)]
        if init == "identity":
            return [Hypothesis(np.eye(3), 0.0)]
        if init == "center":
            return [Hypothesis(centre, 0.0)]
        shifts = self._search(full_range("translate", 0, 1, False), peaks=12 if self.model.name == "translate" else 3)
        if init == "phase":
            return shifts
        starts = [*shifts, Hypothesis(np.eye(3), 0.0), Hypothesis(centre, 0.0)]
        return distinct(starts, self.size_hw, _BASIN * max(self.size_hw), 5)

    def attempts(self, init: Any) -> Iterator[tuple[list[Hypothesis], bool]]:
        """Sets of starts, each dearer than the one before and made only when asked for; and whether to look wide."""
        auto = isinstance(init, str) and init == "auto"
        cheap = self.cheap_starts(init)
        yield cheap, not auto
        if not auto:
            return
        found = cheap
        if self.model.name != "translate" or self.wanted.allow_mirror:
            found = self.full_search()
            yield found, False
        # Cheaper than that search, but most pictures show no spots, and most of those that do are found without.
        if patterns := self.by_spots():
            yield patterns, False
        yield found, True

    def by_spots(self) -> list[Hypothesis]:
        """Where the bright points of the pictures make one pattern; nowhere, where they show other things."""
        began = time.perf_counter()
        fixed, moving = (spots.detected(*picture.at(self.base)) for picture in (self.fixed, self.moving))
        found = [] if fixed is None or moving is None else spots.matched(fixed, moving, self.model, self.span())
        full = self._at_full_size(found)
        self.spent("start", began)
        return full

    def full_search(self) -> list[Hypothesis]:
        """Hypotheses over the whole range of the model and the bounds."""
        span = self.span()
        return self._search(span, peaks=1 if len(span.rotations_deg) > 4 else 6)

    def span(self) -> Range:
        """The whole range of the model and the bounds."""
        w = self.wanted
        furthest = 180.0 if w.max_rotation is None else w.max_rotation
        return full_range(w.model, furthest, w.max_scale or 2.0, w.allow_mirror)

    def _search(self, span: Range, peaks: int) -> list[Hypothesis]:
        began = time.perf_counter()
        full = self._at_full_size(search(self.levels, span, peaks=peaks))
        best = distinct(full, self.size_hw, 0.06 * math.hypot(*self.size_hw), 12)
        self.spent("start", began)
        return best

    def _at_full_size(self, found: list[Hypothesis]) -> list[Hypothesis]:
        """Hypotheses of the base level in full-size pixels, those within the bounds."""
        level = level_from_full(self.base)
        full = (Hypothesis(np.linalg.inv(level) @ h.moving_from_fixed @ level, h.score) for h in found)
        return [h for h in full if self.allowed(h.moving_from_fixed)]


def _even(reduction: float) -> int:
    """The even number nearest to a reduction of more than one: even ones are the exact ones (`plane.Plane.at`)."""
    return 2 * max(1, round(0.5 * reduction))


def corner_sigma(polished: Polished, model: Model, size_hw: tuple[int, int]) -> float:
    """Predicted standard deviation of a mapped corner, px (root mean square over the corners)."""
    c = corner_covariance(polished, model, size_hw)
    return float(math.sqrt(max(np.trace(c), 0.0) / 4))


def corner_covariance(polished: Polished, model: Model, size_hw: tuple[int, int]) -> np.ndarray:
    """`(8, 8)` covariance of the mapped corners, px^2, from that of the parameters."""
    points = corners(size_hw)
    moved = model.generators(size_hw) @ np.c_[points, np.ones(4)].T  # (P, 3, corners)
    shift = moved[:, :2] - points.T * moved[:, 2:]
    jacobian = np.einsum("nij,pjn->nip", jacobians(polished.moving_from_fixed, points), shift).reshape(8, -1)
    jacobian = np.nan_to_num(jacobian, nan=1e6, posinf=1e6, neginf=-1e6)
    # What is not known at all has a number as well: infinities would turn to NaN.
    covariance = np.nan_to_num(polished.covariance.numpy(), nan=1e12, posinf=1e12, neginf=-1e12)
    out = jacobian @ covariance @ jacobian.T
    return np.asarray(0.5 * (out + out.T))
