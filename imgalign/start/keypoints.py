"""Where to start on detail that has nothing left on a hundred pixels, and where little of one picture is on the other.

Blobs of all sizes are found on the full picture, each is described by the directions of the gradients around it, seen
from its own direction and size (Lowe 2004, "Distinctive image features from scale-invariant keypoints"), and those that
two pictures describe alike are laid on each other (`matches`).
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.decompose import Float
from imgalign.gradients import central_differences
from imgalign.numerics.neighbours import largest
from imgalign.pyramid import halve, masked_blur
from imgalign.sampling import Reader

_OCTAVES = 5
_SHORTEST = 32  # pixels of the shorter side: smaller octaves hold no more blobs worth the name
_SIGMAS = tuple(2 ** (k / 2) for k in range(5))  # pixels of an octave: its differences of blurs hold two sizes of blobs
_MOST = 1000  # blobs of a picture
_CELLS = 8  # along either axis, in each of which only so many are taken
_SHARE = 3  # times those that a cell has if they lie evenly
_EDGE = 10.0  # ratio of the curvatures from which on it is an edge, along which a blob may lie anywhere
_BORDER = 4  # pixels of an octave in which blurs know too little
_BINS, _AS_STRONG = 36, 0.8  # of directions; share of the strongest from which a second one counts
_AROUND, _SAMPLES = 4.5, 9  # sizes of a blob on either side that tell its direction, at so many by so many places
_CELL, _TILES, _DIRECTIONS = 3.0, 4, 8  # of a description: sizes a tile, tiles along either axis, directions in each
_PER_TILE = 3  # places along either axis of a tile
_LOUDEST = 0.2  # that one direction of one tile may say of a description


class Keypoints(NamedTuple):
    """Blobs of a picture, one for each direction that they may have.

    Attributes:
        points: `(N, 2)` pixels.
        sizes: `(N,)` standard deviation of the Gaussian that fits, pixels.
        angles: `(N,)` directions, radians from x to y.
        descriptions: `(N, 128)` of unit length.
        size_hw: Of the picture.
    """

    points: Float
    sizes: Float
    angles: Float
    descriptions: Tensor
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.points)

    def either_way(self) -> "Keypoints":
        """The same and what they would be in the negative of the picture: turned by half, and alike seen from there."""
        tiles = self.descriptions.unflatten(1, (_TILES**2, _DIRECTIONS))
        return Keypoints(
            np.concatenate([self.points, self.points]),
            np.concatenate([self.sizes, self.sizes]),
            np.concatenate([self.angles, self.angles + math.pi]),
            torch.cat([self.descriptions, tiles.flip(1).flatten(1)]),
            self.size_hw,
        )


class _Blobs(NamedTuple):
    """Blobs of one blurred octave: places in its pixels, `(N,)` each, and how clear they are."""

    x: Tensor
    y: Tensor
    sigma: float
    clear: Tensor
    octave: int
    layer: int


def detected(image: Image, weight: Weight) -> Keypoints:
    """The clearest blobs of a picture `(1, 1, H, W)`, bright or dark, away from what its mask hides."""
    size_hw = (image.shape[-2], image.shape[-1])
    blurred: list[list[Image]] = []
    found: list[_Blobs] = []
    picture, seen = image, weight
    for octave in range(_OCTAVES):
        if min(picture.shape[-2:]) < _SHORTEST:
            break
        blurred.append([masked_blur(picture, seen, sigma) for sigma in _SIGMAS])
        found += _blobs(blurred[-1], seen, octave)
        picture, seen = halve(picture, seen)
    if not sum(len(b.x) for b in found):
        nothing = np.zeros(0)
        none = torch.zeros(0, _TILES**2 * _DIRECTIONS, dtype=image.dtype, device=image.device)
        return Keypoints(np.zeros((0, 2)), nothing, nothing, none, size_hw)
    described = [_described(blurred[b.octave][b.layer], b) for b in _clearest(found, size_hw)]
    x, y, sizes, angles, descriptions = (torch.cat(parts) for parts in zip(*described, strict=True))
    numbers = torch.stack([x, y, sizes, angles], 1).cpu().double().numpy()
    return Keypoints(numbers[:, :2], numbers[:, 2], numbers[:, 3], descriptions, size_hw)


def _blobs(blurred: list[Image], weight: Weight, octave: int) -> list[_Blobs]:
    """Where differences of blurs are extreme in place and size."""
    differences = [wide - narrow for narrow, wide in pairwise(blurred)]
    highest = [largest(d.abs(), 1) for d in differences]
    whole = -largest(-weight, _BORDER) > 1 - 1e-3
    inside = torch.zeros_like(whole)
    inside[..., _BORDER:-_BORDER, _BORDER:-_BORDER] = whole[..., _BORDER:-_BORDER, _BORDER:-_BORDER]
    out = []
    for layer in range(1, len(differences) - 1):
        d = differences[layer]
        top = torch.maximum(torch.maximum(highest[layer - 1], highest[layer + 1]), highest[layer])
        rows, columns = ((d.abs() == top) & inside & (d != 0))[0, 0].nonzero().T
        near = {(i, j): d[0, 0, rows + i, columns + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}
        xx = near[0, 1] + near[0, -1] - 2 * near[0, 0]
        yy = near[1, 0] + near[-1, 0] - 2 * near[0, 0]
        xy = 0.25 * (near[1, 1] + near[-1, -1] - near[1, -1] - near[-1, 1])
        determinant = xx * yy - xy * xy
        round_ = (xx + yy) ** 2 * _EDGE < (_EDGE + 1) ** 2 * determinant
        x = columns - (0.5 * (near[0, 1] - near[0, -1]) / xx).clamp(-0.5, 0.5)
        y = rows - (0.5 * (near[1, 0] - near[-1, 0]) / yy).clamp(-0.5, 0.5)
        sigma = math.sqrt(_SIGMAS[layer] * _SIGMAS[layer + 1])
        out.append(_Blobs(x[round_], y[round_], sigma, near[0, 0].abs()[round_], octave, layer))
    return out


def _clearest(found: list[_Blobs], size_hw: tuple[int, int]) -> list[_Blobs]:
    """The clearest blobs of all, spread over the picture."""
    clear, cell = (torch.cat(parts) for parts in zip(*((b.clear, _cell(b, size_hw)) for b in found), strict=True))
    order = clear.argsort(descending=True, stable=True)
    by_cell = order[cell[order].argsort(stable=True)]
    counts = torch.bincount(cell, minlength=_CELLS**2)
    before = (counts.cumsum(0) - counts)[cell[by_cell]]
    rank = torch.empty_like(order)
    rank[by_cell] = torch.arange(len(order), device=order.device) - before
    kept = torch.zeros_like(rank, dtype=torch.bool)
    kept[order[rank[order] < _SHARE * _MOST / _CELLS**2][:_MOST]] = True
    parts = zip(found, kept.split([len(b.x) for b in found]), strict=True)
    return [b._replace(x=b.x[k], y=b.y[k], clear=b.clear[k]) for b, k in parts if bool(k.any())]


def _cell(blobs: _Blobs, size_hw: tuple[int, int]) -> Tensor:
    """The part of the full picture in which each blob lies."""
    row, column = (
        ((at + 0.5) * 2.0**blobs.octave / n * _CELLS).long().clamp(0, _CELLS - 1)
        for at, n in zip((blobs.y, blobs.x), size_hw, strict=True)
    )
    return row * _CELLS + column


def _described(blurred: Image, blobs: _Blobs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Place, size and direction of blobs in full pixels, and their descriptions; as often as they have directions."""
    gradient = torch.cat(central_differences(blurred), 1)
    reader = Reader.of(gradient)
    blob, angle = _directions(reader, blobs)
    x, y = blobs.x[blob], blobs.y[blob]
    side = _TILES * _PER_TILE
    steps = (torch.arange(side, device=x.device) - 0.5 * (side - 1)) * (_CELL / _PER_TILE)
    v, u = (g.flatten() for g in torch.meshgrid(steps, steps, indexing="ij"))
    along, across = _read(reader, x, y, angle, u, v, blobs.sigma)
    strength = torch.hypot(along, across) * torch.exp(-(u * u + v * v) / (2 * (0.5 * _TILES * _CELL) ** 2))
    place = torch.atan2(across, along) * (_DIRECTIONS / (2 * math.pi))
    low = place.floor()
    share = place - low
    low = low.long() % _DIRECTIONS
    strengths = torch.zeros(*place.shape, _DIRECTIONS, device=x.device, dtype=x.dtype)
    strengths.scatter_(2, low[..., None], (strength * (1 - share))[..., None])
    strengths.scatter_(2, ((low + 1) % _DIRECTIONS)[..., None], (strength * share)[..., None])
    # Each place counts to the tiles whose middles are nearest, along either axis.
    middles = (torch.arange(_TILES, device=x.device) - 0.5 * (_TILES - 1)) * _CELL
    across_tiles, down_tiles = ((1 - (at[:, None] - middles).abs() / _CELL).clamp_min(0) for at in (u, v))
    tiles = (down_tiles[:, :, None] * across_tiles[:, None, :]).flatten(1)
    description = (tiles.T @ strengths).flatten(1)
    description = nn.normalize(nn.normalize(description).clamp_max(_LOUDEST))
    factor = 2.0**blobs.octave
    size = torch.full_like(x, blobs.sigma * factor)
    return (x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5, size, angle, description


def _directions(reader: Reader, blobs: _Blobs) -> tuple[Tensor, Tensor]:
    """The directions in which most gradients around each blob point: the blob's number, and the angle."""
    steps = torch.linspace(-_AROUND, _AROUND, _SAMPLES, device=blobs.x.device)
    v, u = (g.flatten() for g in torch.meshgrid(steps, steps, indexing="ij"))
    gx, gy = _read(reader, blobs.x, blobs.y, torch.zeros_like(blobs.x), u, v, blobs.sigma)
    strength = torch.hypot(gx, gy) * torch.exp(-(u * u + v * v) / (2 * (_AROUND / 3) ** 2))
    bins = (torch.atan2(gy, gx) * (_BINS / (2 * math.pi))).round().long() % _BINS
    histogram = torch.zeros(len(blobs.x), _BINS, device=u.device).scatter_add_(1, bins, strength)
    for _ in range(3):
        histogram = (histogram.roll(1, 1) + histogram + histogram.roll(-1, 1)) / 3
    before, after = histogram.roll(1, 1), histogram.roll(-1, 1)
    peak = (histogram > before) & (histogram >= after) & (histogram >= _AS_STRONG * histogram.amax(1, keepdim=True))
    blob, number = peak.nonzero().T
    one, two, three = (h[blob, number] for h in (before, histogram, after))
    number = number + (0.5 * (one - three) / (one - 2 * two + three)).clamp(-0.5, 0.5)
    return blob, number * (2 * math.pi / _BINS)


def _read(
    reader: Reader, x: Tensor, y: Tensor, angle: Tensor, u: Tensor, v: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    """Gradients `(N, S)` at places `u, v` sizes from each blob, seen from its direction."""
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    at_x, at_y = x[:, None] + sigma * (c * u - s * v), y[:, None] + sigma * (s * u + c * v)
    h, w = reader.size_hw
    inside = (at_x >= 0) & (at_y >= 0) & (at_x <= w - 1) & (at_y <= h - 1)
    gx, gy = reader.values(at_x[None], at_y[None])[0] * inside
    return c * gx + s * gy, c * gy - s * gx
