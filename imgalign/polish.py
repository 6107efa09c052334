"""The last refinement, on the finest level: as exact as the noise allows, with an error bar.

From a transform that is right to about a pixel, the same thing again and again: read the moving picture where the
transform says; learn from the two pictures what is light (a local gain), what is noise and at which
frequencies, and which pixels fit worse than others; refine with that. The gradients are those of the common
image, the Wiener-filtered mean of both, so that noise does not enter as structure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imgalign._types import Image, Matrix, Matrix3, Weight
from imgalign.coords import mapped_grid
from imgalign.pyramid import blur, gaussian_response
from imgalign.refine import Problem, State, refine, tile_scores
from imgalign.sampling import sample_grid
from imgalign.spectral import NoiseModel, Spectrum, inner_weight, noise_model, spectrum, spline_reader
from imgalign.transforms import Model, corner_distance, local_scale

_CUTOFF = 6.0  # robust standard deviations: 98 % efficient under normal noise
_LIGHT_SIGMA = 12.0  # pixels over which light may change
_LIGHT_WORTH = 0.9  # share of the residual that a changing gain must leave at most, to be solved
_TILE = 16  # pixels a side of the tiles whose scores give the error bar; errors are correlated over fewer
_SETTLED_PX = 0.02  # a round that moves the corners by less leaves nothing to learn for another
_APART = 3.0  # standard deviations by which the smooth and the sharp answer may differ
_SMOOTH_MARGIN = 4  # pixels at the border that the first, blurred round leaves out
_BORDER = 8  # pixels from the border whose interpolation may be worse


@dataclass(frozen=True)
class Polished:
    """A refined transform with its error bar.

    Attributes:
        moving_from_fixed: In pixels of the given pictures.
        covariance: `(P, P)` of the model's parameters (`transforms.Model.generators` of the fixed size).
        correlation: Of the two pictures over the overlap, after the light is taken away.
        overlap: Share of the fixed picture that has moving picture under it.
        noise: Robust standard deviation of the residual over the contrast.
        loss: Robust mean squared residual.
        converged: The last step was below the tolerance.
        history: Loss after each step.
    """

    moving_from_fixed: Matrix3
    covariance: Tensor
    correlation: float
    overlap: float
    noise: float
    loss: float
    converged: bool
    history: tuple[float, ...]


def polish(
    fixed: tuple[Image, Weight],
    moving: tuple[Image, Weight],
    moving_from_fixed: Matrix3,
    model: Model,
    *,
    rounds: int = 3,
    iterations: int = 10,
    tolerance_px: float = 5e-4,
    oversampling: int = 2,
    robust: bool = True,
    light: bool | None = None,
    enough_px: float = 0.0,
) -> Polished:
    """Refine a transform that is right to about a pixel; pictures `(1, 1, H, W)` with masks.

    Args:
        fixed: Picture that stays, and its mask.
        moving: Picture brought to it, and its mask.
        moving_from_fixed: Where it stands.
        model: Which steps are allowed.
        rounds: How often the pictures are looked at anew.
        iterations: Most steps in a round.
        tolerance_px: Stop when a step moves the corners by less.
        oversampling: Of the spline through the moving picture, 1 or 2.
        robust: Let occluders go; else plain least squares.
        enough_px: Predicted error of the corners below which blurred pictures are enough.
        light: Solve a gain that changes over the picture; None for: where the pictures ask for it.
    """
    cutoff = _CUTOFF if robust else math.inf
    scale = local_scale(moving_from_fixed, (fixed[0].shape[-2], fixed[0].shape[-1]))
    # The finer picture is blurred by what the coarser one's pixels average over (a box's variance is 1/12).
    spectra = _matched(spectrum(*fixed), 1 / scale), _matched(spectrum(*moving), scale)
    mask = moving[1] if bool((moving[1] < 0.999).any()) else None
    matrix = torch.as_tensor(moving_from_fixed)[None]
    history: list[float] = []

    def descend(problem: Problem, tolerance: float) -> Polished:
        state = refine(
            problem, matrix, model, iterations=iterations, tolerance_px=tolerance, cutoff=cutoff, history=history
        )
        share = _overlap(fixed[1], moving[1], state.matrices)
        return replace(_polished(problem, state, model, cutoff, history), overlap=share)

    fineness = oversampling if rounds > 1 else 1
    for _ in range(3):  # the light is learnt from where the transform stands: once it has moved, anew
        smooth = descend(_smooth_problem(spectra, fixed[1], mask, matrix, fineness, light), 0.1 * _SETTLED_PX)
        moved = corner_distance(matrix[0].numpy(), smooth.moving_from_fixed, _size(fixed[0]))
        matrix = torch.as_tensor(smooth.moving_from_fixed)[None]
        if moved < _SETTLED_PX or rounds == 1:
            break
    if rounds == 1 or _corner_sigma(smooth) < enough_px:
        return smooth
    mask = _border_mask(_plain(*spectra, fixed[1], mask, oversampling), matrix, moving[1])
    for _ in range(rounds - 1):
        sharp = descend(_problem(spectra, fixed[1], mask, matrix, oversampling, light), tolerance_px)
        moved = corner_distance(matrix[0].numpy(), sharp.moving_from_fixed, _size(fixed[0]))
        matrix = torch.as_tensor(sharp.moving_from_fixed)[None]
        if moved < _SETTLED_PX:
            break
    # The noise of the pictures is what the unblurred ones show, whichever answer stands.
    return sharp if _agrees(smooth, sharp, _size(fixed[0])) else replace(smooth, noise=sharp.noise)


def _overlap(fixed_weight: Weight, moving_weight: Weight, matrix: Matrix) -> float:
    """Share of the fixed picture's weight under which there is moving picture."""
    seen, valid = sample_grid(moving_weight, matrix, _size(fixed_weight))
    return float((seen * valid * fixed_weight).sum() / fixed_weight.sum().clamp_min(1e-9))


