"""What lies over both pictures at the same place: captions, time stamps, scale bars, logos.

Their edges are the strongest and agree to the bit where nothing is moved, so that every start, every level and the
verdict would rather have it so. Edges that are the same in both pictures, close together, while most others are not,
are left out of both.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from imgalign._types import Image
from imgalign.numerics.neighbours import largest
from imgalign.planes.levels import Masked, on_one_grid
from imgalign.planes.surround import Region
from imgalign.pyramid import blur

Planes = NDArray[np.float32]

_STRONG = 0.2  # of the range of values: a step from one pixel to the next that is an edge
_SAME = 0.2  # of a step, by which the other picture's may differ
_REACH = 4.0  # looked at pixels: standard deviation of a neighbourhood
_TOGETHER = 0.7  # of the edges around that must be the same
_FEWEST = 30  # edges that are the same, of looked at pixels: fewer are chance
_ELSEWHERE = 0.2  # of the edges elsewhere that may be the same: where more are, the pictures lie on each other
_MOST = 0.4  # of the picture
_EXACT = 1e-3  # of the range of values: what differs by less does not differ
_EXPLAINED = 0.5  # of the differences there that a motion must leave for them to be of something that lies over both


def shared(fixed: Masked, moving: Masked) -> Region | None:
    """Where nothing lies over both pictures alike, `(h, w)` at half their size; None for everywhere.

    Args:
        fixed: Picture `(1, 1, H, W)` and mask; with a mask somebody has said already what counts.
        moving: The same of the other.
    """
    if not on_one_grid(fixed, moving):
        return None
    one = _steps(fixed[0])
    strong = np.flatnonzero(_squares(one) > _STRONG**2)
    if len(strong) < _FEWEST:
        return None
    other = _steps(moving[0])
    one_there, other_there = (x.reshape(2, -1)[:, strong] for x in (one, other))
    if (_squares(one_there - other_there) < _SAME**2 * _squares(one_there)).sum() < _FEWEST:
        return None  # as a rule
    strength = np.maximum(_squares(one), _squares(other))
    edge = strength > _STRONG**2
    same = edge & (_squares(one - other) < _SAME**2 * strength)
    near_same, near_edge = (blur(torch.from_numpy(x.astype(np.float32))[None, None], _REACH) for x in (same, edge))
    together = (near_same > _TOGETHER * near_edge) & torch.from_numpy(same)
    over = largest(together.float(), round(2 * _REACH))[0, 0].numpy() > 0
    if same[over].sum() < _FEWEST or over.mean() > _MOST or same[~over].sum() > _ELSEWHERE * edge[~over].sum():
        return None
    values = _values(fixed[0]), _values(moving[0])
    return None if _moves(0.5 * (one + other), *values, edge & over) else np.asarray(~over)


def _moves(steps: Planes, fixed: Planes, moving: Planes, edge: Region) -> bool:
    """Whether an affine motion explains most of what two pictures differ by at some edges, beside a gain and a bias.

    Around the point that a rotation or a zoom leaves in place all moves by less than a pixel. What lies over both
    pictures does not move at all, and differs by noise.

    Args:
        steps: Their gradient, `(2, h, w)`.
        fixed: Values of the fixed picture, `(h, w)`.
        moving: The same of the other.
        edge: Where.
    """
    y, x = (place - place.mean() for place in np.nonzero(edge))
    one = np.ones_like(x)
    light = [one, fixed[edge]]
    motion = [step * place for step in steps[:, edge] for place in (one, x, y)]
    unmoved, moved = (_left(moving[edge], fields) for fields in (light, [*light, *motion]))
    return unmoved > _EXACT**2 and moved < _EXPLAINED * unmoved


def _left(values: Planes, fields: list[NDArray[np.float64]]) -> float:
    """Mean square of what a sum of fields leaves of some values."""
    columns = np.stack(fields, 1)
    return float(((values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]) ** 2).mean())


def _squares(steps: Planes) -> Planes:
    return np.asarray(steps[0] * steps[0] + steps[1] * steps[1])


def _steps(image: Image) -> Planes:
    """Steps to the next pixel along x and y of every second pixel, `(2, h, w)`, in ranges of its values."""
    values = image[0, 0].cpu().numpy()
    h, w = (n - n % 2 for n in values.shape)
    here, right, below = values[:h:2, :w:2], values[:h:2, 1:w:2], values[1:h:2, :w:2]
    return np.asarray(np.stack([right - here, below - here]) / _range(here))


def _values(image: Image) -> Planes:
    """Every second pixel, `(h, w)`, in ranges of its values."""
    h, w = (n - n % 2 for n in image.shape[-2:])
    values = image[0, 0, :h:2, :w:2].cpu().numpy()
    return np.asarray(values / _range(values))


def _range(values: Planes) -> float:
    return max(float(values.max() - values.min()), 1e-12)
