"""Where a picture holds nothing, and nobody says so: stripes of a scanner that failed, gaps of a mosaic, lost rows.

Their rims are the strongest edges, of a shape that fits itself elsewhere too, and lie where they lie whatever the scene
did. So pixels of one value, the least or the largest, are left out where they interrupt a scene that goes on beside
them as it is anywhere else. Shadows, skies and blown lights are of one value too; but there the scene grows dark or
bright towards them, at least over the pixel in which a lens spreads an edge. What is drawn stands on its ground.

some samples -> how many hold the least, the largest value? -> some rows and columns -> what lies beside these? -> mask
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign.decompose import Float, mapped
from imgalign.planes.plane import Plane
from imgalign.planes.surround import Region, grown

_LINES = 64  # rows, and as many columns, that are looked at, and the samples of each at first
_GOLDEN = 0.618  # of the way to the next one, by which each is moved on, so that no period is that of the samples
_LEAST, _MOST = 0.01, 0.6  # of the samples
_CLEAR = 5  # pixels of scene beside a gap that are looked at
# Where there are two, the second is for gaps beside which a pixel is a mixture of scene and gap.
_OF_RUNS = (0.5, 0.95)  # of a gap's pixels with others on either side, along rows or along columns
_FEWEST = 50  # rims
_ISLANDS = (0.85, 0.25)  # of the rims that may have less scene beside them: of text and dots nearly all do
_CLIMBS = (0.58, 0.7)  # of the rims at which the scene may still come from the gap's value: half do of themselves
# Mean rank among all of the values beside gaps, from the rim on: as many lie above as below.
_RANKS = ((0.3, 0.7), (0.36, 0.58), (0.42, 0.56))
_JUMP = 4.0  # times the step to the last of these pixels: gaps that are not as strong do no harm
_FLAT = 0.5  # of the rims where that is none: there nothing is a scene
_PARTS = 1.5  # into which the rows, or the columns, of a scene fall
_NEARLY, _NEAR = 0.8, 0.25  # of the scene's distance from the value: beyond a mixed pixel, and in it
_FULL = 0.7  # of the rims that are nearly the scene beyond one mixed pixel; of edges that a lens draws 0.6 are
_MIXED = (0.2, 0.45)  # of the rims whose mixed pixel is near the value: they mix in all shares
_ONTO = 0.3  # correlation of gaps with gaps from which their rims alone may have been laid on each other
_POINTS = 200  # along each axis tell it


@dataclass(frozen=True)
class _Rims:
    """What lies beside runs of one value along some lines of a picture."""

    beside: NDArray[np.float32]
    """`(N, _CLEAR)` distances from that value, from the rim on, in the unit of the picture."""
    islands: int
    """Rims with less scene than that beside them."""
    of_runs: float
    """Share of the value's pixels that lie in a run of three or more."""
    parts: float
    """Into how many pieces a line's scene falls, on the mean."""


def found(picture: Plane) -> Region | None:
    """Where a picture holds something, `(H, W)`, if it has gaps; None for everywhere.

    With a mask, alpha or NaN somebody has said already what counts.
    """
    if picture.mask is not None or picture.alpha or (picture.known is not None and not picture.known.whole):
        return None
    rows, columns = (_spread(n).to(picture.pixels.device) for n in picture.size_hw)
    some = _array(picture.pixels[rows[:, None], columns])
    there: Region | None = None
    for number in (some.min(), some.max()):
        if not _LEAST <= _is(some, number).mean() <= _MOST:
            continue  # as a rule
        lines = _array(picture.pixels[rows]), _array(picture.pixels[:, columns]).swapaxes(0, 1)
        mixed = _mixed(lines, number, some)
        if mixed is not None:
            gap = _is(_array(picture.pixels), number)
            apart = ~(grown(gap, mixed) if mixed else gap)
            there = apart if there is None else there & apart
    return there


def explain(fixed: Region | None, moving: Region | None, moving_from_fixed: Float) -> bool:
    """Whether a transform of full-size pixels lays the gaps of one picture on those of the other.

    Args:
        fixed: Where the fixed picture holds something; None for everywhere.
        moving: The same of the other.
        moving_from_fixed: What is asked about.
    """
    if fixed is None or moving is None:
        return False
    y, x = (np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int) for n in fixed.shape)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    at = mapped(moving_from_fixed, points.astype(float)).round()
    on = ((at >= 0) & (at < moving.shape[::-1])).all(1)
    one = fixed[points[on, 1], points[on, 0]]
    other = moving[tuple(at[on].astype(int).T[::-1])]
    if not on.any() or one.all() or other.all() or not (one.any() and other.any()):
        return False
    return bool(np.corrcoef(one, other)[0, 1] > _ONTO)


def _array(pixels: Tensor) -> NDArray[Any]:
    """Pixels as NumPy has them, which knows no bfloat16."""
    return np.asarray((pixels.float() if pixels.is_floating_point() and pixels.itemsize < 4 else pixels).cpu().numpy())