def _size(image: Image) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _agrees(smooth: Polished, sharp: Polished, size_hw: tuple[int, int]) -> bool:
    """Whether the answer from all frequencies is predicted about as good, and lies where the smooth one allows.

    Fine detail knows more, but what cameras alias and codecs drop is not noise: it is shared, and can pull a shift by
    some hundredths of a pixel while its error bar shrinks. Blurred pictures do not feel it.
    """
    first, second = _corner_sigma(smooth), _corner_sigma(sharp)
    apart = corner_distance(smooth.moving_from_fixed, sharp.moving_from_fixed, size_hw)
    # Two estimates of a sigma scatter: always to take the smaller would be to take the one that flatters.
    return second < 1.5 * first and apart < _APART * math.hypot(first, second)


def _corner_sigma(answer: Polished) -> float:
    """Predicted error of the corners, px: parameters are scaled so that a unit moves them by about a pixel."""
    return math.sqrt(max(float(torch.trace(answer.covariance)), 0.0))


def _polished(problem: Problem, state: State, model: Model, cutoff: float, history: list[float]) -> Polished:
    matrix = state.matrices[0]
    return Polished(
        moving_from_fixed=(matrix / matrix[2, 2]).numpy(),
        covariance=_covariance(problem, state, model, cutoff),
        correlation=float(state.correlation[0]),
        overlap=float(state.overlap[0]),
        noise=float(state.scale[0]),
        loss=float(state.loss[0]),
        converged=bool(state.converged[0]),
        history=tuple(history),
    )


def _matched(picture: Spectrum, finer_by: float) -> Spectrum:
    if finer_by <= 1.05:
        return picture
    sigma = math.sqrt((finer_by**2 - 1) / 12)
    return picture.filtered(gaussian_response(picture.frame_hw, sigma, picture.values.real))


def _problem(
    spectra: tuple[Spectrum, Spectrum],
    fixed_weight: Weight,
    mask: Tensor | None,
    matrix: Matrix,
    oversampling: int,
    light: bool | None,
) -> Problem:
    """Both pictures as they are best compared, from where the transform stands now."""
    fixed, moving = spectra
    problem = _plain(fixed, moving, fixed_weight, mask, oversampling)
    view = _view(problem, matrix)
    gain = _local_gain(view, light)
    noise = noise_model(*(_relit(view, gain) if gain is not None else view))
    if noise.whitening is not None:
        scale = local_scale(matrix[0].numpy(), problem.size_hw)
        fixed = fixed.filtered(noise.whitening.on(fixed))
        moving = moving.filtered(noise.whitening.on(moving, scale))
        problem = _plain(fixed, moving, fixed_weight, mask, oversampling)
        view = _view(problem, matrix)
        gain = _local_gain(view, True) if gain is not None else None
    if gain is not None:
        around = _around(view[2])
        problem = replace(problem, fixed=view[0] - around(view[0]), gain=gain, offset=gain * around(view[1]))
        view = _relit(view, gain)
    gradient_x, gradient_y = _common_gradient(view, noise)
    weight = fixed_weight * _trust(view)
    return replace(problem, gradient_x=gradient_x, gradient_y=gradient_y, weight=weight)


