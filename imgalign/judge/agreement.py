"""Whether two pictures agree where an answer lays them: part by part, patch by patch, and in their finest detail.

Each is correlated with the other at all small displacements. Where the answer is right the best displacement is none,
in every part that has structure; unrelated pictures agree nowhere, a wrong period or a wrong tilt agrees in some places
only.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Image, Matrix3, Weight
from imgalign.gradients import central_differences
from imgalign.numerics.devices import gathered
from imgalign.numerics.masks import full_weight
from imgalign.numerics.neighbours import around
from imgalign.numerics.problem import Problem, turned
from imgalign.numerics.sums import mean, plane_sums, total
from imgalign.planes.appearance import edges, fine_detail
from imgalign.pyramid import fast_length
from imgalign.sampling import Reader

_PARTS = 5  # the picture is divided in so many by so many
_REACH = 0.06  # of the longer side: the displacements tried
_PATCH = 40  # pixels a side of the patches that are looked at on the finest level
_PATCHES = 4  # of them along each axis
_FINE_REACH = 8  # pixels: the displacements tried there
_AS_GOOD = 0.7  # share of a patch's best correlation that fits as well
_STRONG = 0.1  # of the strongest patch's structure: the others may show what is left of an encoder's blocks
_CLEAR = 0.4  # correlation of the edges above which a patch fits somewhere
_BESIDE, _FAR = 16, 6.0  # pixels: displacements at which fine detail is compared, and from which on it has moved away
_PEAK = 1.5  # pixels: the width of its peak
_SAME_MODALITY = 0.1  # correlation of the gradients from which their signs say the same
_ONE_WAY = 0.03  # of the shared structure across the edges: so little along them is none
_NEAR = 1.6  # level pixels: a peak this close to no displacement agrees


class Agreement(NamedTuple):
    """What the parts of two pictures say of an answer; see `verdict.Evidence`, which has all but one figure of it.

    `pixels` is the overlap in pixels of the level.
    """

    peak: float = 0.0
    parts: float = 0.0
    likeness: float = 0.0
    overlap: float = 0.0
    pixels: float = 0.0
    slide_deg: float | None = None


def parts_agreement(problem: Problem, level_matrix: Matrix3) -> Agreement:
    """What the parts of two feature pictures say of an answer in pixels of their level."""
    moving, valid = problem.read(level_matrix[None])
    pixels = total(valid)
    f, m = (
        (x - plane_sums(x * valid)[..., None, None] / pixels.clamp_min(1e-6)) * valid for x in (problem.fixed, moving)
    )
    # Contrast may be inverted: the first channel, grey values, takes the sign under which the pictures agree.
    m = torch.cat([m[:, :1] * torch.where(total(f[:, :1] * m[:, :1]) < 0, -1.0, 1.0), m[:, 1:]], 1)
    reach = max(4, round(_REACH * max(problem.size_hw)))
    surfaces, energy = _surfaces(*_cut(f, m, reach), reach)
    if float(energy.sum()) <= 0:
        return Agreement()
    centre = reach
    whole = surfaces.sum(0)
    far = _distance(reach) > 3.0
    spread = float(whole[far].std()) + 1e-12
    near = _distance(reach) <= _NEAR
    peak = float(whole[near].max() - whole[far].mean()) / spread
    share = _agreeing(surfaces, energy)
    likeness = float(whole[centre, centre]) / math.sqrt(float(total(f * f)) * float(total(m * m)) + 1e-12)
    overlap = float(pixels) / max(float(total(problem.weight)), 1e-9)
    return Agreement(peak, share, likeness, overlap, float(pixels), _slide_deg(problem.fixed, moving, valid))


def _slide_deg(fixed: Tensor, moving: Tensor, valid: Weight) -> float | None:
    """The direction along which two feature pictures on one grid share no structure, in degrees, or None.

    The products of both pictures' gradients, summed over the pixels, are what tells a shift; the noise of one knows
    nothing of the other's. Where all edges run one way nothing is left along them. Between two modalities products of
    both signs may cancel each other along an axis: the edges that they share in whatever contrast have to say so too.
    """
    (fx, fy), (mx, my) = (central_differences(x[:, :1]) for x in (fixed, moving))
    products = (fx * mx, 0.5 * (fx * my + fy * mx), fy * my, fx * fx + fy * fy, mx * mx + my * my)
    xx, xy, yy, of_fixed, of_moving = (float(x) for x in gathered(*(total(product * valid) for product in products)))
    by_greys = _one_way(xx, xy, yy)
    alike = xx + yy > _SAME_MODALITY * math.sqrt(of_fixed * of_moving)
    if alike and by_greys is None:
        return None
    by_edges = _shared_edges_deg(fixed, moving, valid)
    return by_greys if alike and by_edges is not None else by_edges


def _shared_edges_deg(fixed: Tensor, moving: Tensor, valid: Weight) -> float | None:
    """The same of the edges that two feature pictures share in whatever contrast."""
    (re, im), (other_re, other_im) = (x[:, -2:].unbind(1) for x in (fixed, moving))
    alike = (re * other_re + im * other_im) * valid[:, 0]
    # A unit vector along the gradient times itself, out of the double angle.
    turned_by = (alike * x / torch.hypot(re, im).clamp_min(1e-9) for x in (re, im))
    whole, cos, sin = (float(x) for x in gathered(*(total(x) for x in (alike, *turned_by))))
    return _one_way(0.5 * (whole + cos), 0.5 * sin, 0.5 * (whole - cos))


def _one_way(xx: float, xy: float, yy: float) -> float | None:
    """The direction, degrees, in which a structure tensor has next to nothing; None where there is none."""
    shared, axes = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
    if not shared[1] > 0 or shared[0] > _ONE_WAY * shared[1]:
        return None
    return math.degrees(math.atan2(axes[1, 0], axes[0, 0])) % 180


def _distance(reach: int) -> Tensor:
    d = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return torch.hypot(d[:, None], d)


def _cut(fixed: Tensor, moving: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Pictures on one grid cut into parts: `(parts, C, h, w)` and, with a margin, `(parts, C, h + 2r, w + 2r)`."""
    h, w = fixed.shape[-2:]
    edges_y = np.linspace(0, h, _PARTS + 1).astype(int)
    edges_x = np.linspace(0, w, _PARTS + 1).astype(int)
    ph, pw = int(np.diff(edges_y).max()), int(np.diff(edges_x).max())
    padded_f = torch.nn.functional.pad(fixed, (0, pw, 0, ph))
    padded_m = torch.nn.functional.pad(moving, (reach, pw + reach, reach, ph + reach))
    spots = [(y, x) for y in edges_y[:-1] for x in edges_x[:-1]]
    return (
        torch.cat([padded_f[..., y : y + ph, x : x + pw] for y, x in spots]),
        torch.cat([padded_m[..., y : y + ph + 2 * reach, x : x + pw + 2 * reach] for y, x in spots]),
    )


