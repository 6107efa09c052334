"""How a scene moves behind what stands still in both pictures.

answer that moves nothing -> `standing.differ` -> parted pictures -> their answer -> `standing.explains` -> answer
"""

from dataclasses import replace

from imgalign.engine import MOVED, Answer, Pair, hardly_differ
from imgalign.finish import in_full
from imgalign.planes import standing
from imgalign.planes.plane import Plane

_STILL = 0.1  # pixels of the base level: what has moved by less stands still


def behind(pair: Pair, answer: Answer) -> Answer:
    """An answer, or where it stands still and something moves behind it, how that moves."""
    same_size = pair.size_hw == pair.moving.size_hw
    if not same_size or pair.motion(answer.place) > _STILL or hardly_differ(answer.polished):
        return answer
    pictures = pair.fixed.at(pair.base), pair.moving.at(pair.base)
    if not standing.differ(*pictures):
        return answer
    fixed, moving = (Plane.of(*picture) for picture in standing.parted(*pictures))
    parted = Pair(fixed, moving, pair.wanted, pair.between, unmoved=False)
    parted.seconds = pair.seconds
    found = parted.best("auto")
    if found is None or found.probability < pair.wanted.trust:
        return answer
    if not standing.explains(*pictures, found.polished.moving_from_fixed):
        return answer
    found = replace(found, polished=in_full(found.polished, pair.base), behind=True)
    # The pictures as they are know more, unless what stands still draws them back.
    there = pair.candidate([found.place], wide=False)
    polished = found.polished if there is None else pair.answer(there).polished
    apart = pair.finish.apart(polished, found.place)
    if apart > MOVED * pair.base:
        return found
    return replace(found, polished=replace(polished, doubt_px=apart).doubted())
