"""What can be asked of an alignment: names, defaults, and which values can work.

`align`, the files' `AlignOptions` and the command line all take them from here; nothing heavy is loaded for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgalign.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Options = TypeVar("_Options", bound="DataclassInstance")

MODELS = ("translate", "rigid", "similarity", "affine", "homography")  # each holds those before it
LOSSES = ("auto", "ssd", "robust", "ncc", "lncc", "gradient", "mi")
OPTIMIZERS = ("lm", "sgd", "adam", "lbfgs")
SAMPLERS = ("nearest", "bilinear", "cubic")
MOST_SCALE = 20  # further apart, pictures of one thing have hardly a pixel in common
STARTS = ("auto", "identity", "center", "phase")


_WHOLE = {"levels", "iterations", "seed"}
_NEVER_NONE = {"precision", "trust", "seed"}
_NUMBERS = ("levels", "iterations", "lr", "max_shift", "max_rotation", "max_scale", "precision", "trust", "seed")


def check_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Refuse what is no number: a text of one would be compared letter by letter.

    Raises:
        OptionError: Naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise OptionError(f"{name} must be a {'whole ' * whole}number, got {value!r}")


@dataclass(frozen=True)
class Wanted:
    """The options that shape a result, as `imgalign.align` takes them.

    Raises:
        OptionError: If a value cannot work.
    """

    model: str = "affine"
    loss: str = "auto"
    optimizer: str = "lm"
    sampler: str = "cubic"
    levels: int | None = None
    iterations: int | None = None
    lr: float | None = None
    max_shift: float | None = None
    max_rotation: float | None = None
    max_scale: float | None = None
    allow_mirror: bool = False
    precision: float = 0.01
    trust: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("model", self.model, MODELS),
            ("loss", self.loss, LOSSES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if value not in known:
                raise OptionError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
        self._check_types()
        for name in ("levels", "iterations", "lr", "max_shift", "precision"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # so that NaN is refused too, here and below
                raise OptionError(f"{name} must be above 0, got {value}")
        if self.max_rotation is not None and not self.max_rotation >= 0:
            raise OptionError(f"max_rotation must be 0 or more, got {self.max_rotation}")
        if self.max_scale is not None and not 1 <= self.max_scale <= MOST_SCALE:
            raise OptionError(f"max_scale is a factor from 1 to {MOST_SCALE}, got {self.max_scale}")
        if not 0 <= self.trust <= 1:
            raise OptionError(f"trust is a probability between 0 and 1, got {self.trust}")

    def _check_types(self) -> None:
        for name in _NUMBERS:
            if name in _NEVER_NONE or getattr(self, name) is not None:
                check_number(name, getattr(self, name), whole=name in _WHOLE)
        if self.allow_mirror not in (True, False):
            raise OptionError(f"allow_mirror must be True or False, got {self.allow_mirror!r}")

    @property
    def is_bounded(self) -> bool:
        """Whether some transforms are not wanted."""
        return not self.max_shift is self.max_rotation is self.max_scale is None


@dataclass(frozen=True)
class AlignOptions(Wanted):
    """All options of `imgalign.align`, for pictures in files: masks are files, and `init` may be one."""

    init: str = "auto"
    mask: Path | None = None
    moving_mask: Path | None = None
    device: str = "auto"
    threads: int | None = None

    @property
    def files(self) -> dict[str, str]:
        """Every file that is named here, by the option that names it."""
        named = {"init": None if self.init in STARTS else self.init, "mask": self.mask, "moving_mask": self.moving_mask}
        return {option: str(name) for option, name in named.items() if name is not None}


def options_of(kind: type[_Options], given: Mapping[str, Any], **more: Any) -> _Options:
    """The options of a kind out of a larger mapping, such as all that a command was given."""
    known = {entry.name for entry in fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in known}, **more)
