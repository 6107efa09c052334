"""Pyramids: halving with weights, and blurs in the frequency domain.

A level is the mean over blocks of pixels, weighted by the mask, so that masked pixels never leak and the
pixel-centre rule of `coords` holds exactly. Blurs are Gaussian, done by FFT (or, on small pictures, by the matrix
that the FFT amounts to along an axis) with the mask as weight: the border is treated as a mask as well, nothing is
reflected into the picture, and so the blur brings no bias of scale.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Tensor

from imgalign._types import Image, Weight
from imgalign.coords import level_from_full, mapped_planes
from imgalign.numerics.masks import full_weight, is_whole
from imgalign.sampling import Reader

_NARROW = 0.9  # pixels: a narrower Gaussian has frequencies that pixels do not hold, and its samples are another filter
_FEW_TAPS = 1.0  # up to this wide it has so few weights that adding shifted pictures is the fastest
_DENSE = 128  # pixels a side up to which a product with a matrix is faster than an FFT
_DENSE_LEVEL = 256  # and of a level up to which reducing a picture to it is one
_KEPT = 48  # blurred masks of whole pictures: keypoints of two sizes ask for twenty each
_FEW_ROWS = 4  # that are added one by one


def reduce(image: Image, weight: Weight, factor: int) -> tuple[Image, Weight]:
    """Weighted mean over `factor` x `factor` blocks; rows and columns that fill no block are dropped.

    Returns:
        `(B, C, H // factor, W // factor)` image and the mean weight of each block.
    """
    if factor == 1:
        return image, weight
    if is_whole(weight):
        image = block_mean(image, factor)
        return image, full_weight(image)
    mean_weight = block_mean(weight, factor)
    return block_mean(image * weight, factor) / mean_weight.clamp_min(1e-6), mean_weight


def halve(image: Image, weight: Weight) -> tuple[Image, Weight]:
    """Half the pixels a side, each a weighted mean with weights 1, 3, 3, 1 along each axis; a last odd one is dropped.

    A mean over two pixels alone lets waves shorter than the new pixels hold come back as longer ones, which move
    otherwise than the picture does, and pull answers along.
    """
    if is_whole(weight):
        image = _halved(_halved(image.mT).mT)
        return image, full_weight(image)
    mean_weight = _halved(_halved(weight.mT).mT)
    return _halved(_halved((image * weight).mT).mT) / mean_weight.clamp_min(1e-6), mean_weight


def _halved(image: Tensor) -> Tensor:
    """`halve` along rows; beyond the ends the last pixel stands for the missing one."""
    n = image.shape[-2] // 2
    even, odd = image[..., 0 : 2 * n : 2, :], image[..., 1 : 2 * n : 2, :]
    out = (even + odd).mul_(3)
    out[..., 1:, :] += odd[..., :-1, :]
    out[..., :-1, :] += even[..., 1:, :]
    out[..., :1, :] += image[..., :1, :]
    out[..., -1:, :] += image[..., min(2 * n, image.shape[-2] - 1), :].unsqueeze(-2)
    return out.mul_(1 / 8)


def block_mean(image: Image, side: int) -> Image:
    """Mean over blocks of `side` x `side` pixels; rows and columns that fill no block are dropped.

    A tenth of the time of `avg_pool2d` on a CPU: rows are added to rows, then columns to columns.
    """
    if side == 1:
        return image
    h, w = (n - n % side for n in image.shape[-2:])
    if side <= _FEW_ROWS:
        rows = image[..., :h:side, :w] + image[..., 1:h:side, :w]
        for k in range(2, side):
            rows += image[..., k:h:side, :w]
        columns = rows[..., ::side] + rows[..., 1::side]
        for k in range(2, side):
            columns += rows[..., k::side]
    else:
        rows = image[..., :h, :w].unflatten(-2, (-1, side)).sum(-2)
        columns = rows.unflatten(-1, (-1, side)) @ image.new_ones(side)
    return columns.mul_(1 / side**2)


def blocks(image: Image, side: int) -> Image:
    """`block_mean` with blocks that hang over the border filled up by nothing, `(..., h, w)`."""
    h, w = image.shape[-2:]
    return block_mean(nn.pad(image, (0, -w % side, 0, -h % side)), side)


def shrink(
    image: Image, weight: Weight, reduction: float, size_hw: tuple[int, int] | None = None
) -> tuple[Image, Weight]:
    """A picture reduced by any factor: blurred by what the new pixels cannot hold, then sampled at their centres.

    To so many pixels a side as the factor makes of it, or to `size_hw`.
    """
    if reduction <= 1.0:
        return image, weight
    h, w = image.shape[-2:]
    if size_hw is None:
        size_hw = max(8, round(h / reduction)), max(8, round(w / reduction))
    whole = min(int(reduction), h // 8, w // 8)  # blocks first: the blur then costs little on large pictures
    sigma = 0.5 * math.sqrt(max(reduction**2 - whole**2, 0.0)) / whole
    if whole > 1:
        image, weight = reduce(image, weight, whole)
    if is_whole(weight) and max(size_hw) <= _DENSE_LEVEL:
        rows, columns = (
            _shrinking(n, to, whole, reduction, sigma, image.dtype, image.device)
            for n, to in zip(image.shape[-2:], size_hw, strict=True)
        )
        image = rows @ image @ columns.T
        return image, full_weight(image)
    if sigma > 0.2:
        image = masked_blur(image, weight, sigma)
    block_from_level = level_from_full(whole) @ np.linalg.inv(level_from_full(reduction))
    # The last level pixel may hang half a block over the border; its value is the border's, and that is fine.
    points = mapped_planes(block_from_level[None], size_hw, image.dtype, image.device)
    seen_hw = (image.shape[-2], image.shape[-1])
    image = Reader(image, None, seen_hw).values(*points)
    return image, full_weight(image) if is_whole(weight) else Reader(weight, None, seen_hw).values(*points)


@lru_cache(maxsize=32)
def _shrinking(
    n: int, to: int, whole: int, reduction: float, sigma: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What `shrink` does to blocks of `whole` pixels along one axis, blur and sampling, as a `(to, n)` matrix."""
    at = (((torch.arange(to, dtype=torch.float64) + 0.5) * reduction) / whole - 0.5).clamp(0, n - 1)
    low = at.floor().clamp_max(n - 2).long()[:, None]
    share = at[:, None] - low
    matrix = torch.zeros(to, n, dtype=torch.float64).scatter_(1, low, 1 - share).scatter_(1, low + 1, share)
    if sigma > 0.2:
        gaussian = _blurring(n, sigma, torch.float64, torch.device("cpu"))
        matrix = matrix @ (gaussian / gaussian.sum(1, keepdim=True))
    return matrix.to(dtype).to(device)


