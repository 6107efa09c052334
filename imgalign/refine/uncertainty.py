"""How well the parameters of an answer are known: the sandwich estimate of their covariance.

Summing squared scores (Jacobian times residual) over tiles asks nothing of the noise but that it is correlated
over less than a tile: colour, robust weights, misfit of the light all count as they are (White 1980; Liang and
Zeger 1986 for clusters). What is correlated over more, larger tiles tell. A tile that decides much by itself has drawn
the answer to itself, and its score is small for that: each is divided by the root of what the others leave it (Bell and
McCaffrey 2002, CR2). And the weights of residuals fall as these grow, so that the slope's derivative is less than the
normal matrix (Huber 1967).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from imgalign._types import Floats, Image, Weight
from imgalign.numerics.basis import basis_of, over_blocks
from imgalign.numerics.devices import gathered
from imgalign.numerics.problem import Problem
from imgalign.numerics.residuals import normalised, robust
from imgalign.numerics.sums import variance
from imgalign.pyramid import blocks
from imgalign.refine.levenberg_marquardt import State
from imgalign.transforms import Model

_BLOCK = 8  # pixels a side over which a displacement field is taken for constant
_LITTLE_LEVERAGE = 0.03  # of a tile, up to which its square does not matter
_MOST_LEVERAGE = 0.98  # of a tile, so that one that decides alone gives a number still
_FEWEST_ALONG = 6  # tiles along the shorter side that are joined no further: two tell no wave from noise
_MANY_ALONG = 14  # from where on they are asked: what is alike over more than a tile is, as a rule, over much more
_CHANCE = 2.0  # standard deviations by which larger tiles may tell of more by chance
_NOTHING_KNOWN = 1e-9  # of the largest eigenvalue of the information: what rounding leaves where there is none
_UNBOUNDED = 1e12  # px^2: a variance that says so
_LEAST_SIGNAL = 0.05  # share of the normal matrix that is taken for signal at least: noise is known to a few per cent


@dataclass(frozen=True)
class BlurredNoise:
    """White noise of a picture before a Gaussian blur, and what is left of it behind.

    Attributes:
        variance: Before the blur, grey levels squared.
        blur_px: Standard deviation of the Gaussian, px.
        step: Pixels from one that is compared to the next: derivatives count in these.
    """

    variance: float
    blur_px: float
    step: int = 1

    @property
    def blurred(self) -> float:
        """Variance behind the blur, grey levels squared."""
        return self.variance / (4 * math.pi * self.blur_px**2)

    def white(self, blurred: Image) -> float:
        """Variance of the derivative at unit contrast."""
        contrast = float(variance(blurred).clamp_min(1e-12))
        return self.step**2 * self.blurred / (2 * self.blur_px**2 * contrast)

    def most(self, scale: float) -> float:
        """The same if all of a residual of that standard deviation is noise, half of it in each picture."""
        return self.step**2 * scale**2 / (4 * self.blur_px**2)


def covariance(
    problem: Problem, state: State, model: Model, cutoff: float, tile: int, noise: BlurredNoise | None
) -> "Known":
    """Covariance of the parameters, `(P, P)`: the sandwich of the normal matrix and the scores of tiles.

    Args:
        problem: The two pictures.
        state: Where they were compared last.
        model: Which steps were allowed.
        cutoff: As in `refine`.
        tile: Pixels a side of the tiles, a multiple of two; errors are correlated over fewer.
        noise: Of the fixed picture, where the gradients are its own. It is in the normal matrix, but not in the slope's
            derivative, the product of the gradients of both pictures. None for gradients of the Wiener-filtered mean,
            whose noise makes up just for what the filter takes off the signal.
    """
    moving, valid = problem.read(state.matrices[:1])
    tiles = tile_scores(problem, moving, valid, state, model, cutoff, tile)
    information = state.information(len(tiles.slopes))[0]
    bread, unknown = _inverse(information)
    scores, leverage = _unfitted(tiles, bread)
    strength, _ = _strength(scores, leverage, bread)
    meat = _evened(scores, leverage, information, strength) / state.yielding[0] ** 2
    misfit = _misfit(tiles, strength, bread)
    if noise is None:
        white = bread @ meat @ bread + unknown
        return Known(white, white, misfit)
    # All of the residual may be noise, half of it in each picture; white noise is what looks like no structure.
    most = noise.most(float(state.scale[0]))
    unit = noise_information(problem, valid, model, 1.0)
    least = noise.white(problem.fixed)
    breads = [_less(information, noise * unit) for noise in (max(most, least), least)]
    most_known, white = (bread @ meat @ bread + unknown for bread in breads)
    return Known(most_known, white, misfit)


class Known(NamedTuple):
    """How well parameters are known.

    Attributes:
        covariance: `(P, P)`, with as much noise in the gradients as there may be.
        white: The same with white noise only.
        misfit: How many times larger variances are than either says, for what the model cannot follow; at least 1.
    """

    covariance: Floats
    white: Floats
    misfit: float

    def scaled(self, pixel: float) -> "Known":
        """The same of parameters that move corners in units of which such a pixel has so many."""
        return self._replace(covariance=pixel**2 * self.covariance, white=pixel**2 * self.white)


def _misfit(tiles: "Tiles", strength: float, bread: Floats) -> float:
    """How many times the variance is that of errors that are alike over no more than a tile; at least once.

    Noise is not alike over more, but what a model cannot follow is: a lens, depth, a rolling shutter. Scores of larger
    tiles are then stronger than chance lets them be.
    """
    misfit = 1.0
    while min(tiles.seen.shape) > _FEWEST_ALONG:
        tiles = tiles.joined()
        if min(tiles.seen.shape) <= _MANY_ALONG:
            larger, chance = _strength(*_unfitted(tiles, bread), bread)
            misfit = max(misfit, larger / max(strength, 1e-30) - _CHANCE * chance)
    return misfit


def _inverse(information: Floats) -> tuple[Floats, Floats]:
    """Inverse of the information, zero along directions of which it says nothing; and a huge variance along those.

    So few pixels may be left of a tiny picture that they tell fewer numbers than a model has.
    """
    values, vectors = np.linalg.eigh(information)
    known = values > _NOTHING_KNOWN * max(values[-1], 0.0)
    if known.all():
        return np.asarray(np.linalg.pinv(information), float), np.zeros_like(information)
    inverse: Floats = (vectors[:, known] / values[known]) @ vectors[:, known].T
    return inverse, _UNBOUNDED * vectors[:, ~known] @ vectors[:, ~known].T


def _unfitted(tiles: "Tiles", bread: Floats) -> tuple[Floats, Floats]:
    """Scores `(tiles, P)` as large as if the answer had not been fitted to them, and the leverage of each tile.

    Each times the inverse root of what the fit has left of it, `1 - leverage`: right on average where noise is alike
    everywhere (Bell and McCaffrey's CR2). The root is a rational one, good to a tenth up to a leverage of 0.9.
    """
    scores, shares = tiles.listed()
    leverage = shares @ bread
    traces = np.trace(leverage, axis1=1, axis2=2)
    whole = scores + 0.5 * (leverage @ scores[..., None])[..., 0]  # the root's first terms, enough for most
    much = np.flatnonzero(traces > _LITTLE_LEVERAGE)
    h = _MOST_LEVERAGE * leverage[much]
    # Fields that vary over a block are taken for constant: a tile that is the whole picture may seem to be still more.
    doubtful = np.flatnonzero(_MOST_LEVERAGE * traces[much] > 1)
    h[doubtful] /= np.maximum(abs(np.linalg.eigvals(h[doubtful])).max(1, initial=0) / _MOST_LEVERAGE, 1)[:, None, None]
    eye, square = np.eye(h.shape[-1]), h @ h
    above, below = eye - 3 / 4 * h + 1 / 16 * square, eye - 5 / 4 * h + 5 / 16 * square
    whole[much] = np.linalg.solve(below, above @ scores[much, :, None])[..., 0]
    return whole, traces


def _strength(scores: Floats, leverage: Floats, bread: Floats) -> tuple[float, float]:
    """How strong noise is over what the normal matrix says, and that number's standard deviation as a share of it.

    More tiles tell than decide the answer: none has more of a say than an average one.
    """
    if not leverage.any():  # nothing is seen
        return 0.0, 1.0
    shortened = np.minimum(1, leverage.mean() / np.maximum(leverage, 1e-30))
    squares = ((scores @ bread) * scores).sum(1)
    # Two shifts a tile, less what was fitted.
    free = max(2 * _effective(leverage * shortened) - scores.shape[1], 1.0)
    return float((squares * shortened).sum() / (leverage * shortened).sum()), math.sqrt(2 / free)


def _evened(scores: Floats, leverage: Floats, information: Floats, strength: float) -> Floats:
    """The scatter of the scores, drawn to that of noise alike everywhere where few tiles tell how it differs.

    It is known from as many draws as there would be tiles if all had one leverage. The inverse of a covariance from few
    draws is far too large in directions in which they happen to scatter little, so that it is shrunk (Ledoit and Wolf
    2004): draws of noise alike everywhere are put in, six for each unknown and six more, for a tile tells a shift along
    two axes alone. What is left is made up for by a factor with which the 95 % ellipse holds 92 to 98 % of simulated
    truths from 16 tiles on, whether noise is alike everywhere or ten times as strong on some of them.
    """
    p = scores.shape[1]
    draws = _effective(leverage)
    put_in = 6 * (p + 1)
    drawn = (draws * scores.T @ scores + put_in * strength * information) / (draws + put_in)
    return np.asarray(drawn * (1 + 0.5 * (p + 1) / (draws + p)))


def _effective(weights: Floats) -> float:
    """How many there would be if all had one weight."""
    return max(float(weights.sum() ** 2 / max((weights**2).sum(), 1e-30)), 1.0)


def rough_corner_sigma(covariance: Floats) -> float:
    """About the predicted error of the corners, px: a unit of any parameter moves them by about a pixel."""
    return math.sqrt(max(float(np.trace(covariance)), 0.0))


class Tiles(NamedTuple):
    """Sums over square tiles of the fixed picture, the last of each row and column perhaps smaller.

    Attributes:
        slopes: `(P, rows, columns)` Jacobian times residual.
        normals: `(P, P, rows, columns)` Jacobian times Jacobian.
        seen: `(rows, columns)` weight of the pixels.
    """

    slopes: Floats
    normals: Floats
    seen: Floats

    def listed(self) -> tuple[Floats, Floats]:
        """`(tiles, P)` and `(tiles, P, P)` of those that are seen."""
        there = self.seen > 0
        return self.slopes[:, there].T, self.normals[..., there].transpose(2, 0, 1)

    def joined(self) -> "Tiles":
        """Two by two tiles as one."""
        return Tiles(*(_tile_sums(x, 2) for x in self))


def tile_scores(
    problem: Problem, moving: Image, valid: Weight, state: State, model: Model, cutoff: float, tile: int
) -> "Tiles":
    """What each square tile says at the first row's matrix: its share of the slope and of the normal matrix.

    Bias and gain are eliminated as in `State.information`. At the minimum the slopes sum to nothing; how far
    they scatter says how well the parameters are known. Over blocks of a few pixels the displacement fields are
    taken for constant: they are that to some per cent, and the scatter is known no better.
    """
    fixed_n, moving_n, gain, _ = normalised(problem.fixed, moving, valid, problem.contrast)
    residual = moving_n - fixed_n
    scale = torch.as_tensor(np.maximum(state.scale[:1], problem.rounding)).to(residual.dtype).to(residual.device)
    weight = robust(problem, residual, valid, scale, cutoff)[0]
    wr = weight * residual
    mean_picture = torch.lerp(moving_n, fixed_n, problem.share)
    gx, gy = problem.gradient_x * gain, problem.gradient_y * gain
    wx = weight * gx
    products = (gx * wr, gy * wr, wr, wr * mean_picture, wx * gx, wx * gy, weight * gy * gy)
    side = min(_BLOCK, tile // 2)
    slope_x, slope_y, *others = gathered(*(blocks(x[0], side).mul_(side**2) for x in (*products, valid)))
    # A bias and a gain to every channel, one displacement to all.
    slope_x, slope_y, xx, xy, yy, seen = (x.sum(0) for x in (slope_x, slope_y, *others[2:]))
    p, q = over_blocks(model, problem.size_hw, side)  # (P, rows, columns)
    count = model.parameter_count
    normal = state.normal[0]
    nuisance = normal[count:, count:]
    mixing = np.linalg.solve(nuisance + 1e-9 * np.eye(len(nuisance)), normal[count:, :count])
    scores = p * slope_x + q * slope_y - np.tensordot(mixing.T, np.concatenate(others[:2]), 1)
    pairs = p[:, None] * (xx * p + xy * q) + q[:, None] * (xy * p + yy * q)
    return Tiles(*(_tile_sums(x, tile // side) for x in (scores, pairs, seen)))


def _tile_sums(planes: Floats, side: int) -> Floats:
    """Sums over tiles of `side` x `side` blocks, `(..., h, w)`; the last ones perhaps smaller."""
    return np.asarray(side**2 * blocks(torch.from_numpy(planes), side).numpy())


def noise_information(problem: Problem, valid: Weight, model: Model, variance: float) -> Floats:
    """What noise in the gradients adds to the first row's normal matrix, `(P, P)`.

    Args:
        problem: The two pictures.
        valid: Weight of both, as compared.
        model: Which steps are allowed.
        variance: Of the noise in the gradient along either axis, of pictures at unit contrast.
    """
    basis = basis_of(model, problem.size_hw)
    # Row by row: a product of one picture alone is split among threads, and its rounding depends on how many there are.
    along_x = gathered(*((valid[0, 0] * x).sum(-1) for x in basis.powers(valid).x.T))
    moments = basis.powers_y.T @ np.stack(along_x, 1)
    return np.asarray(variance * np.tensordot(basis.products[:, :, 0] + basis.products[:, :, 2], moments, 2))


def _less(information: Floats, added: Floats) -> Floats:
    """Inverse of the information without what noise has added, of which `_LEAST_SIGNAL` is left in any direction."""
    values, vectors = np.linalg.eigh(information)
    known = values > _NOTHING_KNOWN * max(values[-1], 1e-30)
    # root @ root.T inverts the information
    root = vectors * np.where(known, 1 / np.sqrt(np.maximum(values, 1e-30)), 0.0)
    left, turn = np.linalg.eigh(np.eye(len(values)) - root.T @ added @ root)
    root = root @ turn
    return np.asarray((root / np.maximum(left, _LEAST_SIGNAL)) @ root.T)
