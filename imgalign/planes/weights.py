"""Masks as people hand them in, brought to weights from 0 to 1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgalign.errors import ShapeError


def as_weights(mask: Any, size_hw: tuple[int, int], role: str) -> NDArray[np.float32]:
    """A mask, array, tensor or PIL image, as weights (`shares`), `(H, W)`.

    Args:
        mask: Bool or real numbers.
        size_hw: Of the picture it belongs to.
        role: Of that picture, for messages.

    Raises:
        ShapeError: If it has another size, or holds no real numbers.
    """
    if hasattr(mask, "detach"):  # a tensor; NumPy lacks some of their floats
        mask = mask.detach().cpu()
        mask = mask.float() if mask.is_floating_point() else mask
    array = np.asarray(mask)
    if array.shape != size_hw:
        raise ShapeError(
            f"the mask of {role} must have its size {size_hw[0]} x {size_hw[1]}, got {array.shape}; resize the mask"
        )
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"the mask of {role} must hold real numbers, got {array.dtype}; convert it first")
    return shares(array)


def shares(values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of a mask as shares, 0 to 1: floats as they are, integers of what stands for one there.

    That is 1 in a mask of zeros and ones, else full scale; integers of more than 16 bits are not used to the full, and
    what is largest among them counts in full. What is no number counts for nothing.
    """
    largest = 1.0
    if values.dtype.kind in "iu" and values.size and values.max() > 1:
        largest = float(np.iinfo(values.dtype).max if values.dtype.itemsize <= 2 else values.max())
    with np.errstate(over="ignore"):  # to infinity, which is no number either
        single = values.astype(np.float32)
    return np.nan_to_num(single / np.float32(largest), posinf=0.0).clip(0, 1)
