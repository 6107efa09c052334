"""How badly a warped picture fits the fixed one: six differentiable losses, lower is better.

Convention: each is called `loss(fixed, warped, weight)` with two floating `(B, C, H, W)` images and a soft mask
`(B, 1, H, W)` of 0 to 1 (`None`: all ones), and gives `(B,)`. `weight` is zero where the warped image has nothing
under it. All losses are scaled alike, whatever the units of the images: 0 is a perfect fit (mutual information
stays above it, for its histogram is blurred), about 1 is nothing in common (0.7 for `gradient`, in which empty
places agree), 2 is no overlap at all.

Overlap: a loss is a mean per unit of weight, measured against the contrast inside the overlap, so that two flat
patches of sky do not fit well but fit not at all. A mean can still be low by luck when few pixels are left;
therefore it is drawn towards `NO_OVERLAP`, by less than 1 % at half overlap, by half at 1 % overlap, and all the
way, without a NaN, where nothing is left. Pixels that are NaN or infinite in either image count as masked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from imgalign._types import Image, Weight
from imgalign.errors import OptionError, ShapeError
from imgalign.gradients import central_differences, magnitude
from imgalign.histograms import joint_histogram, regular_subset, weighted_quantile

Loss = Callable[[Image, Image, Weight | None], Tensor]
Norm = Literal["l1", "l2"]
Of = Literal["vector", "magnitude"]

NO_OVERLAP = 2.0
# Share of the picture at which the overlap term takes half of the loss.
_FEW = 0.01
# A contrast under a millionth of the brightness is rounding, in float32 and after interpolation.
_ROUNDING = 1e-6
# Geman-McClure's constant for 95 % efficiency on Gaussian noise (solved numerically from the two moments of psi) of
# standard deviation 1; with the scale below, two thirds of that, it is 87 %.
_GEMAN_MCCLURE = 3.787
# Local variance, as a share of the image's, that is added to each window's: flat windows are uncorrelated.
_FLAT = 1e-4
# Where the scale of the residual is read: occluders with strong edges of their own may hold two thirds of what tells.
# Tried on pairs with a fifth hidden: a share of 0.5 fails by 0.3 px, 0.25 fails on text 1.4 px off its place.
_FITTING_SHARE, _SPREAD = 0.35, 1.4826


@dataclass(frozen=True)
class _Pair:
    """Checked images in which masked pixels are zero, so that NaN under a mask reaches nothing."""

    fixed: Image
    warped: Image
    weight: Weight

    @property
    def total(self) -> Tensor:
        return self.weight.sum(dim=(1, 2, 3))  # (B,)

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the pixels, per channel: `(B, C, 1, 1)`; 0 where there is no weight."""
        tiny = torch.finfo(values.dtype).tiny
        total = self.weight.sum(dim=(2, 3), keepdim=True).clamp_min(tiny)
        return (self.weight * values).sum(dim=(2, 3), keepdim=True) / total

    def judged(self, loss: Tensor) -> Tensor:
        """The loss `(B,)` drawn towards `NO_OVERLAP` where hardly any weight is left."""
        share = self.total / self.weight[0].numel()
        keep = share * (1 + _FEW) / (share + _FEW)
        return keep * loss + (1 - keep) * NO_OVERLAP


