"""The last refinement, on the finest level: as exact as the noise allows, with an error bar.

From a transform that is right to about a pixel: first on blurred pictures (`smooth`), which forgive much, then on all
frequencies (`sharp`), again and again until nothing moves. The sharp answer stands where the smooth one agrees, or
knows much less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from imgalign._types import Floats, Image, Matrices, Matrix3, Weight
from imgalign.coords import lattice, mapped_planes
from imgalign.numerics.masks import mask_or_none
from imgalign.numerics.problem import Problem
from imgalign.numerics.sums import total
from imgalign.refine.alike import Alike
from imgalign.refine.levenberg_marquardt import refine
from imgalign.refine.sharp import Sharp
from imgalign.refine.uncertainty import BlurredNoise, covariance, rough_corner_sigma
from imgalign.sampling import Reader
from imgalign.transforms import Model, corner_distance, local_scale

_CUTOFF = 6.0  # robust standard deviations: 98 % efficient under normal noise
_TILE = 16  # pixels a side of the tiles whose scores give the error bar; errors are correlated over fewer
_LIT_TILE = 32  # the same where the light is a gain that changes over the picture
_MANY_TILES = 30  # so many of them are enough
_NEARBY_PX = 0.05  # is enough where a finer level goes on, or nothing but the fit is asked
_SETTLED_PX = 0.02  # a round that moves the corners by less leaves nothing to learn for another
_ASTRAY_PX = 0.3  # and this far from the answer even one gain and one bias may have been misjudged
_APART = 3.0  # standard deviations by which the smooth and the sharp answer may differ
_TOO_FAR = 2.0  # times that: an answer from all frequencies may have been pulled by a codec's blocks
_ALIASED_PX = 0.05  # farther than that nothing that is aliased has pulled an answer
_CLEARLY = 2.0  # times as exact, by predicted errors, an answer knows clearly more
_CHANCE = 2.0  # standard deviations of the smooth answer by which both differ without a reason
_OVERSAMPLING = 1.5  # of the spline through the blurred moving picture
_SMOOTH_PX = 0.0015  # what the spline through blurred pictures may err by itself
_SMOOTH_ROUNDS = 3  # at most
_OVERLAP_PIXELS = 30_000  # tell it to a thousandth
_HELD = 0.1  # share by which noise in the gradients may hold a step back; of the predicted error, too


@dataclass(frozen=True)
class Polished:
    """A refined transform with its error bar.

    Attributes:
        moving_from_fixed: In pixels of the given pictures.
        covariance: `(P, P)` of the model's parameters (`transforms.Model.generators` of the fixed size).
        correlation: Of the two pictures over the overlap, after the light is taken away.
        overlap: Share of the fixed picture that has moving picture under it.
        noise: Robust standard deviation of the residual over the contrast.
        loss: Robust mean squared residual.
        converged: The last step was below the tolerance.
        history: Loss after each step.
        white_sigma_px: Predicted error of the corners if noise is white: what answers are compared by.
        doubt_px: By how much answers from blurred and from sharp pictures contradict each other beyond chance, or those
            of feature pictures of different detail.
        misfit: How many times the variances are larger for what the model cannot follow (`uncertainty.Known`).
        sharp: Pictures that are not blurred had their say as well.
    """

    moving_from_fixed: Matrix3
    covariance: Floats
    correlation: float
    overlap: float
    noise: float
    loss: float
    converged: bool
    history: tuple[float, ...]
    white_sigma_px: float
    doubt_px: float = 0.0
    misfit: float = 1.0
    sharp: bool = False

    def doubted(self) -> "Polished":
        """The same with an error bar that holds doubt and misfit as well."""
        known = rough_corner_sigma(self.covariance)
        more = self.misfit + ((self.doubt_px / known) ** 2 if known > 0 else 0.0)
        return self if more == 1 else replace(self, covariance=self.covariance * more, doubt_px=0.0, misfit=1.0)


def polish(
    fixed: tuple[Image, Weight],
    moving: tuple[Image, Weight],
    moving_from_fixed: Matrix3,
    model: Model,
    *,
    rounds: int = 3,
    iterations: int = 10,
    tolerance_px: float = 5e-4,
    robust: bool = True,
    light: bool | None = None,
    worth: Callable[[Polished], bool] = lambda _: True,
) -> Polished:
    """Refine a transform that is right to about a pixel; pictures `(1, 1, H, W)` with masks.

    Args:
        fixed: Picture that stays, and its mask.
        moving: Picture brought to it, and its mask.
        moving_from_fixed: Where it stands.
        model: Which steps are allowed.
        rounds: How often the pictures are looked at anew.
        iterations: Most steps in a round.
        tolerance_px: Stop when a step moves the corners by less.
        robust: Let occluders go; else plain least squares.
        light: Solve a gain that changes over the picture; None for: where the pictures ask for it.
        worth: Asked of the answer from blurred pictures: whether the others are to be looked at.
    """
    cutoff = _CUTOFF if robust else math.inf
    size_hw = fixed[0].shape[-2], fixed[0].shape[-1]
    history: list[float] = []
    descent = _Descent(moving_from_fixed[None], model, cutoff, size_hw, history)
    alike = Alike(fixed, moving, local_scale(moving_from_fixed, size_hw), _OVERSAMPLING if rounds > 1 else 1)
    if light is not False:
        alike.tone(descent.matrix, robust)
    problem = _smoothed(descent, alike, light, robust, rounds, iterations)
    answer = descent.polished(alike.sparse.noise[0])
    if rounds > 1 and worth(answer):
        # What blurred pictures do not show, those with all their noise will not either.
        relight = False if problem.gain is None else light
        sharp = Sharp(alike.spectra, fixed[1], moving[1], relight, robust, alike.noise, alike.rounding)
        near = _APART * answer.white_sigma_px < _ASTRAY_PX
        first, answer = answer, _sharpened(descent, sharp, near, rounds, iterations, tolerance_px)
        doubt_px = _doubt_px(first, answer, size_hw)
        if _stands(first, answer, size_hw):
            answer = replace(answer, doubt_px=doubt_px)
        else:
            doubt_px = doubt_px if _contradicts(first, answer, size_hw) else 0.0
            descent.matrix = first.moving_from_fixed[None]
            if alike.sparse is not alike.blurred:
                descent.run(alike.blurred.problem(descent.matrix, light, robust), tolerance_px, iterations)
                first = descent.polished(alike.blurred.noise[0])
            # The noise of the pictures is what the unblurred ones show.
            answer = replace(first, noise=answer.noise, doubt_px=doubt_px)
        answer = replace(answer, sharp=True)
    reader = replace(alike.blurred.moving, mask=mask_or_none(moving[1]), margin=0.0)
    return replace(answer, overlap=_overlap(fixed[1], reader, answer.moving_from_fixed))


def _smoothed(
    descent: "_Descent", alike: Alike, light: bool | None, robust: bool, rounds: int, iterations: int
) -> Problem:
    """Refine on the blurred pictures; how they were compared last.

    Light and blur are learnt from where the transform stands: once it has moved, anew.
    """
    refocused = alike.focus(descent.matrix)
    tolerance_px = 0.1 * _SETTLED_PX if rounds > 1 else _NEARBY_PX
    for _ in range(_SMOOTH_ROUNDS):
        problem = alike.sparse.problem(descent.matrix, light, robust)
        descent.run(problem, tolerance_px, iterations, step=alike.sparse.step)
        if rounds == 1:
            break
        refocused = refocused and alike.focus(descent.matrix)
        if not refocused and descent.moved < (_SETTLED_PX if problem.gain is not None else _ASTRAY_PX):
            break
    return problem


def _overlap(weight: Weight, moving: Reader, moving_from_fixed: Matrix3) -> float:
    """Share of the fixed picture's weight that has moving picture under it, as every few of its pixels tell."""
    step = max(1, int((weight.numel() / _OVERLAP_PIXELS) ** 0.5))
    weight = weight[..., ::step, ::step]
    size_hw = weight.shape[-2], weight.shape[-1]
    at = mapped_planes((moving_from_fixed @ lattice(step))[None], size_hw, weight.dtype, weight.device)
    return float(total(moving.weights(*at) * weight) / total(weight).clamp_min(1e-9))


