"""Lay one picture over another, and know when not to believe the result.

    import imgalign

    result = imgalign.align(fixed, moving, model="affine")
    if result.trusted:
        aligned = result.warp(moving)

Names are loaded when first used, so that `import imgalign` and `imgalign --help` cost next to nothing;
`align` brings in PyTorch, `load` and `Alignment` only NumPy.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgalign.align import align, prepare
    from imgalign.alignment import Alignment, load
    from imgalign.center import center
    from imgalign.errors import (
        DeviceError,
        ImageReadError,
        ImgalignError,
        OptionError,
        ParamsError,
        ShapeError,
        WriteError,
    )
    from imgalign.gradmap import gradmap

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "DeviceError",
    "ImageReadError",
    "ImgalignError",
    "OptionError",
    "ParamsError",
    "ShapeError",
    "WriteError",
    "__version__",
    "align",
    "center",
    "gradmap",
    "load",
    "prepare",
]

_HOME = {
    "align": "align",
    "prepare": "align",
    "Alignment": "alignment",
    "load": "alignment",
    "center": "center",
    "gradmap": "gradmap",
    **dict.fromkeys(
        (
            "DeviceError",
            "ImageReadError",
            "ImgalignError",
            "OptionError",
            "ParamsError",
            "ShapeError",
            "WriteError",
        ),
        "errors",
    ),
}
_SUBMODULES = (
    "coords",
    "errors",
    "gradients",
    "losses",
    "pyramid",
    "sampling",
    "stn",
    "transforms",
    "translation",
    "upsample",
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


class _Package(ModuleType):
    """The package, in which `imgalign.align` stays the function.

    Importing the submodule `imgalign.align` makes Python bind the module to that name; three functions share their
    name with the file they live in, so the binding is refused for them.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
