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
from imgalign.light import Light, View, changing_light, mean, noise_variance
from imgalign.occluders import alike
from imgalign.pyramid import gaussian_response
from imgalign.refine import Problem, State, noise_information, refine, tile_scores
from imgalign.sampling import mask_or_none
from imgalign.spectral import NoiseModel, Spectrum, inner_weight, noise_model, spectrum, spline_reader
from imgalign.transforms import Model, corner_distance, local_scale

_CUTOFF = 6.0  # robust standard deviations: 98 % efficient under normal noise
_TILE = 16  # pixels a side of the tiles whose scores give the error bar; errors are correlated over fewer
_SETTLED_PX = 0.02  # a round that moves the corners by less leaves nothing to learn for another
_ASTRAY_PX = 0.3  # and this far from the answer even one gain and one bias may have been misjudged
_APART = 3.0  # standard deviations by which the smooth and the sharp answer may differ
_SMOOTH_PX = 0.0015  # what the spline through blurred pictures may err by itself
_RAMP = 4.0  # pixels over which weights rise from the moving picture's border
_HELD = 0.1  # share by which noise in the gradients may hold a step back; of the predicted error, too
_MOST_LEVERAGE = 0.98  # of a tile, so that one that decides alone gives a number still
_LEAST_SIGNAL = 0.25  # share of the normal matrix that is taken for signal at least
_SMOOTH_MARGIN = 4  # pixels at the border that the first, blurred round leaves out
_BLOCK = 4  # pixels a side over which local contrast is taken
_STRAIGHT = 0.7  # share of the differences between classes of brightness that a straight line must explain
_TRUST_PIXELS = 8000  # enough of them to see how residuals grow with it
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
        white_sigma_px: Predicted error of the corners if noise is white: what answers are compared by.
    """

    moving_from_fixed: Matrix3
    covariance: Tensor
    correlation: float
    overlap: float
    noise: float
    loss: float
    converged: bool
    history: tuple[float, ...]
    white_sigma_px: float


@dataclass(frozen=True)
class _BlurredNoise:
    """White noise of a picture, before a Gaussian blur; and what is left of it in a derivative at unit contrast."""

    variance: float  # grey levels squared
    blur_px: float

    def white(self, blurred: Image) -> float:
        """Variance of the derivative."""
        return self.variance / (8 * math.pi * self.blur_px**4 * float(blurred.var().clamp_min(1e-12)))

    def most(self, scale: float) -> float:
        """The same if all of a residual of that standard deviation is noise, half of it in each picture."""
        return scale**2 / (4 * self.blur_px**2)


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

    def descend(problem: Problem, tolerance: float, steps: int) -> tuple[State, Matrix, float]:
        """What came of it, the new matrix, and how far it moved the corners."""
        state = refine(problem, matrix, model, iterations=steps, tolerance_px=tolerance, cutoff=cutoff, history=history)
        moved = corner_distance(matrix[0].numpy(), state.final[0].numpy(), size_hw)
        return state, state.final / state.final[:, 2:, 2:], moved

    blurred = _blurred(spectra, fixed[1], mask, scale, oversampling if rounds > 1 else 1)
    noise = _BlurredNoise(float(noise_variance(fixed[0])), max(1.0, 1 / scale))
    for _ in range(3):  # the light is learnt from where the transform stands: once it has moved, anew
        problem = _smooth_problem(blurred, fixed[1], matrix, light, robust)
        state, matrix, moved = descend(problem, 0.1 * _SETTLED_PX, iterations)
        if moved < (_SETTLED_PX if problem.gain is not None else _ASTRAY_PX) or rounds == 1:
            break
    smooth = _polished(problem, state, model, cutoff, history, noise)
    answer = smooth
    if rounds > 1 and not smooth.white_sigma_px < enough_px:
        plain = _plain(*spectra, fixed[1], mask, oversampling)
        found, there = _light(plain, matrix, light, robust)
        plain = replace(plain, moving=replace(plain.moving, mask=_border_mask(plain, matrix, found, moving[1])))
        for _ in range(rounds):
            problem, held = _problem(plain, spectra, matrix, oversampling, found, there)
            # Under much noise gradients serve for one step: made anew after each, they hold nothing back.
            once = held > _HELD and moved < _ASTRAY_PX
            state, matrix, moved = descend(problem, tolerance_px, 1 if once else iterations)
            left = moved * (held if once else held / max(1 - held, 0.1))
            if moved < _SETTLED_PX:
                sharp = _polished(problem, state, model, cutoff, history, None)
                if left < _HELD * sharp.white_sigma_px:
                    break
            found, there = _light(plain, matrix, light, robust)
        else:
            sharp = _polished(problem, state, model, cutoff, history, None)
        sharp = replace(sharp, converged=sharp.converged or once)
        # The noise of the pictures is what the unblurred ones show, whichever answer stands.
        answer = sharp if _agrees(smooth, sharp, size_hw) else replace(smooth, noise=sharp.noise)
    everywhere = replace(blurred.moving, margin=0.0)
    last = torch.as_tensor(answer.moving_from_fixed)[None]
    points = mapped_planes(last, size_hw, fixed[0].dtype, fixed[0].device)
    weight = everywhere.weights(*points) * fixed[1]
    return replace(answer, overlap=float(weight.sum() / fixed[1].sum().clamp_min(1e-9)))


def _size(image: Image) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _agrees(smooth: Polished, sharp: Polished, size_hw: tuple[int, int]) -> bool:
    """Whether the answer from all frequencies is predicted about as good, and lies where the smooth one allows.

    Fine detail knows more, but what cameras alias and codecs drop is not noise: it is shared, and can pull a shift by
    some hundredths of a pixel while its error bar shrinks. Blurred pictures do not feel it.
    """
    first, second = smooth.white_sigma_px, sharp.white_sigma_px
    apart = corner_distance(smooth.moving_from_fixed, sharp.moving_from_fixed, size_hw)
    # Two estimates of a sigma scatter: always to take the smaller would be to take the one that flatters.
    return second < 1.5 * first and apart < _APART * math.hypot(first, second, _SMOOTH_PX)


def _corner_sigma(covariance: Tensor) -> float:
    """Predicted error of the corners, px: parameters are scaled so that a unit moves them by about a pixel."""
    return math.sqrt(max(float(torch.trace(covariance)), 0.0))


def _polished(
    problem: Problem, state: State, model: Model, cutoff: float, history: list[float], noise: _BlurredNoise | None
) -> Polished:
    covariance, white = _covariance(problem, state, model, cutoff, noise)
    return Polished(
        moving_from_fixed=(state.final[0] / state.final[0, 2, 2]).numpy(),
        covariance=covariance,
        correlation=float(state.correlation[0]),
        overlap=float(state.overlap[0]),
        noise=float(state.scale[0]),
        loss=float(state.loss[0]),
        converged=bool(state.converged[0]),
        history=tuple(history),
        white_sigma_px=_corner_sigma(white),
    )


def _matched(picture: Spectrum, finer_by: float) -> Spectrum:
    if finer_by <= 1.05:
        return picture
    sigma = math.sqrt((finer_by**2 - 1) / 12)
    return picture.filtered(gaussian_response(picture.frame_hw, sigma, picture.values.real))


def _problem(
    plain: Problem,
    spectra: tuple[Spectrum, Spectrum],
    matrix: Matrix,
    oversampling: int,
    found: Light | None,
    there: Weight | None,
) -> tuple[Problem, float]:
    """Both pictures as they are best compared, from where the transform stands now, under the light found there.

    And the share of noise in the gradients (`NoiseModel.held`).
    """
    problem = _within(plain, there)
    seen = view = _view(problem, matrix)
    noise = noise_model(*(view if found is None else found.on(view)))
    if noise.whitening is not None:
        fixed, moving = spectra
        scale = local_scale(matrix[0].numpy(), problem.size_hw)
        fixed = fixed.filtered(noise.whitening.on(fixed))
        moving = moving.filtered(noise.whitening.on(moving, scale))
        problem = _plain(fixed, moving, problem.weight, plain.moving.mask, oversampling)
        view = _view(problem, matrix)
        found = None if found is None else changing_light(view, True)
    if found is not None:
        problem, view = found.solved(problem), found.on(view)
    gradient_x, gradient_y = _common_gradient(view, noise)
    weight = problem.weight * _trust(view, seen if found is None else None)
    return replace(problem, gradient_x=gradient_x, gradient_y=gradient_y, weight=weight), noise.held


def _blurred(
    spectra: tuple[Spectrum, Spectrum], fixed_weight: Weight, mask: Tensor | None, scale: float, oversampling: int
) -> Problem:
    """Both pictures blurred alike, for the first round: what is noise is not known yet."""
    fixed, moving = (
        s.filtered(gaussian_response(s.frame_hw, max(1.0, k), s.values.real))
        for s, k in zip(spectra, (1 / scale, scale), strict=True)
    )
    # What the blur makes of the guess beyond the border would pull: a margin is left out of both. A spline on the
    # picture's own pixels errs by some thousandths of a pixel on what the blur leaves of fine detail: enough, under
    # little noise, for good sharp answers to be refused.
    problem = _plain(fixed, moving, inner_weight(fixed_weight, _SMOOTH_MARGIN), mask, oversampling, _SMOOTH_MARGIN)
    gradient_x, gradient_y = fixed.derivatives()
    return replace(problem, gradient_x=gradient_x, gradient_y=gradient_y)


def _smooth_problem(
    blurred: Problem, fixed_weight: Weight, matrix: Matrix, light: bool | None, robust: bool
) -> Problem:
    """The blurred pictures under one light, without occluders, from where the transform stands now."""
    found, there = _light(blurred, matrix, light, robust)
    problem = _within(blurred, there)
    if found is None:
        return problem
    problem = found.solved(problem)
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
    # Near the border of the moving picture its continuation takes part in what is read: noise is then no longer alike
    # between pixels and on them, and that pulls inwards. Weights that rise over some pixels keep it small.
    reader = spline_reader(moving, mask, oversampling, margin, 0.0 if margin else _RAMP)
    return Problem(image, image, image, fixed_weight, reader)


def _view(problem: Problem, matrix: Matrix) -> View:
    return View(problem.fixed, *problem.read(matrix))


def _within(problem: Problem, there: Weight | None) -> Problem:
    return problem if there is None else replace(problem, weight=problem.weight * there)


def _light(problem: Problem, matrix: Matrix, wanted: bool | None, robust: bool) -> tuple[Light | None, Weight | None]:
    """The light, and where both pictures show the same under it (`alike`)."""
    view = _view(problem, matrix)
    there = alike(*view) if robust else None
    found = changing_light(view, wanted, there)
    return found, alike(*found.on(view)) if robust and found is not None else there


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


def _trust(view: View, plain: View | None) -> Weight:
    """Weight by local brightness and contrast, where residuals grow with them.

    Photons make noise whose variance grows with brightness. Blur, changes of light and small shifts of parts leave
    residuals that grow with local contrast. Over classes of like pixels the residual's variance is fitted as a constant
    plus a share, first of the one, then, in units of that, of the other; pixels count by its inverse. Where noise is
    the same everywhere the shares are nothing, and so all pixels count alike.

    Brightness and contrast are those of the mean of both pictures: noise of like strength in both makes it independent
    of their difference, so that noise alone neither sorts nor weighs residuals by their own size.

    Args:
        view: The pictures as they are compared, under one light.
        plain: The same as they came, which alone know brightness; None under another light, whose misfit follows
            tone curves, not photons.
    """
    f, m, _ = _standardised(view)
    valid = view.valid
    common = (f + m).mul_(0.5)
    bright = common if plain is None or plain is view else _mean_picture(plain)
    below = nn.avg_pool2d(valid, _BLOCK, ceil_mode=True).clamp_min(1e-3)
    power = nn.avg_pool2d(common * common * valid, _BLOCK, ceil_mode=True) / below
    power = nn.interpolate(power, size=_size(valid), mode="bilinear")
    stride = max(1, int((valid.numel() / _TRUST_PIXELS) ** 0.5))
    # So few pixels are sorted and sifted on the CPU.
    seen, c, p, e = torch.stack(
        [x[0, 0, ::stride, ::stride].flatten() for x in (valid, bright, power, (f - m).square_())]
    ).cpu()
    seen = seen > 0.5
    c, p, e = c[seen], p[seen], e[seen]
    if len(p) < 400:
        return torch.ones_like(valid)
    variance = torch.ones_like(valid)
    line = None if plain is None else _brightness_line(c, e)
    if line is not None:
        level, slope, least = line
        variance = (level + slope * bright).clamp_min_(least)
        e = e / (level + slope * c).clamp_min(least)
    x, y = _by_class(p, e)
    floor = y[:3].min().clamp_min(1e-8)
    share = ((y - floor) * x).sum() / (x * x).sum().clamp_min(1e-20)
    if float(share * x.mean()) >= 0.3 * float(floor):
        variance = variance * (1 + float((share / floor).clamp_min(0)) * power)
    return variance.min() / variance


def _mean_picture(view: View) -> Image:
    f, m, _ = _standardised(view)
    return (f + m).mul_(0.5)


def _by_class(by: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a quantity and variance of the residual over twelve classes of pixels, in rising order; float64."""
    classes = torch.argsort(by).tensor_split(12)
    x = torch.stack([by[c].mean() for c in classes]).double()
    # The median is deaf to occluders; over a normal residual's square it is 0.455 of the mean.
    return x, torch.stack([error[c].median() for c in classes]).double() / 0.455


