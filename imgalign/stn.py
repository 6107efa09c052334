"""Spatial transformers: a layer that looks at an image, decides on a transform, and warps the image by it.

Convention: as everywhere, matrices are `moving_from_fixed` in pixels: here the input is `moving` and the grid of the
output is `fixed`. Parameters that a network gives are free of the image's size: shifts in half the shorter side.
Grid and reading stay in pixels, so that the identity gives back every bit of the image. (The usual recipe goes
through coordinates from -1 to 1, multiplies by W where W - 1 is meant, and clips the corners it reads:
the identity is then off by a pixel at the far border.)
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from imgalign._types import Image, Matrix, Params
from imgalign.coords import mapped_grid
from imgalign.errors import OptionError, ShapeError

StnModel = Literal["translate", "similarity", "affine"]

PARAMETERS: dict[str, int] = {"translate": 2, "similarity": 4, "affine": 6}


def warp_bilinear(image: Image, moving_from_fixed: Matrix, *, size_hw: tuple[int, int] | None = None) -> Image:
    """Warp a batch of images by a batch of affine matrices; differentiable in both.

    `sampling.sample_grid` does the same at twice the speed, but through `grid_sample`, whose coordinates round in
    the last digits: here a matrix that leads to whole pixels gives those pixels exactly.

    Args:
        image: `(B, C, H, W)`, float, at least 2 x 2 pixels, any unit.
        moving_from_fixed: `(B, 3, 3)`, output pixel to input pixel, `(x, y)`; best in float64.
        size_hw: Size of the output; that of the image without it.

    Returns:
        `(B, C, *size_hw)`; beyond the border the nearest border value.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    _check(image)
    if moving_from_fixed.shape != (image.shape[0], 3, 3):
        raise ShapeError(
            f"moving_from_fixed must be ({image.shape[0]}, 3, 3), got {tuple(moving_from_fixed.shape)}; "
            "give one matrix an image, its last row 0 0 1"
        )
    height, width = image.shape[2:]
    size_hw = (height, width) if size_hw is None else size_hw
    points = mapped_grid(moving_from_fixed, size_hw, image.dtype).flatten(1, 2)  # (B, N, 2)
    x, left = _cell(points[..., 0], width)
    y, top = _cell(points[..., 1], height)
    flat = image.flatten(2)

    def read(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column)[:, None].expand(-1, image.shape[1], -1)
        return flat.gather(2, index)

    above = read(top, left) * (1 - x) + read(top, left + 1) * x
    below = read(top + 1, left) * (1 - x) + read(top + 1, left + 1) * x
    return (above * (1 - y) + below * y).view(*image.shape[:2], *size_hw)


def matrix_from_parameters(
    parameters: Params, model: StnModel, moving_hw: tuple[int, int], fixed_hw: tuple[int, int]
) -> Matrix:
    """The matrices of a network's parameters; zeros are the identity (or, between sizes, fit one to the other).

        translate   x, y                          the shift, in half the shorter side of the input
        similarity  a, b, x, y       | 1+a  -b |
                                     |  b  1+a |  about the centre, then the shift
        affine      a, b, c, d, x, y | 1+a   b |
                                     |  c  1+d |

    Args:
        parameters: `(B, P)`.
        model: `translate`, `similarity` or `affine`.
        moving_hw: Size of the input.
        fixed_hw: Size of the output.

    Returns:
        `(B, 3, 3)` moving_from_fixed in pixels, float64.

    Raises:
        OptionError: If there is no such model.
        ShapeError: If the number of parameters is not the model's.
    """
    _check_model(model)
    if parameters.ndim != 2 or parameters.shape[1] != PARAMETERS[model]:
        raise ShapeError(
            f"parameters of {model} must be (B, {PARAMETERS[model]}), got {tuple(parameters.shape)}; "
            "end the localisation network in that many numbers"
        )
    p = parameters.double()
    one, zero = torch.ones_like(p[:, 0]), torch.zeros_like(p[:, 0])
    if model == "translate":
        entries = [one, zero, zero, one]
    elif model == "similarity":
        entries = [1 + p[:, 0], -p[:, 1], p[:, 1], 1 + p[:, 0]]
    else:
        entries = [1 + p[:, 0], p[:, 1], p[:, 2], 1 + p[:, 3]]
    fit = p.new_tensor([moving_hw[1] / fixed_hw[1], moving_hw[0] / fixed_hw[0]])
    linear = torch.stack(entries, 1).view(-1, 2, 2) * fit
    moving_centre = p.new_tensor([(moving_hw[1] - 1) / 2, (moving_hw[0] - 1) / 2])
    fixed_centre = p.new_tensor([(fixed_hw[1] - 1) / 2, (fixed_hw[0] - 1) / 2])
    column = moving_centre + p[:, -2:] * (min(moving_hw) / 2) - linear @ fixed_centre
    last = p.new_tensor([0.0, 0.0, 1.0]).expand(len(p), 1, 3)
    return torch.cat([torch.cat([linear, column[:, :, None]], 2), last], 1)