def ssd(fixed: Image, warped: Image, weight: Weight | None = None) -> Tensor:
    """Squared difference after the best gain and bias of each channel, as a share of the fixed image's variance.

    Gain and bias are solved in closed form inside the loss; with one channel this is one minus the squared
    correlation, so that a negative gain (inverted contrast) fits as well.

    Args:
        fixed: `(B, C, H, W)`, any unit; a batch of one serves all rows.
        warped: `(B, C, H, W)` in a unit of its own.
        weight: `(B, 1, H, W)`, 0 to 1.

    Returns:
        `(B,)`: 0 to 1; 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    pair = _pair(fixed, warped, weight)
    f, g = pair.fixed - pair.mean(pair.fixed), pair.warped - pair.mean(pair.warped)
    gain = pair.mean(f * g) / (pair.mean(g.square()) + _noise_floor(pair.warped))
    floor = _noise_floor(pair.fixed).flatten()
    unexplained = pair.mean((f - gain * g).square()).mean(dim=(1, 2, 3))
    return pair.judged((unexplained + floor) / (pair.mean(f.square()).mean(dim=(1, 2, 3)) + floor))


class RobustFit(NamedTuple):
    """What `robust` holds fixed while it is differentiated."""

    gain: Tensor  # (B, C)
    bias: Tensor  # (B, C), unit of fixed
    scale: Tensor  # (B,) size of the residual's inliers, unit of fixed


def robust(fixed: Image, warped: Image, weight: Weight | None = None, *, fit: RobustFit | None = None) -> Tensor:
    """Like `ssd`, but a pixel that does not belong (occluder, cloud, moving person) costs a bounded amount.

    The Geman-McClure function of the residual, with gain, bias and the scale of the residual from `robust_fit`.
    These are held constant under differentiation: for gain and bias the derivative is zero at their optimum
    anyway, and a scale that could be driven would be driven up.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        fit: What `robust_fit` gave; `None` fits anew.

    Returns:
        `(B,)`: about `ssd` without outliers, less with them; 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.

    Source:
        Geman and McClure (1987), Statistical methods for tomographic image reconstruction. Their bound is
        multiplied by the squared scale, so that the loss falls when the whole residual shrinks.
    """
    pair = _pair(fixed, warped, weight)
    fit = robust_fit(fixed, warped, weight) if fit is None else fit
    residual = fit.gain[..., None, None] * pair.warped + fit.bias[..., None, None] - pair.fixed
    square = residual.square()
    bound = (_GEMAN_MCCLURE * fit.scale[:, None, None, None]).square()
    contrast = pair.mean((pair.fixed - pair.mean(pair.fixed)).square()).mean(dim=(1, 2, 3))
    floor = _noise_floor(pair.fixed).flatten()
    cost = pair.mean(square * (bound / (bound + square))).mean(dim=(1, 2, 3))
    return pair.judged((cost + floor) / (contrast + floor))


def robust_fit(fixed: Image, warped: Image, weight: Weight | None = None, *, rounds: int = 10) -> RobustFit:
    """Gain and bias per channel, and the residual's scale, that outliers do not move; without derivatives.

    Iteratively reweighted least squares with Geman-McClure weights from 1 (plain least squares) on. The scale is
    1.4826 times the 35 % quantile of the absolute residuals of all channels, anew in each round (two thirds of the
    standard deviation of Gaussian noise without outliers), and at least a thousandth of the fixed image's contrast.
    In that quantile a pixel counts by the length of the fixed image's gradient: on a page of text the white paper
    always fits, and by it every misplaced letter would be an outlier. Uses a regular subset of about 65,000 pixels of
    larger images.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        rounds: How many times to reweight.

    Returns:
        Gain and bias `(B, C)`, scale `(B,)`.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    with torch.no_grad():
        pair = _pair(fixed, warped, weight)
        telling = _telling(pair)
        f, g, w, told = (regular_subset(part) for part in (pair.fixed, pair.warped, pair.weight, telling))  # (B, C, N)
        w = w.expand_as(f)
        gain, bias = _line(f, g, w)
        least = 1e-3 * _weighted_mean(w, (f - _weighted_mean(w, f)).square()).mean(dim=(1, 2)).sqrt()
        least = least.clamp_min(torch.finfo(f.dtype).tiny ** 0.5)
        scale = least
        for _ in range(rounds):
            residual = gain * g + bias - f
            spread = _SPREAD * weighted_quantile(residual.abs().flatten(1), told.flatten(1), _FITTING_SHARE)
            scale = torch.maximum(spread, least)
            inlier = 1 / (1 + (residual / (_GEMAN_MCCLURE * scale[:, None, None])).square()).square()
            gain, bias = _line(f, g, w * inlier)
        return RobustFit(gain[..., 0], bias[..., 0], scale)


def ncc(fixed: Image, warped: Image, weight: Weight | None = None) -> Tensor:
    """One minus the correlation coefficient; a gain must be positive and is shared by the channels, biases are free.

    Computed as half the mean squared difference of the standardised images, which keeps its digits near a
    perfect fit, where `1 - correlation` has lost them.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.

    Returns:
        `(B,)`: 0 to 2 (inverted contrast); 2 without overlap, 1 where either image is constant.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
    """
    pair = _pair(fixed, warped, weight)
    f, lost_f = _standardised(pair, pair.fixed)
    g, lost_g = _standardised(pair, pair.warped)
    return pair.judged(0.5 * (pair.mean((f - g).square()).mean(dim=(1, 2, 3)) + lost_f + lost_g))


