"""Filters in the frequency domain: exact derivatives, finer sampling, the filter that suits the noise.

A picture is no period: it is continued by reflections that cross-fade into each other, so that the frame is
periodic and smooth but for a kink at the border, and what a filter makes of the kink is left out by a margin.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Floats, Image, Weight
from imgalign.numerics.devices import gathered
from imgalign.numerics.masks import least_weight, mask_or_none
from imgalign.numerics.neighbours import largest, least
from imgalign.numerics.noise import LEAST_SCENE
from imgalign.numerics.sums import mean
from imgalign.pyramid import blur, blurred_weight, fast_length, masked_blur
from imgalign.sampling import MOMS_BEND, Reader

_WHITENING = 4.0  # no frequency is raised over another by more than this factor
_WORTH_WHITENING = 1.04  # times the variance that noise of this colour leaves: for less, filters cost more at borders
MARGIN = 4  # pixels at the border that filters spoil
_EDGE = 1 / 8  # of the picture's side, over which it is faded out at either end to tell its frequencies
_FILLED_BY = (8.0, 2.0, 0.7)  # pixels: Gaussians whose means fill what is masked, the narrowest at its edge
_ENOUGH_SEEN = 0.25  # of a Gaussian's weight that is seen, for its mean to be taken whole
_FADED = 5  # pixels from what is masked that say nothing of frequencies, and
_FADING = 2.5  # pixels of the Gaussian by which others have more and more of a say
_NARROW = 2  # pixels from a masked one to the next that is seen, at most, on both sides
_GAP = 32  # least pixels between the end of the picture and its next period
_READ_PAD = 8  # pixels of the continued picture kept around an oversampled plane


@dataclass(frozen=True)
class Spectrum:
    """A picture's continued, periodic frame in the frequency domain."""

    values: Tensor  # (1, C, frame_h, frame_w // 2 + 1), complex
    frame_hw: tuple[int, int]
    size_hw: tuple[int, int]

    def frequencies(self) -> tuple[Tensor, Tensor]:
        """Cycles per pixel along y `(frame_h, 1)` and along x `(frame_w // 2 + 1,)`."""
        real = self.values.real
        fy = torch.fft.fftfreq(self.frame_hw[0], dtype=real.dtype, device=real.device)
        fx = torch.fft.rfftfreq(self.frame_hw[1], dtype=real.dtype, device=real.device)
        return fy[:, None], fx

    def filtered(self, response: Tensor) -> "Spectrum":
        """The frame times a frequency response (broadcast to `values`)."""
        return Spectrum(self.values * response, self.frame_hw, self.size_hw)

    def image(self, step: int = 1) -> Image:
        """Back to pixels: to all, or (`step` 2) to every second along each axis, for a quarter of the work."""
        h, w = self.size_hw
        if step == 1:
            return torch.fft.irfft2(self.values, s=self.frame_hw)[..., :h, :w]
        half_h, half_w = (n // 2 for n in self.frame_hw)
        # Of every second pixel the frequencies half a frame apart are one.
        rows = self.values[..., :half_h, :] + self.values[..., half_h:, :]
        # What lies beyond the half plane that is kept is the conjugate of its mirror image.
        n = half_w // 2 + 1
        beyond = rows[..., half_w - n + 1 : half_w + 1].flip(-2, -1).roll(1, -2).conj()
        folded = (rows[..., :n] + beyond).mul_(1 / 4)
        return torch.fft.irfft2(folded, s=(half_h, half_w))[..., : (h + 1) // 2, : (w + 1) // 2]

    def derivatives(self, step: int = 1) -> tuple[Image, Image]:
        """Derivatives along x and y per pixel, exact for what the pixels can hold; on pixels as `image` takes them."""
        fy, fx = self.frequencies()
        # The highest frequency of an even frame has no derivative: its sign is unknown.
        fy = torch.where(fy.abs() == 0.5, torch.zeros_like(fy), fy)
        fx = torch.where(fx == 0.5, torch.zeros_like(fx), fx)
        turn = 2j * math.pi
        return self.filtered(turn * fx).image(step), self.filtered(turn * fy).image(step)


def spectrum(image: Image, weight: Weight) -> Spectrum:
    """Transform a picture; what is masked is filled from around it first, so that nothing rings."""
    if mask_or_none(weight) is not None:
        image = _filled(image, weight)
    size_hw = (image.shape[-2], image.shape[-1])
    frame_hw = (fast_length(size_hw[0] + _GAP), fast_length(size_hw[1] + _GAP))
    frame = _continued(_continued(image, frame_hw[1], -1), frame_hw[0], -2)
    return Spectrum(torch.fft.rfft2(frame), frame_hw, size_hw)


def _filled(image: Image, weight: Weight) -> Image:
    """What is masked replaced by means of what is not: the farther from it, the wider.

    At the edge of a mask a picture goes on with the values that it has there. A step rings on into what is seen, and
    interpolation, filters and derivatives feel it.
    """
    fill = masked_blur(image, weight, _FILLED_BY[0])
    for sigma in _FILLED_BY[1:]:
        below = blurred_weight(weight, sigma)
        fill = torch.lerp(fill, masked_blur(image, weight, sigma, below), (below / _ENOUGH_SEEN).clamp_(0, 1))
    return image * weight + fill * (1 - weight)


def _continued(image: Tensor, length: int, axis: int) -> Tensor:
    """Append the reflections of both ends about their last pixel, cross-faded, up to `length`.

    Reflected in place and in value, a picture goes on with the slope that it has at its end. A kink there would ring on
    into it, as far as one over the distance.
    """
    n = image.shape[axis]
    gap = length - n
    t = torch.arange(gap, device=image.device)
    period = max(2 * (n - 1), 1)

    def mirror(index: Tensor) -> Tensor:
        index = index % period
        return torch.where(index < n, index, period - index)

    fade = 0.5 + 0.5 * torch.cos(math.pi * (t + 1).to(image.dtype) / (gap + 1))
    fade = fade if axis == -1 else fade[:, None]
    after, before = (
        2 * image.narrow(axis, end, 1) - image.index_select(axis, mirror(at))
        for end, at in ((n - 1, n + t), (0, t - gap))
    )
    tail = after * fade + before * (1 - fade)
    return torch.cat([image, tail], axis)


def spline_reader(
    picture: Spectrum, mask: Tensor | None, oversampling: float, margin: float = 0.0, ramp: float = 0.0
) -> Reader:
    """A curve through the picture on pixels `oversampling` times finer (1, 1.5 or 2), ready to be read.

    Kernels of four taps are nearly exact up to a quarter of a cycle a pixel; twice the pixels make that a half, so that
    everything a picture can hold is read where it is, whatever the phase.
    """
    k = oversampling
    fy, fx = picture.frequencies()
    pad = int(_READ_PAD * k)

    def prefilter(f: Tensor) -> Tensor:
        """The kernel's inverse filter on the finer pixels, and a turn that moves the picture in by the padding."""
        at_pixels = 2 / 3 - 2 * MOMS_BEND + (1 / 3 + 2 * MOMS_BEND) * torch.cos(f * (2 * math.pi / k))
        return k / at_pixels * torch.exp(-2j * math.pi * _READ_PAD * f)

    h, w = (int(k * n) + 2 * pad for n in picture.size_hw)
    fine_h, fine_w = (int(k * n) for n in picture.frame_hw)
    values = (picture.values * prefilter(fy)).mul_(prefilter(fx))
    if k > 1:
        values = _on_finer(values, fine_h)
    # Columns before rows, so that only those are made that hold something, and only those that are kept.
    columns = torch.fft.ifft(values, dim=-2)[..., :h, :]
    plane = torch.fft.irfft(columns, n=fine_w)[..., :w]
    return Reader(plane, mask, picture.size_hw, "moms", k, pad, margin, ramp)


def _on_finer(values: Tensor, fine_h: int) -> Tensor:
    """A half-plane spectrum on more rows; the highest frequencies, of no sign, drop."""
    frame_h, half = values.shape[-2], values.shape[-2] // 2
    finer = values.new_zeros((*values.shape[:-2], fine_h, values.shape[-1] - 1))
    above = frame_h - half - 1
    finer[..., :half, :], finer[..., -above:, :] = values[..., :half, :-1], values[..., -above:, :-1]
    return finer


def inner_weight(weight: Weight, margin: int = MARGIN) -> Weight:
    """A mask without what lies within `margin` pixels of the border or of masked places."""
    if least_weight(weight) > 0.5:
        inner = torch.zeros_like(weight)
        inner[..., margin:-margin, margin:-margin] = weight[..., margin:-margin, margin:-margin]
        return inner
    worst = least(nn.pad(_bridged(weight), (margin,) * 4), margin)[..., margin:-margin, margin:-margin]
    return weight * worst


def faded_weight(weight: Weight) -> Weight:
    """A mask that falls to nothing towards masked places, for `noise_model`.

    Cut off hard, the coarse structure of a picture shows at all frequencies, and looks like a signal there.
    """
    return blur(least(_bridged(weight), _FADED), _FADING)


def _bridged(weight: Weight) -> Tensor:
    """One where something is seen, or masked places are so narrow that what is around them fills them well; else zero.

    Bad pixels and lost rows would with their margins leave nothing of a picture.
    """
    return least(largest((weight > 0.5).to(weight.dtype), _NARROW), _NARROW)


@dataclass(frozen=True)
class RadialResponse:
    """A filter's amplitude by frequency, on `len(amplitude)` rings from 0 to the corner, cycles per pixel."""

    amplitude: Floats
    highest: float = math.sqrt(0.5)

    def on(self, picture: Spectrum, scale: float = 1.0) -> Tensor:
        """The response on a spectrum's frequencies, each multiplied by `scale` first."""
        fy, fx = picture.frequencies()
        low, t = _on_rings(fy * scale, fx * scale, len(self.amplitude), self.highest)
        table = torch.as_tensor(self.amplitude, dtype=fx.dtype, device=fx.device)
        return torch.lerp(table[low], table[low + 1], t)


@dataclass(frozen=True)
class NoiseModel:
    """What two aligned pictures share and what they do not, by frequency; see `noise_model`.

    Attributes:
        whitening: Brings the noise of either picture to equal strength at all frequencies; None where it gains little.
        denoising: Wiener filter of the weighed mean of both (whitened) pictures.
        contrast: Of the scene in the fixed over that in the moving picture.
        share: Of the fixed picture in that mean: each counts by the inverse of its noise.
        held: Share of a step, 0 to 1, that is held back by gradients that were made where it began, because the moving
            picture's noise fits itself best there: of noise in the product of filtered and unfiltered gradients.
        untold: Share of noise in the power of the filtered gradients. It is less, for the filter is in it twice.
    """

    whitening: RadialResponse | None
    denoising: RadialResponse
    contrast: float
    share: float
    held: float
    untold: float


def noise_model(fixed: Image, warped: Image, weight: Weight, rings: int = 24) -> NoiseModel:
    """Signal and noise of two aligned pictures, ring by ring of frequencies.

    What both share is signal (their cross spectrum), what they do not is noise. The maximum-likelihood estimate of a
    small shift correlates the whitened difference of the pictures with the gradient of their common image (Clement,
    Bierbaum and Sethna 2018, arXiv 1809.05583, estimate that image; Hannan and Thomson 1973 give the weights for
    delays); the best estimate of that image is the Wiener-filtered mean of both, in which each counts by the inverse of
    its noise. So weighed, the noise of the mean is independent of that of the difference.

    Args:
        fixed: `(1, 1, H, W)`.
        warped: The moving picture on the same pixels, any gain.
        weight: `(1, 1, H, W)` where both are seen.
    """
    h, w = fixed.shape[-2:]
    taper = weight * _taper(h, weight)[:, None] * _taper(w, weight)
    f, m = (torch.fft.rfft2((x - mean(x, weight)) * taper) for x in (fixed, warped))
    count, cross, power_f, power_m = ring_sums(
        [torch.ones_like(f.real), f.real * m.real + f.imag * m.imag, *(x.real**2 + x.imag**2 for x in (f, m))],
        (h, w),
        rings,
    )
    count = np.maximum(count, 4)
    cross, power_f, power_m = cross / count, power_f / count, power_m / count
    cross = cross * np.sign(cross.sum())
    contrast = _contrast(count, cross, power_f, power_m)
    power_m, shared = power_m * contrast**2, cross * contrast
    # Signal that so few frequencies could show by chance is none.
    signal = (shared - 2 * np.sqrt(power_f * power_m / count)).clip(0)
    least = 1e-6 * max(power_f.max(), power_m.max()) + 1e-30
    noise_f, noise_m, noise = (
        _smooth(power.clip(0)) + least
        for power in (power_f - abs(shared), power_m - abs(shared), power_f + power_m - 2 * abs(shared))
    )  # the last one of the difference
    of_mean = noise_f * noise_m / (noise_f + noise_m)
    level = (noise * count).sum() / count.sum()
    coloured = noise / level
    # What slopes tell if all frequencies count alike, over what they tell if each counts by its noise.
    told = signal * count * np.arange(rings) ** 2
    lost = (told * coloured).sum() * (told / coloured).sum() / max(told.sum(), 1e-30) ** 2
    loudest = noise.max()
    amplitude = 1 / np.sqrt(np.maximum(noise, loudest / _WHITENING**2) / loudest)
    whitening = RadialResponse(amplitude / amplitude.max()) if lost > _WORTH_WHITENING else None
    denoising = signal / (signal + of_mean)
    # Gradients raise power by the square of the frequency; the turn to white noise is a factor to both.
    steep = denoising * count * np.arange(rings) ** 2 / noise

    def noisy(power: Floats) -> float:
        return float((power * of_mean).sum() / max((power * (signal + of_mean)).sum(), 1e-30))

    share = float((count * noise_m).sum() / (count * (noise_f + noise_m)).sum())
    return NoiseModel(whitening, RadialResponse(denoising), contrast, share, noisy(steep), noisy(steep * denoising))


def _contrast(count: Floats, cross: Floats, power_f: Floats, power_m: Floats) -> float:
    """Contrast of the scene in the fixed over that in the moving picture.

    White noise adds the same power to all rings of a picture, and nothing to the cross spectrum: by that, as a straight
    line, the power of either grows with its own contrast. No picture is taken to be nearly all noise.
    """
    whole = (count * power_f).sum() / max((count * power_m).sum(), 1e-30)
    by = count * (cross - (count * cross).sum() / count.sum())
    steep_f, steep_m = (by * power_f).sum(), (by * power_m).sum()
    steep = steep_f / steep_m if min(steep_f, steep_m) > 0 else whole
    return math.sqrt(min(max(steep, LEAST_SCENE * whole), whole / LEAST_SCENE))


def _on_rings(fy: Tensor, fx: Tensor, rings: int, highest: float) -> tuple[Tensor, Tensor]:
    """The ring below each frequency, `(H, W)`, and how far it is on the way to the next."""
    position = torch.hypot(fy, fx).mul_((rings - 1) / highest).clamp_(0, rings - 1)
    low = position.long().clamp_max_(rings - 2)
    return low, position - low


def ring_sums(planes: list[Tensor], size_hw: tuple[int, int], rings: int) -> list[Floats]:
    """Sums of planes over a half-plane of frequencies by soft rings: each frequency counts to the two nearest.

    Args:
        planes: `(..., H, W // 2 + 1)` real numbers by frequency, as `rfft2` has them.
        size_hw: `(H, W)` of the picture.
        rings: From no frequency to the highest there is.

    Returns:
        `(rings,)` sums of each plane.
    """
    device = planes[0].device
    fy = torch.fft.fftfreq(size_hw[0], device=device)[:, None]
    fx = torch.fft.rfftfreq(size_hw[1], device=device)
    low, t = (x.flatten() for x in _on_rings(fy, fx, rings, math.sqrt(0.5)))

    rows = (plane.flatten() for plane in planes)
    sums = gathered(*(torch.bincount(low, weighed, rings - 1) for x in rows for weighed in (x, x * t)))
    both = zip(sums[::2], sums[1::2], strict=True)
    return [np.pad(whole - above, (0, 1)) + np.pad(above, (1, 0)) for whole, above in both]


def _smooth(rings: Floats) -> Floats:
    padded = np.pad(rings, 1, mode="edge")
    return np.asarray((padded[:-2] + padded[1:-1] + padded[2:]) / 3)


def _taper(n: int, like: Tensor) -> Tensor:
    """Weights of `n` pixels that fall to nothing over the outer ones at either end.

    Not from the middle on: what is there would be taken for what is everywhere.
    """
    k = torch.arange(1, n + 1, dtype=like.dtype, device=like.device)
    inwards = torch.minimum(k, n + 1 - k) / (_EDGE * n + 1)
    return 0.5 - 0.5 * torch.cos(math.pi * inwards.clamp_max_(1))
