"""Gradient descent by autograd: any loss, through the differentiable sampler, with an optimizer of PyTorch."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imgalign._types import Image, Matrix3, Weight
from imgalign.coords import at_full_size, at_level
from imgalign.decompose import scaled
from imgalign.losses import LOSSES
from imgalign.pyramid import reduce
from imgalign.sampling import sample_grid
from imgalign.transforms import Model, exponential

OPTIMIZERS = ("sgd", "adam", "lbfgs")
_DEFAULT_RATE = {"sgd": 1.0, "adam": 0.1, "lbfgs": 1.0}
_SHORT = 0.01  # pixels at the corners, which parameters are scaled to: so near to it a descent is at rest
_FEW_STEPS = 4  # say nothing of whether it is
_DEFAULT_STEPS = {"sgd": 100, "adam": 100, "lbfgs": 20}


def descend(
    fixed: tuple[Image, Weight],
    moving: tuple[Image, Weight],
    moving_from_fixed: Matrix3,
    model: Model,
    *,
    loss: str,
    optimizer: str,
    sampler: str,
    levels: int = 2,
    iterations: int | None = None,
    lr: float | None = None,
) -> tuple[Matrix3, list[float], bool]:
    """Lower a loss of `losses.LOSSES` from a start, coarse to fine.

    Parameters are steps in the model's algebra, scaled to pixels at the corners, so that one learning rate suits all.

    Returns:
        The matrix, the loss after each step, and whether the last level converged (`minimise`).
    """
    smallest = min(*fixed[0].shape[-2:], *moving[0].shape[-2:])
    history: list[float] = []
    converged = False
    for level in range(levels - 1, -1, -1):
        factor = 2**level
        if smallest // factor < 16 and level > 0:
            continue
        f, m = reduce(*fixed, factor), reduce(*moving, factor)
        start = at_level(moving_from_fixed, factor)
        objective = _objective(f, m, start, model, LOSSES[loss], sampler)
        steps = iterations or _DEFAULT_STEPS[optimizer]
        params, converged = minimise(
            objective, model.parameter_count, optimizer, steps, lr or _DEFAULT_RATE[optimizer], history
        )
        moved = torch.as_tensor(start) @ _matrix(params, model, f[0])[0]
        moving_from_fixed = scaled(at_full_size(moved.numpy(), factor))
    return moving_from_fixed, history, converged


def _matrix(params: Tensor, model: Model, fixed: Image) -> Tensor:
    generators = torch.as_tensor(model.generators((fixed.shape[-2], fixed.shape[-1])))
    return exponential(params[None], generators)


def _objective(
    fixed: tuple[Image, Weight],
    moving: tuple[Image, Weight],
    start: Matrix3,
    model: Model,
    loss: Callable[..., Tensor],
    sampler: str,
) -> Callable[[Tensor], Tensor]:
    size_hw = (fixed[0].shape[-2], fixed[0].shape[-1])
    base = torch.as_tensor(start)[None]

    def objective(params: Tensor) -> Tensor:
        matrix = base @ _matrix(params, model, fixed[0])
        warped, valid = sample_grid(moving[0], matrix, size_hw, sampler)
        seen, _ = sample_grid(moving[1], matrix.detach(), size_hw, "bilinear")
        return loss(fixed[0], warped, fixed[1] * seen * valid)[0]

    return objective


def minimise(
    objective: Callable[[Tensor], Tensor],
    count: int,
    optimizer: str,
    steps: int,
    lr: float,
    history: list[float] | None = None,
) -> tuple[Tensor, bool]:
    """Lower a loss from zero by some steps of an optimizer.

    Returns:
        The params, `(count,)` float64, the best seen, not the last; and whether the descent came to rest there.
    """
    params = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD([params], lr=lr),
        "adam": lambda: torch.optim.Adam([params], lr=lr),
        "lbfgs": lambda: torch.optim.LBFGS([params], lr=lr, max_iter=4, line_search_fn="strong_wolfe"),
    }
    engine = makers[optimizer]()
    best, best_loss = params.detach().clone(), float("inf")
    path: list[Tensor] = []

    def closure() -> Tensor:
        engine.zero_grad()
        value = objective(params)
        value.backward()
        return value.detach()

    with torch.enable_grad():
        for _ in range(steps):
            before = params.detach().clone()
            path.append(before)
            value = float(engine.step(closure))  # type: ignore[arg-type]
            if history is not None:
                history.append(value)
            if not np.isfinite(value):
                break
            if value < best_loss:
                best, best_loss = before, value
        final = float(objective(params).detach())
    path.append(params.detach())
    found = path[-1] if final <= best_loss else best
    return found, _at_rest(path, found)


def _at_rest(path: list[Tensor], found: Tensor) -> bool:
    """Whether a descent has come to rest beside what it found.

    Not by its last step: a small learning rate makes small steps far from any minimum. What its third and its last
    quarter moved are two terms of a series whose sum is what is left.
    """
    quarters = [path[len(path) * k // 4] for k in (2, 3)]
    before, lately, beside = (
        float(abs(a - b).max()) for a, b in zip([*quarters, path[-1]], [quarters[1], path[-1], found], strict=True)
    )
    ratio = min(lately / max(before, 1e-12), 0.999)
    return len(path) > _FEW_STEPS and max(lately, lately * ratio / (1 - ratio), beside) < _SHORT
