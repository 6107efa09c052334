"""Whether a picture looks much the same some way off: bricks, windows, tiles, weave.

Two pictures of such a thing agree at many places, in every edge and in every part. That its places are told apart
is worth the time only where there are some.
"""

import torch

from imgalign._types import Weight
from imgalign.numerics.masks import is_whole
from imgalign.numerics.neighbours import largest
from imgalign.numerics.sums import total
from imgalign.planes.levels import Masked

ALIKE = 0.5  # correlation of a picture with itself elsewhere: some photographs of other things have as much
EXACTLY = 0.85  # the same of a lattice: what fits there is no better than what fits a period further
_NEAR = 5.0  # pixels: what is as near is like itself because it is smooth
_PEAK = 2  # pixels around a shift that fits better than its neighbours
_WORTH_TELLING = 0.2  # the same if its contrast were even: with less it is not told exactly
_OVERLAP = 0.3  # of the picture: less says little


def likeness(features: Masked) -> float:
    """Largest correlation of the local contrast of a small picture with itself elsewhere.

    Args:
        features: Picture `(1, C, h, w)`, contrast first, and its mask `(1, 1, h, w)`.
    """
    picture, weight = features[0][:, :1], features[1]
    frame = (2 * picture.shape[-2], 2 * picture.shape[-1])
    down, across = (torch.fft.fftfreq(n, 1 / n, device=picture.device) for n in frame)
    far = torch.hypot(down[:, None], across) > _NEAR
    contrast = torch.fft.rfft2(picture, s=frame)
    alike = torch.fft.irfft2(contrast.real.square() + contrast.imag.square(), s=frame)
    overlap = _overlap(weight, frame)
    looked = far & (overlap > _OVERLAP * total(weight))
    # As if all of the picture had the contrast of its mean.
    about = alike * (total(weight) / (total(picture * picture) * overlap).clamp_min(1e-3))
    if not bool(torch.where(looked, about, 0.0).max() > _WORTH_TELLING):
        return 0.0
    seen, energy = (torch.fft.rfft2(x, s=frame) for x in (weight, picture * picture))
    one, other = (torch.fft.irfft2(a.conj() * b, s=frame) for a, b in ((energy, seen), (seen, energy)))
    correlation = torch.where(looked, alike * (one.clamp_min(1e-3) * other.clamp_min(1e-3)).rsqrt(), 0.0)
    peaks = correlation[correlation == largest(correlation, _PEAK)]
    return float(peaks.max())


def _overlap(weight: Weight, frame: tuple[int, int]) -> Weight:
    """How much of a mask lies on itself at every shift within a frame of twice its size."""
    if is_whole(weight):
        rows, columns = (n // 2 - (torch.fft.fftfreq(n, 1 / n, device=weight.device)).abs() for n in frame)
        return rows[:, None] * columns
    seen = torch.fft.rfft2(weight, s=frame)
    return torch.fft.irfft2(seen.real.square() + seen.imag.square(), s=frame)
