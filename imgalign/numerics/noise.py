"""What a picture says of its own noise, and of what rounding has left of its values."""

import torch
from torch import Tensor

from imgalign._types import Image
from imgalign.numerics.residuals import MAD_TO_SIGMA

LEAST_SCENE = 0.05  # of a picture's power, where noise seems to be nearly all of it
_NOISE_PIXELS = 30_000  # tell the noise to a hundredth
_FEW_VALUES = 16  # of four bits: of more, a step is small beside what pictures differ by anyway
_FIRST_LOOK, _SECOND_LOOK = 256, 4096  # pixels that tell how many values there are


def noise_variance(image: Image) -> Tensor:
    """Variance of white noise, from every few rows, by the median of Immerkaer's filter (1996), deaf to edges."""
    h = image.shape[-2]
    apart = max(4, image.numel() // _NOISE_PIXELS)
    rows = [image[..., i : h - 2 + i : apart, :] for i in range(3)]
    down = rows[0] - 2 * rows[1] + rows[2]
    both = down[..., :-2] - 2 * down[..., 1:-1] + down[..., 2:]
    return (MAD_TO_SIGMA / 6 * both.abs().median()) ** 2


def rounding_variance(image: Image) -> float:
    """Variance that rounding to few values has left in a picture, `(1, 1, H, W)`; 0 where there are many.

    Of pages of one bit, posters, maps of classes: rounding errors are spread evenly over a step.
    """
    values = image.flatten()
    for some in (_FIRST_LOOK, _SECOND_LOOK):
        seen = torch.unique(values[:: max(1, len(values) // some)])
        if len(seen) > _FEW_VALUES or len(seen) < 2:
            return 0.0
    return float((seen[-1] - seen[0]) / (len(seen) - 1)) ** 2 / 12
