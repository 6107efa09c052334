"""Two pictures brought to one density, tone and sharpness: what then still differs is place, light and noise."""

import math

import numpy as np

from imgalign._types import Image, Matrices, Weight
from imgalign.decompose import jacobians
from imgalign.numerics.masks import mask_or_none
from imgalign.numerics.noise import noise_variance, rounding_variance
from imgalign.numerics.spectral import Spectrum, spectrum
from imgalign.numerics.sums import variance
from imgalign.pyramid import gaussian_response
from imgalign.refine.focus import blurred_alike, difference
from imgalign.refine.smooth import smooth

_REFOCUSED = 0.1  # share of a blur by which another look has to change it to be worth one more


class Alike:
    """Two pictures, the finer one as if its pixels were the coarser one's; `tone` and `focus` do the rest.

    Attributes:
        spectra: Of both.
        blurred: Both blurred by a pixel.
        sparse: The same on a lattice, where pixels are many.
        noise: Its variance in either.
        rounding: Standard deviation of the residual that rounding to few values has left, at unit contrast.

    Args:
        fixed: The picture that stays, and its mask.
        moving: The other, and its mask.
        scale: Moving pixels per fixed pixel.
        oversampling: Of the spline through the blurred moving picture.
    """

    def __init__(
        self, fixed: tuple[Image, Weight], moving: tuple[Image, Weight], scale: float, oversampling: float
    ) -> None:
        self._scale, self._oversampling = scale, oversampling
        self._take(fixed, moving)

    def _take(self, fixed: tuple[Image, Weight], moving: tuple[Image, Weight]) -> None:
        self._fixed, self._moving = fixed, moving
        # The finer picture is blurred by what the coarser one's pixels average over (a box's variance is 1/12).
        self._plain = _matched(spectrum(*fixed), 1 / self._scale), _matched(spectrum(*moving), self._scale)
        self._more = np.zeros((2, 2))
        self.rounding = math.sqrt(sum(_rounding(image) for image, _ in (fixed, moving)))
        self.noise = float(noise_variance(fixed[0])), float(noise_variance(moving[0]))
        self._blur(self._plain)

    def _blur(self, spectra: tuple[Spectrum, Spectrum]) -> None:
        self.spectra = spectra
        self.blurred = smooth(
            self._fixed,
            spectra,
            mask_or_none(self._moving[1]),
            self._scale,
            self._oversampling,
            self.noise,
            self.rounding,
        )
        self.sparse = self.blurred.sparse()

    def tone(self, matrix: Matrices, robust: bool) -> None:
        """Bring one picture to the tone of the other, if a curve between them is worth it where a transform stands."""
        found = self.sparse.tone(matrix, robust)
        if found is not None:
            self._take(*found.on(self._fixed, self._moving))

    def focus(self, matrix: Matrices) -> bool:
        """Bring the sharper picture to the blur of the other; whether that changed much."""
        more = difference(self.sparse.view(matrix), self.sparse.step)
        if more is None:
            return False
        before, self._more = self._more, self._more + more
        h, w = self.blurred.fixed.size_hw
        local = jacobians(matrix[0], (0.5 * (w - 1), 0.5 * (h - 1)))[0]
        self._blur(blurred_alike(*self._plain, self._more, local))
        return bool(abs(more).max() > _REFOCUSED * abs(before).max())


def _rounding(image: Image) -> float:
    """Variance of what rounding to few values has left, at unit contrast."""
    found = rounding_variance(image)
    return found / float(variance(image).clamp_min(1e-20)) if found else 0.0


def _matched(picture: Spectrum, finer_by: float) -> Spectrum:
    if finer_by <= 1.05:
        return picture
    sigma = math.sqrt((finer_by**2 - 1) / 12)
    return picture.filtered(gaussian_response(picture.frame_hw, sigma, picture.values.real))
