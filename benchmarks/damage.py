"""What happens to a picture between the scene and the file: light, optics, things in the way, sensor, codec.

Every function takes and gives `(h, w, C)` float32 in 0..255 and a random generator, and leaves
every pixel where it was.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve1d, gaussian_filter, map_coordinates

from benchmarks.photos import LUMA, Floats

Rng = np.random.Generator


def tone(rng: Rng, picture: Floats, strength: float) -> Floats:
    """Brightness, contrast and gamma; `strength` 0.1 is slight, 0.6 is much."""
    gamma = np.exp(rng.uniform(-strength, strength))
    gain = np.exp(rng.uniform(-0.6 * strength, 0.5 * strength))
    bias = rng.uniform(-50, 50) * strength
    return np.asarray(255 * gain * (np.clip(picture, 0, 255) / 255) ** gamma + bias, np.float32)


def _unit_grid(picture: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """X and y from -1 to 1 over the picture."""
    h, w = picture.shape[:2]
    return np.linspace(-1, 1, w, dtype=np.float32)[None, :], np.linspace(-1, 1, h, dtype=np.float32)[:, None]


def vignette(rng: Rng, picture: Floats, strength: float) -> Floats:
    """Light falls off towards the corners by `strength` (0..1)."""
    x, y = _unit_grid(picture)
    return picture * (1 - strength * rng.uniform(0.6, 1) * (x**2 + y**2) / 2)[..., None]


def uneven_light(rng: Rng, picture: Floats) -> Floats:
    """A lamp at one side and a soft shadow."""
    x, y = _unit_grid(picture)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0)
    field = slope * (np.cos(angle) * x + np.sin(angle) * y)
    cx, cy, size = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(0.3, 0.7)
    field = field + rng.uniform(-1, 0.6) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * size**2))
    return np.asarray(picture * np.exp(field - field.mean())[..., None], np.float32)


def dark(rng: Rng, picture: Floats) -> Floats:
    """Under-exposed by a factor of 4 to 9; the sensor's noise stays as it is."""
    return picture * np.float32(rng.uniform(0.11, 0.25))


def invert(rng: Rng, picture: Floats) -> Floats:
    """A negative, with its own contrast."""
    return (255 - np.clip(picture, 0, 255)) * np.float32(rng.uniform(0.6, 1.0))


def remap(rng: Rng, picture: Floats) -> Floats:
    """A smooth tone curve that turns round once or twice."""
    phase, turns = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.5)
    level = np.clip(picture, 0, 255) / 255
    return np.asarray(127.5 + 110 * np.sin(2 * np.pi * turns * level + phase), np.float32)


def blur(rng: Rng, picture: Floats, sigma_px: float) -> Floats:
    """Out of focus, or the camera moved (symmetrically about each pixel, so that the truth stays)."""
    if sigma_px < 1 or rng.random() < 0.6:
        return np.asarray(gaussian_filter(picture, (sigma_px, sigma_px, 0)), np.float32)
    half = int(np.ceil(2 * sigma_px))
    angle = rng.uniform(0, np.pi)
    if abs(np.cos(angle)) > 0.9 or abs(np.sin(angle)) > 0.9:
        axis = 1 if abs(np.cos(angle)) > 0.9 else 0
        return np.asarray(convolve1d(picture, np.full(2 * half + 1, 1 / (2 * half + 1)), axis=axis), np.float32)
    steps = np.linspace(-half, half, 2 * half + 1)
    rows, columns = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    out = np.zeros_like(picture)
    for c in range(picture.shape[2]):
        for s in steps:
            at = [rows + s * np.sin(angle), columns + s * np.cos(angle)]
            out[..., c] += map_coordinates(picture[..., c], at, order=1, mode="nearest") / len(steps)
    return out


def noise(rng: Rng, picture: Floats, sigma: float, shot: float = 0.0) -> Floats:
    """Read noise of `sigma` grey levels; `shot` is the variance added per grey level."""
    spread = np.sqrt(sigma**2 + shot * np.clip(picture, 0, 255)) if shot else np.float32(sigma)
    return np.asarray(picture + spread * rng.standard_normal(picture.shape, np.float32), np.float32)


def blob(rng: Rng, size_hw: tuple[int, int], centre_xy: tuple[float, float], area_px: float) -> NDArray[np.bool_]:
    """A turned ellipse or box of about that area."""
    y, x = np.ogrid[0 : size_hw[0], 0 : size_hw[1]]
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.5, 0.5))
    dx, dy = x - centre_xy[0], y - centre_xy[1]
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = -np.sin(angle) * dx + np.cos(angle) * dy
    if rng.random() < 0.5:
        radius = np.sqrt(area_px / np.pi)
        return np.asarray((along / (radius * stretch)) ** 2 + (across * stretch / radius) ** 2 <= 1)
    half = np.sqrt(area_px) / 2
    return np.asarray((np.abs(along) <= half * stretch) & (np.abs(across) * stretch <= half))


