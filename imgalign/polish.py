"""The last refinement, on the finest level: as exact as the noise allows, with an error bar.

From a transform that is right to about a pixel, the same thing again and again: read the moving picture where the
transform says; learn from the two pictures what is light (a local gain), what is noise and at which
frequencies, and which pixels fit worse than others; refine with that. The gradients are those of the common
image, the Wiener-filtered mean of both, so that noise does not enter as structure.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Matrix, Matrix3, Weight
from imgalign.coords import mapped_planes
from imgalign.light import Light, View, changing_light, mean
from imgalign.pyramid import gaussian_response
from imgalign.refine import Problem, State, refine, tile_scores
from imgalign.sampling import mask_or_none
from imgalign.spectral import NoiseModel, Spectrum, inner_weight, noise_model, spectrum, spline_reader
from imgalign.transforms import Model, corner_distance, local_scale

_CUTOFF = 6.0  # robust standard deviations: 98 % efficient under normal noise
_TILE = 16  # pixels a side of the tiles whose scores give the error bar; errors are correlated over fewer
_SETTLED_PX = 0.02  # a round that moves the corners by less leaves nothing to learn for another
_ASTRAY_PX = 0.3  # and this far from the answer even one gain and one bias may have been misjudged
_APART = 3.0  # standard deviations by which the smooth and the sharp answer may differ
_SMOOTH_MARGIN = 4  # pixels at the border that the first, blurred round leaves out
_BLOCK = 4  # pixels a side over which local contrast is taken
_TRUST_PIXELS = 12000  # enough of them to see how residuals grow with it
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
    size_hw = _size(fixed[0])
    scale = local_scale(moving_from_fixed, size_hw)
    # The finer picture is blurred by what the coarser one's pixels average over (a box's variance is 1/12).
    spectra = _matched(spectrum(*fixed), 1 / scale), _matched(spectrum(*moving), scale)
    mask = mask_or_none(moving[1])
    matrix = torch.as_tensor(moving_from_fixed)[None]
    history: list[float] = []

    def descend(problem: Problem, tolerance: float) -> Polished:
        state = refine(
            problem, matrix, model, iterations=iterations, tolerance_px=tolerance, cutoff=cutoff, history=history
        )
        return _polished(problem, state, model, cutoff, history)

    blurred = _blurred(spectra, fixed[1], mask, scale)
    for _ in range(3):  # the light is learnt from where the transform stands: once it has moved, anew
        problem = _smooth_problem(blurred, fixed[1], matrix, light)
        smooth = descend(problem, 0.1 * _SETTLED_PX)
        moved = corner_distance(matrix[0].numpy(), smooth.moving_from_fixed, size_hw)
        matrix = torch.as_tensor(smooth.moving_from_fixed)[None]
        if moved < (_SETTLED_PX if problem.gain is not None else _ASTRAY_PX) or rounds == 1:
            break
    answer = smooth
    if rounds > 1 and not _corner_sigma(smooth) < enough_px:
        plain = _plain(*spectra, fixed[1], mask, oversampling)
        found = changing_light(_view(plain, matrix), light)
        plain = replace(plain, moving=replace(plain.moving, mask=_border_mask(plain, matrix, found, moving[1])))
        for _ in range(rounds - 1):
            sharp = descend(_problem(plain, spectra, matrix, oversampling, found), tolerance_px)
            moved = corner_distance(matrix[0].numpy(), sharp.moving_from_fixed, size_hw)
            matrix = torch.as_tensor(sharp.moving_from_fixed)[None]
            if moved < _SETTLED_PX:
                break
            found = changing_light(_view(plain, matrix), light)
        # The noise of the pictures is what the unblurred ones show, whichever answer stands.
        answer = sharp if _agrees(smooth, sharp, size_hw) else replace(smooth, noise=sharp.noise)
    everywhere = replace(blurred.moving, margin=0.0)
    points = mapped_planes(torch.as_tensor(answer.moving_from_fixed)[None], size_hw, fixed[0].dtype)
    weight = everywhere.weights(*points) * fixed[1]
    return replace(answer, overlap=float(weight.sum() / fixed[1].sum().clamp_min(1e-9)))


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
    return Polished(
        moving_from_fixed=(state.final[0] / state.final[0, 2, 2]).numpy(),
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
    plain: Problem, spectra: tuple[Spectrum, Spectrum], matrix: Matrix, oversampling: int, found: Light | None
) -> Problem:
    """Both pictures as they are best compared, from where the transform stands now, under the light found there."""
    problem, view = plain, _view(plain, matrix)
    noise = noise_model(*(view if found is None else found.on(view)))
    if noise.whitening is not None:
        fixed, moving = spectra
        scale = local_scale(matrix[0].numpy(), problem.size_hw)
        fixed = fixed.filtered(noise.whitening.on(fixed))
        moving = moving.filtered(noise.whitening.on(moving, scale))
        problem = _plain(fixed, moving, plain.weight, plain.moving.mask, oversampling)
        view = _view(problem, matrix)
        found = None if found is None else changing_light(view, True)
    if found is not None:
        problem, view = found.solved(problem), found.on(view)
    gradient_x, gradient_y = _common_gradient(view, noise)
    return replace(problem, gradient_x=gradient_x, gradient_y=gradient_y, weight=plain.weight * _trust(view))


def _blurred(spectra: tuple[Spectrum, Spectrum], fixed_weight: Weight, mask: Tensor | None, scale: float) -> Problem:
    """Both pictures blurred alike, for the first round: what is noise is not known yet."""
    fixed, moving = (
        s.filtered(gaussian_response(s.frame_hw, max(1.0, k), s.values.real))
        for s, k in zip(spectra, (1 / scale, scale), strict=True)
    )
    # What the blur makes of the guess beyond the border would pull: a margin is left out of both. A blurred picture
    # holds little that a spline on its own pixels would miss.
    problem = _plain(fixed, moving, inner_weight(fixed_weight, _SMOOTH_MARGIN), mask, 1, _SMOOTH_MARGIN)
    gradient_x, gradient_y = fixed.derivatives()
    return replace(problem, gradient_x=gradient_x, gradient_y=gradient_y)


def _smooth_problem(blurred: Problem, fixed_weight: Weight, matrix: Matrix, light: bool | None) -> Problem:
    """The blurred pictures under one light, from where the transform stands now."""
    found = changing_light(_view(blurred, matrix), light)
    if found is None:
        return blurred
    problem = found.solved(blurred)
    gradient_x, gradient_y = spectrum(problem.fixed, fixed_weight).derivatives()
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


def _view(problem: Problem, matrix: Matrix) -> View:
    return View(problem.fixed, *problem.read(matrix))


def _standardised(view: View) -> tuple[Image, Image, Tensor]:
    """Both at zero mean and unit contrast, the moving one at the sign of the fixed; and the fixed one's contrast."""
    fixed, warped, valid = view
    f, m = fixed - mean(fixed, valid), warped - mean(warped, valid)
    contrast = mean(f * f, valid).sqrt().clamp_min(1e-12)
    m = m * mean(m * m, valid).clamp_min(1e-24).rsqrt() * torch.where(mean(f * m, valid) < 0, -1.0, 1.0)
    return f / contrast, m, contrast


