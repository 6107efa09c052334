"""Levenberg-Marquardt on pixels: many hypotheses at once, on one level of the pyramid.

A row of the batch is a hypothesis: a matrix from fixed to moving pixels of this level. The residual is the
difference of the two pictures, each brought to zero mean and unit contrast over their overlap, so that
gain and bias are solved with the geometry. Steps are inverse compositional (Baker and Matthews 2004): the
gradients are those of the fixed picture and are computed once.

The normal equations are sums of `gradient * gradient * polynomial(x, y)`, because every generator's
displacement field is a polynomial of degree two at most. So they are the image moments of a few product
images, two small matrix products each, and the (pixels x parameters) Jacobian is never formed.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Floats, Image, Matrices
from imgalign.numerics.basis import Basis, basis_of
from imgalign.numerics.devices import gathered
from imgalign.numerics.problem import Problem
from imgalign.numerics.residuals import normalised, robust, sampled, unrelated_loss
from imgalign.numerics.sums import plane_sums, total
from imgalign.transforms import Model, exponentials

CUTOFF = 4.0  # robust standard deviations from which residuals lose weight: what the pictures do not share is much
_LEAST_WEIGHT = 30.0  # an overlap of less weight than so many pixels says nothing
_FREE = 1e-3  # damping up to which a step is as good as undamped
_ALIKE = 1.02  # losses within this factor say nothing about two answers
_SLOWEST = 0.85  # the ratio of two steps up to which a series of them is summed
_NOTHING = 0.05  # of the predicted error: steps below are not worth another look at the pictures


@dataclass
class State:
    """A batch of hypotheses and what their pictures say; a few numbers a row.

    Attributes:
        matrices: `(B, 3, 3)` level matrices, fixed to moving: where the pictures were compared.
        final: The same after a last step, too short to be worth comparing them again.
        normal: `(B, P + 2C, P + 2C)` normal matrix of the parameters and of each channel's bias and gain.
        slope: `(B, P + 2C)` Jacobian times residual.
        loss: `(B,)` robust mean squared residual (pictures of unit contrast).
        objective: `(B,)` the loss as a share of that of unrelated pictures, less one, times the overlap: a mean over
            the overlap alone could win by sliding apart; here every pixel given up costs.
        scale: `(B,)` robust standard deviation of the residual.
        weighed_at: `(B,)` the scale of residuals that weights and loss go by: it may be that of a step before.
        misfit: `(B,)` the loss summed over pixels and channels.
        yielding: `(B,)` derivative of the slope, as a share of what the normal matrix has for it: residuals lose
            weight as they grow, and so the slope grows less than its weights tell.
        correlation: `(B,)` weighted correlation over the overlap, mean over the channels.
        overlap: `(B,)` share of the fixed picture's weight that has moving picture under it.
        converged: `(B,)` the last step was under the tolerance.
    """

    matrices: Matrices
    final: Matrices
    normal: Floats
    slope: Floats
    loss: Floats
    objective: Floats
    scale: Floats
    weighed_at: Floats
    misfit: Floats
    yielding: Floats
    correlation: Floats
    overlap: Floats
    converged: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.matrices)

    def select(self, rows: NDArray[Any]) -> "State":
        """The hypotheses of these rows, by number or true, as a batch of their own."""
        return State(**{k: v[rows] for k, v in vars(self).items()})

    def put(self, rows: NDArray[Any], other: "State") -> None:
        """Write another batch over these rows."""
        for k, v in vars(self).items():
            v[rows] = getattr(other, k)

    def information(self, parameter_count: int) -> Floats:
        """`(B, P, P)` normal matrix of the parameters alone, bias and gain eliminated (Schur complement)."""
        p = parameter_count
        geometry, cross, nuisance = self.normal[:, :p, :p], self.normal[:, :p, p:], self.normal[:, p:, p:]
        nuisance = nuisance + 1e-9 * np.eye(nuisance.shape[1])
        return np.asarray(geometry - cross @ np.linalg.solve(nuisance, cross.transpose(0, 2, 1)))


def refine(
    problem: Problem,
    start: Matrices | State,
    model: Model,
    *,
    iterations: int = 20,
    tolerance_px: float = 0.01,
    cutoff: float = CUTOFF,
    hold_overlap: bool = False,
    history: list[float] | None = None,
    held: float | None = None,
) -> State:
    """Descend from each of `(B, 3, 3)` level matrices by damped Gauss-Newton steps.

    Args:
        problem: The two pictures.
        start: The matrices; or where another descent on these pictures, with this cutoff, came to: rows that have
            converged there stay.
        model: Which steps are allowed.
        iterations: At most so many steps.
        tolerance_px: A row has converged when its step moves the corners by less.
        cutoff: Residuals beyond so many robust standard deviations lose weight; `inf` for plain least squares.
        hold_overlap: Take only steps whose gain is worth the overlap they cost. For coarse levels, where sliding
            apart could win; near the end it would pull the answer towards more overlap.
        history: The loss after each step is appended here, mean over the rows.
        held: Share of a step that may be left to do behind it, near an answer that noise leaves uncertain. Where it is
            given, steps are those of residuals that are noise, and a row has also converged when what is left of its
            step is nothing beside the error to be expected of the answer.
    """
    generators = model.generators(problem.size_hw)
    # A copy: rows of it are written over, and the caller keeps its own.
    best = start if isinstance(start, State) else evaluate(problem, start.astype(float), model, cutoff)
    damping = np.full(len(best), _FREE)
    before = np.zeros((len(best), model.parameter_count))
    for _ in range(iterations):
        if history is not None:
            history.append(float(best.loss.mean()))
        rows = np.flatnonzero(~best.converged & (best.overlap > 0))
        if len(rows) == 0:
            break
        # What few rows allow is not done for nothing.
        now = best if len(rows) == len(best) else best.select(rows)
        step, length = _step(now, damping[rows], model.parameter_count, problem.size_hw)
        # A damped step says nothing of how steps shrink, nor of how residuals yield to them.
        free = damping[rows] <= _FREE
        if held is not None:
            more = np.where(free, _yielded(now, step), 1.0)
            step, length = step * more[:, None], length * more
        factor = np.where(free, _lengthened(step, before[rows]), 1.0)
        step, before[rows] = step * factor[:, None], step * free[:, None]
        ahead = now.matrices @ exponentials(-step, generators)
        short = _is_last(now, length, tolerance_px, held, model.parameter_count)
        best.final[rows[short]], best.converged[rows[short]] = ahead[short], True
        if short.any():
            rows, now, ahead, length = rows[~short], now.select(~short), ahead[~short], length[~short]
        if len(rows) == 0:
            break
        # A share, unlike the loss, may be compared whatever the scale of the residuals.
        trial = evaluate(problem, ahead, model, cutoff, None if hold_overlap else now.scale)
        if hold_overlap:
            better = (trial.objective <= now.objective) & (trial.overlap > 0)
        else:
            better = _is_better(now, trial, length, model.parameter_count, problem.size_hw)
            # Losses at two scales of the residuals are no measure of each other.
            stale = ~better & (now.weighed_at != now.scale)
            if stale.any():
                now.put(stale, evaluate(problem, now.matrices[stale], model, cutoff))
                best.put(rows, now)
                better = _is_better(now, trial, length, model.parameter_count, problem.size_hw)
        if len(rows) == len(best) and better.all():
            best = trial
        else:
            best.put(rows[better], trial.select(better))
        before[rows[~better]] = 0.0
        # A row whose steps all fail, however short, lies in its minimum to working precision.
        best.converged[rows] = ~better & (damping[rows] > 1e3)
        damping[rows] = np.where(better, damping[rows] * 0.1, np.maximum(damping[rows], 1e-4) * 10)
    return best


def _is_last(now: State, length: Floats, tolerance_px: float, held: float | None, count: int) -> NDArray[np.bool_]:
    """Which steps are so short that they are right to second order as they are predicted; or enough, see `refine`."""
    short = length < tolerance_px
    if held is not None:
        left = length * np.minimum(held + length, 1)  # the pictures are curved: more is left of a longer step
        short |= left < _enough(now, count)
    return np.asarray(short)


def _is_better(now: State, trial: State, length: Floats, count: int, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Which rows are better where a step of that length has led, by losses at one scale of the residuals."""
    better = trial.loss <= now.loss
    if not better.all():
        # Gradients of a common image have their zero a little beside the least loss. Near it what counts is that steps
        # get shorter.
        next_length = _step(trial, np.zeros(len(trial)), count, size_hw)[1]
        better |= (next_length < length) & (trial.loss <= _ALIKE * now.loss)
    return np.asarray(better & (trial.overlap > 0))


