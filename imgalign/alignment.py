"""The result of an alignment: one matrix, how sure it is, and what can be done with it. No PyTorch needed to hold it.

Convention: `moving_from_fixed` takes fixed pixels `(x, y)` to moving pixels; `(0, 0)` is the centre of the top-left
pixel.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from imgalign.decompose import (
    Float,
    PlainNumbers,
    corners_of,
    decompose,
    jacobians,
    mapped,
    plain_sigma,
    point_covariance,
    scaled,
    theta_of,
)
from imgalign.errors import ShapeError
from imgalign.wanted import MODELS

if TYPE_CHECKING:
    from imgalign.warp.canvas import Canvas
    from imgalign.warp.resample import Interpolation

_Picture = TypeVar("_Picture")


@dataclass(frozen=True, eq=False)
class Alignment:
    """How one picture lies on another. Arrays are read-only copies; a changed one is made by `dataclasses.replace`."""

    model: str
    """`translate`, `rigid`, `similarity`, `affine` or `homography`."""
    moving_from_fixed: Float
    """`(3, 3)`: fixed pixel to moving pixel."""
    fixed_size_hw: tuple[int, int]
    moving_size_hw: tuple[int, int]
    status: str = "given"
    """Why the descent stopped: `converged`, `iteration limit`, `no overlap`, ..."""
    trusted: bool = True
    probability: float = 1.0
    """That the mean corner error is small."""
    reasons: tuple[str, ...] = ()
    """Why to believe it or not, in words."""
    corner_covariance: Float | None = None
    """`(8, 8)` in px^2 (moving pixels): of the mapped fixed corners x0, y0, x1, y1, ...; TL, TR, BR, BL."""
    parameter_sigma: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of `shift_x`, `shift_y`, `rotation_deg`, ... as far as the model has them."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """`loss_before`, `loss_after`, `correlation_before`, `correlation_after`, `overlap`, ..."""
    history: tuple[float, ...] = ()
    """The loss after each step."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Every option, also those that did not matter, such as a learning rate of `lm`."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of `fixed` and `moving`, where known: `name`, `page`, `sha256`."""

    def __post_init__(self) -> None:
        matrix = np.array(self.moving_from_fixed, np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ShapeError(
                f"moving_from_fixed must be 3 x 3 finite numbers, got shape {matrix.shape}: {matrix.tolist()}"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "moving_from_fixed", matrix)
        if self.corner_covariance is not None:
            covariance = np.array(self.corner_covariance, np.float64)
            if covariance.shape != (8, 8):
                raise ShapeError(
                    f"corner_covariance must be 8 x 8 (four corners, x and y), got shape {covariance.shape}"
                )
            covariance.setflags(write=False)
            object.__setattr__(self, "corner_covariance", covariance)

    @property
    def fixed_from_moving(self) -> Float:
        """`(3, 3)`: moving pixel to fixed pixel. The last entry is one, as in `moving_from_fixed`."""
        try:
            return scaled(np.asarray(np.linalg.inv(self.moving_from_fixed), float))
        except np.linalg.LinAlgError:
            raise ShapeError("the matrix has no inverse: it presses the picture onto a line or a point") from None

    @property
    def numbers(self) -> PlainNumbers:
        """What `moving_from_fixed` does about the middle of the fixed picture."""
        return decompose(self.moving_from_fixed, self.fixed_size_hw)

    @property
    def inverse_numbers(self) -> PlainNumbers:
        """What `fixed_from_moving` does about the middle of the moving picture: how that comes to lie on the fixed."""
        return decompose(self.fixed_from_moving, self.moving_size_hw)

    @property
    def theta(self) -> Float | None:
        """The 2 x 3 for PyTorch's `affine_grid(align_corners=False)`; None for a homography."""
        return theta_of(self.moving_from_fixed, self.fixed_size_hw, self.moving_size_hw)

    @property
    def corner_sigma_px(self) -> float:
        """Predicted error of a corner: one standard deviation, root mean square over the four; NaN where unknown."""
        if self.corner_covariance is None:
            return float("nan")
        return float(np.sqrt(np.trace(self.corner_covariance) / 4))

    def sigma(self, points: ArrayLike) -> Float:
        """Predicted error of where fixed points land in the moving picture.

        Args:
            points: `(N, 2)` fixed pixels, `(x, y)`.

        Returns:
            `(N, 2)` standard deviations in moving pixels, in x and in y; NaN where the covariance is unknown.
        """
        at = np.asarray(points, float).reshape(-1, 2)
        if self.corner_covariance is None:
            return np.full(at.shape, np.nan)
        joint = point_covariance(self.moving_from_fixed, self.fixed_size_hw, self.corner_covariance, at)
        return np.sqrt(np.clip(np.diag(joint), 0, None)).reshape(-1, 2)

    def compose(self, other: "Alignment") -> "Alignment":
        """Follow this alignment by another: A from B, then B from C, gives A from C.

        Args:
            other: One whose fixed picture is this one's moving picture.

        Raises:
            ShapeError: If the two do not meet in a picture of the same size.
        """
        if other.fixed_size_hw != self.moving_size_hw:
            raise ShapeError(
                f"these do not follow each other: the first ends in a picture of {_size(self.moving_size_hw)},"
                f" the second starts from one of {_size(other.fixed_size_hw)}; give them in the order A<-B B<-C"
            )
        return _derived(
            self,
            other,
            model=max(self.model, other.model, key=MODELS.index),
            moving_from_fixed=scaled(other.moving_from_fixed @ self.moving_from_fixed),
            covariance=_composed_covariance(self, other),
            fixed_size_hw=self.fixed_size_hw,
            moving_size_hw=other.moving_size_hw,
        )

    def inverse(self) -> "Alignment":
        """The same alignment with the two pictures in each other's role."""
        return _derived(
            self,
            None,
            model=self.model,
            moving_from_fixed=self.fixed_from_moving,
            covariance=_inverse_covariance(self),
            fixed_size_hw=self.moving_size_hw,
            moving_size_hw=self.fixed_size_hw,
        )

    def describe(self) -> str:
        """The result in plain words, a few lines; see `imgalign.words`."""
        from imgalign.words import describe

        return describe(self)

    def warp(
        self,
        image: _Picture,
        *,
        interpolation: "Interpolation" = "cubic",
        canvas: "Canvas" = "fixed",
        fill: float | tuple[float, ...] | None = None,
        antialias: bool = True,
    ) -> _Picture:
        """Lay a picture of the moving picture's geometry over the fixed grid.

        Args:
            image: NumPy array `(H, W)` or `(H, W, C)`, PIL image, or tensor `(H, W)`, `(C, H, W)` or `(B, C, H, W)`,
                of the moving picture's size. Two or four channels end in alpha, in floats from 0 to 1.
            interpolation: `nearest` (label maps), `bilinear`, `cubic` or `lanczos`.
            canvas: `fixed`: the fixed picture's grid; `union`: grown to hold both; `intersection`: cut to both.
            fill: What stands where nothing lies under the grid: a number, or one a channel. None: NaN in float,
                transparent in a PIL image and where there is an alpha channel, else 0.
            antialias: Average where the picture shrinks, so that it does not alias.

        Returns:
            The same kind of picture with the same dtype. Tensors come back detached.

        Raises:
            ShapeError: If the picture does not have the moving picture's size.
        """
        from imgalign.warp.kinds import warp_any

        out = warp_any(self, image, interpolation=interpolation, canvas=canvas, fill=fill, antialias=antialias)
        return cast("_Picture", out)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the parameter file.

        Raises:
            WriteError: If it exists and `overwrite` is not set, or cannot be written.
        """
        from imgalign.files.record import write_params

        write_params(path, self, overwrite=overwrite)


def load(path: str | os.PathLike[str]) -> Alignment:
    """Read a parameter file.

    Raises:
        ParamsError: If it is missing, no parameter file, or says something impossible.
    """
    from imgalign.files.record import read_params

    return read_params(path)


def _derived(
    first: Alignment,
    second: Alignment | None,
    *,
    model: str,
    moving_from_fixed: Float,
    covariance: Float | None,
    fixed_size_hw: tuple[int, int],
    moving_size_hw: tuple[int, int],
) -> Alignment:
    """A new alignment out of one (inverse) or two (composition), with its own error bars."""
    sources = (first,) if second is None else (first, second)
    outer = {"fixed": first.files.get("fixed"), "moving": sources[-1].files.get("moving")}
    if second is None:
        outer = {"fixed": first.files.get("moving"), "moving": first.files.get("fixed")}
    if covariance is not None and not np.isfinite(covariance).all():
        covariance = None
    sigma = {} if covariance is None else plain_sigma(moving_from_fixed, fixed_size_hw, covariance, model)
    return Alignment(
        model=model,
        moving_from_fixed=moving_from_fixed,
        fixed_size_hw=fixed_size_hw,
        moving_size_hw=moving_size_hw,
        status=first.status if second is None else "composed",
        trusted=all(a.trusted for a in sources),
        probability=float(np.prod([a.probability for a in sources])),
        reasons=tuple(reason for a in sources for reason in a.reasons),
        corner_covariance=covariance,
        parameter_sigma=sigma,
        quality=dict(first.quality) if second is None else {},
        files={role: dict(known_file) for role, known_file in outer.items() if known_file},
    )


def _composed_covariance(first: Alignment, second: Alignment) -> Float | None:
    """The corners' error of the first, seen through the second, plus the second's own error where they land."""
    if first.corner_covariance is None or second.corner_covariance is None:
        return None
    landed = mapped(first.moving_from_fixed, corners_of(first.fixed_size_hw))
    through = _block_diagonal(jacobians(second.moving_from_fixed, landed))
    own = point_covariance(second.moving_from_fixed, second.fixed_size_hw, second.corner_covariance, landed)
    return through @ first.corner_covariance @ through.T + own


def _inverse_covariance(alignment: Alignment) -> Float | None:
    """An error of the forward map at a point is one of the backward map, seen through the backward map's derivative."""
    if alignment.corner_covariance is None:
        return None
    matrix, size_hw = alignment.moving_from_fixed, alignment.fixed_size_hw
    landed = mapped(alignment.fixed_from_moving, corners_of(alignment.moving_size_hw))
    forward = point_covariance(matrix, size_hw, alignment.corner_covariance, landed)
    back = _block_diagonal(np.asarray(np.linalg.inv(jacobians(matrix, landed)), float))
    return back @ forward @ back.T


def _block_diagonal(blocks: Float) -> Float:
    out = np.zeros((2 * len(blocks), 2 * len(blocks)))
    for i, block in enumerate(blocks):
        out[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return out


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]} x {size_hw[0]}"
