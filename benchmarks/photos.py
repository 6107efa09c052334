"""Photographs that lie inside installed packages, and pictures rendered from them.

Nothing is downloaded: the files come with the wheels of scikit-image and scikit-learn.
A picture is rendered as a camera would take it: each pixel is the mean of the scene over its own
square, and the scene is the bilinear surface through the photograph's pixels. So two pictures of
one photograph share a scene that both look at with their own grid, and neither is a resample of
the other.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[Any]  # (h, w, C) float32
Matrix3 = NDArray[Any]

SKIMAGE = [
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg"),
    *("rocket.jpg", "text.png"),
]
SKLEARN = ["china.jpg", "flower.jpg"]
PHOTOS = tuple(name.split(".")[0] for name in SKIMAGE + SKLEARN)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SMALL = 350  # a photograph with a shorter side is doubled, so that a 2x reduction still leaves a picture


def _file(stem: str) -> Path:
    """The photograph's file in the installed package; FileNotFoundError says which package lacks it."""
    for name in SKIMAGE + SKLEARN:
        if name.split(".")[0] == stem:
            package = "sklearn.datasets" if name in SKLEARN else "skimage"
            module = __import__(package, fromlist=["__file__"])
            path = Path(str(module.__file__)).parent / ("images" if name in SKLEARN else "data") / name
            if not path.is_file():
                raise FileNotFoundError(f"{package} came without {name}; install its wheel")
            return path
    raise KeyError(f"no photograph called {stem}; there are {', '.join(PHOTOS)}")


@functools.lru_cache(maxsize=32)
def photo(stem: str) -> Floats:
    """`(H, W, 3)` photograph in 0..255; grey ones have three equal channels."""
    pixels = np.asarray(Image.open(_file(stem)).convert("RGB"), np.float32)
    if min(pixels.shape[:2]) < SMALL:
        from scipy.ndimage import zoom

        pixels = np.clip(zoom(pixels, (2, 2, 1), order=3, mode="reflect", grid_mode=True), 0, 255).astype(np.float32)
    return pixels


@functools.lru_cache(maxsize=32)
def grey_photo(stem: str) -> Floats:
    """`(H, W, 1)` luminance of a photograph, 0..255."""
    grey: Floats = (photo(stem) @ LUMA)[..., None]
    return grey


def is_coloured(stem: str) -> bool:
    """Whether a photograph has colour worth showing."""
    pixels = photo(stem)
    return bool(np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 4)


@functools.lru_cache(maxsize=4)
def stains(stem: str = "ihc") -> Floats:
    """`(H, W, 2)` haematoxylin and DAB densities of a stained section, each stretched to 0..255.

    Source:
        Ruifrok and Johnston (2001), Quantification of histochemical staining by color deconvolution:
        optical densities are a mixture of the stains' unit vectors, solved by the inverse matrix.
    """
    vectors = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])  # H, E, DAB
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    density = -np.log((photo(stem).astype(np.float64) + 1) / 256)
    amounts = (density @ np.linalg.inv(vectors))[..., [0, 2]]
    low, high = np.percentile(amounts, [0.5, 99.5], axis=(0, 1))
    stretched: Floats = (np.clip((amounts - low) / (high - low), 0, 1) * 255).astype(np.float32)
    return stretched


def _bilinear(channels: list[Floats], width: int, x: NDArray[Any], y: NDArray[Any]) -> list[Floats]:
    """Read flat channels of a row length `width` between their pixels."""
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, down = (x - column).astype(np.float32), (y - row).astype(np.float32)
    at = row * width + column
    out = []
    for flat in channels:
        above, below = flat.take(at), flat.take(at + width)
        above += right * (flat.take(at + 1) - above)
        below += right * (flat.take(at + width + 1) - below)
        out.append(above + down * (below - above))
    return out


def render(scene: Floats, source_from_picture: Matrix3, size_hw: tuple[int, int], samples: int = 3) -> Floats:
    """Take a picture: pixel `(x, y)` is the mean of `samples` x `samples` readings over its own square.

    Args:
        scene: `(H, W, C)` photograph.
        source_from_picture: 3 x 3, picture pixel to photograph pixel, `(x, y)`, pixel centres at integers.
        size_hw: of the picture.
        samples: readings along each side of a pixel; the reduction factor, rounded up, is enough.

    Returns:
        `(h, w, C)` in the scene's unit.
    """
    height, width = size_hw
    rows, columns, depth = scene.shape
    channels = [np.ascontiguousarray(scene[..., c]).ravel() for c in range(depth)]
    out = np.empty((height, width, depth), np.float32)
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    x = (np.arange(width)[:, None] + offsets).ravel()
    step = max(1, 60_000 // (x.size * samples))  # rows at a time, so that the arrays stay in the cache
    for top in range(0, height, step):
        high = min(step, height - top)
        y = (np.arange(top, top + high)[:, None] + offsets).ravel()[:, None]
        a = source_from_picture
        w = a[2, 0] * x + a[2, 1] * y + a[2, 2]
        u = np.clip((a[0, 0] * x + a[0, 1] * y + a[0, 2]) / w, 0, columns - 1.001)
        v = np.clip((a[1, 0] * x + a[1, 1] * y + a[1, 2]) / w, 0, rows - 1.001)
        for c, read in enumerate(_bilinear(channels, columns, u.ravel(), v.ravel())):
            out[top : top + high, :, c] = read.reshape(high, samples, width, samples).mean((1, 3))
    return out


def render_formula(
    formula: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    source_from_picture: Matrix3,
    size_hw: tuple[int, int],
    samples: int = 2,
) -> Floats:
    """`(h, w, 1)` picture of a scene given as a function of `(x, y)`, mean over each pixel's square."""
    height, width = size_hw
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    y, x = np.meshgrid(
        (np.arange(height)[:, None] + offsets).ravel(), (np.arange(width)[:, None] + offsets).ravel(), indexing="ij"
    )
    a = source_from_picture
    w = a[2, 0] * x + a[2, 1] * y + a[2, 2]
    values = formula((a[0, 0] * x + a[0, 1] * y + a[0, 2]) / w, (a[1, 0] * x + a[1, 1] * y + a[1, 2]) / w)
    picture: Floats = values.reshape(height, samples, width, samples).mean((1, 3), dtype=np.float32)[..., None]
    return picture
