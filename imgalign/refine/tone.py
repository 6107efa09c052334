"""A tone curve between two aligned pictures: gamma, exposure, film, the same all over the picture.

A local gain follows such a curve only as far as each neighbourhood holds one brightness. What it leaves runs along the
edges, and pulls. So where a curve explains clearly more than a straight line does, one of the pictures is brought to
the tone of the other before they are compared.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from imgalign._types import Floats, Image, Weight
from imgalign.numerics.devices import gathered
from imgalign.numerics.noise import LEAST_SCENE
from imgalign.numerics.residuals import MAD_TO_SIGMA
from imgalign.numerics.sums import mean
from imgalign.refine.light import View, changing_light, lit

_DEGREE = 5  # of the polynomial: enough for gamma and a clipped end
_ENDS = 0.002  # share of the values at either end beyond which the curve goes on straight
_SAMPLES = 4_000  # pixels at most: enough for so few terms, and too few for threads to share a sum of them
_FEW = 400  # of them say nothing
_WHOLE = 0.95  # share of the most weight from which a pixel is seen
_ROUNDS = 3  # of robust weights
_CUTOFF = 4.0  # robust standard deviations from which residuals lose weight
_STRAIGHT = 1e6  # what keeps the curved terms of a line at nothing
_RIDGE = 1e-4  # of the curved terms: ends at which there is hardly a value stay straight
_WORTH = 0.7  # share of the residual of a straight line that a curve must leave at most
_BESIDE_LIGHT = 0.9  # the same of what both leave under a local gain
_SPREAD = 0.1  # share of all values that the middle four fifths must take up: a few bright points tell no curve
_USUAL = 2.563  # standard deviations of noise that the middle four fifths of it take up
_TURNS = 1.0  # of the mean slope: what turns back further is no curve's rounding of a clipped corner, but a modality's
_ALL_VALUES = np.linspace(-1, 1, 41)
_EXPLAINED = 0.1  # share of the contrast that a curve must leave at most: other things differ in more than tone


@dataclass(frozen=True)
class Curve:
    """A polynomial of grey values, going on straight beyond its ends.

    Attributes:
        terms: Coefficients of rising powers of a value brought to -1 to 1.
        middle: The value at 0, and
        half: the distance of the values at -1 and 1 from there.
        left: Share of the contrast that it does not explain.
    """

    terms: tuple[float, ...]
    middle: float
    half: float
    left: float

    def __call__(self, image: Image) -> Image:
        """The picture in the other tone."""
        t = (image - self.middle) / self.half
        inside = t.clamp(-1, 1)
        low, high = (float(np.polynomial.Polynomial(self.terms).deriv()(end)) for end in (-1.0, 1.0))
        out = torch.full_like(t, self.terms[-1])
        for term in self.terms[-2::-1]:
            out.mul_(inside).add_(term)
        beyond = t.sub_(inside)
        return out.add_(beyond.clamp_max(0), alpha=low).add_(beyond.clamp_min_(0), alpha=high)


class Toned(NamedTuple):
    """A curve and the picture that it brings to the tone of the other."""

    curve: Curve
    of_moving: bool

    def on(
        self, fixed: tuple[Image, Weight], moving: tuple[Image, Weight]
    ) -> tuple[tuple[Image, Weight], tuple[Image, Weight]]:
        """Two pictures with their masks, in one tone."""
        if self.of_moving:
            return fixed, (self.curve(moving[0]), moving[1])
        return (self.curve(fixed[0]), fixed[1]), moving


def toned(view: View, robust: bool, *, noise: tuple[float, float] | None = None, spacing: int = 1) -> Toned | None:
    """The curve between two pictures that are hardly noisy; None where a straight line or a local gain is as good.

    Which of the two it is for is what the better curve says: to flatten what the other has clipped is possible, the
    contrary is not.

    Args:
        view: As in `light.lit`, like all that is not named here.
    """
    stride = math.ceil((view.valid.numel() / _SAMPLES) ** 0.5)
    values, other_values, valid = gathered(*(x[0, 0, ::stride, ::stride].flatten() for x in view))
    seen = valid > _WHOLE * valid.max()
    if seen.sum() < _FEW:
        return None
    values, other_values = values[seen], other_values[seen]
    of_fixed, of_moving = noise or (0.0, 0.0)
    curves = (
        tone_curve(other_values, values, (of_moving, of_fixed)),
        tone_curve(values, other_values, (of_fixed, of_moving)),
    )
    found = [Toned(curve, of_moving) for curve, of_moving in zip(curves, (True, False), strict=True) if curve]
    best = min(found, key=lambda t: t.curve.left, default=None)
    if best is None:
        return None
    # Light that changes from place to place may look like a curve, and the curve would bend what is straight.
    there = lit(view, True, robust, noise=noise, spacing=spacing)[1]
    (fixed, _), (warped, _) = best.on((view.fixed, view.valid), (view.warped, view.valid))
    after = View(fixed, warped, view.valid)
    before, behind = (_left_by_light(v, there, spacing) for v in (view, after))
    return best if behind < _BESIDE_LIGHT * before else None


def _left_by_light(view: View, there: Weight | None, spacing: int) -> float:
    """Share of the contrast that a local gain leaves, where both pictures show the same."""
    light = changing_light(view, True, there, spacing=spacing)
    assert light is not None
    fixed, warped, valid = light.on(view)
    valid = valid if there is None else valid * there
    return float(mean((fixed - warped).square(), valid) / mean(fixed * fixed, valid).clamp_min(1e-20))


def tone_curve(values: Floats, wanted: Floats, noise: tuple[float, float] = (0.0, 0.0)) -> Curve | None:
    """The curve that takes values to what is wanted, `(N,)` each; None where a straight line is as good.

    Robust: what lies over the scene in one of the pictures has no part in it. The best guess of what is wanted from
    noisy values is curved even where the tone is one: where most of the scene is dark, darkness with noise in it is
    drawn to its mean. Such a curve leaves less than the noise that there is, and is none.

    Args:
        values: Of one picture.
        wanted: Of the other, at the same places.
        noise: Its variance in either.
    """
    n = len(values)
    ranks = [int(_ENDS * n), n // 10, n - 1 - n // 10, n - 1 - int(_ENDS * n)]
    low, usual_low, usual_high, high = np.partition(values, ranks)[ranks].tolist()
    usual = math.sqrt(max((usual_high - usual_low) ** 2 - _USUAL**2 * noise[0], 0.0))
    if not (high > low and usual > _SPREAD * (high - low)):
        return None
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    t = ((values - middle) / half).clip(-1, 1)
    powers = np.cumprod(np.stack([np.ones_like(t), *[t] * _DEGREE]), 0)
    line, (terms, left, contrast) = _fitted(powers, wanted)
    # A line's slope is what noise has left of it: the scene's own is that of contrasts less the noise in them.
    power, wanted_power = (
        max(v - n, LEAST_SCENE * v) for v, n in zip((values.var(), wanted.var()), noise, strict=True)
    )
    of_noise = noise[1] + noise[0] * wanted_power / max(power, 1e-30)
    by_line, by_curve = line.left / line.contrast, left / contrast
    if not (max(by_curve, of_noise / line.contrast) < _WORTH * by_line and by_curve < _EXPLAINED):
        return None
    slope = np.polynomial.Polynomial(terms).deriv()(_ALL_VALUES)
    if not (np.sign(slope.mean()) * slope).min() > -_TURNS * abs(slope.mean()):
        return None
    return Curve(terms, middle, half, by_curve)


class _Fit(NamedTuple):
    """Coefficients of rising powers, and the variances, robust ones, of what they leave and of all that there is."""

    terms: tuple[float, ...]
    left: float
    contrast: float


def _fitted(powers: Floats, wanted: Floats) -> list[_Fit]:
    """The straight line and the curve that fit best, by robust least squares.

    Args:
        powers: `(D, N)` of the values, from the power of zero on.
        wanted: `(N,)`.
    """
    degree, n = powers.shape
    # Products of two powers are powers: of what a round sums up there are few.
    summands = np.concatenate([powers, powers[1:] * powers[-1], powers * wanted])
    product = np.arange(degree)[:, None] + np.arange(degree)
    ridge = np.zeros((2, degree, degree))
    curved = np.arange(2, degree)
    ridge[0, curved, curved], ridge[1, curved, curved] = _STRAIGHT, _RIDGE
    weight = np.ones((2, n))
    for _ in range(_ROUNDS):
        # Not as a product of matrices, which threads might share: these sums are the same whatever their number.
        sums = np.einsum("rn,dn->rd", weight, summands) / n
        terms = np.linalg.solve(sums[:, product] + ridge, sums[:, -degree:, None])[..., 0]
        residual = wanted - np.einsum("rd,dn->rn", terms, powers)
        middle = np.partition(abs(residual), n // 2)[:, n // 2, None]
        scale = MAD_TO_SIGMA * np.maximum(middle, 1e-12)
        weight = 1 / (1 + (residual / (_CUTOFF * scale)) ** 2)
    centred = wanted - (weight * wanted).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    left, contrast = ((weight * x**2).sum(1) / weight.sum(1) for x in (residual, centred))
    fits = zip(terms.tolist(), left.tolist(), np.maximum(contrast, 1e-30).tolist(), strict=True)
    return [_Fit(tuple(t), *variances) for t, *variances in fits]
