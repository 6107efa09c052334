"""Pairs of pictures with a known transform, rendered from the photographs inside installed packages.

    for pair in pairs("hard", 100, seed=1):
        pair.fixed, pair.moving, pair.moving_from_fixed

Both pictures of a pair are rendered from the photograph by their own transform at a reduction of
about 1.5 to 3 (see `photos`), then each gets its own light, optics, noise and codec (see `damage`).
A pair depends on its kind, its number and the seed alone, so any part of a set can be made again.

Look at some:  python -m benchmarks.pairs hard --count 20 --seed 0 --sheet hard.png
"""

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import damage
from benchmarks.geometry import MODELS, Matrix3, corners, overlap, project
from benchmarks.photos import PHOTOS, Floats, grey_photo, is_coloured, photo, render_formula, stains
from benchmarks.views import Views, fits, geometry_tags, has_structure, place, render_both

DIFFICULTIES = ("easy", "medium", "hard")
KINDS = ("repetitive", "stars", "unrelated", "modal")
REPETITIVE = ("brick", "text", "page", "grass", "gravel", "lattice")
CHANNELS = ("astronaut", "chelsea", "coffee", "china", "flower", "retina", "motorcycle_left", "ihc", "rocket")
HARD = ("light", "dark", "remap", "invert", "blur", "noise", "jpeg", "occluder", "foreground", "bit16", "flatlight")
# Together these would leave nothing to see; the first stays.
DROWNED = {"dark": {"noise", "flatlight", "jpeg"}, "flatlight": {"noise", "jpeg"}, "remap": {"invert"}}


@dataclass(frozen=True)
class Pair:
    """Two pictures and, unless they are unrelated, where each fixed pixel lies in the moving one."""

    id: str
    model: str  # the least model that explains the pair
    difficulty: str  # of the geometry
    tags: tuple[str, ...]
    fixed: NDArray[Any]  # (H, W) or (H, W, 3), uint8 or uint16
    moving: NDArray[Any]
    moving_from_fixed: Matrix3 | None  # None: nothing in common
    overlap: float  # share of the fixed picture seen in the moving one


def pairs(kind: str, count: int, seed: int = 0, model: str | None = None) -> Iterator[Pair]:
    """Yield `count` pairs of a difficulty (easy, medium, hard) or kind (repetitive, stars, unrelated, modal).

    Args:
        kind: see above.
        count: how many.
        seed: another seed is another set of pairs.
        model: only this model; by default the five take turns.

    Raises:
        KeyError: If there is no such kind.
    """
    for index in range(count):
        yield pair(kind, index, seed, model)


def pair(kind: str, index: int, seed: int = 0, model: str | None = None) -> Pair:
    """The pair of that number; the same whether or not its neighbours are made."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), index])
    chosen = model or MODELS[index % len(MODELS)]
    name = f"{kind}_{seed}_{index:04d}_{chosen}"
    if kind in DIFFICULTIES:
        return _plain(rng, name, chosen, kind)
    return {"repetitive": _repetitive, "stars": _stars, "unrelated": _unrelated, "modal": _modal}[kind](
        rng, name, chosen
    )


def _view_pair(
    rng: np.random.Generator, names: tuple[str, ...], model: str, difficulty: str, colour: bool
) -> tuple[str, Floats, Floats, Views]:
    """Two clean pictures of one of the photographs, with something to see in their overlap."""
    while True:
        name = str(rng.choice(names))
        scene = photo(name) if colour and is_coloured(name) else grey_photo(name)
        views = place(rng, (scene.shape[0], scene.shape[1]), model, difficulty)
        if not fits(views, (scene.shape[0], scene.shape[1])):
            continue
        fixed, moving = render_both(scene, views)
        if has_structure(fixed, views):
            return name, fixed, moving, views


def _tags(rng: np.random.Generator, difficulty: str) -> set[str]:
    """What else is wrong with a pair, beside its geometry."""
    if difficulty == "easy":
        return set()
    if difficulty == "medium":
        mild = ("jpeg", "blur", "occluder", "grey", "vignette", "bit16")
        return {str(t) for t in rng.choice(mild, rng.integers(1, 3), replace=False)}
    tags = {str(t) for t in rng.choice(HARD, rng.choice([1, 2, 3], p=[0.6, 0.33, 0.07]), replace=False)}
    if rng.random() < 0.15:
        tags.add("grey")
    for stronger, weaker in DROWNED.items():
        if stronger in tags:
            tags -= weaker
    return tags


def _spoil(
    rng: np.random.Generator, fixed: Floats, moving: Floats, truth: Matrix3, difficulty: str, tags: set[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Everything between the scene and the two files."""
    other = photo(str(rng.choice(PHOTOS)))
    if "foreground" in tags:
        fixed, moving = damage.foreground(rng, fixed, moving, truth, other)
    victim = int(rng.integers(2))  # a damage that one picture has alone falls on either
    first, second = (
        damage.spoil(rng, clean, other, difficulty, tags, alone=which == victim)
        for which, clean in enumerate((fixed, moving))
    )
    return first, second