def blur(image: Image, sigma: float) -> Image:
    """Gaussian blur in pixels, zero outside the image: on large ones by FFT over a zero-padded frame."""
    if sigma <= 0:
        return image
    h, w = image.shape[-2:]
    if _NARROW <= sigma <= _FEW_TAPS:
        return _weighed_along(_weighed_along(image, _taps(sigma), -2), _taps(sigma), -1)
    if max(h, w) <= _DENSE:
        rows, columns = (_blurring(n, sigma, image.dtype, image.device) for n in (h, w))
        return rows @ image @ columns
    pad = math.ceil(3 * sigma)
    frame = (fast_length(h + pad), fast_length(w + pad))
    spectrum = torch.fft.rfft2(image, s=frame)
    spectrum *= gaussian_response(frame, sigma, image)
    return torch.fft.irfft2(spectrum, s=frame)[..., :h, :w]


@lru_cache(maxsize=16)
def _taps(sigma: float) -> tuple[float, ...]:
    """A Gaussian's weights from its middle on, as far as they are anything in float32; both sides sum to one."""
    half = np.exp(-0.5 * (np.arange(math.ceil(5 * sigma) + 1) / sigma) ** 2)
    return tuple((half / (2 * half.sum() - 1)).tolist())


def _weighed_along(image: Image, taps: tuple[float, ...], axis: int) -> Image:
    """Each pixel and its neighbours on either side along an axis times `taps`, summed; nothing beyond the border."""
    out = image * taps[0]
    n = image.shape[axis]
    for k, tap in enumerate(taps[1:n], 1):
        out.narrow(axis, k, n - k).add_(image.narrow(axis, 0, n - k), alpha=tap)
        out.narrow(axis, 0, n - k).add_(image.narrow(axis, k, n - k), alpha=tap)
    return out


@lru_cache(maxsize=64)
def _blurring(n: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`blur` along one axis as an `(n, n)` matrix, symmetric."""
    frame = fast_length(n + math.ceil(3 * sigma))
    response = torch.exp(-2 * (math.pi * sigma * torch.fft.rfftfreq(frame, dtype=torch.float64)) ** 2)
    kernel = torch.fft.irfft(response, n=frame)
    index = torch.arange(n)
    return kernel[(index[:, None] - index) % frame].to(dtype).to(device)


def masked_blur(image: Image, weight: Weight, sigma: float, below: Weight | None = None) -> Image:
    """Gaussian mean of the unmasked pixels around each pixel (normalised convolution, Knutsson and Westin 1993).

    `below` is the `blurred_weight`, where it is needed more than once.
    """
    below = blurred_weight(weight, sigma) if below is None else below
    return blur(image * weight, sigma).div_(below.clamp_min(1e-3))


def blurred_weight(weight: Weight, sigma: float) -> Weight:
    """A blurred mask; that of a whole picture is known by its size and kept.

    It is blurred as a picture is, not by a formula: a constant over it is that constant to the last bit.
    """
    if not is_whole(weight):
        return blur(weight, sigma)
    return _blurred_ones(weight.shape[-2:], sigma, weight.dtype, weight.device)


@lru_cache(maxsize=_KEPT)
def _blurred_ones(size_hw: tuple[int, int], sigma: float, dtype: torch.dtype, device: torch.device) -> Weight:
    return blur(torch.ones(1, 1, *size_hw, dtype=dtype, device=device), sigma)


def gaussian_response(frame: tuple[int, int], sigma: float, like: torch.Tensor) -> torch.Tensor:
    """Frequency response of a Gaussian on the half plane that `rfft2` gives, `(h, w // 2 + 1)`."""
    fy = torch.fft.fftfreq(frame[0], dtype=like.dtype, device=like.device)
    fx = torch.fft.rfftfreq(frame[1], dtype=like.dtype, device=like.device)
    scale = -2 * (math.pi * sigma) ** 2
    return torch.exp(scale * fy**2)[:, None] * torch.exp(scale * fx**2)


def fast_length(n: int) -> int:
    """The least even number from `n` on whose prime factors are 2, 3 and 5: a length the FFT is fast at."""
    n += n % 2
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 2