class SpatialTransformer(nn.Module):
    """Localisation network, affine grid and bilinear sampler in one module, for any input size.

    Starts at the identity: the last layer of the localisation network is zero. It warps the image that it is given,
    so put it first: warping feature maps cannot undo a rotation (Finnveden, Jansson and Lindeberg 2020).

    Args:
        channels: Channels of the images.
        model: `translate`, `similarity` or `affine`.
        size_hw: Size of the output; that of the input without it.
        localisation: A network of your own from `(B, channels, H, W)` to `(B, P)` (2, 4 or 6 parameters, see
            `matrix_from_parameters`); to start at the identity it must start at zeros.
        width: Channels of the built-in network's first layer.

    Raises:
        OptionError: If there is no such model.

    Source:
        Jaderberg et al. (2015), Spatial transformer networks, section 3.
    """

    def __init__(
        self,
        channels: int,
        *,
        model: StnModel = "affine",
        size_hw: tuple[int, int] | None = None,
        localisation: nn.Module | None = None,
        width: int = 8,
    ) -> None:
        super().__init__()
        _check_model(model)
        self.model, self.size_hw = model, size_hw
        self.localisation = _localisation(channels, PARAMETERS[model], width) if localisation is None else localisation

    def matrix(self, image: Image) -> Matrix:
        """The `(B, 3, 3)` moving_from_fixed, in pixels, that the module would warp `image` by."""
        _check(image)
        size_hw = (image.shape[2], image.shape[3])
        return matrix_from_parameters(self.localisation(image), self.model, size_hw, self.size_hw or size_hw)

    def forward(self, image: Image) -> Image:
        """Warp `(B, channels, H, W)` by what the localisation network makes of it."""
        return warp_bilinear(image, self.matrix(image), size_hw=self.size_hw)


def _localisation(channels: int, parameters: int, width: int) -> nn.Module:
    last = nn.Linear(32, parameters)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, padding=2, stride=2),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),  # where things are, whatever the size of the input
        nn.Flatten(),
        nn.Linear(2 * width * 16, 32),
        nn.ReLU(),
        last,
    )


def _cell(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Fraction `(B, 1, N)` within the cell between two pixels, and the index `(B, N)` of the first of them."""
    inside = position.clamp(0, size - 1)
    first = inside.detach().floor().clamp_max(size - 2)
    return (inside - first)[:, None], first.long()


def _check_model(model: str) -> None:
    if model not in get_args(StnModel):
        raise OptionError(f"model must be one of {', '.join(get_args(StnModel))}, got {model!r}")


def _check(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[0] < 1 or min(image.shape[2:]) < 2 or not image.is_floating_point():
        raise ShapeError(
            f"image must be a float tensor (B, C, H, W) of at least 2 x 2 pixels, got {image.dtype} "
            f"{tuple(image.shape)}; add the missing axes or convert with .float()"
        )
