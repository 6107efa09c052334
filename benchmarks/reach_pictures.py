"""Pictures of `reach`: success against threshold, against rotation, scale and overlap, and calibration."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.pairs import DIFFICULTIES, KINDS

if TYPE_CHECKING:
    from benchmarks.reach import Attempt

BINS: dict[str, tuple[list[float], Callable[[Any], float]]] = {
    "rotation, degrees": ([0, 5, 15, 30, 60, 120, 180.1], lambda a: abs(a.rotation_deg)),
    "scale, larger over smaller": ([1, 1.05, 1.15, 1.3, 1.5, 1.75, 2.2], lambda a: max(a.scale, 1 / a.scale)),
    "overlap": ([0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.001], lambda a: a.overlap),
}


def _names(attempts: list["Attempt"]) -> list[str]:
    return list(dict.fromkeys(a.peer for a in attempts))


def _style(name: str) -> dict[str, Any]:
    return {"lw": 2.4, "color": "black", "zorder": 5} if name == "imgalign" else {"lw": 1.2}


def against_threshold(attempts: list["Attempt"], path: Path) -> None:
    """Share of pairs under an error, one panel a kind."""
    kinds = [k for k in (*DIFFICULTIES, *KINDS) if any(a.kind == k for a in attempts)]
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.6 * len(kinds), 3.4), sharey=True, layout="constrained", squeeze=False
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name in _names(attempts):
            errors = np.sort([a.error_px for a in attempts if a.kind == kind and a.peer == name])
            if errors.size:
                axis.plot(errors, np.arange(1, errors.size + 1) / errors.size, label=name, **_style(name))
        axis.set(xscale="log", xlim=(0.003, 30), ylim=(0, 1.01), title=kind, xlabel="mean corner error, px")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("share of pairs")
    axes[0, -1].legend(fontsize=6)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def against_geometry(attempts: list["Attempt"], path: Path) -> None:
    """Share under 1 px in bins of rotation, scale and overlap."""
    figure, axes = plt.subplots(1, len(BINS), figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, (label, (edges, value)) in zip(axes, BINS.items(), strict=True):
        for name in _names(attempts):
            mine = [a for a in attempts if a.peer == name]
            place = np.digitize([value(a) for a in mine], edges)
            right = np.array([a.error_px < 1 for a in mine])
            share = [right[place == k].mean() if (place == k).sum() >= 3 else np.nan for k in range(1, len(edges))]
            axis.plot(range(len(share)), share, "o-", ms=3, label=name, **_style(name))
        axis.set(xlabel=label, ylim=(0, 1.01), xticks=range(len(edges) - 1))
        axis.set_xticklabels([f"{a:g}-{b:.3g}" for a, b in itertools.pairwise(edges)], fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share under 1 px")
    axes[-1].legend(fontsize=6)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def of_calibration(bins: list[tuple[float, int, float, float]], path: Path) -> None:
    """Observed share right against stated probability."""
    figure, axis = plt.subplots(figsize=(3.8, 3.8), layout="constrained")
    axis.plot([0, 1], [0, 1], color="grey", lw=1)
    for _, count, stated, observed in bins:
        axis.plot(stated, observed, "o", color="black", ms=3 + 2 * np.log10(count))
        axis.annotate(str(count), (stated, observed), fontsize=7, xytext=(4, -8), textcoords="offset points")
    axis.set(xlabel="stated probability", ylabel="share that was right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw(attempts: list["Attempt"], folder: Path) -> None:
    """All pictures into a folder."""
    from benchmarks.reach import calibration

    related = [a for a in attempts if a.kind != "unrelated"]
    if related:
        against_threshold(related, folder / "reach_threshold.png")
        against_geometry(related, folder / "reach_geometry.png")
    if bins := list(calibration(attempts)):
        of_calibration(bins, folder / "reach_calibration.png")
