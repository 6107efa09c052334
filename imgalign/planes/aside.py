"""What is set aside before two pictures are aligned, for it would hold them: frames, captions, gaps without data."""

from dataclasses import dataclass

from imgalign.decompose import Float
from imgalign.planes import gaps, overlays, standing, surround
from imgalign.planes.plane import Plane
from imgalign.planes.surround import Region


@dataclass(frozen=True)
class Aside:
    """What is set aside of two pictures.

    Attributes:
        there: Where each holds something beside gaps, `(H, W)`; None for everywhere.
        inside: Where neither has what both have at one place, `(h, w)` at some reduction; None for everywhere.
        where: How that lies to the scene.
    """

    there: tuple[Region | None, Region | None]
    inside: Region | None
    where: str

    @property
    def notes(self) -> list[str]:
        """What an answer says of it."""
        alike = [] if self.inside is None else [f"what {self.where} both pictures alike was left out"]
        return ["gaps of one value were taken for no data", *alike] if any(x is not None for x in self.there) else alike

    def taken_off(self, fixed: Plane, moving: Plane) -> tuple[Plane, Plane]:
        """Both pictures without it."""
        first, second = (_within(p, self.inside, there) for p, there in zip((fixed, moving), self.there, strict=True))
        return first, second

    def doubt(self, moving_from_fixed: Float, size_hw: tuple[int, int]) -> str:
        """Why an answer of the whole pictures may be due to it alone; empty where it may not.

        Args:
            moving_from_fixed: The answer, of full-size pixels.
            size_hw: Of the fixed picture.
        """
        if self.inside is not None and surround.stays(self.inside, moving_from_fixed, size_hw):
            return f"what {self.where} both pictures at the same place may be all that agrees"
        return "gaps without data may be all that agrees" if gaps.explain(*self.there, moving_from_fixed) else ""


def set_aside(fixed: Plane, moving: Plane, reduction: int) -> Aside | None:
    """What is to be set aside of two pictures; None for nothing, as a rule.

    Args:
        fixed: The picture that stays.
        moving: The other.
        reduction: On which frames and captions are looked for.
    """
    pictures = fixed.at(reduction), moving.at(reduction)
    there = gaps.found(fixed), gaps.found(moving)
    has_gaps = any(x is not None for x in there)
    where, inside = "surrounds", surround.shared(*pictures)
    if inside is None and not has_gaps:
        where, inside = "lies over", overlays.shared(*pictures)
        # Where nothing moves, the scene itself is the same over both.
        inside = inside if inside is not None and standing.differ(*pictures) else None
    return Aside(there, inside, where) if has_gaps or inside is not None else None


def _within(picture: Plane, *regions: Region | None) -> Plane:
    """A picture of which only some counts: what lies in all regions, None for everywhere."""
    for region in regions:
        picture = picture if region is None else picture.within(region)
    return picture