def lncc(
    fixed: Image,
    warped: Image,
    weight: Weight | None = None,
    *,
    window: Literal["gaussian", "box"] = "gaussian",
    sigma_px: float = 2.5,
    signed: bool = False,
) -> Tensor:
    """One minus the mean squared correlation inside a small window about each pixel.

    Sees neither uneven light nor vignetting, nor (unless `signed`) contrast that is inverted in parts. Windows
    whose contrast is under a hundredth of the image's count as uncorrelated.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        window: `gaussian`, or a square `box` of the same standard deviation (rounded to an odd number of pixels).
        sigma_px: Standard deviation of the window along each axis, px.
        signed: Use the correlation itself instead of its square.

    Returns:
        `(B,)`: 0 to 1 (2 if `signed`); 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
        OptionError: If there is no such window, or `sigma_px` is not above zero.

    Source:
        Avants et al. (2008), Symmetric diffeomorphic image registration with cross-correlation, eq. 5, with soft
        masks by normalised convolution (Knutsson and Westin 1993).
    """
    pair = _pair(fixed, warped, weight)
    taps = _window(window, sigma_px, pair.fixed)
    below = _local_sum(pair.weight, taps).clamp_min(1e-6)

    def local(values: Tensor) -> Tensor:
        return _local_sum(pair.weight * values, taps) / below

    # Standardised first: the differences of second moments below would lose their digits in float32.
    f, g = _standardised(pair, pair.fixed)[0], _standardised(pair, pair.warped)[0]
    mean_f, mean_g = local(f), local(g)
    covariance = local(f * g) - mean_f * mean_g
    variance_f = (local(f.square()) - mean_f.square()).clamp_min(0) + _FLAT
    variance_g = (local(g.square()) - mean_g.square()).clamp_min(0) + _FLAT
    variances = variance_f * variance_g
    similarity = covariance / variances.sqrt() if signed else covariance.square() / variances
    return pair.judged(pair.mean(1 - similarity).mean(dim=(1, 2, 3)))


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
    _choose("norm", norm, ("l1", "l2"))
    _choose("of", of, ("vector", "magnitude"))
    pair = _pair(fixed, warped, weight)
    inner = -functional.max_pool2d(-pair.weight, 3, stride=1, padding=1)
    pair = _Pair(pair.fixed, pair.warped, inner)
    power = 1 if norm == "l1" else 2
    f, size_f = _unit_field(pair, pair.fixed, of, power)
    g, size_g = _unit_field(pair, pair.warped, of, power)
    apart = [a - b for a, b in zip(f, g, strict=True)]
    # A hundredth of the mean length: rounds the tip of the absolute value, see gradients.magnitude.
    difference = _length(apart, 0.01) if power == 1 else _square_length(apart)
    unlike = pair.mean(difference).mean(dim=(1, 2, 3)) + (2 - size_f - size_g)
    return pair.judged(0.5 * unlike)


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
    _choose("norm", norm, ("l1", "l2"))
    _choose("of", of, ("vector", "magnitude"))
    _check(first, second, None)
    d1, d2 = central_differences(first), central_differences(second)
    if of == "magnitude":
        difference = magnitude(*d1, eps=eps) - magnitude(*d2, eps=eps)
        cost = difference.abs() if norm == "l1" else difference.square()
    elif norm == "l1":
        cost = magnitude(d1[0] - d2[0], d1[1] - d2[1], eps=eps)
    else:
        cost = (d1[0] - d2[0]).square() + (d1[1] - d2[1]).square()
    return cost.mean(dim=(1, 2, 3))