def _smooth_problem(
    spectra: tuple[Spectrum, Spectrum],
    fixed_weight: Weight,
    mask: Tensor | None,
    matrix: Matrix,
    oversampling: int,
    light: bool | None,
) -> Problem:
    """Both pictures blurred alike, for the first round: what is noise is not known yet."""
    scale = local_scale(matrix[0].numpy(), spectra[0].size_hw)
    fixed, moving = (
        s.filtered(gaussian_response(s.frame_hw, max(1.0, k), s.values.real))
        for s, k in zip(spectra, (1 / scale, scale), strict=True)
    )
    # What the blur makes of the guess beyond the border would pull: a margin is left out of both.
    problem = _plain(fixed, moving, inner_weight(fixed_weight, _SMOOTH_MARGIN), mask, oversampling, _SMOOTH_MARGIN)
    view = _view(problem, matrix)
    gain = _local_gain(view, light)
    if gain is not None:
        around = _around(view[2])
        flat = view[0] - around(view[0])
        problem = replace(problem, fixed=flat, gain=gain, offset=gain * around(view[1]))
        fixed = spectrum(flat, fixed_weight)
    gradient_x, gradient_y = fixed.derivatives()
    return replace(problem, gradient_x=gradient_x, gradient_y=gradient_y)


def _plain(
    fixed: Spectrum,
    moving: Spectrum,
    fixed_weight: Weight,
    mask: Tensor | None,
    oversampling: int,
    margin: float = 0.0,
) -> Problem:
    image = fixed.image()
    return Problem(image, image, image, fixed_weight, spline_reader(moving, mask, oversampling, margin))


_View = tuple[Image, Image, Weight]  # the fixed picture, the moving one read on its pixels, where both are seen


def _view(problem: Problem, matrix: Matrix) -> _View:
    points = mapped_grid(matrix, problem.size_hw, problem.fixed.dtype)
    return problem.fixed, problem.moving.values(points), problem.moving.weights(points) * problem.weight


def _around(valid: Weight) -> Callable[[Image], Image]:
    """A function that takes the mean over the light's scale around each pixel, where both pictures are seen."""
    below = blur(valid, _LIGHT_SIGMA).clamp_min(1e-3)
    return lambda x: blur(x * valid, _LIGHT_SIGMA) / below


def _mean(x: Tensor, valid: Weight) -> Tensor:
    return (x * valid).sum() / valid.sum().clamp_min(1e-6)


def _local_gain(view: _View, wanted: bool | None) -> Image | None:
    """A gain that changes slowly over the picture, or None where one gain and one bias explain nearly as much.

    It is the regression of the fixed on the moving picture around each pixel, drawn to the global one where there is
    little to tell, and takes vignetting, gamma and tone curves along, local inversions by its sign.
    """
    if wanted is False:
        return None
    fixed, warped, valid = view
    around = _around(valid)
    f, m = fixed - around(fixed), warped - around(warped)
    variance, covariance = around(m * m).clamp_min(0), around(f * m)
    mean_variance, mean_covariance = _mean(m * m, valid), _mean(f * m, valid)
    one_gain = mean_covariance / mean_variance.clamp_min(1e-20)
    prior = 0.1 * mean_variance + 1e-20
    gain = (covariance + prior * one_gain) / (variance + prior)
    one = (fixed - _mean(fixed, valid)) - one_gain * (warped - _mean(warped, valid))
    left_by_one = _mean((one - _mean(one, valid)) ** 2, valid)
    left_by_many = _mean((f - gain * m) ** 2, valid)
    return gain if wanted or float(left_by_many) < _LIGHT_WORTH * float(left_by_one) else None


def _relit(view: _View, gain: Image) -> _View:
    fixed, warped, valid = view
    around = _around(valid)
    return fixed - around(fixed), gain * (warped - around(warped)), valid


def _standardised(view: _View) -> tuple[Image, Image, Tensor]:
    """Both at zero mean and unit contrast, the moving one at the sign of the fixed; and the fixed one's contrast."""
    fixed, warped, valid = view
    f, m = fixed - _mean(fixed, valid), warped - _mean(warped, valid)
    contrast = _mean(f * f, valid).sqrt().clamp_min(1e-12)
    m = m * _mean(m * m, valid).clamp_min(1e-24).rsqrt() * torch.where(_mean(f * m, valid) < 0, -1.0, 1.0)
    return f / contrast, m, contrast