def _lengthened(step: Floats, before: Floats) -> Floats:
    """How much longer to make steps that shrink too slowly, or shorter those that go to and fro, `(B,)` factors.

    Noise in the gradients makes the normal matrix too large and each step too short by one factor: the steps then run
    in one direction as a geometric series, whose sum is known from two of its terms (Aitken's extrapolation). What
    overshoots by one factor, as where residuals yield less than noise would, runs to and fro as another such series.
    """
    dot, old, new = (step * before).sum(1), (before * before).sum(1), (step * step).sum(1)
    along = abs(dot) > 0.9 * np.sqrt(old * new)
    ratio = (dot / np.maximum(old, 1e-300)).clip(-1 / _SLOWEST, _SLOWEST)
    return np.where(along & (old > 0), 1 / (1 - ratio), 1.0)


def _yielded(now: State, step: Floats) -> Floats:
    """How much longer a step has to be for residuals that lose weight as they grow, `(B,)` factors.

    What a step explains of the residual it takes away whole. The rest is noise, and yields to the step (`State`).
    """
    explained = (step * now.slope[:, : step.shape[1]]).sum(1) / np.maximum(now.misfit, 1e-30)
    return np.asarray(1 / (now.yielding + explained.clip(0, 1) * (1 - now.yielding)))