def mi(fixed: Image, warped: Image, weight: Weight | None = None, *, bins: int = 32) -> Tensor:
    """One minus the mutual information as a share of both entropies: for pictures of different modality.

    The joint histogram is soft (linear in the fixed image's grey levels, cubic B-spline in the warped one's), so
    that it can be differentiated. Bins span all but a thousandth of the grey levels at either end, over the
    overlap; the span is held constant under differentiation. Few pixels in many bins agree by chance, so the
    information is drawn to zero by `n / (n + 256)`. Channels are compared one by one and averaged.

    Args:
        fixed: See `ssd`.
        warped: See `ssd`.
        weight: See `ssd`.
        bins: Grey levels of the histogram along each axis, at least 4.

    Returns:
        `(B,)`: above 0 (0.2 to 0.5 for an image with itself) to 1; 2 without overlap.

    Raises:
        ShapeError: If shapes or dtypes do not fit.
        OptionError: If there are fewer than four bins.

    Source:
        Mattes et al. (2003), PET-CT image registration in the chest using free-form deformations, eq. 3-6 (with
        linear instead of box bins for the fixed image); normalised by the entropies as in Studholme, Hill and
        Hawkes (1999), An overlap invariant entropy measure of 3D medical image alignment.
    """
    if bins < 4:
        raise OptionError(f"bins must be at least 4, got {bins}; 32 suits most pictures")
    pair = _pair(fixed, warped, weight)
    batch, channels = pair.fixed.shape[:2]
    w = pair.weight.expand_as(pair.fixed).reshape(batch * channels, -1)
    u = _in_bins(pair.fixed.reshape(w.shape), w, bins)
    v = _in_bins(pair.warped.reshape(w.shape), w, bins)
    counts = joint_histogram(u, v, w, bins=bins)
    total = w.sum(1)
    joint = counts / total.clamp_min(torch.finfo(w.dtype).tiny)[:, None, None]
    tiny = 1e-12  # inside the logarithm, whose derivative is infinite at an empty bin
    rows, columns = joint.sum(2), joint.sum(1)
    independent = rows[:, :, None] * columns[:, None, :]
    information = (joint * ((joint + tiny) / (independent + tiny)).log()).sum(dim=(1, 2))
    entropies = -(rows * (rows + tiny).log()).sum(1) - (columns * (columns + tiny).log()).sum(1)
    shared = 2 * information / entropies.clamp_min(1e-6) * total / (total + 256)
    return pair.judged(1 - shared.view(batch, channels).mean(1))


LOSSES: dict[str, Loss] = {"ssd": ssd, "robust": robust, "ncc": ncc, "lncc": lncc, "gradient": gradient, "mi": mi}


