"""Differences of image gradients: to align by, and to train by."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from imgalign._types import Image, Weight
from imgalign.gradients import central_differences, magnitude
from imgalign.losses.overlap import Overlap, check_choice, check_images, noise_floor, overlap_of

Norm = Literal["l1", "l2"]
Of = Literal["vector", "magnitude"]


def gradient(
    fixed: Image, warped: Image, weight: Weight | None = None, *, norm: Norm = "l1", of: Of = "vector"
) -> Tensor:
    """Difference of the image gradients, each in units of its own mean length: blind to slow changes of light.

    A ramp of light changes nothing at all, for the mean vector of each gradient field is taken off it.

    A pixel counts where its 3 x 3 neighbourhood does, so that the border of the overlap is no edge.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        norm: `l1`, lengths (edges that only one image has do not dominate), or `l2`, their squares.
        of: `vector` compares direction and length; `magnitude` the lengths alone, so that edges of inverted
            contrast fit too.

    Returns:
        `(B,)`: 0 to 1 (`l2` of vectors: to 2); 2 without overlap, 1 where either image is constant.

    Raises:
        ShapeError: If shapes or dtypes do not fit, or an axis is shorter than two pixels.
        OptionError: If there is no such norm or field.
    """
    check_choice("norm", norm, ("l1", "l2"))
    check_choice("of", of, ("vector", "magnitude"))
    overlap = overlap_of(fixed, warped, weight)
    inner = -functional.max_pool2d(-overlap.weight, 3, stride=1, padding=1)
    overlap = Overlap(overlap.fixed, overlap.warped, inner)
    power = 1 if norm == "l1" else 2
    f, size_f = _unit_field(overlap, overlap.fixed, of, power)
    g, size_g = _unit_field(overlap, overlap.warped, of, power)
    apart = [a - b for a, b in zip(f, g, strict=True)]
    # A hundredth of the mean length: rounds the tip of the absolute value, see gradients.magnitude.
    difference = _length(apart, 0.01) if power == 1 else _square_length(apart)
    unlike = overlap.mean(difference).mean(dim=(1, 2, 3)) + (2 - size_f - size_g)
    return overlap.judged(0.5 * unlike)


def gradient_pair(first: Image, second: Image, *, norm: Norm = "l1", of: Of = "magnitude", eps: float = 1e-3) -> Tensor:
    """L1 or L2 distance between the gradients of two images of one unit: a term for training networks.

    Finite, with finite derivatives, for all finite images. Both magnitudes are too small by less than `eps`
    (exact at zero), so that the L1 distance is off by less than `eps` and two flat images have exactly 0.

    Args:
        first: `(B, C, H, W)`, at least 2 x 2 pixels.
        second: The same shape, dtype and unit.
        norm: `l1`, mean absolute difference, or `l2`, mean squared difference.
        of: `magnitude`, lengths alone; `vector`, the lengths of the difference vectors.
        eps: See `gradients.magnitude`; about a hundredth of a typical gradient, in the unit of the images per px.

    Returns:
        `(B,)`, unit per px (or its square).

    Raises:
        ShapeError: If shapes or dtypes do not fit.
        OptionError: If there is no such norm or field, or `eps` is negative.
    """
    check_choice("norm", norm, ("l1", "l2"))
    check_choice("of", of, ("vector", "magnitude"))
    check_images(first, second, None)
    d1, d2 = central_differences(first), central_differences(second)
    if of == "magnitude":
        difference = magnitude(*d1, eps=eps) - magnitude(*d2, eps=eps)
        cost = difference.abs() if norm == "l1" else difference.square()
    elif norm == "l1":
        cost = magnitude(d1[0] - d2[0], d1[1] - d2[1], eps=eps)
    else:
        cost = (d1[0] - d2[0]).square() + (d1[1] - d2[1]).square()
    return cost.mean(dim=(1, 2, 3))


def _unit_field(overlap: Overlap, image: Image, of: Of, power: int) -> tuple[list[Tensor], Tensor]:
    """Gradients in units of their mean (or root mean square) length, and that mean's own size: 1, or 0 if flat."""
    # A ramp of light is the same vector everywhere: without the mean vector it is gone.
    field = [part - overlap.mean(part) for part in central_differences(image)]
    if of == "magnitude":
        field = [_length(field, 0.0)]
    length = _length(field, 0.0) if power == 1 else _square_length(field)
    floor = noise_floor(image) if power == 2 else noise_floor(image).sqrt()
    size = overlap.mean(length).mean(dim=1, keepdim=True)
    unit = size + floor if power == 1 else (size + floor).sqrt()
    return [d / unit for d in field], (size / (size + floor)).flatten()


def _length(field: list[Tensor], eps: float) -> Tensor:
    second = field[1] if len(field) == 2 else torch.zeros_like(field[0])
    return magnitude(field[0], second, eps=eps)


def _square_length(field: list[Tensor]) -> Tensor:
    return sum((part.square() for part in field), torch.zeros_like(field[0]))