def _enough(now: State, parameter_count: int) -> Floats:
    """A step, in pixels at the corners, that is nothing beside the error to be expected of the answer, `(B,)`."""
    values = np.linalg.eigvalsh(now.information(parameter_count))
    known = values > 1e-12 * values[:, -1:]
    variance = np.where(known, 1 / np.where(known, values, 1), 0).sum(1)
    return np.asarray(_NOTHING * now.scale * np.sqrt(variance))


def _step(now: State, damping: Floats, count: int, size_hw: tuple[int, int]) -> tuple[Floats, Floats]:
    """The damped step of the parameters, `(B, P)`, and how far it moves the corners, in pixels."""
    diagonal = now.normal.diagonal(axis1=1, axis2=2)
    damped = now.normal.copy()
    floor = 1e-9 * diagonal.max(1, keepdims=True) + 1e-12
    np.einsum("bii->bi", damped)[:] += diagonal * damping[:, None] + floor
    step = np.linalg.solve(damped, now.slope[..., None])[:, :count, 0]
    length = abs(step).max(1)
    longest = 0.1 * max(size_hw)  # the linearisation holds no further
    return step * (longest / np.maximum(length, longest))[:, None], length


def evaluate(problem: Problem, matrices: Matrices, model: Model, cutoff: float, scale: Floats | None = None) -> State:
    """Residuals of a batch of matrices, and their normal equations.

    Args:
        problem: The two pictures.
        matrices: `(B, 3, 3)`, fixed to moving pixels.
        model: Which steps are allowed.
        cutoff: As in `refine`.
        scale: `(B,)` residual scale for the robust weights and the loss; estimated here where it is None. The
            returned state carries the scale of its own residuals, and its loss and weights by the given one.
    """
    pixels, overlap, correlation, own_scale, yielding, misfit, moments, gain = _looked(
        problem, matrices, model, cutoff, scale
    )
    loss = misfit / np.maximum(pixels, 1e-9)
    used = np.maximum(own_scale if scale is None else scale, problem.rounding)
    unrelated = unrelated_loss(used, cutoff, problem.fixed.shape[1])
    normal, slope = _normal_equations(basis_of(model, problem.size_hw), moments, gain)
    return State(
        matrices=matrices,
        final=matrices.copy(),
        normal=normal,
        slope=slope,
        loss=loss,
        objective=overlap * (loss / unrelated - 1),
        scale=own_scale,
        weighed_at=(own_scale if scale is None else scale).copy(),  # rows of either are written over
        misfit=misfit,
        yielding=yielding,
        correlation=correlation,
        overlap=np.where(pixels > _LEAST_WEIGHT, overlap, 0.0),
        converged=np.zeros(len(matrices), bool),
    )