def _common_gradient(view: View, noise: NoiseModel) -> tuple[Image, Image]:
    """Gradients of the Wiener-filtered mean of both pictures; of the fixed one where it is alone."""
    f, m, contrast = _standardised(view)
    common = torch.where(view[2] > 0, 0.5 * (f + m), f) * contrast
    s = spectrum(common, torch.ones_like(view[2]))
    return s.filtered(noise.denoising.on(s)).derivatives()


def _trust(view: View) -> Weight:
    """Weight by local contrast: residuals that grow with it (blur, light, small shifts of parts) count less there.

    The residual's variance is fitted as a constant plus a share of the local signal power, over classes of pixels of
    like power. Where noise is the same everywhere the share is nothing, and so all pixels count alike.
    """
    f, m, _ = _standardised(view)
    valid = view.valid
    below = nn.avg_pool2d(valid, _BLOCK, ceil_mode=True).clamp_min(1e-3)
    power = nn.avg_pool2d(0.5 * (f * f + m * m) * valid, _BLOCK, ceil_mode=True) / below
    power = nn.interpolate(power, size=_size(valid), mode="bilinear")
    stride = max(1, int((valid.numel() / _TRUST_PIXELS) ** 0.5))
    seen, p, e = (x[0, 0, ::stride, ::stride].flatten() for x in (valid, power, (f - m).square_()))
    p, e = p[seen > 0.5], e[seen > 0.5]
    if len(p) < 400:
        return torch.ones_like(valid)
    classes = torch.argsort(p).tensor_split(12)
    # The median is deaf to occluders; over a normal residual's square it is 0.455 of the mean.
    x = torch.stack([p[c].mean() for c in classes]).double()
    y = torch.stack([e[c].median() for c in classes]).double() / 0.455
    floor = y[:3].min().clamp_min(1e-8)
    share = ((y - floor) * x).sum() / (x * x).sum().clamp_min(1e-20)
    if float(share * x.mean()) < 0.3 * float(floor):
        return torch.ones_like(valid)
    return floor.float() / (floor.float() + share.clamp_min(0).float() * power)


def _border_mask(problem: Problem, matrix: Matrix, found: Light | None, weight: Weight) -> Weight | None:
    """The moving picture's mask, less what interpolation errs near its border beyond the noise.

    A picture's continuation is a guess, and the spline through fine noise-free detail feels it some pixels inward.
    How much is seen in the residuals themselves, by distance from the border.
    """
    view = _view(problem, matrix)
    f, m, _ = _standardised(view if found is None else found.on(view))
    error = (f - m).square_()
    h, w = weight.shape[-2:]
    x, y = mapped_planes(matrix, problem.size_hw, f.dtype)
    distance = torch.minimum(
        (w - 1) / 2 - (x - (w - 1) / 2).abs_(), (h - 1) / 2 - (y - (h - 1) / 2).abs_()
    )  # from the border, inwards
    distance = torch.where(view.valid[0] > 0.5, distance, -1.0)[0]
    inner = error[0, 0, ::4, ::4][distance[::4, ::4] > _BORDER]
    if len(inner) < 100:
        return mask_or_none(weight)
    usual = float(inner.median())
    near = torch.nonzero((distance >= 0) & (distance < _BORDER), as_tuple=True)
    rings, errors = distance[near].long(), error[0, 0][near]
    trust = []
    for d in range(_BORDER):
        ring = errors[rings == d]
        # A third more than usual is what differs by chance; beyond, errors are alike along the border and count twice.
        trust.append(min(1.0, 1.3 * usual / max(float(ring.median()), 1e-30)) ** 2 if len(ring) > 20 else 1.0)
    table = torch.tensor([*torch.cummax(torch.tensor(trust), 0).values, 1.0], dtype=weight.dtype)
    rows, columns = (torch.minimum(torch.arange(n), n - 1 - torch.arange(n)).clamp_max(_BORDER) for n in (h, w))
    return mask_or_none(weight * table[torch.minimum(rows[:, None], columns)])


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