def _surfaces(fixed: Tensor, moving: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Cross-correlation of each part at displacements up to `reach`, `(parts, 2r + 1, 2r + 1)`, and its energy.

    Both on the CPU.
    """
    h, w = fixed.shape[-2:]
    frame = (fast_length(h + 2 * reach), fast_length(w + 2 * reach))
    product = torch.fft.rfft2(fixed, s=frame).conj() * torch.fft.rfft2(moving, s=frame)
    size = 2 * reach + 1
    surfaces = torch.fft.irfft2(product.sum(1), s=frame)[:, :size, :size]
    inner = moving[..., reach : reach + h, reach : reach + w]
    of_fixed, of_moving = fixed.square().sum((1, 2, 3)), inner.square().sum((1, 2, 3))
    # Structure in one picture alone counts as well: there the other should have had it.
    energy = of_fixed / of_fixed.sum().clamp_min(1e-12) + of_moving / of_moving.sum().clamp_min(1e-12)
    energy = energy * (of_fixed.sum() * of_moving.sum() > 0)
    return surfaces.cpu(), energy.cpu()


def _agreeing(surfaces: Tensor, energy: Tensor) -> float:
    """Share of the parts, by their structure, that fit best where they are."""
    size = surfaces.shape[-1]
    index = surfaces.flatten(1).argmax(1)
    distance = torch.hypot((index // size - size // 2).float(), (index % size - size // 2).float())
    # A few bright stars must not outvote all others: parts count by a low power of their structure.
    count = torch.where(energy > 0.03 * energy.max(), energy, torch.zeros_like(energy)) ** 0.25
    return float((count * (distance <= _NEAR)).sum() / count.sum().clamp_min(1e-12))


def distinctness(
    fixed: tuple[Image, Weight], moving: tuple[Image, Weight], level_matrix: Matrix3, *, within: float = 0.0
) -> float:
    """By how many standard deviations two pictures correlate more, with either sign, at an answer than beside it.

    Any two pictures correlate by some chance, and a descent finds the place near it where they do so most: up to five
    standard deviations of what they do elsewhere.

    Args:
        fixed: Picture `(1, 1, H, W)` and mask, without anything larger than some pixels.
        moving: The same of the other.
        level_matrix: The answer in pixels of that level.
        within: Pixels around the answer of which the best place counts.
    """
    h, w = fixed[0].shape[-2:]
    seen, valid = Reader.of(*moving).on_grid(level_matrix[None], (h, w))
    valid = valid * fixed[1]
    f, m = ((x - mean(x, valid)) * valid for x in (fixed[0], seen))
    surface = _surfaces(f, torch.nn.functional.pad(m, (_BESIDE,) * 4), _BESIDE)[0][None]
    # What is larger in both has a wide peak, or hollow, on which the narrow one of fine detail stands.
    surface = fine_detail(surface, full_weight(surface), _PEAK)[0, 0].abs()
    distance = _distance(_BESIDE)
    here, elsewhere = surface[distance <= within].max(), surface[distance > _FAR]
    return float(here / elsewhere.square().mean().sqrt().clamp_min(1e-30))


def fine_agreement(fixed: tuple[Image, Weight], moving: tuple[Image, Weight], level_matrix: Matrix3) -> float:
    """Of small patches that clearly fit somewhere near, the share that fit best where the answer lays them.

    What agrees at a middle level may be off by some pixels of a finer one. The patches are read there, spread over the
    fixed picture, and their edges compared at displacements of up to a few pixels. Where noise hides what is so fine
    they say nothing, and the share is 1.

    Args:
        fixed: Picture `(1, 1, H, W)` and mask, of the level that was polished.
        moving: The same of the other.
        level_matrix: The answer in pixels of that level.
    """
    h, w = fixed[0].shape[-2:]
    side = min(_PATCH, h // _PATCHES, w // _PATCHES)
    outer = side + 2 * _FINE_REACH
    # First rows and columns of the patches with their margin, which may hang over the border.
    tops, lefts = ([round((k + 0.5) * n / _PATCHES - 0.5 * outer) for k in range(_PATCHES)] for n in (h, w))
    shifts = np.tile(np.eye(3), (_PATCHES**2, 1, 1))
    shifts[:, :2, 2] = [(x, y) for x in lefts for y in tops]
    fields = []
    for picture, at in ((fixed, shifts), (moving, level_matrix @ shifts)):
        values, valid = Reader.of(*picture).on_grid(at, (outer, outer))
        fields.append((edges(around(values) / 9, valid, sigma=0.0), valid))
    (f, seen_f), (m, seen_m) = fields
    both = seen_f * seen_m
    inner = slice(_FINE_REACH, _FINE_REACH + side)
    m = turned(m, np.broadcast_to(level_matrix, (len(m), 3, 3))) * both
    f = (f * both)[..., inner, inner]
    surfaces = _surfaces(f, m, _FINE_REACH)[0]
    energy = (f.square().sum((1, 2, 3)) * m[..., inner, inner].square().sum((1, 2, 3))).cpu()
    best, here = surfaces.amax((1, 2)), surfaces[:, _distance(_FINE_REACH) <= _NEAR].amax(1)
    speak = (best > _CLEAR * energy.sqrt().clamp_min(1e-6)) & (energy > _STRONG * energy.max())
    # Along an edge a patch may slide: it speaks against an answer only where that fits clearly worse.
    against = speak & (here < _AS_GOOD * best)
    # Two that agree are taken for granted: one that errs among few says little.
    return 1 - float(against.sum()) / float(speak.sum() + 2)
