"""Fit the verdict's probability: what the evidence says against whether the answer was right.

    python -m benchmarks.calibrate --count 60 --jobs 2

Aligns rendered pairs of every kind (seeds apart from those that `benchmarks.reach` scores), unrelated ones
included, at every stage of the search, and fits a logistic regression. Prints the weights to put into
`imgalign/verdict.py`, and how stated and observed probabilities compare on held-out pairs.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.pairs import pairs
from imgalign.judge.verdict import BY_HAND, EARLY

MODELS = ("translate", "rigid", "similarity", "affine", "homography")
KINDS = ("easy", "medium", "hard", "repetitive", "stars", "modal", "unrelated")


def attempts_of(job: tuple[str, str, int, int]) -> list[tuple[str, dict[str, float], float, float]]:
    """Kind, evidence, corner error and predicted corner error of every attempt on some pairs."""
    import torch

    from imgalign.engine import Pair
    from imgalign.planes.intake import plane
    from imgalign.start.search import Hypothesis
    from imgalign.transforms import corner_distance
    from imgalign.wanted import Wanted

    torch.set_num_threads(1)
    kind, model, count, seed = job
    out = []
    for p in pairs(kind, count, seed=seed, model=model):
        wanted = Wanted(model=model)
        cpu = torch.device("cpu")
        with torch.no_grad():
            pair = Pair(plane(p.fixed, None, cpu, "fixed"), plane(p.moving, None, cpu, "moving"), wanted)
            seen: list[Hypothesis] = []
            for attempt in (a for a in pair.starts.attempts("auto") if not a.close):
                candidate = pair.candidate(attempt.starts, wide=attempt.wide)
                if candidate is None or not pair.is_apart(candidate.ranked[0], seen):
                    continue
                seen.append(candidate.ranked[0])
                answer = pair.answer(candidate)
                matrix = answer.polished.moving_from_fixed
                truth = p.moving_from_fixed
                error = math.inf if truth is None else corner_distance(matrix, truth, p.fixed.shape[:2])
                diagonal = math.hypot(*p.fixed.shape[:2])
                out.append((kind, answer.evidence.features(), error, diagonal))
    return out


def fit(x: np.ndarray, y: np.ndarray, known: np.ndarray, ridge: float = 0.1) -> np.ndarray:
    """Logistic regression by Newton's method, beside known log odds; the first coefficient is the intercept."""
    a = np.c_[np.ones(len(x)), x]
    beta = np.zeros(a.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(a @ beta + known, -40, 40)))
        penalty = ridge * np.r_[0, np.ones(len(beta) - 1)]
        gradient = a.T @ (p - y) + penalty * beta
        hessian = (a * (p * (1 - p))[:, None]).T @ a + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def report(p: np.ndarray, right: np.ndarray, error: np.ndarray) -> None:
    """Calibration in ten bins, and the two kinds of mistake at a threshold of one half."""
    for low in np.arange(0, 1, 0.1):
        bin_ = (p >= low) & (p < low + 0.1 + 1e-9)
        if bin_.sum() >= 20:
            print(f"  stated {p[bin_].mean():.2f}  observed {right[bin_].mean():.2f}  ({bin_.sum()})")
    print(f"  trusted and over 3 px: {np.mean((p >= 0.5) & (error > 3)):.4f} of all")
    good = error < 1
    print(f"  under 1 px and refused: {np.mean(p[good] < 0.5):.4f} of those under 1 px")


def main(arguments: list[str] | None = None) -> None:
    """Align, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="pairs of each kind and model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--save", help="keep the evidence in this .npz file")
    given = parser.parse_args(arguments)
    jobs = [
        (kind, model, max(1, given.count // 4), given.seed + 101 * part)
        for part in range(4)
        for kind in KINDS
        for model in MODELS
    ]
    rows: list[Any] = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for part in pool.map(attempts_of, jobs):
            rows += part
    names = list(rows[0][1])
    x = np.array([[r[1][n] for n in names] for r in rows])
    error = np.array([r[2] for r in rows])
    right = error < np.minimum(3.0, 0.01 * np.array([r[3] for r in rows]))
    kinds = np.array([r[0] for r in rows])
    if given.save:
        np.savez(given.save, x=x, error=error, right=right, kinds=kinds, names=names)
    # What is too rare to be fitted enters with the weight that it has.
    known = sum(weight * x[:, names.index(name)] for name, weight in BY_HAND.items())
    fitted = [n for n in names if n not in BY_HAND]
    x, names = x[:, [names.index(n) for n in fitted]], fitted
    half = np.arange(len(rows)) % 2 == 0
    beta = fit(x[half], right[half], known[half])
    held = 1 / (1 + np.exp(-(beta[0] + x[~half] @ beta[1:] + known[~half])))
    print(f"{len(rows)} attempts; held-out half:")
    report(held, right[~half], error[~half])
    for title, columns in (("", names), ("_EARLY", list(EARLY))):
        beta = fit(x[:, [names.index(n) for n in columns]], right, known)
        weights = ", ".join(f'"{n}": {b:.3f}' for n, b in zip(columns, beta[1:], strict=True))
        print(f"{title}_INTERCEPT = {beta[0]:.3f}\n{title}_WEIGHTS = {{{weights}}}")


if __name__ == "__main__":
    main()