def _brightness_line(brightness: Tensor, error: Tensor) -> tuple[float, float, float] | None:
    """Residual variance as a straight line over brightness: level, slope, least value; None where it is no line."""
    x, y = _by_class(brightness, error)
    dx, dy = x - x.mean(), y - y.mean()
    slope = (dx * dy).sum() / (dx * dx).sum().clamp_min(1e-20)
    straight = slope * (dx * dy).sum() / (dy * dy).sum().clamp_min(1e-30)
    ends = y.mean() + slope * dx[[0, -1]]
    if float(straight) < _STRAIGHT or float(ends.max() - ends.min()) < 0.3 * float(y.mean()):
        return None
    level = y.mean() - slope * x.mean()
    # Darker pixels than that take their noise from brighter ones beside them, which interpolation mixes in.
    return float(level), float(slope), float(max(ends.min(), 0.1 * y.mean()))


def _border_mask(problem: Problem, matrix: Matrix, found: Light | None, weight: Weight) -> Weight | None:
    """The moving picture's mask, less what interpolation errs near its border beyond the noise.

    A picture's continuation is a guess, and the spline through fine noise-free detail feels it some pixels inward.
    How much is seen in the residuals themselves, by distance from the border.
    """
    view = _view(problem, matrix)
    f, m, _ = _standardised(view if found is None else found.on(view))
    error = (f - m).square_()
    h, w = weight.shape[-2:]
    x, y = mapped_planes(matrix, problem.size_hw, f.dtype, f.device)
    distance = torch.minimum(
        (w - 1) / 2 - (x - (w - 1) / 2).abs_(), (h - 1) / 2 - (y - (h - 1) / 2).abs_()
    )  # from the border, inwards
    distance = torch.where(view.valid[0] > 0.5, distance, -1.0)[0]
    inner = error[0, 0, ::4, ::4][distance[::4, ::4] > _BORDER]
    if len(inner) < 100:
        return mask_or_none(weight)
    usual = float(inner.median())
    near = torch.nonzero((distance >= 0) & (distance < _BORDER), as_tuple=True)
    rings, errors = torch.stack([distance[near], error[0, 0][near]]).cpu()
    rings = rings.long()
    trust = []
    for d in range(_BORDER):
        ring = errors[rings == d]
        # A third more than usual is what differs by chance; beyond, errors are alike along the border and count twice.
        trust.append(min(1.0, 1.3 * usual / max(float(ring.median()), 1e-30)) ** 2 if len(ring) > 20 else 1.0)
    table = torch.tensor([*torch.cummax(torch.tensor(trust), 0).values, 1.0], dtype=weight.dtype).to(weight.device)
    count_y, count_x = (torch.arange(n, device=weight.device) for n in (h, w))
    rows, columns = (torch.minimum(k, len(k) - 1 - k).clamp_max(_BORDER) for k in (count_y, count_x))
    return mask_or_none(weight * table[torch.minimum(rows[:, None], columns)])


