"""Where to start: from what costs next to nothing to all that the model leaves open.

identity, centres, best shifts -> keypoints -> every rotation and scale -> patterns of bright points -> all of it, wider
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from imgalign._types import Matrix3
from imgalign.alignment import Alignment
from imgalign.coords import at_full_size
from imgalign.decompose import decompose
from imgalign.errors import OptionError
from imgalign.planes.levels import Levels
from imgalign.planes.plane import Plane
from imgalign.start import keypoints, matches, spots
from imgalign.start.search import SEARCH_PIXELS, Hypothesis, Range, Slack, allowed, distinct, full_range, reach, search
from imgalign.transforms import corner_distance, get_model, local_scale
from imgalign.wanted import Wanted

_BASIN = 0.03  # of the longer side: cheap starts as near to each other are one for the coarsest level of the ladder
_GRID, _FINE_GRID = 0.06, 0.03  # of the diagonal: hypotheses nearer to each other are one start; of shifts alone
_STARTS, _PERIODS = 12, 24  # that are kept of a search, and of one for shifts alone
_CHEAP, _ALIKE = 5, 0.8  # of them are refined first, and all whose scores are such a share of the best one's
_FIT = 0.7  # of the best score at the rotation and scale of an answer: from there on a shift may be the right one
_CLOSE = 2.5  # times the pixels of the search: a larger picture has more detail than the ladder's last level


class Attempt(NamedTuple):
    """A set of starts, and how to go on from there.

    Attributes:
        starts: Full-size matrices.
        wide: Descend from blurred pictures as well.
        close: On finer levels than the usual ones: detail may be all that there is.
        searched: With these, all that is left open has been looked at.
    """

    starts: list[Hypothesis]
    wide: bool = False
    close: bool = False
    searched: bool = False


class Starts:
    """Where one pair of pictures may be refined from.

    Args:
        fixed: The picture that stays.
        moving: The other.
        wanted: What was asked for.
        levels: Of both, reduced by `base`.
        base: Full-size pixels per pixel of them.
        spent: Told after each search that it was a "start", and when it began.
    """

    def __init__(
        self,
        fixed: Plane,
        moving: Plane,
        wanted: Wanted,
        levels: Levels,
        base: int,
        spent: Callable[[str, float], None],
    ) -> None:
        self._fixed, self._moving, self._wanted = fixed, moving, wanted
        self._levels, self._base, self._spent = levels, base, spent
        self.model = get_model(wanted.model)
        self.size_hw = fixed.size_hw

    def attempts(self, init: Any) -> Iterator[Attempt]:
        """Sets of starts, each dearer than the one before and made only when asked for."""
        auto = is_automatic(init)
        shifts_alone = self.model.name == "translate" and not self._wanted.allow_mirror
        cheap = self.cheap(init)
        yield Attempt(cheap, wide=not auto, searched=shifts_alone or not auto)
        if not auto:
            return
        if patterns := self.by_keypoints():
            yield Attempt(patterns, searched=shifts_alone)
            if self._levels.longest > _CLOSE * SEARCH_PIXELS:
                yield Attempt(patterns, close=True)
        found = cheap
        if not shifts_alone:
            found = self.full_search()
            yield Attempt(found, searched=True)
        # Cheaper than that search, but most pictures show no spots, and most of those that do are found without.
        if patterns := self.by_spots():
            yield Attempt(patterns, searched=True)
        yield Attempt(found, wide=True, searched=True)

    def beside(self, moving_from_fixed: Matrix3) -> list[Hypothesis]:
        """All shifts at the rotation and scale of an answer, and quarter turns on, that fit about as well.

        With contrast, for the edges of texture that repeats agree at all of them. None where only the answer fits.
        """
        turns = (0,) if self.model.name == "translate" else (0, 90, 180, 270)
        angle = decompose(moving_from_fixed, self.size_hw).rotation_deg
        scale = local_scale(moving_from_fixed, self.size_hw)
        mirror = bool(np.linalg.det(moving_from_fixed[:2, :2]) < 0)
        span = Range(tuple(angle + turn for turn in turns), (scale,), mirror)
        places = self._search(span, peaks=_PERIODS, apart=_FINE_GRID, count=_PERIODS, contrast=True)
        places = [h for h in places if h.score > _FIT * places[0].score]
        near = _BASIN * self._reach
        alone = all(corner_distance(h.moving_from_fixed, moving_from_fixed, self.size_hw) < near for h in places)
        return [] if alone else places

    def cheap(self, init: Any) -> list[Hypothesis]:
        """Identity, centres on each other, the best shifts: what a nearly aligned pair needs."""
        centre = np.eye(3)
        for axis in (0, 1):
            centre[axis, 2] = (self._moving.size_hw[1 - axis] - self.size_hw[1 - axis]) / 2
        if isinstance(init, Alignment):
            init = init.moving_from_fixed
        if not isinstance(init, str):
            try:
                matrix = np.asarray(init, float)
            except (TypeError, ValueError):
                matrix = np.full((3, 3), np.nan)
            if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
                raise OptionError("init must be a 3 x 3 matrix of finite numbers that can be inverted")
            return [Hypothesis(matrix, 0.0)]
        if init == "identity":
            return [Hypothesis(np.eye(3), 0.0)]
        if init == "center":
            return [Hypothesis(centre, 0.0)]
        shifts = self.shifts()
        if init == "phase":
            return shifts
        starts = [*shifts, Hypothesis(np.eye(3), 0.0), Hypothesis(centre, 0.0)]
        alike = sum(h.score > _ALIKE * shifts[0].score for h in shifts)
        return distinct(starts, self.size_hw, _BASIN * self._reach, max(_CHEAP, alike))

    def shifts(self) -> list[Hypothesis]:
        """The best shifts at no rotation: of texture that repeats, those a few periods away as well."""
        span = full_range("translate", 0, 1, False)
        if self.model.name != "translate":
            return self._search(span, peaks=3)
        return self._search(span, peaks=_PERIODS, apart=_FINE_GRID, count=_PERIODS)

    def by_keypoints(self) -> list[Hypothesis]:
        """Where most blobs that look alike lie on each other; nowhere, where that is no surprise."""
        began = time.perf_counter()
        (image, weight), there = (picture.at(self._base) for picture in (self._fixed, self._moving))
        moving = keypoints.detected(*there)
        found = matches.matched(keypoints.detected(image, weight), moving, self.model)
        if self._wanted.allow_mirror:
            flip = np.array([[-1, 0, image.shape[-1] - 1], [0, 1, 0], [0, 0, 1.0]])
            flipped = keypoints.detected(image.flip(-1), weight.flip(-1))
            mirrored = matches.matched(flipped, moving, self.model)
            found += [Hypothesis(h.moving_from_fixed @ flip, h.score) for h in mirrored]
        full = self._at_full_size(sorted(found, key=lambda h: -h.score))
        self._spent("start", began)
        return full

    def by_spots(self) -> list[Hypothesis]:
        """Where the bright points of the pictures make one pattern; nowhere, where they show other things."""
        began = time.perf_counter()
        fixed, moving = (spots.detected(*picture.at(self._base)) for picture in (self._fixed, self._moving))
        found = [] if fixed is None or moving is None else spots.matched(fixed, moving, self.model, self.span())
        full = self._at_full_size(found)
        self._spent("start", began)
        return full

    def full_search(self) -> list[Hypothesis]:
        """Hypotheses over the whole range of the model and the bounds."""
        span = self.span()
        return self._search(span, peaks=1 if len(span.rotations_deg) > 4 else 6)

    def span(self) -> Range:
        """The whole range of the model and the bounds."""
        w = self._wanted
        furthest = 180.0 if w.max_rotation is None else w.max_rotation
        return full_range(w.model, furthest, w.max_scale or 2.0, w.allow_mirror)

    @property
    def _reach(self) -> float:
        """The longer side, or of long and thin pictures what stands for it."""
        return reach(max(self.size_hw), min(self.size_hw))

    def _search(
        self, span: Range, peaks: int, apart: float = _GRID, count: int = _STARTS, contrast: bool = False
    ) -> list[Hypothesis]:
        began = time.perf_counter()
        full = self._at_full_size(search(self._levels, span, peaks=peaks, contrast=contrast))
        diagonal = math.hypot(*self.size_hw) * self._reach / max(self.size_hw)
        best = distinct(full, self.size_hw, apart * diagonal, count)
        self._spent("start", began)
        return best

    def _at_full_size(self, found: list[Hypothesis]) -> list[Hypothesis]:
        """Hypotheses of the base level in full-size pixels, those within the bounds."""
        full = (Hypothesis(at_full_size(h.moving_from_fixed, self._base), h.score) for h in found)
        # A place is known to about a pixel of the pictures that are searched.
        px = max(self._base, max(*self.size_hw, *self._moving.size_hw) / SEARCH_PIXELS)
        slack = Slack.of(px, 0.5 * min(self.size_hw))
        return [h for h in full if allowed(self._wanted, h.moving_from_fixed, self.size_hw, slack)]


def is_automatic(init: Any) -> bool:
    """Whether it is left to the engine where to start."""
    return isinstance(init, str) and init == "auto"
