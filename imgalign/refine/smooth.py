"""The first round of the polish: both pictures blurred alike, for what is noise is not known yet.

Blurred pictures vary slowly: on the way they are compared at every second pixel along each axis, a quarter of the work
for most of what they say.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from imgalign._types import Image, Matrices, Weight
from imgalign.coords import lattice
from imgalign.gradients import central_differences
from imgalign.numerics.problem import Problem
from imgalign.numerics.spectral import Spectrum, inner_weight, spline_reader
from imgalign.numerics.sums import variance
from imgalign.pyramid import gaussian_response
from imgalign.refine.light import View, lit
from imgalign.refine.tone import Toned, toned
from imgalign.refine.uncertainty import BlurredNoise
from imgalign.sampling import Reader

_MARGIN = 4  # pixels at the border that are left out
_STEP = 2  # pixels from one that is compared to the next on the way, along each axis
_ENOUGH_PIXELS = 40_000  # fewer are all compared


@dataclass(frozen=True)
class Smooth:
    """Both pictures blurred.

    Attributes:
        fixed: Spectrum of the blurred fixed picture.
        mask: Its mask.
        moving: Reader of the blurred moving picture.
        noise: Of both, the fixed one's first.
        rounding: Standard deviation of the residual that rounding to few values has left, at unit contrast.
        step: Pixels of the fixed picture from one that is compared to the next, 1 or 2.
    """

    fixed: Spectrum
    mask: Weight
    moving: Reader
    noise: tuple[BlurredNoise, BlurredNoise]
    rounding: float = 0.0
    step: int = 1

    @cached_property
    def pictures(self) -> Problem:
        """Ready to be compared, under one light; gradients per pixel that is compared."""
        gradient_x, gradient_y = (gradient.mul_(self.step) for gradient in self.fixed.derivatives(self.step))
        weight = inner_weight(self.mask, _MARGIN)[..., :: self.step, :: self.step].contiguous()
        image = self.fixed.image(self.step)
        return Problem(image, gradient_x, gradient_y, weight, self.moving, rounding=self.rounding)

    def sparse(self) -> "Smooth":
        """The same on a lattice of the fixed picture's pixels, if they are many."""
        if math.prod(self.fixed.size_hw) < _ENOUGH_PIXELS:
            return self
        of_fixed, of_moving = (replace(noise, step=_STEP) for noise in self.noise)
        return replace(self, noise=(of_fixed, of_moving), step=_STEP)

    @property
    def _noise_left(self) -> tuple[float, float]:
        """Variance of what the blur has left of either picture's noise."""
        return self.noise[0].blurred, self.noise[1].blurred

    def view(self, matrix: Matrices) -> View:
        """The pictures where a transform stands, `(1, 3, 3)` moving from fixed."""
        p = self.pictures
        return View(p.fixed, *p.read(matrix @ lattice(self.step)))

    def tone(self, matrix: Matrices, robust: bool) -> Toned | None:
        """The tone curve between the pictures where a transform stands, if it is worth one."""
        return toned(self.view(matrix), robust, noise=self._noise_left, spacing=self.step)

    def problem(self, matrix: Matrices, light: bool | None, robust: bool) -> Problem:
        """The pictures under the light that is found where a transform stands, `(1, 3, 3)` moving from fixed.

        With `robust` without occluders.
        """
        p = self.pictures
        found, there = lit(self.view(matrix), light, robust, noise=self._noise_left, spacing=self.step)
        p = p.within(there)
        if found is None:
            return p
        # The mean around each pixel varies so slowly that differences are its derivatives.
        less_x, less_y = central_differences(found.fixed_mean)
        return replace(found.solved(p), gradient_x=p.gradient_x - less_x, gradient_y=p.gradient_y - less_y)


def smooth(
    fixed: tuple[Image, Weight],
    spectra: tuple[Spectrum, Spectrum],
    moving_mask: Tensor | None,
    scale: float,
    oversampling: float,
    noise: tuple[float, float],
    rounding: float,
) -> Smooth:
    """Blur both pictures by a pixel of the coarser one.

    Args:
        fixed: The fixed picture as it came, and its mask.
        spectra: Of both pictures, at one density.
        moving_mask: Of the moving picture.
        scale: Moving pixels per fixed pixel.
        oversampling: Of the spline through the moving picture. One on the picture's own pixels errs by some thousandths
            of a pixel on what the blur leaves of fine detail: enough, under little noise, for good sharp answers to be
            refused. On pixels half as fine again it is some hundred-thousandths, and twice as fine gain nothing more.
        noise: Its variance in either picture.
        rounding: Standard deviation of the residual that rounding has left before the blur, at unit contrast.
    """
    blurs = max(1.0, 1 / scale), max(1.0, scale)
    first, second = (
        s.filtered(gaussian_response(s.frame_hw, sigma, s.values.real)) for s, sigma in zip(spectra, blurs, strict=True)
    )
    # What the blur makes of the guess beyond the border, or under a mask, would pull: a margin is left out of both.
    seen = None if moving_mask is None else inner_weight(moving_mask, _MARGIN)
    reader = spline_reader(second, seen, oversampling, _MARGIN)
    of_fixed, of_moving = (BlurredNoise(variance, blur) for variance, blur in zip(noise, blurs, strict=True))
    if rounding > 0:  # it is white, and what it is rounded from is not: a blur leaves less of it
        before = BlurredNoise(rounding**2 * float(variance(fixed[0])), blurs[0])
        rounding = math.sqrt(before.blurred / float(variance(first.image())))
    return Smooth(first, fixed[1], reader, (of_fixed, of_moving), rounding)
