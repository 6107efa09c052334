"""Drawn scenes: a printed page, and a section of a head in two weightings. See `formulas` for the rules."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sample_data.formulas import Field, Noise, mix, soft

Stroke = NDArray[Any]  # (N, 2) points of a polyline, x to the right, y up, x-height 1


def _arc(cx: float, cy: float, rx: float, ry: float, start_deg: float, end_deg: float) -> Stroke:
    angle = np.radians(np.linspace(start_deg, end_deg, max(4, int(abs(end_deg - start_deg) / 25) + 1)))
    points: Stroke = np.c_[cx + rx * np.cos(angle), cy + ry * np.sin(angle)]
    return points


def _line(*points: tuple[float, float]) -> Stroke:
    return np.array(points, float)


RING = _arc(0.3, 0.5, 0.3, 0.5, 0, 360)
STEM, TALL, TAIL = _line((0, 0), (0, 1)), _line((0, 0), (0, 1.6)), _line((0, -0.5), (0, 1))
ARCH = np.vstack([_arc(0.3, 0.6, 0.3, 0.4, 170, 0), [[0.6, 0]]])
GLYPHS: dict[str, tuple[float, list[Stroke]]] = {  # width, strokes
    "a": (0.6, [RING, _line((0.6, 0), (0.6, 1))]),
    "b": (0.6, [TALL, RING]),
    "c": (0.55, [_arc(0.3, 0.5, 0.3, 0.5, 50, 310)]),
    "d": (0.6, [RING, _line((0.6, 0), (0.6, 1.6))]),
    "e": (0.6, [_line((0.02, 0.52), (0.59, 0.52)), _arc(0.3, 0.5, 0.3, 0.5, 5, 310)]),
    "f": (0.4, [np.vstack([[[0.15, 0]], _arc(0.35, 1.35, 0.2, 0.25, 180, 70)]), _line((0, 1), (0.4, 1))]),
    "g": (0.6, [RING, np.vstack([[[0.6, 1]], _arc(0.32, -0.2, 0.28, 0.3, 0, -150)])]),
    "h": (0.6, [TALL, ARCH]),
    "i": (0.1, [STEM, _line((0, 1.35), (0, 1.42))]),
    "k": (0.5, [TALL, _line((0.5, 1), (0, 0.45)), _line((0.15, 0.6), (0.5, 0))]),
    "l": (0.1, [TALL]),
    "m": (1.0, [STEM, _arc(0.25, 0.6, 0.25, 0.4, 170, 0), _line((0.5, 0.6), (0.5, 0)), np.add(ARCH, [0.4, 0])]),
    "n": (0.6, [STEM, ARCH]),
    "o": (0.6, [RING]),
    "p": (0.6, [TAIL, RING]),
    "r": (0.4, [STEM, _arc(0.3, 0.6, 0.3, 0.4, 170, 70)]),
    "s": (0.5, [np.vstack([_arc(0.26, 0.75, 0.22, 0.25, 30, 260), _arc(0.24, 0.25, 0.24, 0.25, 80, -150)])]),
    "t": (0.4, [np.vstack([[[0.15, 1.4]], _arc(0.37, 0.22, 0.22, 0.22, 180, 300)]), _line((0, 1), (0.38, 1))]),
    "u": (0.6, [np.vstack([[[0, 1]], _arc(0.3, 0.4, 0.3, 0.4, 180, 350)]), _line((0.6, 0), (0.6, 1))]),
    "v": (0.55, [_line((0, 1), (0.27, 0), (0.55, 1))]),
    "w": (0.9, [_line((0, 1), (0.22, 0), (0.45, 0.9), (0.68, 0), (0.9, 1))]),
    "x": (0.5, [_line((0, 0), (0.5, 1)), _line((0, 1), (0.5, 0))]),
    "y": (0.55, [_line((0, 1), (0.28, 0)), _line((0.55, 1), (0.15, -0.5))]),
    ".": (0.1, [_line((0.02, 0), (0.05, 0.05))]),
    ",": (0.1, [_line((0.05, 0.05), (0, -0.2))]),
}
TITLE = "notes on tides"
TEXT = (
    "the water rises twice a day and falls twice, but never by the same amount. fishermen knew it long before "
    "anyone could tell them why. when sun and moon pull along one line the sea climbs high on the stones, and "
    "when they pull across each other it hardly moves at all. we measured the level of the harbour for a year, "
    "every hour, with a float in a pipe and a pen on a drum of paper. the curve is a sum of few simple waves, "
    "each with a period that the sky dictates. what remains is weather, and a slow rise that no moon explains. "
    "below is one week in march. note how the second flood of each day stays under the first, and how both fade "
    "towards the end, when only half the moon is left."
)


def _set_line(text: str, left: float, base: float, size: float, stretch: float = 0.0) -> list[list[Stroke]]:
    """Words of a line as strokes in page units, `stretch` added to each blank."""
    words, at = [], left
    for word in text.split():
        strokes: list[Stroke] = []
        for letter in word:
            width, parts = GLYPHS[letter]
            strokes += [np.c_[at + size * p[:, 0], base - size * p[:, 1]] for p in parts]
            at += size * (width + 0.42)
        words.append(strokes)
        at += 0.55 * size + stretch
    return words


def _width(text: str, size: float) -> float:
    return sum(size * (GLYPHS[c][0] + 0.42) if c != " " else 0.55 * size for c in text)


def _page_words() -> list[tuple[list[Stroke], float]]:
    """Every word of the page with its pen width."""
    placed = [(w, 2.0) for w in _set_line(TITLE, 40, 44, 13)]
    line, base, size, left, right = "", 74.0, 5.6, 40.0, 292.0
    for word in [*TEXT.split(), ""]:
        if not word or _width(f"{line} {word}", size) > right - left:
            gaps = max(1, line.count(" "))
            stretch = (right - left - _width(line, size)) / gaps if word else 0.0
            placed += [(w, 1.15) for w in _set_line(line, left, base, size, stretch)]
            line, base = word, base + 15.5
        else:
            line = f"{line} {word}".strip()
    return placed


def _stroke_distance(x: Field, y: Field, stroke: Stroke) -> Field:
    """Distance of points to a polyline."""
    nearest = np.full(x.shape, np.inf)
    for (ax, ay), (bx, by) in itertools.pairwise(stroke):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - t * dx, y - ay - t * dy))
    return nearest


def page(x: Field, y: Field) -> Field:
    """A printed page with a title, justified text, a ruled figure with a curve, and paper grain."""
    paper = Noise(61)
    ink = np.zeros_like(x)
    for strokes, pen in _page_words():
        points = np.vstack(strokes)
        low, high = points.min(0) - 4, points.max(0) + 4
        near = np.flatnonzero((x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]))
        if near.size:
            distance = np.min([_stroke_distance(x[near], y[near], s) for s in strokes], axis=0)
            ink[near] = np.maximum(ink[near], soft(distance - pen / 2, 1.0))
    for a, b in (((40, 54), (292, 54)), ((40, 326), (40, 396)), ((40, 396), (292, 396))):
        ink = np.maximum(ink, soft(_stroke_distance(x, y, _line(a, b)) - 0.5, 0.9))
    time = np.linspace(44, 290, 120)
    tide = 362 - 17 * np.sin(time / 7.5) * (0.7 + 0.45 * np.sin(time / 47)) - 4 * np.sin(time / 3.9 + 1)
    figure = np.flatnonzero((y > 320) & (y < 402) & (x > 36) & (x < 296))
    curve = _stroke_distance(x[figure], y[figure], np.c_[time, tide])
    ink[figure] = np.maximum(ink[figure], soft(curve - 0.8, 1.0))
    blank = 232 + 7 * paper.fractal(x, y, 130, 2) + 5 * paper.fractal(x, y, 3.5, 3, 0.8)
    light: Field = blank * (1 - ink) + (38 + 10 * paper(x / 2, y / 2)) * ink
    return light


def _head(x: Field, y: Field) -> dict[str, Field]:
    """Shares of the tissues of an axial section of a head about (128, 150)."""
    folds, bend = Noise(71), Noise(72)
    u, v = (x - 128) / 82, (y - 150) / 104
    r = np.hypot(u, v) * (1 + 0.02 * bend(u * 2 + 3, v * 2))
    angle = np.arctan2(v, u)
    fold = folds.fractal(np.cos(angle) * 3.5 + u * 5, np.sin(angle) * 3.5 + v * 5, 1.0, 3, 0.6)
    split = 0.05 * np.exp(-((u / 0.03) ** 2)) * np.clip((np.abs(v) - 0.38) * 6, 0, 1.5)
    furrow = np.abs(folds(np.cos(angle) * 3.5 + u * 5, np.sin(angle) * 3.5 + v * 5))
    sulci = soft((furrow - 0.035) * 16, 0.8) * soft((0.60 - r) * 40, 3)
    brain = soft((r - 0.90 + 0.03 * fold + split) * 90, 2.0) * (1 - 0.85 * sulci)
    white = soft((r - 0.74 + 0.16 * fold + 2.0 * split) * 90, 2.2) * soft((0.16 - furrow) * 14, 1.2)
    white = np.maximum(white, soft((r - 0.50) * 60, 4))
    horn = np.minimum(
        np.hypot((np.abs(u) - 0.15 - 0.10 * v) / 0.10, (v + 0.17) / 0.30),
        np.hypot((np.abs(u) - 0.30) / 0.10, (v - 0.30) / 0.22),
    )
    ventricle = soft((horn - 1 + 0.15 * bend(u * 9, v * 9)) * 10, 2.0)
    nuclei = soft((np.hypot((np.abs(u) - 0.36) / 0.13, (v + 0.03) / 0.24) - 1) * 12, 2.0)
    vessels = soft((np.abs(folds(u * 6 + 40, v * 6)) - 0.012) * 60, 1.2) * brain * (1 - ventricle)
    return {
        "scalp": soft((r - 1.10) * 90, 2) * soft((1.02 - r) * 90, 2),
        "bone": soft((r - 1.02) * 90, 2) * soft((0.93 - r) * 90, 2),
        "fluid": soft((r - 0.93) * 90, 2) * (1 - brain) + brain * ventricle,
        "grey": brain * (1 - white) * (1 - ventricle) + brain * white * nuclei * (1 - ventricle),
        "white": brain * white * (1 - nuclei) * (1 - ventricle),
        "vessel": vessels,
    }


def _weighted(x: Field, y: Field, levels: dict[str, float], seed: int) -> Field:
    tissue = _head(x, y)
    light = sum((levels[name] * share for name, share in tissue.items()), np.full(x.shape, 4.0))
    return np.asarray(light * (1 + 0.05 * Noise(seed).fractal(x, y, 60, 2)))


def head_t1(x: Field, y: Field) -> Field:
    """Fat and white matter bright, fluid dark."""
    return _weighted(x, y, {"scalp": 205, "bone": 22, "fluid": 28, "grey": 105, "white": 158, "vessel": -14}, 73)


def head_t2(x: Field, y: Field) -> Field:
    """Fluid bright, white matter darker than grey."""
    return _weighted(x, y, {"scalp": 95, "bone": 14, "fluid": 225, "grey": 128, "white": 82, "vessel": -18}, 74)


def warm_light(x: Field, y: Field, colour: Field) -> Field:
    """The same scene late in the day: low sun from the right, a soft shadow across, warmer."""
    shade = soft((0.8 * x + 0.6 * y - 150) + 14 * Noise(81)(x / 60, y / 60), 90)
    light = np.exp(0.0018 * (x - 160) - 0.001 * (y - 120)) * (1 - 0.38 * shade)
    return mix(np.full(x.shape, 0.85), colour * [1.12, 0.98, 0.78], colour.mean(1, keepdims=True)) * light[:, None]