def _in_bins(values: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Grey levels `(B, N)` as bin positions 0 to bins - 1; what lies outside the span is put into the end bins."""
    with torch.no_grad():
        some, w = regular_subset(values[:, None, None])[:, 0], regular_subset(weight[:, None, None])[:, 0]
        low, high = weighted_quantile(some, w, 0.001)[:, None], weighted_quantile(some, w, 0.999)[:, None]
        width = high - low
        constant = width <= _ROUNDING * torch.maximum(low.abs(), high.abs())
        width = torch.where(constant, torch.ones_like(width), width)
    position = ((values - low) / width * (bins - 1)).clamp(0, bins - 1)
    return torch.where(constant, torch.zeros_like(position), position)


def _pair(fixed: Image, warped: Image, weight: Weight | None) -> _Pair:
    _check(fixed, warped, weight)
    fixed = fixed.expand(warped.shape[0], -1, -1, -1)
    if weight is None:
        weight = warped.new_ones(warped.shape[0], 1, *warped.shape[2:])
    weight = weight.to(warped.dtype).expand(warped.shape[0], -1, -1, -1)
    usable = (fixed.isfinite() & warped.isfinite()).all(dim=1, keepdim=True) & (weight > 0)
    zero = warped.new_zeros(())
    return _Pair(torch.where(usable, fixed, zero), torch.where(usable, warped, zero), torch.where(usable, weight, zero))


def _check(fixed: Tensor, warped: Tensor, weight: Tensor | None) -> None:
    if warped.ndim != 4 or fixed.shape[1:] != warped.shape[1:] or fixed.shape[0] not in {1, warped.shape[0]}:
        raise ShapeError(
            f"fixed and warped must be (B, C, H, W) of one shape, got {tuple(fixed.shape)} and {tuple(warped.shape)}; "
            "warp onto the fixed grid and convert to the same channels first"
        )
    if not warped.is_floating_point() or fixed.dtype != warped.dtype:
        raise ShapeError(
            f"fixed and warped must share a floating dtype, got {fixed.dtype} and {warped.dtype}; convert with .float()"
        )
    if warped.numel() == 0:
        raise ShapeError(f"fixed and warped must hold pixels, got {tuple(warped.shape)}; check the crop before")
    wanted = (warped.shape[0], 1, *warped.shape[2:])
    if weight is not None and (tuple(weight.shape[1:]) != wanted[1:] or weight.shape[0] not in {1, wanted[0]}):
        raise ShapeError(f"weight must be {wanted}, got {tuple(weight.shape)}; one weight serves all channels")


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _noise_floor(image: Image) -> Tensor:
    """Variance below which an image counts as constant, `(B, 1, 1, 1)`, without derivative."""
    peak = image.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    return (_ROUNDING * peak).square() + torch.finfo(image.dtype).tiny


def _standardised(pair: _Pair, image: Image) -> tuple[Image, Tensor]:
    """Channels without their means, all divided by one standard deviation; and what the noise floor took, `(B,)`."""
    centred = image - pair.mean(image)
    floor = _noise_floor(image)
    variance = pair.mean(centred.square()).mean(dim=1, keepdim=True) + floor
    return centred / variance.sqrt(), (floor / variance).flatten()


def _unit_field(pair: _Pair, image: Image, of: Of, power: int) -> tuple[list[Tensor], Tensor]:
    """Gradients in units of their mean (or root mean square) length, and that mean's own size: 1, or 0 if flat."""
    # A ramp of light is the same vector everywhere: without the mean vector it is gone.
    field = [part - pair.mean(part) for part in central_differences(image)]
    if of == "magnitude":
        field = [_length(field, 0.0)]
    length = _length(field, 0.0) if power == 1 else _square_length(field)
    floor = _noise_floor(image) if power == 2 else _noise_floor(image).sqrt()
    size = pair.mean(length).mean(dim=1, keepdim=True)
    unit = size + floor if power == 1 else (size + floor).sqrt()
    return [d / unit for d in field], (size / (size + floor)).flatten()


def _length(field: list[Tensor], eps: float) -> Tensor:
    second = field[1] if len(field) == 2 else torch.zeros_like(field[0])
    return magnitude(field[0], second, eps=eps)


def _square_length(field: list[Tensor]) -> Tensor:
    return sum((part.square() for part in field), torch.zeros_like(field[0]))


def _window(window: str, sigma_px: float, like: Tensor) -> Tensor:
    _choose("window", window, ("gaussian", "box"))
    if not sigma_px > 0:
        raise OptionError(f"sigma_px must be above zero, got {sigma_px}; 2 to 3 suits most pictures")
    # A box of n pixels has variance (n^2 - 1) / 12.
    radius = round(3 * sigma_px) if window == "gaussian" else round(((12 * sigma_px**2 + 1) ** 0.5 - 1) / 2)
    offsets = torch.arange(-max(radius, 1), max(radius, 1) + 1, dtype=like.dtype, device=like.device)
    taps = torch.exp(-0.5 * (offsets / sigma_px) ** 2) if window == "gaussian" else torch.ones_like(offsets)
    return taps / taps.sum()


def _local_sum(image: Image, taps: Tensor) -> Image:
    """Sums weighted by symmetric `taps` along rows and columns about each pixel; nothing beyond the border."""
    return cast("Tensor", _LocalSum.apply(image, taps))  # type: ignore[no-untyped-call]


class _LocalSum(Function):
    """Additions of shifted images: several times as fast as a convolution of one channel, and its own transpose."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, taps: Tensor) -> Tensor:
        ctx.taps = taps
        for axis in (-1, -2):
            total = image * taps[taps.numel() // 2]
            for reach, tap in enumerate(taps[taps.numel() // 2 + 1 :].tolist(), start=1):
                rest = image.shape[axis] - reach
                if rest > 0:
                    total.narrow(axis, 0, rest).add_(image.narrow(axis, reach, rest), alpha=tap)
                    total.narrow(axis, reach, rest).add_(image.narrow(axis, 0, rest), alpha=tap)
            image = total
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return _local_sum(upstream, ctx.taps), None


def _telling(pair: _Pair) -> Tensor:
    """Weights by what a pixel tells about the place, `(B, C, H, W)`; plain weights where the image is too small."""
    if min(pair.fixed.shape[2:]) < 2:
        return pair.weight.expand_as(pair.fixed)
    inner = -functional.max_pool2d(-pair.weight, 3, stride=1, padding=1)
    lengths = inner * magnitude(*central_differences(pair.fixed))
    # A trace of the plain weight, so that an image without any gradient has a median too.
    trace = 1e-3 * lengths.amax(dim=(1, 2, 3), keepdim=True) + torch.finfo(lengths.dtype).tiny
    return lengths + trace * pair.weight


def _weighted_mean(weight: Tensor, values: Tensor) -> Tensor:
    return (weight * values).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(
        torch.finfo(values.dtype).tiny
    )


def _line(f: Tensor, g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias `(B, C, 1)` that bring `g` nearest to `f` in weighted least squares."""
    mean_f, mean_g = _weighted_mean(weight, f), _weighted_mean(weight, g)
    variance = _weighted_mean(weight, (g - mean_g).square())
    floor = (_ROUNDING * g.abs().amax(-1, keepdim=True)).square() + torch.finfo(f.dtype).tiny
    gain = _weighted_mean(weight, (f - mean_f) * (g - mean_g)) / (variance + floor)
    return gain, mean_f - gain * mean_g