def texture(rng: Rng, other: Floats, size_hw: tuple[int, int], channels: int) -> Floats:
    """Something to fill a shape with: a piece of another photograph, or a plain grey."""
    if rng.random() < 0.2:
        return np.full((*size_hw, channels), rng.uniform(0, 255), np.float32)
    step = max(1, min(other.shape[0] // size_hw[0], other.shape[1] // size_hw[1], 2))
    rows = np.arange(size_hw[0]) * step + rng.integers(0, other.shape[0])
    columns = np.arange(size_hw[1]) * step + rng.integers(0, other.shape[1])
    piece = other[np.ix_(rows % other.shape[0], columns % other.shape[1])]
    return piece if channels == 3 else (piece @ LUMA)[..., None]


def occlude(rng: Rng, picture: Floats, other: Floats, share: float) -> Floats:
    """One to four things lie on the picture and hide about `share` of it."""
    h, w, channels = picture.shape
    out, hidden = picture.copy(), np.zeros((h, w), bool)
    pieces = int(rng.integers(1, 5))
    for _ in range(pieces * 3):
        if hidden.mean() >= 0.85 * share:
            break
        area = min(share / pieces, share - hidden.mean()) * h * w
        shape = blob(rng, (h, w), (rng.uniform(0, w), rng.uniform(0, h)), area)
        out[shape] = texture(rng, other, (h, w), channels)[shape]
        hidden |= shape
    return out


def foreground(
    rng: Rng, fixed: Floats, moving: Floats, moving_from_fixed: NDArray[Any], other: Floats
) -> tuple[Floats, Floats]:
    """One thing stands before both scenes, and has moved by a tenth to a third of the side between them."""
    h, w = fixed.shape[:2]
    here = np.array([rng.uniform(0.2, 0.8) * w, rng.uniform(0.2, 0.8) * h])
    there = moving_from_fixed @ [*here, 1.0]
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.33) * min(h, w)
    there = there[:2] / there[2] + far * np.array([np.cos(angle), np.sin(angle)])
    seed, area = int(rng.integers(2**31)), rng.uniform(0.05, 0.15) * h * w
    out = []
    for picture, at in ((fixed, here), (moving, there)):
        same = np.random.default_rng(seed)  # the same thing, with the same coat, in both pictures
        coat = texture(same, other, (h, w), picture.shape[2])
        shape = blob(same, (h, w), (w / 2, h / 2), area)
        rows, columns = np.nonzero(shape)
        y, x = rows + round(at[1] - h / 2), columns + round(at[0] - w / 2)
        keep = (y >= 0) & (x >= 0) & (y < picture.shape[0]) & (x < picture.shape[1])
        painted = picture.copy()
        painted[y[keep], x[keep]] = coat[rows[keep], columns[keep]]
        out.append(painted)
    return out[0], out[1]


def jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Through a JPEG file and back."""
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file))


def digitise(picture: Floats, bits: int = 8) -> NDArray[Any]:
    """Round and clip to 8 bits, or to a 12 bit sensor's range inside 16; one channel loses its axis."""
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    if bits == 16:
        return np.clip(np.round(flat * 16), 0, 4095).astype(np.uint16)
    return np.clip(np.round(flat), 0, 255).astype(np.uint8)


def finish(picture: Floats, bits: int = 8, quality: int = 0) -> NDArray[Any]:
    """Digitise, and pass 8 bit through JPEG where a quality is given."""
    pixels = digitise(picture, bits)
    return jpeg(pixels, quality) if quality and pixels.dtype == np.uint8 else pixels


def _scene_changes(rng: Rng, picture: Floats, other: Floats, difficulty: str, tags: set[str], *, alone: bool) -> Floats:
    """What happens in front of the sensor."""
    hard = difficulty == "hard"
    picture = tone(rng, picture, {"easy": 0.12, "medium": 0.3, "hard": 0.45}[difficulty])
    if "vignette" in tags or ("light" in tags and rng.random() < 0.5):
        picture = vignette(rng, picture, 0.75 if hard else 0.35)
    if not alone:
        return picture
    changes: dict[str, Callable[[Floats], Floats]] = {
        "occluder": lambda p: occlude(rng, p, other, rng.uniform(0.1, 0.25) if hard else rng.uniform(0.03, 0.1)),
        "light": lambda p: uneven_light(rng, p),
        "remap": lambda p: remap(rng, p),
        "invert": lambda p: invert(rng, p),
        "flatlight": lambda p: 90 + 0.25 * p,
        "blur": lambda p: blur(rng, p, rng.uniform(1.0, 2.4) if hard else rng.uniform(0.5, 0.9)),
        "dark": lambda p: dark(rng, p),
    }
    for name, change in changes.items():
        if name in tags:
            picture = change(picture)
    return picture


def spoil(rng: Rng, picture: Floats, other: Floats, difficulty: str, tags: set[str], *, alone: bool) -> NDArray[Any]:
    """A clean picture as its file would hold it.

    Args:
        rng: random numbers.
        picture: `(h, w, C)` clean, 0..255.
        other: photograph that the occluders are cut from.
        difficulty: how strong.
        tags: what happens, see `pairs`.
        alone: whether this is the picture that one-sided damage falls on.
    """
    picture = _scene_changes(rng, picture, other, difficulty, tags, alone=alone)
    low, high = {"easy": (0.8, 2.5), "medium": (1.5, 4.0), "hard": (1.5, 5.0)}[difficulty]
    sigma = rng.uniform(8, 24) if "noise" in tags and (alone or rng.random() < 0.5) else rng.uniform(low, high)
    picture = noise(rng, picture, sigma, 0.15 if rng.random() < 0.3 else 0.0)
    if "grey" in tags and alone and picture.shape[2] == 3:
        picture = (picture @ LUMA)[..., None]
    bits = 16 if "bit16" in tags and (alone or rng.random() < 0.5) else 8
    coded = "jpeg" in tags and (alone or rng.random() < 0.5)
    return finish(picture, bits, int(rng.integers(12, 40) if difficulty == "hard" else rng.integers(55, 88)) * coded)
