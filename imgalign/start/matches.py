"""The transforms that lay most keypoints of one picture on those of another that are described alike.

Each two matches say rotation, scale and shift; how many others agree, and how surprising that is against chance, ranks
them (`spots` does the same for points without a description).
"""

import math

import numpy as np
from numpy.typing import NDArray

from imgalign._types import Matrix3
from imgalign.decompose import Float, mapped
from imgalign.start.consensus import EXACT_PX, closer_and_closer, held, similarity, surprise
from imgalign.start.keypoints import Keypoints
from imgalign.start.search import Hypothesis
from imgalign.transforms import MODELS, Model

_BETTER = 0.88  # of the distance to the next best description elsewhere
_FIRST, _ELSEWHERE = 4, 3.0  # best ones that are looked at; pixels from the very best
_FEWEST = 8  # matches, of which patterns are too many
_PAIRS = 2000  # of matches that are laid on each other
_ASKED = 200  # of all matches are asked which pair says best
_LONG = 0.05  # of the longer side: shorter pairs say little of rotation and scale
_OWN_SCALE, _OWN_DEG = 1.6, 30.0  # by which two matches may differ from what each says by itself
_NEAR = 0.02  # of the longer side: a match agrees that comes so near
_ROUNDS = 4  # of fits with each model, from the simplest on
_SIMPLER = {"affine": ("similarity",), "homography": ("similarity", "affine")}
_KEPT = 3  # hypotheses, from which on no other place is looked for


def matched(fixed: Keypoints, moving: Keypoints, model: Model) -> list[Hypothesis]:
    """The transforms that lay most keypoints on like ones, best first; matrices in pixels of the pictures.

    A score is how much of a surprise it is, in nats, that by chance so many would agree; what one of all the places
    tried may well come to by chance is left out. The keypoints that agree with one place say nothing for the next.
    """
    moving = moving.either_way()
    here, there = _alike(fixed, moving)
    found: list[Hypothesis] = []
    while len(found) < _KEPT and len(here) >= _FEWEST:
        places, agree = _laid(fixed, moving, here, there, model)
        if not places:
            break
        found += places
        here, there = here[~agree], there[~agree]
    return found


def _alike(fixed: Keypoints, moving: Keypoints) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Keypoints that are each other's best, and clearly better than what lies elsewhere."""
    if min(len(fixed), len(moving)) < _FEWEST:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    likeness = fixed.descriptions @ moving.descriptions.T
    back = likeness.argmax(0).cpu().numpy()
    values, order = (x.cpu().numpy() for x in likeness.topk(_FIRST, dim=1))
    best = order[:, 0]
    # One blob may be there twice, with two directions: the next best is one of another place.
    apart = np.linalg.norm(moving.points[order] - moving.points[best][:, None], axis=-1)
    second = np.where(apart > _ELSEWHERE, values, -1.0).max(1)
    one, two = (np.sqrt((2 - 2 * x).clip(0)) for x in (values[:, 0], second))
    clear = np.flatnonzero((back[best] == np.arange(len(fixed))) & (one < _BETTER * two))
    return clear, best[clear]


def _laid(
    fixed: Keypoints, moving: Keypoints, here: NDArray[np.intp], there: NDArray[np.intp], model: Model
) -> tuple[list[Hypothesis], NDArray[np.bool_]]:
    """The place that most matches agree with, and which do; none where it is no surprise."""
    p, q = fixed.points[here], moving.points[there]
    a, b = (np.asarray(points @ [1, 1j], complex) for points in (p, q))
    own = moving.sizes[there] / fixed.sizes[here] * np.exp(1j * (moving.angles[there] - fixed.angles[here]))
    turn, shift = _similarities(a, b, own, _LONG * max(fixed.size_hw), model)
    if len(turn) == 0:
        return [], np.zeros(len(p), bool)
    reach = _NEAR * max(*fixed.size_hw, *moving.size_hw)
    some = slice(None, None, -(-len(a) // _ASKED))
    count = (np.abs(turn[:, None] * a[some] + shift[:, None] - b[some]) < reach).sum(1)
    first = int(count.argmax())
    fitted = _fitted(p, q, similarity(turn[first], shift[first]), reach, model)
    chance = math.pi * EXACT_PX**2 / math.prod(moving.size_hw)
    agree = np.zeros(len(p), bool)
    places: list[Hypothesis] = []
    for matrix in fitted:
        agree = _agreeing(p, q, matrix, EXACT_PX)
        nats = float(surprise(np.array(agree.sum()), np.array(len(p)), chance)) - math.log(len(turn))
        places.insert(0, Hypothesis(matrix, nats))
    return (places if places and places[0].score > 0 else []), agree


def _fitted(p: Float, q: Float, matrix: Matrix3, reach: float, model: Model) -> list[Matrix3]:
    """A model fitted to the matches that agree, from far to near; nothing where too few do.

    A homography of few matches leads astray where there are none: before it stands the affine one.
    """

    def agreeing(place: Matrix3, within: float) -> tuple[Float, Float]:
        agree = _agreeing(p, q, place, within)
        return p[agree], q[agree]

    simple = [MODELS[name] for name in _SIMPLER.get(model.name, ())]
    stages = [(stage, max(_FEWEST, stage.parameter_count)) for stage in (*simple, model)]
    # The similarity is only on the way to the others.
    return closer_and_closer(matrix, stages, agreeing, reach, _ROUNDS)[len(simple) > 0 :]


def _agreeing(p: Float, q: Float, matrix: Matrix3, reach: float) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(mapped(matrix, p) - q, axis=1) < reach)


def _similarities(
    a: NDArray[np.complex128], b: NDArray[np.complex128], own: NDArray[np.complex128], long: float, model: Model
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """`z -> turn z + shift` of pairs of matches that say about what each says by itself."""
    rng = np.random.default_rng(0)
    i, j = rng.integers(len(a), size=(2, _PAIRS))
    side = a[j] - a[i]
    apart = np.abs(side) > long
    i, j, side = i[apart], j[apart], side[apart]
    turn = (b[j] - b[i]) / side
    likely = np.abs(turn) > 0
    for k in (i, j):
        off = turn / own[k]
        with np.errstate(divide="ignore"):
            likely &= (np.abs(np.log(np.abs(off))) < math.log(_OWN_SCALE)) & (
                np.abs(np.angle(off, deg=True)) < _OWN_DEG
            )
    i, j, turn = i[likely], j[likely], turn[likely]
    turn = held(turn, model)
    return turn, 0.5 * (b[i] + b[j] - turn * (a[i] + a[j]))
