"""The last rounds of the polish: both pictures as they are best compared, all frequencies and all pixels.

At a transform that is right to a few hundredths of a pixel the two pictures tell what is light (a local gain), what is
noise and at which frequencies, and which pixels fit worse than others. The gradients are those of the common image, the
Wiener-filtered mean of both, so that noise does not enter as structure.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Matrices, Weight
from imgalign.numerics.masks import full_weight, is_whole, mask_or_none
from imgalign.numerics.neighbours import around
from imgalign.numerics.problem import Problem
from imgalign.numerics.spectral import (
    NoiseModel,
    RadialResponse,
    Spectrum,
    faded_weight,
    noise_model,
    spectrum,
    spline_reader,
)
from imgalign.numerics.sums import mean, total
from imgalign.pyramid import blocks
from imgalign.refine.borders import border_mask
from imgalign.refine.light import Light, View, lit
from imgalign.refine.occluders import regrown
from imgalign.transforms import local_scale

_OVERSAMPLING = 2  # of the spline through the moving picture: all that it can hold is read where it is
_RAMP = 4.0  # pixels over which weights rise from the moving picture's border
_BLOCK = 4  # pixels a side over which the power of gradients is taken, and around each block on three times as many
_LITTLE = 0.01  # share of noise in the gradients that is not worth telling where it is
_LEAST_TOLD = 0.1  # of gradients in which noise is told from the scene with luck only
_STRAIGHT = 0.7  # share of the differences between classes of brightness that a straight line must explain
_TRUST_PIXELS = 8000  # enough of them to see how residuals grow with brightness


class Standard(NamedTuple):
    """Two pictures at zero mean and unit contrast, the moving one at the sign of the fixed; the latter's contrast."""

    fixed: Image
    warped: Image
    contrast: Tensor


@dataclass(frozen=True)
class Look:
    """Both pictures as they are best compared where a transform stands.

    Attributes:
        problem: Ready to be refined.
        held: Share of noise in its gradients (`NoiseModel.held`).
        told: Whether they are weighed by where noise leaves anything to be told, or there is next to none.
    """

    problem: Problem
    held: float
    told: bool


class _Found(NamedTuple):
    """How two pictures are best compared.

    Attributes:
        problem: Under one light, at equally strong noise, without what does not belong; its gradients mean nothing.
        noise: Of the pictures.
        spread: As in `Problem`.
        holes: Whether something within the pictures is left out.
    """

    problem: Problem
    noise: NoiseModel
    spread: Image | None
    holes: bool


