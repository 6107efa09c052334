"""One pair of pictures on its way from starts to an answer.

planes -> start (cheap ones first) -> ladder -> candidate -> polish -> verdict -> answer
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from imgalign.coords import at_level
from imgalign.curves import Curves
from imgalign.finish import Finish, corner_sigma
from imgalign.judge import agreement, verdict
from imgalign.planes.levels import Levels
from imgalign.planes.plane import Plane, even_reduction
from imgalign.refine.ladder import Ladder
from imgalign.refine.polish import Polished
from imgalign.start.periods import ALIKE, EXACTLY, likeness
from imgalign.start.search import ACROSS, SEARCH_PIXELS, Hypothesis, Slack, allowed
from imgalign.start.starts import Starts, is_automatic
from imgalign.transforms import get_model, local_scale
from imgalign.wanted import Wanted

_BASE_PIXELS = 5e5  # up to this size a picture is first polished as it is; above it, reduced
_ENOUGH_PIXELS = 2.6e5  # of the level that a larger picture is first looked at on: half a thousand a side
_CLOSER_PIXELS = 256  # of the longer side of the coarsest level, where detail may be all that there is
_FAR = 3.0  # pixels of the base level: from so far away it is not worth more than blurred pictures yet
_NEAR = 1.0  # pixels of the base level: a polish that moves the corners further is done again from a better start
_EXACT = 2.0  # pixels of the base level: keypoints know a place as well
_LIKE = 0.01  # of the longer side: starts nearer to each other than this lead to one answer
SAME = 0.3  # pixels of their level: answers nearer to each other are judged, or refined, to the same
_SAME_NOISE, _SAME_CORRELATION = 0.1, 0.99  # of pictures that hardly differ
_EXPLAINED = 0.9  # correlation of an answer that needs no search of a picture that looks the same elsewhere
_CHANCE_LEAD = 0.1  # over another place of a lattice: some hundredths are chance, and
_OF_LATTICE = 0.3  # of them counts
MOVED = 2.0  # pixels of the base level: what has moved by less is drawn to what stands still
_ANSWERS = 3  # of which each lies periods of texture from the one before
_PROMISING = 0.3  # a candidate of less promise is polished only when there is no other, an answer of less is led on
_RIVAL = 0.9  # of the best score: places from there on are told apart in full detail
_WORSE = 2.0  # times the least residual: a place with more is not the right one
_MOST_PARTS = 0.75  # of the structure: where outlines were taken for one another no more than 0.7 of it agreed
_SOME_PARTS = 0.1  # of it: right answers have 0.18 at least
_SPEAKING = 0.2  # of the structure: outlines of which no more agrees speak for no answer
_AS_LIKE, _FEWER_PARTS = 0.9, 0.15  # of correlation and parts: edges tell no more of two places nearer than that
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
    behind: bool = False  # of what moves behind something that stands still in both pictures

    @property
    def place(self) -> Hypothesis:
        """Where it lies, and how well feature pictures agree there."""
        return Hypothesis(self.polished.moving_from_fixed, self.score)


class Pair:
    """One pair of pictures on its way from starts to an answer; keeps what several attempts share.

    Args:
        fixed: The picture that stays.
        moving: The other.
        wanted: What was asked for.
        between: Called between its stages.
        coarsest: Pixels of the longer side of the ladder's coarsest level; of long and thin pictures it has more.
        unmoved: Whether an answer may leave all pixels where they are.
        fine: Whether its levels have the edges of fine detail (`levels.Levels`).
    """

    def __init__(
        self,
        fixed: Plane,
        moving: Plane,
        wanted: Wanted,
        between: Callable[[], None] = lambda: None,
        coarsest: int = SEARCH_PIXELS,
        unmoved: bool = True,
        fine: bool = False,
    ) -> None:
        self.fixed, self.moving, self.wanted, self.between = fixed, moving, wanted, between
        self.model = get_model(wanted.model)
        self.size_hw = fixed.size_hw
        pixels = max(math.prod(fixed.size_hw), math.prod(moving.size_hw))
        self.base = 1 if pixels <= _BASE_PIXELS else even_reduction(math.sqrt(pixels / _ENOUGH_PIXELS))
        shortest = min(*fixed.size_hw, *moving.size_hw)
        self.base = min(self.base, 2 * (shortest // 64) or 1)
        self.levels = Levels(fixed.at(self.base), moving.at(self.base), fine=fine)
        # Where reduced pictures hang over their own border, most of a level is what was made up there.
        across = round(ACROSS * self.levels.longest / (shortest // self.base))
        self.ladder = Ladder(self.levels, self.base, max(coarsest, across))
        self.finer = Ladder(self.levels, self.base).middle / self.ladder.middle  # than the usual ladder
        self.finish = Finish(fixed, moving, wanted, self.ladder, self.base, between)
        self.curves = Curves(self.finish, self.levels)
        self.near = _LIKE * max(self.size_hw)
        self.outdone: list[Hypothesis] = []
        self.unmoved = unmoved
        self.seconds = {"start": 0.0, "refine": 0.0, "verdict": 0.0}
        self.starts = Starts(fixed, moving, wanted, self.levels, self.base, self.spent)

    def spent(self, stage: str, began: float) -> None:
        """Note the seconds of a stage."""
        self.seconds[stage] += time.perf_counter() - began
        self.between()

    def best(self, init: Any) -> Answer | None:
        """The most probable answer, from starts as dear as it takes."""
        best = self.found(init)
        if not is_automatic(init):
            return best
        led = None if best is None else self.contradicted(best)
        if led is not None:
            return led
        if best is None or best.probability < self.wanted.trust:
            fine = self.finely(0.0 if best is None else verdict.promise(best.evidence))
            best = max((a for a in (best, fine) if a is not None), key=lambda answer: answer.probability, default=None)
        return None if best is None else self.led_on(best)

    def found(self, init: Any) -> Answer | None:
        """The same by the levels of this pair alone."""
        answers: list[Answer] = []
        waiting: list[Candidate] = []
        seen: list[Hypothesis] = []
        close: list[Answer] = []
        for attempt in self.starts.attempts(init):
            if attempt.close:
                close = self.closely(attempt.starts, seen, [answer.place for answer in answers])
                if close and close[0].probability >= _SURE:
                    return close[0]
                continue
            candidate = self.candidate(attempt.starts, wide=attempt.wide)
            if candidate is not None and self.is_apart(candidate.ranked[0], [*seen, *self.outdone]):
                seen.append(candidate.ranked[0])
                waiting = sorted([*waiting, candidate], key=lambda c: c.promise)
            # To polish what is not promising takes longer than to look for something better.
            if waiting and waiting[-1].promise >= _PROMISING:
                answer = self.answer(waiting.pop())
                found = self.with_periods(answer) if is_automatic(init) else [answer]
                answers += [a for a in found if self.is_wanted(a.place)]
            if answers:
                best = self.foremost(answers, waiting)
                # What repeats may agree elsewhere just as well: of that only a good fit is enough without a search.
                enough = attempt.searched or best.polished.correlation > _EXPLAINED or not self.repeats
                if best.probability >= _SURE and enough:
                    return best
        if waiting and (not answers or self.foremost(answers, waiting).probability < self.wanted.trust):
            answers.append(self.answer(waiting.pop()))
        if answers:
            close.append(self.foremost(answers, waiting))
        return max(close, key=lambda answer: answer.probability, default=None)

    def motion(self, place: Hypothesis) -> float:
        """By how much a place moves the corners, pixels of the base level."""
        return self.finish.apart(place, Hypothesis(np.eye(3), 0.0)) / self.base

    def is_wanted(self, place: Hypothesis) -> bool:
        """Whether a place is one of those that are asked for, as well as the ladder knows it."""
        moved = self.unmoved or self.motion(place) > MOVED
        slack = Slack.of(self.base * self.ladder.reductions[-1], 0.5 * min(self.size_hw))
        return moved and allowed(self.wanted, place.moving_from_fixed, self.size_hw, slack)

    def closely(self, places: list[Hypothesis], seen: list[Hypothesis], answered: list[Hypothesis]) -> list[Answer]:
        """What finer levels make of places that keypoints know, if it is promising; all by itself, or nothing.

        Where the ladder stayed with such a place, its levels show something of it. Where texture repeats, its places
        are told apart by all there is to see. What leads to a place that is answered already is not answered again.
        """
        led_away = [h for h in places if self.is_apart(h, seen, _EXACT * self.base)]
        if self.repeats or not led_away:
            return []
        candidate = self.closer.candidate(led_away, wide=False)
        if candidate is None or candidate.promise < _PROMISING:
            return []
        if not self.is_apart(candidate.ranked[0], answered, _EXACT * self.base):
            return []
        return [self.closer.foremost([self.closer.answer(candidate)], [])]

    def finely(self, promise: float) -> Answer | None:
        """What the edges of fine detail find in the whole range, all by itself.

        Nothing, unless it is promising, or at least more so than what is known.
        """
        fine = Pair(self.fixed, self.moving, self.wanted, self.between, unmoved=self.unmoved, fine=True)
        fine.seconds = self.seconds
        candidate = fine.candidate(fine.starts.full_search(), wide=False)
        if candidate is None or candidate.promise < min(promise, _PROMISING):
            return None
        return fine.foremost([fine.answer(candidate)], [])

    def contradicted(self, answer: Answer) -> Answer | None:
        """What curves of grey values make of an answer that they contradict (`Curves.contradict`); None if of none.

        However much more a curve explains there, where next to no part agrees it explains something else.
        """
        if answer.evidence.parts > _MOST_PARTS:
            return None
        began = time.perf_counter()
        polished = self.curves.contradict(answer.polished)
        self.spent("refine", began)
        led = None if polished is None else self.judged(polished, answer.score)
        return None if led is None or led.evidence.parts < _SOME_PARTS or not self.is_wanted(led.place) else led

    def led_on(self, answer: Answer) -> Answer:
        """An answer, or what curves of grey values make of it where edges tell little (`Curves`)."""
        was = answer.evidence
        if was.parts > _MOST_PARTS:
            return answer
        began = time.perf_counter()
        nothing_speaks = was.parts < _SPEAKING and answer.probability < _PROMISING
        told_more = self.curves.tell_more(answer.polished) if nothing_speaks else None
        polished = told_more or self.curves.trend(answer.polished)
        self.spent("refine", began)
        if polished is None:
            return answer
        led = self.judged(polished, answer.score, margin=was.margin, rival_px=was.rival_px)
        now = led.evidence
        as_well = now.likeness >= _AS_LIKE * was.likeness and now.parts >= was.parts - _FEWER_PARTS
        return led if (told_more or as_well) and self.is_wanted(led.place) else answer

    def judged(self, polished: Polished, score: float, **known: float) -> Answer:
        """An answer that did not come from the ladder; of its evidence some may be `known`."""
        evidence = self.judge([Hypothesis(polished.moving_from_fixed, score)])
        return self.known(polished, replace(evidence, **known), score)

    @cached_property
    def closer(self) -> "Pair":
        """The same pair on a ladder of finer levels."""
        closer = Pair(self.fixed, self.moving, self.wanted, self.between, _CLOSER_PIXELS, self.unmoved)
        closer.seconds = self.seconds
        return closer

    def foremost(self, answers: list[Answer], waiting: list[Candidate]) -> Answer:
        """The most probable of some answers, when each knows of the others and of what was not polished."""
        answers = [a for a in answers if not self.is_outdone(a.place)] or answers
        places = [*(answer.place for answer in answers), *(candidate.ranked[0] for candidate in waiting)]
        places = [h for h in places if not self.is_outdone(h)]
        known = (replace(a, evidence=self.beside(a, places)) for a in answers)
        return max(
            (replace(a, probability=verdict.probability(a.evidence)) for a in known), key=lambda a: a.probability
        )

    def beside(self, answer: Answer, places: list[Hypothesis]) -> verdict.Evidence:
        """The evidence for an answer when other places are known too."""
        evidence = verdict.beside(answer.evidence, answer.place, places, self.size_hw)
        if not 0 < evidence.margin < _CHANCE_LEAD or self.likeness < EXACTLY:
            return evidence
        return replace(evidence, margin=_OF_LATTICE * evidence.margin)

    def is_apart(self, place: Hypothesis, others: list[Hypothesis], px: float | None = None) -> bool:
        """Whether a place lies apart from all others: by more than so many pixels, or than makes two starts of it."""
        least = self.near if px is None else px
        return all(self.finish.apart(place, other) > least for other in others)

    def is_outdone(self, place: Hypothesis) -> bool:
        """Whether full detail has told already that another place fits far better."""
        return not self.is_apart(place, self.outdone)

    def candidate(self, starts: list[Hypothesis], *, wide: bool) -> Candidate | None:
        """The best that the ladder makes of some starts."""
        began = time.perf_counter()
        ranked = self.ladder.climb(starts, self.model, self.size_hw, wide=wide)
        ranked = [h for h in ranked if self.is_wanted(h)]
        self.spent("refine", began)
        if not ranked:
            return None
        evidence = self.judge(ranked)
        return Candidate(ranked, evidence, verdict.promise(evidence))

    def told_apart(self, candidate: Candidate) -> Candidate:
        """A candidate less those places that fit about as well on the ladder and far worse in full detail.

        The edges of texture that repeats fit a period further as well; what does not repeat may be as fine as noise.
        """
        first = candidate.ranked[0]
        rivals = [h for h in candidate.ranked if h.score > _RIVAL * first.score or h.correlation > first.correlation]
        if len(rivals) == 1 or candidate.promise < _PROMISING:
            return candidate
        began = time.perf_counter()
        noise = [self.finish.glance(h.moving_from_fixed).noise for h in rivals]
        self.spent("refine", began)
        least = min((n for n in noise if math.isfinite(n)), default=math.inf)
        told = [h for h, n in zip(rivals, noise, strict=True) if n <= _WORSE * least]
        if len(told) in (0, len(rivals)):
            return candidate
        self.outdone += [h for h in rivals if all(h is not r for r in told)]
        ranked = [*told, *(h for h in candidate.ranked if all(h is not r for r in rivals))]
        evidence = self.judge(ranked)
        return Candidate(ranked, evidence, verdict.promise(evidence))

    def answer(self, candidate: Candidate) -> Answer:
        """A candidate as exact as it gets, and what speaks for it."""
        candidate = self.told_apart(candidate)
        began = time.perf_counter()
        best = candidate.ranked[0]
        # What no detail can tell is not looked for on finer levels.
        precise = candidate.evidence.slide_deg is None
        for far in (_NEAR, _NEAR, _FAR):
            polished = self.finish.polish(best.moving_from_fixed, far, precise=precise)
            # Far from where it started, the last level has not seen the neighbourhood of its own answer.
            if self.finish.apart(best, polished) < _NEAR * self.base or far == _FAR:
                break
            better = self.ladder.again(polished.moving_from_fixed, self.model, self.size_hw)
            if better is None or better.score < best.score or self.finish.apart(better, best) < SAME * self.base:
                break
            best = better
        moved = self.finish.apart(best, polished) / self.base
        if moved > far:
            # It stopped at blurred pictures, or before finer levels, and goes on from there.
            so_far = polished if polished.sharp and moved <= _FAR else None
            polished = self.finish.polish(polished.moving_from_fixed, precise=precise, so_far=so_far)
        polished = self.finish.best_known(best, polished)
        self.spent("refine", began)
        evidence, matrix = candidate.evidence, polished.moving_from_fixed
        if self.finish.apart(candidate.ranked[0], polished) > SAME * self.judged_at:
            evidence = self.judge([Hypothesis(matrix, best.score), *candidate.ranked[1:]])
        return self.known(polished, evidence, best.score)

    def known(self, polished: Polished, evidence: verdict.Evidence, score: float) -> Answer:
        """An answer with all that is known of its place, its error bar included."""
        if evidence.slide_deg is not None:
            polished = self.unknown_along(polished, evidence.slide_deg)
        evidence = replace(
            evidence,
            corner_sigma_px=corner_sigma(polished, self.model, self.size_hw),
            fine_parts=self.fine_agreement(polished),
            overlap=polished.overlap,
            correlation=polished.correlation,
        )
        return Answer(polished, evidence, verdict.probability(evidence), score)

    @cached_property
    def likeness(self) -> float:
        """How much the fixed picture looks the same elsewhere (`periods.likeness`)."""
        coarsest = self.ladder.reductions[0]
        return likeness(self.levels.at(coarsest, coarsest).features[0])

    @property
    def repeats(self) -> bool:
        """Whether that is enough for another place to fit about as well."""
        return self.likeness > ALIKE

    def is_beyond_doubt(self, polished: Polished) -> bool:
        """Whether no other place can fit as well as this one."""
        return hardly_differ(polished) and self.likeness < EXACTLY

    def with_periods(self, answer: Answer) -> list[Answer]:
        """An answer, and where texture repeats better places that lie periods of it or quarter turns away.

        There all edges agree, and every part of the pictures.
        """
        answers = [answer]
        while len(answers) < _ANSWERS and self.repeats and not self.is_beyond_doubt(answers[-1].polished):
            known = answers[-1]
            beside = self.periods(known)
            if beside is None:
                break
            first, places = beside.ranked[0], [a.place for a in answers]
            same = self.finish.apart(first, known.place) <= self.near
            if not same and first.score > _RIVAL * known.score and self.is_apart(first, places):
                other = self.answer(beside)
                if not self.is_apart(other.place, places):
                    break
                answers.append(other)
                continue
            place = first if same else known.place
            evidence = verdict.beside(known.evidence, place, beside.ranked, self.size_hw)
            answers[-1] = replace(known, evidence=evidence, probability=verdict.probability(evidence))
            break
        return answers

    def periods(self, answer: Answer) -> Candidate | None:
        """The best that the ladder makes of places beside an answer (`Starts.beside`); None if there are none."""
        places = self.starts.beside(answer.place.moving_from_fixed)
        found = self.candidate(places, wide=False) if places else None
        return None if found is None else self.told_apart(found)

    def unknown_along(self, polished: Polished, direction_deg: float) -> Polished:
        """An answer whose shift along a direction may be anything up to a quarter of the picture."""
        angle = math.radians(direction_deg)
        along = np.zeros(self.model.parameter_count)
        along[:2] = 0.25 * max(self.size_hw) * np.array([math.cos(angle), math.sin(angle)])
        return replace(polished, covariance=polished.covariance + np.outer(along, along))

    def fine_agreement(self, polished: Polished) -> float:
        """`agreement.fine_agreement` on the base level, both pictures at about one density."""
        if hardly_differ(polished):
            return 1.0  # no place near can fit better than that
        began = time.perf_counter()
        matrix = polished.moving_from_fixed
        scale = local_scale(matrix, self.size_hw)
        r_fixed, r_moving = (self.base * max(1, round(k)) for k in (1 / scale, scale))
        if min(min(self.fixed.size_hw) // r_fixed, min(self.moving.size_hw) // r_moving) < ACROSS:
            return 1.0  # no room for patches
        there = at_level(matrix, r_fixed, r_moving)
        share = agreement.fine_agreement(self.fixed.at(r_fixed), self.moving.at(r_moving), there)
        self.spent("verdict", began)
        return share

    @property
    def judged_at(self) -> float:
        """Full-size pixels per pixel of the middle level, on which answers are judged."""
        return self.base * self.ladder.middle

    def judge(self, ranked: list[Hypothesis]) -> verdict.Evidence:
        """Evidence for and against the first of some hypotheses, on a middle level."""
        began = time.perf_counter()
        answer = ranked[0].moving_from_fixed
        rung = self.ladder.rung(self.judged_at / self.base, local_scale(answer, self.size_hw))
        evidence = verdict.collect(rung.problem, rung.to_level(answer), ranked, self.size_hw, self.finer)
        self.spent("verdict", began)
        return evidence


def hardly_differ(polished: Polished) -> bool:
    """Whether no other place can fit better than this one."""
    return polished.noise < _SAME_NOISE and polished.correlation > _SAME_CORRELATION
