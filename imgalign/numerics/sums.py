"""Sums over pictures that are the same whatever the number of threads.

PyTorch splits a sum to a single number among its threads, so its rounding depends on how many there are, and on a hard
pair a descent may then go another way. Sums along rows it never splits.
"""

from torch import Tensor

from imgalign._types import Image, Weight


def plane_sums(image: Image) -> Tensor:
    """Sum over the pixels of each plane, `(..., h, w)` to `(...)`."""
    return image.sum(-1).sum(-1)


def plane_means(image: Image, weight: Weight) -> Tensor:
    """Weighted mean of each plane, `(..., h, w)` to `(..., 1, 1)`."""
    return (plane_sums(image * weight) / plane_sums(weight).clamp_min(1e-6))[..., None, None]


def total(image: Image) -> Tensor:
    """Sum over all pixels, a number as a tensor."""
    return plane_sums(image).sum()


def mean(image: Image, weight: Weight) -> Tensor:
    """Weighted mean over all pixels, a number as a tensor."""
    return total(image * weight) / total(weight).clamp_min(1e-6)


def variance(image: Image) -> Tensor:
    """Variance of all values, a number as a tensor."""
    centred = image - total(image) / image.numel()
    return total(centred * centred) / (image.numel() - 1)
