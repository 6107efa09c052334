"""By how much one of two aligned pictures is blurred more than the other: focus, motion, lenses, the size of pixels.

A sharp picture on a blurred one leaves all its edges as residuals. These are no noise: they lie where the gradients
are, and pull wherever light, weights or the end of the picture are not the same on both sides of an edge. So the
sharper picture is blurred by what the other has more.

The blur is told by the ratio of both spectra where they are coherent, and taken for a Gaussian that may be longer along
one axis than along the other. That is what low frequencies show of a point spread function of any shape, and they
decide where a blurred picture lies.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nn
from numpy.typing import NDArray

from imgalign._types import Floats, Weight
from imgalign.numerics.devices import gathered
from imgalign.numerics.neighbours import least
from imgalign.numerics.spectral import Spectrum
from imgalign.numerics.sums import mean
from imgalign.pyramid import block_mean
from imgalign.refine.light import View

_CELL = 4  # frequencies a side over which coherence is told
_SMALLEST = 8 * _CELL  # pixels a side of a picture with enough of them
_SECTORS = 8  # of directions, in which what is coherent may end at frequencies of their own
_ENDS = 0.4  # mean coherence of a ring in its sector with which the frequencies end that show the scene
_COHERENT = 0.5  # least coherence of a cell that counts
_FEWEST = 15  # of them
_LEAST = 0.04  # px^2: less is not worth it
_MOST = 40.0  # px^2: more is no blur but another place
_WORTH = 0.85  # share of what sets the spectra apart that the blur must leave at most
_ENOUGH_PIXELS = 16_000  # on every few rows, to tell whether there is anything to tell
_STEEPER = 0.04  # times that slopes have to be for it
_ROUNDS = 3  # of robust weights
_CUTOFF = 3.0  # robust standard deviations from which cells lose weight
_INSIDE = 1 / 20  # of the shorter side: half of what it takes the window to rise
_WINDOW_CELLS = 64  # of the longer side, on which it is made

Covariance = Floats  # (2, 2), of a point spread function along x and y, px^2


def blurred_alike(
    fixed: Spectrum, moving: Spectrum, more: Covariance, moving_from_fixed: Floats
) -> tuple[Spectrum, Spectrum]:
    """Two pictures, of each axis the sharper one blurred to the other.

    Args:
        fixed: The picture that stays.
        moving: The other.
        more: By how much the moving picture is blurred more (`difference`).
        moving_from_fixed: `(2, 2)` derivative of moving pixels in fixed ones, which takes blurs along.
    """
    values, vectors = np.linalg.eigh(more)
    of_moving, of_fixed = ((vectors * np.maximum(sign * values, 0)) @ vectors.T for sign in (1, -1))
    return _blurred(fixed, of_moving), _blurred(moving, moving_from_fixed @ of_fixed @ moving_from_fixed.T)


def _blurred(picture: Spectrum, covariance: Covariance) -> Spectrum:
    if not covariance.any():
        return picture
    fy, fx = picture.frequencies()
    (xx, xy), (_, yy) = (-2 * math.pi**2 * covariance).tolist()
    return picture.filtered(torch.exp(xx * fx * fx + 2 * xy * fx * fy + yy * fy * fy))


def difference(view: View, spacing: int = 1) -> Covariance | None:
    """By how much the moving picture is blurred more than the fixed one, in pixels of the fixed one.

    Noise in one picture makes it look sharper. So the blur is told twice, once as if all that is not coherent were
    noise of the one picture and once of the other, and the lesser of both counts.

    Args:
        view: The pictures, about aligned: where they lie a fraction of a pixel apart, coherence suffers little.
        spacing: Pixels of the pictures per pixel of the view.

    Returns:
        Positive along axes along which the moving picture is blurred more; None where both are about as sharp, or
        where it is not known.
    """
    cells = _cells(view, spacing) if _steepness_differs(view) else None
    if cells is None or len(cells.x) < _FEWEST:
        return None
    # Logarithm of a Gaussian's response, as a sum over the parts of its covariance.
    terms = -2 * math.pi**2 * np.stack([cells.x**2, 2 * cells.x * cells.y, cells.y**2])
    ratio, noise = 0.5 * np.log(cells.moving / cells.fixed), -0.5 * np.log(cells.coherence)
    trust = 1 / (1.02 - cells.coherence)
    one, other = (_fitted(terms, ratio + sign * noise, trust) for sign in (-1, 1))
    axes = np.linalg.eigh(one + other)[1]
    one, other = (np.diag(axes.T @ x @ axes) for x in (one, other))
    lesser = np.where(one * other > 0, np.sign(one) * np.minimum(abs(one), abs(other)), 0.0)
    more: Covariance = (axes * lesser) @ axes.T
    if not _LEAST < abs(lesser).max() < _MOST or _unlike(cells, terms, more) > _WORTH * _unlike(cells, terms, 0 * more):
        return None
    return more


def _steepness_differs(view: View) -> bool:
    """Whether the slopes of one picture, over its contrast, are steeper than those of the other along some axis."""
    steepness = []
    apart = max(2, view.fixed.numel() // _ENOUGH_PIXELS)
    valid, below = (view.valid[..., first::apart, :] for first in (0, 1))
    for image in (view.fixed, view.warped):
        rows, next_rows = image[..., ::apart, :], image[..., 1::apart, :]
        along = (rows[..., 1:] - rows[..., :-1]).square_()
        down = (next_rows - rows[..., : next_rows.shape[-2], :]).square_()
        slopes = mean(along, valid[..., 1:] * valid[..., :-1]), mean(down, below)
        steepness.append(torch.stack(slopes) / mean((rows - mean(rows, valid)).square_(), valid))
    ratio = steepness[0] / steepness[1]
    return not bool(((ratio - 1).abs() < _STEEPER).all())


class _Cells(NamedTuple):
    """What small groups of frequencies say, `(N,)` each: cycles per pixel, power of both pictures, coherence."""

    x: Floats
    y: Floats
    fixed: Floats
    moving: Floats
    coherence: Floats


def _cells(view: View, spacing: int) -> _Cells | None:
    """Those frequencies at which both pictures show the scene, from the lowest on without a gap."""
    h, w = view.valid.shape[-2:]
    window = _window(view.valid) if min(h, w) >= _SMALLEST else None
    if window is None:
        return None
    f, m = (torch.fft.rfft2((x - mean(x, window)) * window)[0, 0, :, : w // 2] for x in (view.fixed, view.warped))
    cross = f * m.conj()
    planes = (cross.real, cross.imag, f.real.square() + f.imag.square(), m.real.square() + m.imag.square())
    real, imaginary, fixed, moving = gathered(*(block_mean(x, _CELL) for x in planes))
    coherence = (real**2 + imaginary**2) / np.maximum(fixed * moving, 1e-30)
    rows, columns = coherence.shape
    y, x = (np.fft.fftfreq(n)[: k * _CELL].reshape(k, _CELL) for n, k in ((h, rows), (w, columns)))
    one_sign = (np.ptp(y, axis=1) < 0.5)[:, None]  # not where positive frequencies turn to negative ones
    y, x = np.broadcast_arrays(y.mean(1)[:, None], x.mean(1))
    ring = (np.hypot(y, x) * min(h, w) / _CELL).round().astype(int)
    sector = ((np.arctan2(y, x) / math.pi + 0.5) * _SECTORS).astype(int).clip(0, _SECTORS - 1)
    shape = (_SECTORS, ring.max() + 1)
    at = np.ravel_multi_index((sector, ring), shape).ravel()
    count = np.bincount(at, minlength=math.prod(shape))
    level = np.bincount(at, coherence.ravel(), math.prod(shape)) / np.maximum(count, 1)
    shown = np.minimum.accumulate(((level > _ENDS) | (count == 0)).reshape(shape), axis=1)
    told = (coherence > _COHERENT) & shown.ravel()[at].reshape(coherence.shape) & one_sign
    return _Cells(*(p[told] for p in (x / spacing, y / spacing, fixed, moving, coherence)))


def _fitted(terms: Floats, ratio: Floats, trust: Floats) -> Covariance:
    """The covariance that explains a logarithm of amplitudes best, and a gain, by robust least squares."""
    columns = np.concatenate([np.ones_like(terms[:1]), terms])
    weight = trust
    for _ in range(_ROUNDS):
        normal, slope = (columns * weight) @ columns.T, (columns * weight) @ ratio
        # Not by an inverse, which frequencies along one line alone do not have.
        _, xx, xy, yy = fit = np.linalg.lstsq(normal, slope, rcond=None)[0]
        residual = (ratio - fit @ columns) ** 2 * trust
        weight = trust / (1 + residual / (_CUTOFF**2 * 2.2 * np.median(residual) + 1e-12))
    return np.array([[xx, xy], [xy, yy]])


def _unlike(cells: _Cells, terms: Floats, more: Covariance) -> float:
    """Share of the pictures' slopes that is not common to both if the sharper one is blurred by so much."""
    blur = more[[0, 0, 1], [0, 1, 1]] @ terms
    fixed, moving = np.exp(np.minimum(blur, 0)), np.exp(np.minimum(-blur, 0))
    steep = cells.x**2 + cells.y**2
    common = steep * fixed * moving * np.sqrt(cells.coherence * cells.fixed * cells.moving)
    powers = (steep * fixed**2 * cells.fixed).sum() * (steep * moving**2 * cells.moving).sum()
    return float(1 - common.sum() / math.sqrt(max(powers, 1e-30)))


def _window(weight: Weight) -> Weight | None:
    """A weight that falls smoothly to nothing towards what is not seen; None where that leaves next to nothing."""
    h, w = weight.shape[-2:]
    side = max(1, max(h, w) // _WINDOW_CELLS)
    reach = max(1, round(_INSIDE * min(h, w) / side))
    seen = nn.pad((block_mean(weight, side) > 0.99).to(weight.dtype), (1, 1, 1, 1))
    inner = least(seen, 2 * reach + 1)
    for _ in range(2):
        inner = nn.avg_pool2d(inner, 2 * reach + 1, 1, reach)
    inner = inner[..., 1:-1, 1:-1]
    if not bool(inner.mean() > 0.05):
        return None
    up_y, up_x = (
        torch.as_tensor(_splines(n, side, k)).to(inner) for n, k in zip((h, w), inner.shape[-2:], strict=True)
    )
    return up_y @ inner @ up_x.T * weight


def _splines(n: int, side: int, count: int) -> NDArray[np.float64]:
    """Cubic B-splines of `count` cells on `n` pixels, `(n, count)`: no kink that would show in a spectrum."""
    t = abs(((np.arange(n) + 0.5) / side - 0.5)[:, None] - np.arange(count))
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clip(0) ** 3 / 6)