class Sharp:
    """Both pictures unblurred, to be looked at from one transform after the other.

    Args:
        spectra: Of both pictures, at one density.
        fixed_weight: Mask of the fixed picture.
        moving_weight: The same of the other.
        light: Solve a gain that changes over the picture; None for: where the pictures ask for it.
        robust: Let occluders go.
        noise: Its variance in either picture.
        rounding: Standard deviation of the residual that rounding to few values has left, at unit contrast.
    """

    def __init__(
        self,
        spectra: tuple[Spectrum, Spectrum],
        fixed_weight: Weight,
        moving_weight: Weight,
        light: bool | None,
        robust: bool,
        noise: tuple[float, float],
        rounding: float,
    ) -> None:
        self._spectra, self._light, self._robust = spectra, light, robust
        self._noise, self._rounding = noise, rounding
        self._moving_weight: Weight | None = moving_weight
        self._has_holes = not (is_whole(fixed_weight) and is_whole(moving_weight))
        self._pictures = self._plain(spectra, fixed_weight, mask_or_none(moving_weight))
        self._found: _Found | None = None

    def look(self, matrix: Matrices, *, near: bool) -> Look:
        """Both pictures as they are best compared, from where the transform stands now.

        `near` says that it stands where the pictures differ by what they do not share, not by being apart. Light, what
        does not belong and noise are then what they were found to be before.
        """
        if not near or self._found is None:
            self._found = self._find(matrix)
        problem, noise, spread, holes = self._found
        view = _view(problem, matrix)
        standard = _standardised(view, problem.contrast)
        gradient_x, gradient_y = _common(view.valid, standard, noise, holes).derivatives()
        little = noise.held <= _LITTLE
        if near and not little:
            share = _told_share((gradient_x, gradient_y), view.valid, standard, noise)
            gradient_x, gradient_y = gradient_x * share, gradient_y * share
        weight = problem.weight if spread is None else problem.weight / spread.square()
        problem = replace(problem, gradient_x=gradient_x, gradient_y=gradient_y, weight=weight, spread=spread)
        return Look(problem, noise.held, near or little)

    def _find(self, matrix: Matrices) -> "_Found":
        """How both pictures are best compared where a transform stands."""
        plain = self._pictures
        view = _view(plain, matrix)
        light, there = lit(view, self._light, self._robust, noise=self._noise)
        if self._moving_weight is not None:  # the first time
            relit = view if light is None else light.on(view)
            standard = _standardised(relit)
            error = (standard.fixed - standard.warped).square_()
            mask = border_mask(error, relit.valid, matrix, self._moving_weight)
            plain = self._pictures = replace(plain, moving=replace(plain.moving, mask=mask))
            self._moving_weight = None
        problem = plain.within(there)
        view = _view(problem, matrix)
        relit = view if light is None else light.on(view)
        if there is not None:
            standard = _standardised(relit)
            problem = plain.within(regrown(there, standard.fixed, standard.warped))
            relit = relit._replace(valid=_view(problem, matrix).valid)
        holes = self._has_holes or there is not None
        noise = noise_model(relit.fixed, relit.warped, faded_weight(relit.valid) if holes else relit.valid)
        # Gains that change are a regression, and bring pictures to as much contrast as noise allows around each pixel.
        scene = noise.contrast if light is None else None
        if noise.whitening is not None:
            problem = self._whitened(noise.whitening, matrix, problem.weight, light)
        elif light is not None:
            problem = light.solved(problem)
        spread = None
        if light is None:  # under another misfit follows tone curves, not photons
            standard = _standardised(relit, scene)
            now = standard if noise.whitening is None else _standardised(_view(problem, matrix), scene)
            spread = _spread(relit.valid, now, standard, noise, holes)
        return _Found(replace(problem, contrast=scene, share=noise.share), noise, spread, holes)

    def _whitened(self, whitening: RadialResponse, matrix: Matrices, weight: Weight, light: Light | None) -> Problem:
        """Pictures whose noise is equally strong at all frequencies, under the light that was found before."""
        fixed, moving = self._spectra
        scale = local_scale(matrix[0], self._pictures.size_hw)
        fixed, moving = fixed.filtered(whitening.on(fixed)), moving.filtered(whitening.on(moving, scale))
        problem = self._plain((fixed, moving), weight, self._pictures.moving.mask)
        return problem if light is None else light.around(_view(problem, matrix)).solved(problem)

    def _plain(self, spectra: tuple[Spectrum, Spectrum], fixed_weight: Weight, mask: Tensor | None) -> Problem:
        image = spectra[0].image()
        # Near the border of the moving picture its continuation takes part in what is read: noise is then no longer
        # alike between pixels and on them, and that pulls inwards. Weights that rise over some pixels keep it small.
        reader = spline_reader(spectra[1], mask, _OVERSAMPLING, ramp=_RAMP)
        return Problem(image, image, image, fixed_weight, reader, rounding=self._rounding)


def _view(problem: Problem, matrix: Matrices) -> View:
    return View(problem.fixed, *problem.read(matrix))


def _standardised(view: View, scene: float | None = None) -> Standard:
    """`Standard`; the moving picture at the contrast of the scene (`Problem.contrast`), where it is known."""
    fixed, warped, valid = view
    f, m = fixed - mean(fixed, valid), warped - mean(warped, valid)
    contrast = mean(f * f, valid).sqrt().clamp_min(1e-12)
    gain = mean(m * m, valid).clamp_min(1e-24).rsqrt() if scene is None else scene / contrast
    return Standard(f / contrast, m * gain * torch.where(mean(f * m, valid) < 0, -1.0, 1.0), contrast)


def _common(valid: Weight, standard: Standard, noise: NoiseModel, holes: bool) -> Spectrum:
    """The Wiener-filtered weighed mean of both pictures; beyond the moving one's border the fixed one alone.

    In `holes` nothing is taken from either: what is there may be no part of the scene, and the filter would spread it.
    """
    f, m, contrast = standard
    common = torch.where(valid > 0, torch.lerp(m, f, noise.share), f) * contrast
    s = spectrum(common, (valid > 0).to(common.dtype) if holes else full_weight(common))
    return s.filtered(noise.denoising.on(s))


