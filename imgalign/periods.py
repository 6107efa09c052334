"""Whether a picture looks much the same some way off: bricks, windows, tiles, weave.

Two pictures of such a thing agree at many places, in every edge and in every part. That its places are told apart
is worth the time only where there are some.
"""

import torch

from imgalign.levels import Masked
from imgalign.neighbours import largest
from imgalign.sums import total

_ALIKE = 0.5  # correlation of a picture with itself elsewhere: some photographs of other things have as much
_NEAR = 5.0  # pixels: what is as near is like itself because it is smooth
_PEAK = 2  # pixels around a shift that fits better than its neighbours
_OVERLAP = 0.3  # of the picture: less says little


def repeats(features: Masked) -> bool:
    """Whether the local contrast of a small picture, `(1, C, h, w)` and its mask, agrees with itself elsewhere."""
    picture, weight = features[0][:, :1], features[1]
    frame = (2 * picture.shape[-2], 2 * picture.shape[-1])
    contrast, energy, seen = (torch.fft.rfft2(x, s=frame) for x in (picture, picture * picture, weight))
    alike, one, other, overlap = (
        torch.fft.irfft2(a.conj() * b, s=frame)
        for a, b in ((contrast, contrast), (energy, seen), (seen, energy), (seen, seen))
    )
    correlation = alike * (one.clamp_min(1e-3) * other.clamp_min(1e-3)).rsqrt()
    down, across = (torch.fft.fftfreq(n, 1 / n, device=picture.device) for n in frame)
    looked = (torch.hypot(down[:, None], across) > _NEAR) & (overlap > _OVERLAP * total(weight))
    correlation = torch.where(looked, correlation, 0.0)
    peaks = correlation[correlation == largest(correlation, _PEAK)]
    return bool(peaks.max() > _ALIKE)