def _covariance(
    problem: Problem, state: State, model: Model, cutoff: float, noise: _BlurredNoise | None
) -> tuple[Tensor, Tensor]:
    """Covariance of the parameters, `(P, P)`: the sandwich of the normal matrix and the scores of tiles.

    Summing squared scores (Jacobian times residual) over tiles asks nothing of the noise but that it is correlated
    over less than a tile: colour, robust weights, misfit of the light all count as they are (White 1980; Liang
    and Zeger 1986 for clusters). A tile that decides much by itself has drawn the answer to itself, and its score is
    small for that: each is divided by what the others leave it (the jackknife of Bell and McCaffrey 2002, CR3).

    Args:
        problem: The two pictures.
        state: Where they were compared last.
        model: Which steps were allowed.
        cutoff: As in `refine`.
        noise: Of the fixed picture, where the gradients are its own. It is in the normal matrix, but not in the slope's
            derivative, the product of the gradients of both pictures. None for gradients of the Wiener-filtered mean,
            whose noise makes up just for what the filter takes off the signal.

    Returns:
        With as much noise in the gradients as there may be, and with white noise only.
    """
    scores, shares = tile_scores(problem, state, model, cutoff, _TILE)
    count, p = scores.shape
    information = state.information(p)[0]
    eye = torch.eye(p, dtype=information.dtype)
    bread = torch.linalg.pinv(information)
    scores = torch.linalg.solve(eye - _MOST_LEVERAGE * shares @ bread, scores[..., None])[..., 0]
    meat = scores.T @ scores
    # Few tiles know their own spread badly, and p parameters have been fitted to them (Hotelling's correction).
    meat = meat * count / max(count - p - 1, 1)
    if noise is None:
        return bread @ meat @ bread, bread @ meat @ bread
    # All of the residual may be noise, half of it in each picture; white noise is what looks like no structure.
    most = noise.most(float(state.scale[0]))
    unit = noise_information(problem, state, model, 1.0)
    white = noise.white(problem.fixed)
    breads = [_less(information, variance * unit) for variance in (max(most, white), white)]
    return breads[0] @ meat @ breads[0], breads[1] @ meat @ breads[1]


def _less(information: Tensor, added: Tensor) -> Tensor:
    """Inverse of the information without what noise has added, of which `_LEAST_SIGNAL` is left in any direction."""
    values, vectors = torch.linalg.eigh(information)
    known = values > 1e-9 * values[-1].clamp_min(1e-30)
    root = vectors * torch.where(known, values.clamp_min(1e-30).rsqrt(), 0.0)  # root @ root.T inverts the information
    left, turn = torch.linalg.eigh(torch.eye(len(values), dtype=values.dtype) - root.T @ added @ root)
    root = root @ turn
    return (root / left.clamp_min(_LEAST_SIGNAL)) @ root.T