def _spread(valid: Weight, standard: Standard, brightness: Standard, noise: NoiseModel, holes: bool) -> Image | None:
    """Standard deviation of residuals by brightness, over the usual one; None where all are alike.

    Photons make noise whose variance grows with brightness. Over classes of like pixels the residual's variance is
    fitted as a straight line, and pixels count by its inverse. Where noise is the same everywhere there is no line, and
    so all pixels count alike.

    Brightness is that of the weighed mean of both pictures: its noise is independent of their difference, so that noise
    alone neither sorts nor weighs residuals by their own size.

    Args:
        valid: Weight of what both show.
        standard: The pictures as they are compared.
        brightness: The same as they came, which alone know brightness.
        noise: Of the pictures.
        holes: As in `_Found`.

    Returns:
        `(1, 1, H, W)`, root mean square 1.
    """
    stride = max(1, int((valid.numel() / _TRUST_PIXELS) ** 0.5))
    # So few pixels are sorted and sifted on the CPU.
    seen, f, m, bright_f, bright_m = torch.stack(
        [x[0, 0, ::stride, ::stride].flatten() for x in (valid, *standard[:2], *brightness[:2])]
    ).cpu()
    c, e = torch.lerp(bright_m, bright_f, noise.share), (f - m).square_()
    seen = seen > 0.5
    c, e = c[seen], e[seen]
    if len(c) < 400 or _brightness_line(c, e) is None:
        return None
    bright = _denoised(valid, brightness, noise, holes)
    line = _brightness_line(bright[0, 0, ::stride, ::stride].flatten().cpu()[seen], e)
    if line is None:
        return None
    level, slope, least = line
    variance = (level + slope * bright).clamp_min_(least)
    return (variance / mean(variance, valid)).sqrt_()


def _told_share(gradients: tuple[Image, Image], valid: Weight, standard: Standard, noise: NoiseModel) -> Tensor:
    """What the scene holds of the gradients around each pixel, `(1, 1, H, W)`.

    Wiener's filter is one for all places. On the black ground beside a bright thing it passes as much noise as on the
    thing, and that noise pulls where nothing is told; the thing's edge it rounds off for the sake of the ground. So the
    gradients are weighed by how far their power around a pixel is above that of noise, which is as strong there as the
    pictures differ. A little more noise than there is (by as much as `held` is above `untold`) is taken off, for on the
    ground its power scatters. All are then as strong as makes the normal matrix, their power, what it is to be: the
    slope's derivative, their product with the scene's own gradients. Where the scene is alike everywhere they stay.

    Args:
        gradients: Of the common image, `(1, 1, H, W)` each.
        valid: Weight of what both show.
        standard: The pictures as they are compared.
        noise: Of the pictures.
    """
    along_x, along_y = gradients
    power = along_x.square().addcmul_(along_y, along_y)
    differing = (standard.fixed - standard.warped).square_()
    per_difference = mean(power, valid) / mean(differing, valid).clamp_min(1e-30)
    power, differing = (around(blocks(x.mul_(valid), _BLOCK)) for x in (power, differing))
    of_noise = per_difference * differing / power.clamp_min(1e-30)
    told, share = 1 - noise.untold * of_noise, (1 - noise.held * of_noise).clamp_(0, 1)
    power *= share
    derivative = total(power * told) / (1 - noise.untold)  # in it the filter is once, in the power twice
    share *= (derivative / total(power * share).clamp_min(1e-30)).clamp_min(_LEAST_TOLD)
    h, w = valid.shape[-2:]
    # Blocks hang over the border, where nothing is valid.
    return nn.interpolate(share, scale_factor=_BLOCK, mode="bilinear")[..., :h, :w]


def _denoised(valid: Weight, brightness: Standard, noise: NoiseModel, holes: bool) -> Image:
    """What noise is expected by: the brightness of the scene under each pixel, for half of it the mean around it.

    Weights that follow the noise itself would count most where it happens to darken a pixel, and with the gradients of
    the same noise. The moving picture's half of the noise comes from several of its pixels, by interpolation.
    """
    bright = _common(valid, brightness, noise, holes).image() / brightness.contrast
    return torch.lerp(bright, around(bright) / around(torch.ones_like(bright)), 0.5)


def _by_class(by: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a quantity and variance of the residual over twelve classes of pixels, in rising order; float64."""
    classes = torch.argsort(by).tensor_split(12)
    x = torch.stack([by[c].mean() for c in classes]).double()
    # The median is deaf to occluders; over a normal residual's square it is 0.455 of the mean.
    return x, torch.stack([error[c].median() for c in classes]).double() / 0.455


def _brightness_line(brightness: Tensor, error: Tensor) -> tuple[float, float, float] | None:
    """Residual variance as a straight line over brightness: level, slope, least value; None where it is no line."""
    x, y = _by_class(brightness, error)
    dx, dy = x - x.mean(), y - y.mean()
    slope = (dx * dy).sum() / (dx * dx).sum().clamp_min(1e-20)
    straight = slope * (dx * dy).sum() / (dy * dy).sum().clamp_min(1e-30)
    ends = y.mean() + slope * dx[[0, -1]]
    if float(straight) < _STRAIGHT or float(ends.max() - ends.min()) < 0.3 * float(y.mean()):
        return None
    level = y.mean() - slope * x.mean()
    # Darker pixels than that take their noise from brighter ones beside them, which interpolation mixes in.
    return float(level), float(slope), float(max(ends.min(), 0.1 * y.mean()))