def _spread(n: int) -> Tensor:
    """Some of `n` places, about evenly."""
    count = min(n, _LINES)
    index = torch.arange(count, dtype=torch.float64)
    return ((index + _GOLDEN * index % 1) * (n / count)).long()


def _is(pixels: NDArray[np.generic], number: np.generic) -> Region:
    """Which pixels, `(..., C)`, are one value in all channels."""
    same: Region = pixels[..., 0] == number
    for channel in range(1, pixels.shape[-1]):
        same &= pixels[..., channel] == number  # a tenth of the time of `all` along so short an axis
    return same


def _mixed(lines: tuple[NDArray[np.generic], ...], number: np.generic, some: NDArray[np.generic]) -> int | None:
    """Pixels beside gaps that are a mixture, 0 or, in what was resampled, 1; None if what is of one value are no gaps.

    Args:
        lines: Rows `(n, W, C)` and columns `(n, H, C)` of a picture.
        number: The value.
        some: Samples of all of it, `(n, n, C)`.
    """
    along = [_rims(of, number) for of in lines]
    beside = np.concatenate([rims.beside for rims in along])
    islands = sum(rims.islands for rims in along) / max(1, len(beside) + sum(rims.islands for rims in along))
    if len(beside) < _FEWEST or max(r.parts for r in along) < _PARTS:
        return None
    of_runs = max(r.of_runs for r in along)
    scene = np.sort(_distance(some, number)[~_is(some, number)])
    for mixed in (0, 1):
        if islands > _ISLANDS[mixed] or of_runs < _OF_RUNS[mixed]:
            continue
        if _goes_on(beside[:, mixed:], scene, mixed) and (mixed == 0 or _is_mixture(beside, scene)):
            return mixed
    return None


def _goes_on(beside: NDArray[np.float32], scene: NDArray[np.float32], mixed: int) -> bool:
    """Whether a scene is beside its gaps what it is elsewhere.

    Args:
        beside: `(N, n)` distances of its values from that of the gaps, from where they are the scene's own.
        scene: Such distances all over the picture, sorted.
        mixed: Pixels before those, of which some rims may have one more.
    """
    first, second, last = beside[:, 0], beside[:, 1], beside[:, -1]
    step = abs(second - last)
    return (
        _share_below(first, second) <= _CLIMBS[mixed]
        and _share_below(second, last) <= _CLIMBS[0]
        and bool((step == 0).mean() <= _FLAT)
        and bool(np.median(first) > _JUMP * np.median(step))
        and _ranks_as_all(first, scene, mixed)
    )


def _is_mixture(beside: NDArray[np.float32], scene: NDArray[np.float32]) -> bool:
    """Whether the first pixel beside gaps is a mixture of scene and gap, in any shares, and the second the scene."""
    first, second, third = beside[:, 0], beside[:, 1], beside[:, 2]
    return (
        bool((second > _NEARLY * third).mean() > _FULL)
        and bool(_MIXED[0] < (first < _NEAR * third).mean() < _MIXED[1])
        and _ranks_as_all(third, scene, 2)
    )


def _share_below(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one < other).mean() + 0.5 * (one == other).mean())


def _ranks_as_all(values: NDArray[np.float32], scene: NDArray[np.float32], index: int) -> bool:
    """Whether values so far from a rim lie among those of a scene, sorted, as these do among themselves."""
    rank = 0.5 * sum(np.searchsorted(scene, values, side).mean() for side in ("left", "right")) / len(scene)
    return bool(_RANKS[index][0] <= rank <= _RANKS[index][1])


def _distance(pixels: NDArray[np.generic], number: np.generic) -> NDArray[np.float32]:
    """Of grey values from one, `(..., C)` to `(...)`."""
    return np.asarray(abs(pixels.astype(np.float32).mean(-1) - np.float32(number)))


def _rims(lines: NDArray[np.generic], number: np.generic) -> _Rims:
    """What lies beside the runs of one value along lines, `(n, L, C)`."""
    gap, distance = _is(lines, number), _distance(lines, number)
    beside, islands, inner = [], 0, np.zeros_like(gap)
    inner[:, 1:-1] = gap[:, :-2] & gap[:, 1:-1] & gap[:, 2:]  # impulses are none
    in_run = inner.copy()
    in_run[:, :-1] |= inner[:, 1:]
    in_run[:, 1:] |= inner[:, :-1]
    for forth in (slice(None), slice(None, None, -1)):
        there, values = gap[:, forth], distance[:, forth]
        line, at = np.nonzero(there[:, :-_CLEAR] & ~there[:, 1 : 1 - _CLEAR or None])
        reach = at[:, None] + np.arange(1, 1 + _CLEAR)
        clear = ~there[line[:, None], reach].any(1)
        islands += int((~clear).sum())
        beside.append(values[line[clear, None], reach[clear]])
    scene = ~gap
    parts = scene[:, 0] + (scene[:, 1:] & gap[:, :-1]).sum(1)
    crossed = parts[parts > 0]
    return _Rims(
        np.concatenate(beside),
        islands,
        float(in_run.sum() / max(1, gap.sum())),
        float(crossed.mean()) if crossed.size else 0.0,
    )
