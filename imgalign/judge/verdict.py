"""How sure: evidence that an answer is right, one probability from it, and the reasons in words.

The evidence comes from a reading of the moving picture on the fixed grid that took no part in the descent's
decisions (`agreement`), and from what is known of the answer itself and of its rivals.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imgalign._types import Matrix3
from imgalign.judge.agreement import parts_agreement
from imgalign.numerics.problem import Problem
from imgalign.start.search import Hypothesis
from imgalign.transforms import corner_distance

_HALF = 0.5  # of the structure: less is no reason to trust an answer, and one to doubt it
_HIGH = 8  # standard deviations: a peak that chance does not make

# Logistic regression of `python -m benchmarks.calibrate --count 16 --seed 4242` on pairs that score nothing, with an
# engine that went astray more often than this one: from the few errors that are left a fit learns too little of the
# margin, and is too sure of itself on repetitive texture. What patches say is too rare to be fitted: in 443 right
# answers they never fell below 0.85.
BY_HAND = {"fine": 10.0}
_ALONE = 1.5  # log of the score over the next one's where there is none, or none that counts
_PERIOD = 0.75  # of an answer's score, from which another place may be a period of texture away
_TIED = 0.01  # log of the score over the next one's at which both fit about alike; no right answer came below 0.06
_PRECISE = -2.5  # log of a predicted error that is small enough: still smaller ones do not speak for an answer
_INTERCEPT = -10.788
_WEIGHTS = BY_HAND | {
    "peak": 1.757,
    "parts": 5.122,
    "precision": -0.618,
    "overlap": 2.245,
    "margin": 1.294,
    "correlation": 1.686,
    "strength": 0.964,
}
# The same before an answer is polished: no error bar is known then, no patch was read.
EARLY = ("peak", "parts", "overlap", "margin", "strength")
_EARLY_INTERCEPT = -9.552
_EARLY_WEIGHTS = dict(zip(EARLY, (1.362, 6.088, 2.850, 1.084, 1.280), strict=True))


@dataclass(frozen=True)
class Evidence:
    """Figures that speak for or against an answer.

    Attributes:
        peak: Height of the correlation at no displacement, in standard deviations over all displacements.
        parts: Share of the picture's structure, part by part, whose best displacement is none.
        right_px: Corner error that counts as right, px.
        overlap: Share of the fixed picture under which there is moving picture.
        margin: Log of the score over that of the best hypothesis elsewhere.
        correlation: Of the two pictures at the end.
        likeness: Correlation of the feature pictures at the middle level.
        strength: Log of that correlation in standard deviations of what chance gives over so many pixels.
        rival_px: How far away the best hypothesis elsewhere is.
        slide_deg: Direction, degrees from x to y, along which the pictures share no structure; None as a rule.
        corner_sigma_px: Predicted corner error; infinite as long as it is not known.
        fine_parts: Share of the small patches on the finest level, of those that say something, that agree.
    """

    peak: float
    parts: float
    right_px: float
    overlap: float
    margin: float
    correlation: float
    likeness: float
    strength: float
    rival_px: float = math.inf
    slide_deg: float | None = None
    corner_sigma_px: float = math.inf
    fine_parts: float = 1.0

    @property
    def precision(self) -> float:
        """Log of the predicted corner error over what counts as right."""
        return math.log(max(self.corner_sigma_px, 1e-6) / self.right_px)

    def features(self) -> dict[str, float]:
        """What the regression reads: each figure bent and bounded, so that none outvotes all others."""
        return {
            "peak": math.log(max(self.peak, 1.0)),
            "parts": self.parts,
            "fine": min(self.fine_parts - 0.9, 0.0),
            "precision": max(_PRECISE, min(self.precision, 3.0)),
            "overlap": math.log(max(self.overlap, 0.01)),
            "margin": max(-1.0, min(self.margin, _ALONE)),
            "correlation": self.correlation,
            "strength": max(-1.0, self.strength),
        }


def probability(evidence: Evidence) -> float:
    """Probability that the mean corner error is under 3 px and under 1 % of the diagonal."""
    if evidence.slide_deg is not None:
        return 0.0  # any other place along the edges would do as well
    # Of two places that fit alike each may be the right one, and where there are two there may be more.
    share = 1 / (1 + math.exp(1 - max(evidence.margin, 0.0) / _TIED))
    return share * _logistic(evidence, _INTERCEPT, _WEIGHTS)


def promise(evidence: Evidence) -> float:
    """Probability that an answer will be right once it is polished."""
    return _logistic(evidence, _EARLY_INTERCEPT, _EARLY_WEIGHTS)


def _logistic(evidence: Evidence, intercept: float, weights: dict[str, float]) -> float:
    features = evidence.features()
    x = intercept + sum(weight * features[name] for name, weight in weights.items())
    return 1 / (1 + math.exp(-max(-40.0, min(x, 40.0))))


def right_px(size_hw: tuple[int, int]) -> float:
    """Corner error that counts as right, px."""
    return min(3.0, 0.01 * math.hypot(*size_hw))


def collect(
    problem: Problem, level_matrix: Matrix3, ranked: list[Hypothesis], size_hw: tuple[int, int], finer: float = 1.0
) -> Evidence:
    """Look at an answer afresh, before its error and its correlation on the finest level are known.

    Args:
        problem: Feature pictures of a middle level.
        level_matrix: The answer in pixels of that level.
        ranked: All that were refined, with scores of one level; the first is the answer.
        size_hw: Of the fixed picture.
        finer: How many times as fine the level is as those that the regression knows: of as much agreement it counts as
            many times the standard deviations.
    """
    seen = parts_agreement(problem, level_matrix)
    evidence = Evidence(
        peak=seen.peak / finer,
        parts=seen.parts,
        right_px=right_px(size_hw),
        overlap=seen.overlap,
        margin=_ALONE,
        correlation=seen.likeness,
        likeness=seen.likeness,
        strength=math.log(max(seen.likeness, 1e-3) * math.sqrt(max(seen.pixels, 1.0)) / finer),
        slide_deg=seen.slide_deg,
    )
    return beside(evidence, ranked[0], ranked[1:], size_hw)


def beside(evidence: Evidence, answer: Hypothesis, others: list[Hypothesis], size_hw: tuple[int, int]) -> Evidence:
    """The evidence for an answer when other places are known too, with scores of one level."""
    far = 0.02 * math.hypot(*size_hw)
    for other in others:
        distance = corner_distance(other.moving_from_fixed, answer.moving_from_fixed, size_hw)
        margin = _lead(answer, other)
        if distance > far and margin < evidence.margin:
            evidence = replace(evidence, margin=margin, rival_px=distance)
    return evidence


def _lead(answer: Hypothesis, other: Hypothesis) -> float:
    """Logarithm of an answer's score over that of another place, or of their correlations alone where these say less.

    Scores grow with the overlap. Where texture repeats, places a period apart differ by that alone: it says nothing.
    """
    lead = math.log(max(answer.score, 1e-3) / max(other.score, 1e-3))
    if other.score < _PERIOD * answer.score or min(answer.correlation, other.correlation) <= 0:
        return lead
    one, two = (math.atanh(min(h.correlation, 0.999)) for h in (answer, other))
    return min(lead, math.log(one / two))


def reasons(evidence: Evidence, trusted: bool) -> tuple[str, ...]:
    """In words, what speaks against an answer; of a trusted one what speaks for it, and then what leaves a doubt."""
    if trusted:
        return _support(evidence), *(f"although {doubt}" for _, doubt in _weaknesses(evidence))
    return tuple(against for against, _ in _weaknesses(evidence)) or ("the evidence taken together is too weak",)


def _support(evidence: Evidence) -> str:
    """What speaks for an answer: of what can be said in a few words, the first that holds."""
    if evidence.parts >= _HALF:
        return _agreeing_parts(evidence)
    if evidence.peak >= _HIGH:
        return f"the pictures fit {evidence.peak:.0f} sigma better here than displaced by some pixels"
    if evidence.precision <= 0:
        return f"predicted corner error {evidence.corner_sigma_px:.2g} px"
    return "the answer is as probable as was asked for"


def _weaknesses(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What is weak about an answer: as a reason not to trust it, and as a clause that leaves a doubt."""
    if evidence.slide_deg is not None:
        open_way = f"in one direction only, at {evidence.slide_deg:.0f} degrees: the shift along them is not known"
        yield f"edges {open_way}", f"edges run {open_way}"
        return
    if evidence.overlap < 0.25:
        share = f"{100 * evidence.overlap:.0f} %"
        yield f"overlap {share}", f"only {share} overlap"
    if evidence.margin < 0.1 and math.isfinite(evidence.rival_px):
        rival = f"a second position fits almost as well (corners {evidence.rival_px:.0f} px away)"
        rival += ": repetitive texture" * (evidence.parts > 0.4)
        yield rival, rival
    if evidence.parts < _HALF:
        few = f"only {_agreeing_parts(evidence)}"
        yield "pictures have little in common" if evidence.peak < _HIGH else few, few
    if evidence.precision > 0:
        large = "predicted corner error is above what counts as right"
        yield large, f"the {large}"


def _agreeing_parts(evidence: Evidence) -> str:
    return f"{100 * evidence.parts:.0f} % of the structure agrees part by part"
