"""What lies around the scene at the same place in both pictures: apertures, sectors, black frames, bars.

The rim of a fundus camera's aperture is the strongest edge in both of its pictures, and lies where it lies whatever the
eye did. Every start, every level and the verdict see it agree. So what is dead there is left out of both pictures: one
flat value from the border inwards, up to a scene of one piece, in both pictures over the same pixels. The sky over a
skyline, a head or a coin on black ground move with what is aligned, and their pixels do not.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from imgalign._types import Image
from imgalign.decompose import Float, mapped
from imgalign.numerics.neighbours import largest
from imgalign.planes.levels import Masked, on_one_grid
from imgalign.pyramid import reduce

_PIXELS = 200  # of the longer side, up to twice as many: enough to tell places, and block means hold less noise
_ACROSS = 8  # of the shorter side, at least
_FLAT = 0.02  # of the range of values: what codecs and cameras leave of black
_ENDS = 0.01  # of the values at either end beyond which they are no part of the range
_SAMPLES = 1000  # tell it
_CORNER = 1 / 60  # of the shorter side: patches that are to be flat
_LEAST, _MOST = 0.02, 0.85  # of the picture: a sector may leave a fifth of it
_ONE_PIECE = 0.85  # of the rows and columns that must cross the scene once
_SAME = 0.95  # of the pixels that lie around either scene: those of both
_RIM = 2  # pixels of the scene beside what lies around it, which blurs and codecs mix
_WELL_INSIDE = 10  # pixels from there on, where no blur of the rim is left
_STAYS = 0.98  # of the pixels that a transform takes from around to around and from scene to scene: it moves no frame

Region = NDArray[np.bool_]


def shared(fixed: Masked, moving: Masked) -> Region | None:
    """Where a scene is seen inside what surrounds both pictures alike, `(h, w)` at some reduction; None for everywhere.

    Args:
        fixed: Picture `(1, 1, H, W)` and mask; with a mask somebody has said already what counts.
        moving: The same of the other.
    """
    if not on_one_grid(fixed, moving):
        return None
    size_hw = fixed[0].shape[-2:]
    factor = max(1, min(max(size_hw) // _PIXELS, min(size_hw) // _ACROSS))
    around = []
    for image, weight in (fixed, moving):
        found = _around(reduce(image, weight, factor)[0])
        if found is None:
            return None
        around.append(found)
    one, other = around
    if (one & other).sum() < _SAME * (one | other).sum():
        return None
    return ~grown(one | other, _RIM)


def stays(inside: Region, moving_from_fixed: Float, size_hw: tuple[int, int]) -> bool:
    """Whether a transform of full-size pixels takes what surrounds the scene onto itself: that alone may explain it."""
    h, w = inside.shape
    scale = np.array([size_hw[1] / w, size_hw[0] / h])
    points = (np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(-1, 2) + 0.5) * scale - 0.5
    at = (mapped(moving_from_fixed, points) + 0.5) / scale
    on = ((at >= 0) & (at < (w, h))).all(1)
    landed = np.zeros(len(points), bool)
    x, y = at[on].astype(int).T
    landed[on] = inside[y, x]
    return bool((landed == inside.ravel()).mean() > _STAYS)


def _around(image: Image) -> Region | None:
    """What is flat from the border on, along rows or columns, around a scene of one piece that is not flat itself."""
    values = image[0, 0].cpu().numpy()
    step = max(1, int((values.size / _SAMPLES) ** 0.5))
    ranked = np.sort(values[::step, ::step], None)
    end = int(_ENDS * len(ranked))
    flat = _FLAT * (ranked[-1 - end] - ranked[end])
    side = max(2, round(_CORNER * min(values.shape)))
    ends = (slice(None, side), slice(-side, None))
    patches = [values[rows, columns] for rows in ends for columns in ends]
    levels = [float(p.mean()) for p in patches if p.std() <= flat]
    # Those of two corners at least are one value.
    alike = [[other for other in levels if abs(other - level) <= flat] for level in levels]
    most = max(alike, key=len, default=[])
    if len(most) < 2:
        return None
    dead = abs(values - sum(most) / len(most)) <= flat
    around = np.zeros_like(dead)
    for axis in (0, 1):
        around |= np.logical_and.accumulate(dead, axis)
        around |= np.flip(np.logical_and.accumulate(np.flip(dead, axis), axis), axis)
    if not _LEAST <= around.mean() <= _MOST:
        return None
    scene = ~around
    runs = [np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int), axis=1).clip(0).sum(1) for lines in (scene, scene.T)]
    crossed = np.concatenate([r[r > 0] for r in runs])
    if (crossed == 1).mean() < _ONE_PIECE:
        return None
    # A disc of one tone is no view through an aperture but a thing, and its rim all that there is to align.
    heart = values[~grown(around, _WELL_INSIDE)]
    return around if heart.size and heart.std() > flat else None


def grown(region: Region, reach: int) -> Region:
    """A region and what lies within some pixels of it along both axes."""
    return largest(torch.from_numpy(region).float(), reach).numpy() > 0