def _common_gradient(view: _View, noise: NoiseModel) -> tuple[Image, Image]:
    """Gradients of the Wiener-filtered mean of both pictures; of the fixed one where it is alone."""
    f, m, contrast = _standardised(view)
    common = torch.where(view[2] > 0, 0.5 * (f + m), f) * contrast
    s = spectrum(common, torch.ones_like(view[2]))
    return s.filtered(noise.denoising.on(s)).derivatives()


def _trust(view: _View) -> Weight:
    """Weight by local contrast: residuals that grow with it (blur, light, small shifts of parts) count less there.

    The residual's variance is fitted as a constant plus a share of the local signal power, over classes of pixels of
    like power. Where noise is the same everywhere the share is nothing, and so all pixels count alike.
    """
    f, m, _ = _standardised(view)
    valid = view[2]
    below = blur(valid, 2.0).clamp_min(1e-3)
    power = (blur(0.5 * (f * f + m * m) * valid, 2.0) / below).clamp_min(0)
    error = ((f - m) ** 2).flatten()
    inside = torch.nonzero(valid.flatten() > 0.5).flatten()
    if len(inside) < 400:
        return torch.ones_like(valid)
    inside = inside[:: max(1, len(inside) // 40000)]
    p, e = power.flatten()[inside], error[inside]
    classes = torch.argsort(p).tensor_split(12)
    # The median is deaf to occluders; over a normal residual's square it is 0.455 of the mean.
    x = torch.stack([p[c].mean() for c in classes]).double()
    y = torch.stack([e[c].median() for c in classes]).double() / 0.455
    floor = y[:3].min().clamp_min(1e-8)
    share = ((y - floor) * x).sum() / (x * x).sum().clamp_min(1e-20)
    if float(share * x.mean()) < 0.3 * float(floor):
        return torch.ones_like(valid)
    return floor.float() / (floor.float() + share.clamp_min(0).float() * power)


def _border_mask(problem: Problem, matrix: Matrix, weight: Weight) -> Weight | None:
    """The moving picture's mask, less what interpolation errs near its border beyond the noise.

    A picture's continuation is a guess, and the spline through fine noise-free detail feels it some pixels inward.
    How much is seen in the residuals themselves, by distance from the border.
    """
    view = _view(problem, matrix)
    gain = _local_gain(view, None)
    f, m, _ = _standardised(view if gain is None else _relit(view, gain))
    fixed, _, valid = view
    error = (f - m) ** 2
    h, w = weight.shape[-2:]
    points = mapped_grid(matrix, problem.size_hw, fixed.dtype)
    x, y = points[..., 0], points[..., 1]
    distance = torch.minimum(torch.minimum(x, w - 1 - x), torch.minimum(y, h - 1 - y))[:, None]
    inner = error[(valid > 0.5) & (distance > _BORDER)]
    if len(inner) < 100:
        return None
    usual = float(inner.median())
    trust = []
    for d in range(_BORDER):
        ring = error[(valid > 0.5) & (distance >= d) & (distance < d + 1)]
        # A third more than usual is what differs by chance; beyond, errors are alike along the border and count twice.
        trust.append(min(1.0, 1.3 * usual / max(float(ring.median()), 1e-30)) ** 2 if len(ring) > 20 else 1.0)
    table = torch.tensor([*torch.cummax(torch.tensor(trust), 0).values, 1.0], dtype=weight.dtype)
    rows, columns = (torch.minimum(torch.arange(n), n - 1 - torch.arange(n)).clamp_max(_BORDER) for n in (h, w))
    mask = weight * table[torch.minimum(rows[:, None], columns)]
    return mask if bool((mask < 0.999).any()) else None


def _covariance(problem: Problem, state: State, model: Model, cutoff: float) -> Tensor:
    """Covariance of the parameters, `(P, P)`: the sandwich of the normal matrix and the scores of tiles.

    Summing squared scores (Jacobian times residual) over tiles asks nothing of the noise but that it is correlated
    over less than a tile: colour, robust weights, misfit of the light all count as they are (White 1980; Liang
    and Zeger 1986 for clusters).
    """
    scores = tile_scores(problem, state, model, cutoff, _TILE)
    count, p = scores.shape
    bread = torch.linalg.pinv(state.information(p)[0])
    meat = scores.T @ scores
    # Few tiles know their own spread badly, and p parameters have been fitted to them (Hotelling's correction).
    meat = meat * count / max(count - p - 1, 1)
    return bread @ meat @ bread
