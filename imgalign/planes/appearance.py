"""What of a picture is compared: grey values, local contrast, orientation of edges.

Local contrast (a picture less its local mean, over its local standard deviation) takes uneven light,
vignetting and gamma away. The orientation field says which way edges run, in double angles so that a dark-to-
bright edge and a bright-to-dark one agree: two modalities of one scene share it where they share nothing else.
"""

import torch
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.gradients import central_differences
from imgalign.numerics.masks import is_whole
from imgalign.numerics.neighbours import least
from imgalign.numerics.sums import plane_means
from imgalign.pyramid import blur, blurred_weight, masked_blur


def local_contrast(image: Image, weight: Weight, sigma: float, floor: float | Tensor) -> Image:
    """A picture less its local mean, over its local contrast; zero under the mask.

    Args:
        image: `(B, 1, H, W)`.
        weight: Its mask.
        sigma: Size of the neighbourhood in pixels (of a Gaussian).
        floor: Contrast, in the image's unit, below which an area counts as flat and is not amplified; a number, or one
            a picture, `(B, 1, 1, 1)`.
    """
    below = blurred_weight(weight, sigma)
    centred = (image - masked_blur(image, weight, sigma, below)) * weight
    variance = masked_blur(centred * centred, weight, sigma, below)
    return centred * (variance.clamp_min(0) + floor * floor).rsqrt()


def smoothed(image: Image, weight: Weight) -> Image:
    """A small picture with little noise left."""
    return masked_blur(image, weight, 0.7)


def relief(image: Image, weight: Weight, smooth: Image) -> Image:
    """Local contrast of small pictures, `(B, 1, H, W)`, from what is left of them `smooth`ed, whatever their scale."""
    contrast = plane_means((image - plane_means(image, weight)).square_(), weight).sqrt_()
    return local_contrast(smooth, weight, 6.0, 0.1 * contrast + 1e-12)


def fine_detail(image: Image, weight: Weight, sigma: float) -> Image:
    """A picture `(B, 1, H, W)` less its blur by `sigma` pixels: what is no larger than that; zero under the mask."""
    return (image - masked_blur(image, weight, sigma)) * (weight > 1 - 1e-2)


def edges(smooth: Image, weight: Weight, sigma: float = 1.0) -> Image:
    """Double-angle direction of the gradient, `(B, 2, H, W)`, strength between 0 and 1; zero under the mask.

    Gradients below half the mean one are no edge.

    Args:
        smooth: `(B, 1, H, W)`, with little noise left.
        weight: Its mask.
        sigma: Blur of the squared gradients in pixels.
    """
    gx, gy = central_differences(smooth)
    squares = gx * gx, gy * gy
    energy = squares[0] + squares[1]
    floor = 0.25 * plane_means(energy, weight) + 1e-24
    field = torch.cat([squares[0] - squares[1], 2 * gx * gy, energy], 1)
    if not is_whole(weight):
        # A pixel beside a masked one has a false edge.
        solid = (weight > 0.5).to(smooth.dtype)
        field = field * least(solid, 1)
    field = blur(field, sigma) if sigma > 0 else field
    return field[:, :2] / (field[:, 2:].clamp_min(0) + floor) * weight
