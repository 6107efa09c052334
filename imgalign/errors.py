"""Everything imgalign raises on purpose.

Each error also inherits the builtin that a caller would expect, so that library users need not
know these names. Messages are one line: what was wanted, what came, what to do.
"""


class ImgalignError(Exception):
    """Root of all errors raised on purpose."""


class ShapeError(ImgalignError, ValueError):
    """An array has a shape, dtype or size that cannot work."""


class OptionError(ImgalignError, ValueError):
    """An option has a value that cannot work, alone or beside another."""


class ImageReadError(ImgalignError, OSError):
    """A picture could not be read: missing, damaged, too large, or no picture at all."""


class WriteError(ImgalignError, OSError):
    """A file could not be written; the target is as it was before."""


class ParamsError(ImgalignError, ValueError):
    """A parameter file is not one, or says something impossible."""


class DeviceError(ImgalignError, RuntimeError):
    """The asked-for device does not exist on this machine."""
