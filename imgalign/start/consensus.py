"""What points of two pictures agree on: transforms of two points, transforms fitted to all, and how surprising it is.

`spots` and `matches` share it. Points are numbers `x + iy` where they turn and grow by one product.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imgalign._types import Matrix3
from imgalign.decompose import Float
from imgalign.transforms import Model, fit

EXACT_PX = 3.0  # points that come so near to each other are the same once a transform is fitted
_TIGHTER = 0.7  # each round of a fit believes only points so much nearer


def held(turn: NDArray[np.complex128], model: Model) -> NDArray[np.complex128]:
    """Turns as a model allows them: of one scale, or of one rotation as well."""
    if model.name == "translate":
        return np.ones_like(turn)
    return turn / np.abs(turn) if model.name == "rigid" else turn


def surprise(met: NDArray[np.intp], of: NDArray[np.intp], chance: float) -> Float:
    """Minus the logarithm of Chernoff's bound on the probability that so many meet by chance; 0 for no more than that.

    Source: Desolneux, Moisan and Morel 2008, From Gestalt Theory to Image Analysis, section 4.
    """
    share = met / np.maximum(of, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.where(share < 1, (of - met) * np.log((1 - share) / (1 - chance)), 0.0)
        nats = met * np.log(share / chance) + missed
    return np.where(share > chance, nats, 0.0)


def similarity(turn: complex, shift: complex) -> Matrix3:
    """The matrix of `z -> turn z + shift`, points being numbers `x + iy`."""
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1.0]])


def closer_and_closer(
    moving_from_fixed: Matrix3,
    stages: Sequence[tuple[Model, int]],
    agreeing: Callable[[Matrix3, float], tuple[Float, Float]],
    reach: float,
    rounds: int,
) -> list[Matrix3]:
    """Models fitted to the points that agree, from far to near.

    Args:
        moving_from_fixed: Where to start.
        stages: The models, one after the other, and how many points each needs.
        agreeing: The fixed and moving points that lie within a reach of each other by a matrix, `(N, 2)` each.
        reach: The first one, px; it shrinks down to `EXACT_PX`.
        rounds: Fits with each model.

    Returns:
        What came of each stage; nothing where too few points agree.
    """
    matrix = moving_from_fixed
    fitted: list[Matrix3] = []
    for model, fewest in stages:
        for _ in range(rounds):
            points, targets = agreeing(matrix, reach)
            if len(points) < fewest:
                return []
            matrix = fit(model, points, targets)
            reach = max(_TIGHTER * reach, EXACT_PX)
        fitted.append(matrix)
    return fitted