class _Descent:
    """Where a transform stands while it is refined on one problem after the other."""

    def __init__(
        self, matrix: Matrices, model: Model, cutoff: float, size_hw: tuple[int, int], history: list[float]
    ) -> None:
        self.matrix, self._model, self._cutoff, self._size_hw, self._history = matrix, model, cutoff, size_hw, history
        self.moved = math.inf

    def run(self, problem: Problem, tolerance_px: float, iterations: int, *, step: int = 1, held: float = 1.0) -> None:
        """Refine; `moved` then says how far that moved the corners, px.

        Args:
            problem: The two pictures.
            tolerance_px: As in `refine`.
            iterations: As in `refine`.
            step: Pixels of the fixed picture per pixel of the problem.
            held: As in `refine`.
        """
        sparse = lattice(step)
        state = refine(
            problem,
            self.matrix @ sparse,
            self._model,
            iterations=iterations,
            tolerance_px=tolerance_px / step,
            cutoff=self._cutoff,
            history=self._history,
            held=held,
        )
        after = state.final @ np.linalg.inv(sparse)
        self.moved = corner_distance(self.matrix[0], after[0], self._size_hw)
        self.matrix = after / after[:, 2:, 2:]
        self._last = problem, state, step

    def polished(self, noise: BlurredNoise | None) -> Polished:
        """The last answer, with its error bar."""
        problem, state, step = self._last
        h, w = (step * n for n in problem.size_hw)
        # Under a changing gain residuals are alike over as far as it varies.
        tile = _TILE if problem.gain is None or h * w < _MANY_TILES * _LIT_TILE**2 else _LIT_TILE
        known = covariance(problem, state, self._model, self._cutoff, tile // step, noise).scaled(step)
        return Polished(
            moving_from_fixed=self.matrix[0],
            covariance=known.covariance,
            correlation=float(state.correlation[0]),
            overlap=float(state.overlap[0]),
            noise=float(state.scale[0]),
            loss=float(state.loss[0]),
            converged=bool(state.converged[0]),
            history=tuple(self._history),
            white_sigma_px=rough_corner_sigma(known.white),
            misfit=known.misfit,
        )


def _sharpened(
    descent: _Descent, sharp: Sharp, near: bool, rounds: int, iterations: int, tolerance_px: float
) -> Polished:
    """The answer from all frequencies, from a place that is `near` it, as `Sharp.look` asks, or may be not."""
    done: Polished | None = None
    for _ in range(rounds + (not near)):
        look = sharp.look(descent.matrix, near=near)
        # Under much noise gradients serve for one step: made anew after each, they hold nothing back.
        once = look.held > _HELD and descent.moved < _ASTRAY_PX
        descent.run(look.problem, tolerance_px, 1 if once else iterations, held=look.held)
        left = descent.moved * (look.held if once else look.held / max(1 - look.held, 0.1))
        near = descent.moved < _ASTRAY_PX
        if descent.moved < _SETTLED_PX and look.told:
            done = descent.polished(None)
            if left < _HELD * done.white_sigma_px:
                break
            done = None
    done = done or descent.polished(None)
    return replace(done, converged=done.converged or once)


def _stands(smooth: Polished, sharp: Polished, size_hw: tuple[int, int]) -> bool:
    """Whether the answer from all frequencies is to be taken, rather than that from blurred pictures.

    It is where it is predicted about as good, and lies where the smooth one allows. Fine detail knows more, but what
    cameras alias and codecs drop is not noise: it is shared, and can pull a shift while its error bar shrinks. Blurred
    pictures do not feel it. They feel what changes slowly, as light does: an answer that contradicts them stands as
    well, if it does not lie as far away as the edges of a codec's blocks may pull it.
    """
    first, second = smooth.white_sigma_px, sharp.white_sigma_px
    apart = _apart(smooth, sharp, size_hw)
    if apart >= 1:
        return apart < _TOO_FAR and _contradicts(smooth, sharp, size_hw)
    # Two estimates of a sigma scatter: always to take the smaller would be to take the one that flatters.
    return second < 1.5 * first or rough_corner_sigma(sharp.covariance) < rough_corner_sigma(smooth.covariance)


def _contradicts(smooth: Polished, sharp: Polished, size_hw: tuple[int, int]) -> bool:
    """Whether the sharp answer lies where the smooth one does not allow, and promises clearly less of an error.

    Nearer answers may be pulled apart by what is aliased, which the sharp one alone feels.
    """
    if _CLEARLY * sharp.white_sigma_px >= smooth.white_sigma_px or _apart(smooth, sharp, size_hw) < 1:
        return False
    return corner_distance(smooth.moving_from_fixed, sharp.moving_from_fixed, size_hw) > _ALIASED_PX


def _apart(smooth: Polished, sharp: Polished, size_hw: tuple[int, int]) -> float:
    """How far two answers are apart, as a share of what chance allows."""
    allowed = _APART * math.hypot(smooth.white_sigma_px, sharp.white_sigma_px, _SMOOTH_PX)
    return corner_distance(smooth.moving_from_fixed, sharp.moving_from_fixed, size_hw) / allowed


def _doubt_px(smooth: Polished, sharp: Polished, size_hw: tuple[int, int]) -> float:
    """By how much the sharp answer contradicts the smooth one beyond chance."""
    apart = corner_distance(smooth.moving_from_fixed, sharp.moving_from_fixed, size_hw)
    return math.sqrt(max(apart**2 - (_CHANCE * smooth.white_sigma_px) ** 2, 0.0))
