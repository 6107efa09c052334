"""Masks, `(1, 1, H, W)` weights from 0 to 1: most are of pictures that count everywhere, and those cost nothing."""

from imgalign._types import Image, Weight

_NEARLY_ONE = 0.999


def full_weight(image: Image) -> Weight:
    """The mask of a picture that counts everywhere: ones, all of them one number in memory. Not to be written to."""
    return image.new_ones(()).expand(1, 1, *image.shape[-2:])


def least_weight(weight: Weight) -> float:
    """The least weight of a mask."""
    one_number = weight.stride(-1) == weight.stride(-2) == 0
    return float((weight[..., :1, :1] if one_number else weight).min())


def is_whole(weight: Weight) -> bool:
    """Whether no pixel is masked, not even in part."""
    return least_weight(weight) >= 1


def mask_or_none(weight: Weight) -> Weight | None:
    """A mask as a `sampling.Reader` takes it: none where every pixel counts."""
    return weight if least_weight(weight) < _NEARLY_ONE else None