def _looked(problem: Problem, matrices: Matrices, model: Model, cutoff: float, scale: Floats | None) -> list[Floats]:
    """What the pictures say of a batch, arguments as of `evaluate`.

    Returns:
        `(B,)` pixels of the overlap, its share, correlation, scale, yielding and misfit; what `_moments` gives; and the
        gain of gradients.
    """
    moving, valid = problem.read(matrices)
    pixels = plane_sums(valid)[:, 0]
    overlap = pixels / total(problem.weight).clamp_min(1e-9)
    fixed_n, moving_n, gain, correlation = normalised(problem.fixed, moving, valid, problem.contrast)
    residual = moving_n - fixed_n
    some = sampled(problem, residual, valid)
    own_scale = some.scale()
    used = own_scale if scale is None else torch.from_numpy(scale).to(own_scale.dtype).to(own_scale.device)
    used = used if problem.rounding == 0 else used.clamp_min(problem.rounding)
    weight, misfit = robust(problem, residual, valid, used, cutoff)
    moments = _moments(problem, model, weight, residual, torch.lerp(moving_n, fixed_n, problem.share))
    # All that is small comes from the pictures' device together.
    return gathered(pixels, overlap, correlation, own_scale, some.yielding(used, cutoff), misfit, moments, gain)


def _moments(problem: Problem, model: Model, weight: Tensor, residual: Tensor, mean_picture: Tensor) -> Tensor:
    """All sums over pixels that the normal equations are made of: `(B, 14, C, i, j)` moments of `_products`."""
    basis = basis_of(model, problem.size_hw)
    pictures = problem.gradient_x, problem.gradient_y, weight, residual, mean_picture
    batch, channels, _, width = weight.shape
    slabs = (
        basis.moments(_products(*(x[..., rows, :] for x in pictures)), rows)
        for rows in basis.slabs(batch * channels * width)
    )
    return reduce(torch.add, slabs)


def _products(gx: Image, gy: Image, weight: Tensor, residual: Tensor, mean_picture: Tensor) -> Tensor:
    """Weighted products of gradients, residual r and mean picture m, `(B, 14, C, h, w)`.

    They are gx gx, gx gy and gy gy; gx and gy, then these times r, then times m; and 1, m, m m, r and m r.
    """
    gx, gy, w, r, m = (x[:, None] for x in (gx, gy, weight, residual, mean_picture))
    made = w.new_empty((len(w), 14, *w.shape[2:]))
    along = made[:, 3:5]
    torch.mul(w, gx, out=along[:, :1])
    torch.mul(w, gy, out=along[:, 1:])
    torch.mul(along, gx, out=made[:, :2])
    torch.mul(along[:, 1:], gy, out=made[:, 2:3])
    torch.mul(along, r, out=made[:, 5:7])
    torch.mul(along, m, out=made[:, 7:9])
    made[:, 9:10] = w
    wm = torch.mul(w, m, out=made[:, 10:11])
    torch.mul(wm, m, out=made[:, 11:12])
    torch.mul(w, r, out=made[:, 12:13])
    torch.mul(wm, r, out=made[:, 13:])
    return made


def _normal_equations(basis: Basis, moments: Floats, gain: Floats) -> tuple[Floats, Floats]:
    """Normal matrix and slope over the model's parameters, then each channel's bias, then each channel's gain.

    Args:
        basis: Displacement fields of the model.
        moments: What `_moments` gives.
        gain: `(B, C, 1, 1)` what gradients are multiplied by.
    """
    rows, channels, count = len(moments), moments.shape[2], len(basis.p)
    size = count + 2 * channels
    normal = np.zeros((rows, size, size))
    gain = gain[:, None]
    squares = (gain**2 * moments[:, :3]).sum(2)
    products = basis.products.reshape(count * count, -1)
    normal[:, :count, :count] = (squares.reshape(rows, -1) @ products.T).reshape(-1, count, count)
    # Of each row, of 1, residual and mean picture, of x and y, of each channel: times the fields, of each parameter.
    terms = basis.p.shape[-1]
    along = (gain * moments[:, 3:9, :, :terms, :terms]).reshape(rows, 3, 2, channels, -1)
    lines = along[:, :, 0] @ basis.p.reshape(count, -1).T + along[:, :, 1] @ basis.q.reshape(count, -1).T
    cross = lines[:, ::2].reshape(rows, 2 * channels, count)  # bias of each channel, gain of each channel
    normal[:, count:, :count], normal[:, :count, count:] = cross, cross.transpose(0, 2, 1)
    plain = moments[:, 9:, :, 0, 0]
    c, d = np.arange(count, count + channels), np.arange(count + channels, size)
    normal[:, c, c], normal[:, d, d] = plain[:, 0], plain[:, 2]
    normal[:, c, d] = normal[:, d, c] = plain[:, 1]
    return normal, np.concatenate([lines[:, 1].sum(1), plain[:, 3:].reshape(rows, -1)], 1)
