"""Single pixels far beyond everything else, brighter or darker: hot and dead pixels of a sensor, cosmic rays.

A few of them hold nearly all of a picture's contrast, so that where a sensor's lie at the same place in both pictures
nothing moved agrees best, and where they do not nothing agrees. They are put back to what lies around them before
anything is compared. Not masked: around a masked pixel no blob is looked for, on any level.

No optics makes such pixels. The image of a point leaves a share on its neighbours, also where it is far narrower than
pixels can show. A hot pixel leaves nothing there, nor does one that has another one or two at its side, as those in a
hot column and in the track of a cosmic ray have.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nn
from numpy.typing import NDArray
from torch import Tensor

REACH = 2  # pixels around each that are looked at
_EDGES = 0.05, 0.95  # shares of the pixels between which lies what is usual: impulses are far fewer than the rest
_BEYOND = 8.0  # times that range beyond it: fainter ones do little harm, and most pictures have no such pixel at all
_ALONE = 32.0  # times what its neighbours stand out of their ground: 16 finds no more, and takes stars of 0.7 pixels
_RANK = 3  # of the neighbours, from the brightest, that counts: of a Gaussian of 1.2 pixels it has a thirteenth
_ROUNDS = 16  # of looking, each without the impulses of those before
_EVEN = 1 / 3  # of the pairs that are one number: of no sensor's picture, but of drawings and of black ground
_STRUCTURE = 0.1  # correlation of neighbours from which they show something beside noise
_SIDE = 2 * REACH + 1
_NEAR = (6, 7, 8, 11, 13, 16, 17, 18)  # of 5 x 5 pixels, row by row: the eight neighbours
_AROUND = tuple(k for k in range(_SIDE**2) if k != _SIDE**2 // 2)


class Impulses(NamedTuple):
    """Where a picture has some, and what is there instead, `(N,)` each, from the first row to the last."""

    rows: Tensor
    columns: Tensor
    values: Tensor

    def taken_off(self, grey: Tensor, top: int) -> None:
        """Replace those in some rows of the picture from `top` on, `(h, W)`, in place."""
        ends = torch.tensor([top, top + grey.shape[0]], device=self.rows.device)
        first, last = torch.searchsorted(self.rows, ends).tolist()
        here = slice(first, last)
        grey[self.rows[here] - top, self.columns[here]] = self.values[here]


class Usual(NamedTuple):
    """What most of a picture's pixels lie between.

    Attributes:
        low: From here,
        high: to there.
        pairs: The pixels that say so, `(N, 2)`, each beside the other of its pair.
    """

    low: float
    high: float
    pairs: NDArray[np.float32]

    @property
    def range(self) -> float:
        """From the one to the other."""
        return self.high - self.low

    @property
    def bounds(self) -> tuple[float, float]:
        """Beyond these lies what is no part of the picture's usual contrast."""
        return self.low - _BEYOND * self.range, self.high + _BEYOND * self.range

    def holds(self, least: float, most: float) -> bool:
        """Whether a picture of values between these can have no impulse; NaN where that is not known."""
        low, high = self.bounds
        return not self.range > 0 or (low <= least and most <= high)

    @property
    def is_even(self) -> bool:
        """Whether much of the picture is one number: a ground, and what lies on it is the picture, however thin."""
        numbers, counts = np.unique(self.pairs, return_counts=True)
        # Pairs: a picture of little noise holds one number often as well, but beside others.
        return float((self.pairs == numbers[counts.argmax()]).all(1).mean()) > _EVEN

    @property
    def is_structured(self) -> bool:
        """Whether neighbours show more than noise."""
        both = self.pairs.clip(self.low, self.high)
        one, other = (both - both.mean()).T
        return float(one @ other) > _STRUCTURE * 0.5 * float(one @ one + other @ other)


def usual(pairs: Tensor) -> Usual:
    """What is usual in a picture, from some pairs of neighbours `(N, 2)`; NaN is not seen."""
    both = pairs.cpu().numpy()
    both = both[~np.isnan(both[:, 0] + both[:, 1])]
    if not len(both):
        return Usual(0.0, 0.0, both)
    places = [round(share * (both.size - 1)) for share in _EDGES]
    low, high = (float(x) for x in np.partition(both, places, None)[places])
    return Usual(low, high, both)


def found(bands: Iterable[tuple[int, Tensor]], most: Usual) -> Impulses | None:
    """The impulses of a picture; None where it has none, or where they are all that it shows.

    Args:
        bands: All rows of it, in turn: the number of the first, and `(h + 2 REACH, W)` grey values with the rows above
            and below. NaN where nothing is seen or the picture ends.
        most: What is usual in it.
    """
    if most.is_even:
        return None
    parts, others, device = [], 0, None
    low, high = most.bounds
    for top, grey in bands:
        inner, device = grey[REACH:-REACH], grey.device
        rows, columns = ((inner < low) | (inner > high)).nonzero().cpu().T
        if len(rows):
            # So few that any device would wait longer than a CPU computes.
            framed = nn.pad(grey.cpu(), (REACH, REACH), value=math.nan)
            alone, values = _alone(framed, rows, columns, most)
            others += int((~alone).sum())
            parts.append(Impulses(rows[alone] + top, columns[alone], values))
    count = sum(len(part.rows) for part in parts)
    # Points much smaller than a pixel look the same. Where there is nothing else they are what is to be aligned.
    if not count or not (most.is_structured or others >= count):
        return None
    return Impulses(*(torch.cat(part).to(device) for part in zip(*parts, strict=True)))


def _alone(grey: Tensor, rows: Tensor, columns: Tensor, most: Usual) -> tuple[Tensor, Tensor]:
    """Which of some pixels leave their neighbours as these are, `(N,)`, and what those that do are replaced by.

    Args:
        grey: With `REACH` pixels more on all sides.
        rows: Of the pixels, without these, `(N,)`.
        columns: The same.
        most: What is usual in the picture.
    """
    grey, width = grey.clone(), grey.shape[1]
    middles = (rows + REACH) * width + columns + REACH
    steps = torch.arange(-REACH, REACH + 1, device=grey.device)
    places = middles[:, None] + (steps[:, None] * width + steps).flatten()
    here = grey.flatten()[middles]
    # At a border and beside what is masked it is the same share of fewer, rounded up.
    seen = (~grey.flatten()[places][:, _NEAR].isnan()).sum(1)
    rank = (seen * _RANK + len(_NEAR) - 1) // len(_NEAR)
    alone = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(_ROUNDS):
        square = grey.flatten()[places]
        ground = square[:, _AROUND].nanmedian(1).values
        sign = torch.where(here > ground, 1.0, -1.0)
        near = (sign * (square[:, _NEAR].T - ground)).T
        ranked = near.nan_to_num(nan=-math.inf).sort(1, descending=True).values
        stands_out = ranked.gather(1, rank[:, None].clamp_min(1) - 1)[:, 0].clamp_min(0)
        more = (sign * (here - ground) > _ALONE * stands_out + _BEYOND * most.range) & ~alone & (seen > 0)
        if not bool(more.any()):
            break
        alone |= more
        grey.view(-1)[middles[alone]] = math.nan
    square = grey.flatten()[places[alone]]
    near, ground = square[:, _NEAR].nanmedian(1).values, square[:, _AROUND].nanmedian(1).values
    values = torch.where(near.isnan(), ground, near)
    return alone, values.nan_to_num(nan=0.5 * (most.low + most.high))  # where nothing else around it is seen