def _pair(
    name: str,
    model: str,
    difficulty: str,
    tags: set[str],
    pictures: tuple[NDArray[Any], NDArray[Any]],
    views: Views | None,
) -> Pair:
    if views is None:
        return Pair(name, model, difficulty, tuple(sorted(tags)), *pictures, None, 0.0)
    seen = overlap(views.moving_from_fixed, views.fixed_hw, views.moving_hw)
    tags = tags | geometry_tags(views)
    return Pair(name, model, difficulty, tuple(sorted(tags)), *pictures, views.moving_from_fixed, seen)


def _plain(rng: np.random.Generator, name: str, model: str, difficulty: str) -> Pair:
    source, fixed, moving, views = _view_pair(rng, PHOTOS, model, difficulty, bool(rng.random() < 0.35))
    tags = _tags(rng, difficulty)
    pictures = _spoil(rng, fixed, moving, views.moving_from_fixed, difficulty, tags)
    return _pair(name, model, difficulty, tags | {source}, pictures, views)


def _lattice(rng: np.random.Generator, views: Views) -> tuple[Floats, Floats]:
    """A grid of tiles, almost but not quite alike, from a formula."""
    period, depth = rng.uniform(26, 60), rng.uniform(3, 20)
    shades = rng.standard_normal((97, 89))

    def tiles(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        i, j = np.floor(y / period).astype(int), np.floor(x / period).astype(int)
        edge = np.minimum.reduce([x / period - j, j + 1 - x / period, y / period - i, i + 1 - y / period])
        shade: NDArray[Any] = 60 + np.clip(edge * 12, 0, 1) * (110 + depth * shades[i % 97, j % 89])
        return shade

    def look(matrix: Matrix3, size_hw: tuple[int, int], samples: int) -> Floats:
        return render_formula(tiles, matrix, size_hw, samples)

    return (
        look(views.source_from_fixed, views.fixed_hw, views.samples[0]),
        look(views.source_from_moving, views.moving_hw, views.samples[1]),
    )


def _repetitive(rng: np.random.Generator, name: str, model: str) -> Pair:
    difficulty, source = str(rng.choice(DIFFICULTIES)), str(rng.choice(REPETITIVE))
    if source == "lattice":
        views = place(rng, (1000, 1000), model, difficulty)
        fixed, moving = _lattice(rng, views)
    else:
        source, fixed, moving, views = _view_pair(rng, (source,), model, difficulty, False)
    tags = _tags(rng, "medium" if difficulty == "hard" else "easy")
    pictures = _spoil(rng, fixed, moving, views.moving_from_fixed, "medium", tags)
    return _pair(name, model, difficulty, tags | {source}, pictures, views)


def _star_field(rng: np.random.Generator, views: Views) -> tuple[Floats, Floats]:
    """Gaussian stars of a power-law brightness on a dark sky, each picture drawn at its own positions."""
    count = int(rng.integers(25, 160))
    seen = np.r_[corners(views.fixed_hw), project(np.linalg.inv(views.moving_from_fixed), corners(views.moving_hw))]
    stars = rng.uniform(seen.min(0), seen.max(0), (count, 2))
    flux = 25 * rng.pareto(1.2, count) + 20
    out = []
    for where, size_hw in ((stars, views.fixed_hw), (project(views.moving_from_fixed, stars), views.moving_hw)):
        sigma, sky = rng.uniform(0.9, 1.7), rng.uniform(3, 25)
        picture = np.full(size_hw, sky, np.float32)
        for (x, y), light in zip(where, np.minimum(flux, 2000), strict=True):
            reach = int(np.ceil(5 * sigma))
            rows = np.arange(max(0, int(y) - reach), min(size_hw[0], int(y) + reach + 1))
            columns = np.arange(max(0, int(x) - reach), min(size_hw[1], int(x) + reach + 1))
            if rows.size and columns.size:
                spot = np.outer(
                    np.exp(-((rows - y) ** 2) / (2 * sigma**2)), np.exp(-((columns - x) ** 2) / (2 * sigma**2))
                )
                picture[np.ix_(rows, columns)] += np.float32(light) * spot.astype(np.float32)
        out.append(picture[..., None])
    return out[0], out[1]


def _stars(rng: np.random.Generator, name: str, model: str) -> Pair:
    difficulty = str(rng.choice(DIFFICULTIES))
    tags = {"bit16"} if rng.random() < 0.3 else set()
    if rng.random() < 0.5:
        views = place(rng, (2000, 2000), model, difficulty)
        fixed, moving = (damage.noise(rng, p, rng.uniform(1, 5), 0.3) for p in _star_field(rng, views))
        pictures = tuple(damage.finish(p, 16 if tags else 8) for p in (fixed, moving))
        return _pair(name, model, difficulty, tags | {"formula"}, (pictures[0], pictures[1]), views)
    source, fixed, moving, views = _view_pair(rng, ("hubble_deep_field",), model, difficulty, bool(rng.random() < 0.4))
    tags |= _tags(rng, "easy" if difficulty == "easy" else "medium")
    pictures = _spoil(rng, fixed, moving, views.moving_from_fixed, "easy", tags)
    return _pair(name, model, difficulty, tags | {source}, pictures, views)


def _unrelated(rng: np.random.Generator, name: str, model: str) -> Pair:
    difficulty = str(rng.choice(DIFFICULTIES))
    first, second = (str(s) for s in rng.choice(PHOTOS, 2, replace=False))
    colour = bool(rng.random() < 0.35)
    _, fixed, _, _ = _view_pair(rng, (first,), model, difficulty, colour)
    _, _, moving, _ = _view_pair(rng, (second,), model, difficulty, colour)
    tags = _tags(rng, difficulty) - {"foreground"}
    pictures = _spoil(rng, fixed, moving, np.eye(3), difficulty, tags)
    return _pair(name, model, difficulty, tags | {first, second, "unrelated"}, pictures, None)


def _modal(rng: np.random.Generator, name: str, model: str) -> Pair:
    """One scene in two modalities: two stains, two colours of light, or one remapped beyond a tone curve."""
    difficulty, how = str(rng.choice(DIFFICULTIES)), str(rng.choice(["stains", "channels", "remap"]))
    while True:
        source = "ihc" if how == "stains" else str(rng.choice(CHANNELS if how == "channels" else PHOTOS))
        scene = stains() if how == "stains" else photo(source)[..., ::2] if how == "channels" else grey_photo(source)
        views = place(rng, (scene.shape[0], scene.shape[1]), model, difficulty)
        if not fits(views, (scene.shape[0], scene.shape[1])):
            continue
        fixed, moving = render_both(np.ascontiguousarray(scene), views)
        order = rng.permutation(2)
        pictures = (fixed[..., order[:1]], moving[..., order[1:]]) if fixed.shape[2] == 2 else (fixed, moving)
        if min(has_structure(p, views) for p in (pictures[0], fixed)):
            break
    tags = {"remap"} if how == "remap" else {"invert"} if rng.random() < 0.4 else set()
    if rng.random() < 0.4:
        tags |= _tags(rng, "medium")
    pixels = _spoil(rng, *pictures, views.moving_from_fixed, "medium", tags)
    return _pair(name, model, difficulty, tags | {source, how}, pixels, views)


def sheet(shown: list[Pair], cell_px: int = 200, columns: int = 4) -> NDArray[np.uint8]:
    """Contact sheet of pairs, each stretched to its own range."""
    from PIL import Image

    rows = -(-len(shown) // columns)
    page = Image.new("RGB", (columns * 2 * cell_px, rows * cell_px))
    for i, p in enumerate(shown):
        for j, picture in enumerate((p.fixed, p.moving)):
            low, high = np.percentile(picture, [0.2, 99.8])
            shades = np.clip((picture - low) / max(high - low, 1) * 255, 0, 255).astype(np.uint8)
            thumb = Image.fromarray(shades).convert("RGB")
            thumb.thumbnail((cell_px - 4, cell_px - 4))
            page.paste(thumb, ((i % columns * 2 + j) * cell_px, i // columns * cell_px))
    return np.asarray(page)


def main() -> None:
    """Draw a contact sheet of a kind and list its pairs."""
    parser = argparse.ArgumentParser(description="A contact sheet of rendered pairs.")
    parser.add_argument("kind", choices=DIFFICULTIES + KINDS)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", default="pairs.png")
    options = parser.parse_args()
    shown = list(pairs(options.kind, options.count, options.seed))
    for p in shown:
        print(p.id, p.fixed.shape, p.moving.shape, p.fixed.dtype, f"overlap {p.overlap:.2f}", *p.tags)
    from PIL import Image

    Image.fromarray(sheet(shown)).save(options.sheet)


if __name__ == "__main__":
    main()
