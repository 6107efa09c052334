"""Where edges do not settle it: what curves of grey values make of an answer.

answer -> a curve contradicts it | tells clearly more elsewhere | is a trend -> another answer, or none

Two modalities of one scene may share no outline, or show outlines side by side that edges and correlations take for
one. What each grey value of one is in the other (`refine.correlation_ratio`) may tell the place then, faintly.
"""

from dataclasses import replace

from imgalign.coords import at_level
from imgalign.finish import Finish, in_full, told
from imgalign.planes.levels import Levels
from imgalign.refine.correlation_ratio import JUDGED_PIXELS, Climbed, climb, follow
from imgalign.refine.polish import Polished

_UNCERTAIN = 0.4  # pixels of the base level: what is known less is led by a trend, where
_STRAIGHT = 0.6  # of what a curve explains a line explains as well: what falls and rises again may be anything, and
_CLEARLY = 2.0  # times as exact, by predicted errors, it has to be
_TELLS_MORE = 0.02  # nats a pixel beyond the answer, from which on a curve leads where edges tell nothing
_PULLED = 0.25  # of how far it leads is how far it may be wrong
_KEPT = 0.8  # of the overlap


class Curves:
    """What curves of grey values make of the answers of one pair; each None where they have nothing to say.

    Args:
        finish: Of the pair.
        levels: Of both pictures.
    """

    def __init__(self, finish: Finish, levels: Levels) -> None:
        self._finish, self._levels = finish, levels

    def contradict(self, polished: Polished) -> Polished | None:
        """An answer where outlines lie side by side, led to where one picture tells far more of the other.

        Skin lies around bone, bright in one modality as this in the other.
        """
        found = climb(self._levels, at_level(polished.moving_from_fixed, self._finish.base), self._finish.model)
        if found is None:
            return None
        other = self._moved(polished, found)
        if other is None:
            return None
        apart = self._finish.apart(other, polished)
        # Outlines that were told from each other lie farther apart: so near, either may be off.
        near = apart * JUDGED_PIXELS < max(self._finish.size_hw)
        return self._doubted(other, apart) if near else self._finish.as_seen(other)

    def tell_more(self, polished: Polished) -> Polished | None:
        """An answer that next to no outline speaks for, led to where curves tell clearly more.

        A cell is a ring in one channel, and a nucleus somewhere within it in the other.
        """
        found = self._followed(polished)
        if found is None or found.gained < _TELLS_MORE:
            return None
        other = self._moved(polished, found)
        return None if other is None else self._doubted(other, _PULLED * self._finish.apart(other, polished))

    def trend(self, polished: Polished) -> Polished | None:
        """An answer of which little is known, led by what is nearly a line, and knows more.

        Nuclei lie within membranes, dark where these are bright. A light that changes over the picture would take along
        what little tone both share, and edges lie beside each other.
        """
        known = self._finish.sigma(polished)
        found = self._followed(polished) if known >= _UNCERTAIN * self._finish.base else None
        if found is None or found.after.straight < _STRAIGHT * found.after.share:
            return None
        other = self._moved(polished, found)
        if other is None or _CLEARLY * self._finish.sigma(other) > known:
            return None
        return self._doubted(other, known)

    def _followed(self, polished: Polished) -> Climbed | None:
        """Where curves lead from an answer, if the pictures do not slide apart."""
        found = follow(self._levels, at_level(polished.moving_from_fixed, self._finish.base), self._finish.model)
        return None if found is None or found.after.overlap <= _KEPT * found.before.overlap else found

    def _moved(self, polished: Polished, found: Climbed) -> Polished | None:
        """An answer, moved to where curves have led; None if that is out of bounds, or known to no picture's width."""
        other = in_full(told(polished, found.moving_from_fixed, found.known), self._finish.base).doubted()
        known = 0 < self._finish.sigma(other) < max(self._finish.size_hw)  # of nothing but rounding it may be nothing
        return other if known and self._finish.is_allowed(other) else None

    def _doubted(self, other: Polished, doubt_px: float) -> Polished:
        """What came of curves, with a doubt: their error bar, made of what they leave, misses what pulls them."""
        # Corners beyond a horizon are infinitely far apart.
        more = (min(max(self._finish.size_hw), doubt_px) / self._finish.sigma(other)) ** 2
        return self._finish.as_seen(replace(other, covariance=(1 + more) * other.covariance))
