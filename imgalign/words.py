"""An alignment in plain words, for `imgalign info` and for people who do not read matrices."""

import math
from typing import TYPE_CHECKING

from imgalign.decompose import PlainNumbers
from imgalign.files.paths import shown

if TYPE_CHECKING:
    from imgalign.alignment import Alignment


def describe(alignment: "Alignment") -> str:
    """A few lines: the verdict, the motion that lays the moving picture over the fixed one, and its error.

    Directions are those seen on the screen, and belong to the moving picture: it is what moves.
    """
    lines = [_verdict(alignment), _motion_line(alignment), _error_line(alignment)]
    lines += [f"note: {reason}" for reason in alignment.reasons]
    # Names may hold line breaks, and all of it what a stranger's parameter file does to a terminal.
    return "\n".join(shown(line) for line in lines if line)


def motion(numbers: PlainNumbers, model: str) -> str:
    """The motion of a picture as one clause: `moves 3.20 px right and 1.10 px down, turns 2.300 degrees clockwise`.

    Args:
        numbers: About the middle of the picture that moves.
        model: What the model has is named even where it comes out as nothing; what it lacks is left out.
    """
    parts = [_shift(*numbers.shift_px)]
    if model != "translate":
        parts.append(_turn(numbers.rotation_deg))
    if model == "similarity":
        parts.append(_growth(math.sqrt(abs(numbers.scale[0] * numbers.scale[1]))))
    if model in ("affine", "homography"):
        parts += [_stretch(*numbers.scale), f"leans by {math.degrees(math.atan(numbers.shear)):.3f} degrees (shear)"]
    if model == "homography":
        parts.append(_tilt(*numbers.perspective))
    if numbers.scale[1] < 0:
        parts.append("is mirrored")
    return ", ".join(parts)


def _verdict(alignment: "Alignment") -> str:
    word = "can be trusted" if alignment.trusted else "is NOT to be trusted"
    return f"{alignment.model}: {word} (probability {alignment.probability:.2f}; {alignment.status})"


def _motion_line(alignment: "Alignment") -> str:
    names = [str(alignment.files.get(role, {}).get("name", f"the {role} picture")) for role in ("moving", "fixed")]
    clause = motion(alignment.inverse_numbers, alignment.model)
    return f"to lie on {names[1]}, {names[0]} {clause} (about its middle, as seen on the screen)"


def _error_line(alignment: "Alignment") -> str:
    sigma = alignment.corner_sigma_px
    return f"corner error about {sigma:.2g} px (1 sigma)" if math.isfinite(sigma) else ""


def _shift(x: float, y: float) -> str:
    across = f"{abs(x):.2f} px {'right' if x >= 0 else 'left'}"
    along = f"{abs(y):.2f} px {'down' if y >= 0 else 'up'}"
    return f"moves {across} and {along}"


def _turn(degrees: float) -> str:
    if abs(degrees) < 5e-4:
        return "does not turn"
    return f"turns {abs(degrees):.3f} degrees {'clockwise' if degrees > 0 else 'counter-clockwise'}"


def _growth(factor: float) -> str:
    if abs(factor - 1) < 5e-6:
        return "keeps its size"
    return f"{'grows' if factor > 1 else 'shrinks'} to {100 * factor:.3f} %"


def _stretch(x: float, y: float) -> str:
    return f"becomes {100 * x:.3f} % as wide and {100 * abs(y):.3f} % as high"


def _tilt(x: float, y: float) -> str:
    """Depth grows where a picture recedes: its content becomes smaller there."""
    across = f"{'right' if x > 0 else 'left'} side recedes by {100 * abs(x):.4f} %"
    along = f"{'bottom' if y > 0 else 'top'} by {100 * abs(y):.4f} %"
    return f"{across} and {along} per px (perspective)"
