"""What another loss or another optimizer makes of an answer of least squares."""

import time
from dataclasses import replace

import torch

from imgalign.coords import at_full_size, at_level
from imgalign.decompose import scaled
from imgalign.engine import SAME, Answer, Pair
from imgalign.refine.descent import descend
from imgalign.start.search import Hypothesis


def descended(pair: Pair, best: Answer) -> Answer:
    """An answer brought to the minimum of the loss that was asked for, by the optimizer that was asked for."""
    w = pair.wanted
    began = time.perf_counter()
    # Tensors made for inference cannot be differentiated: copies of them can.
    with torch.inference_mode(False), torch.no_grad():
        (f, wf), (m, wm) = ((x.clone() for x in picture.at(pair.base)) for picture in (pair.fixed, pair.moving))
        matrix, history, converged = descend(
            (f, wf),
            (m, wm),
            at_level(best.polished.moving_from_fixed, pair.base),
            pair.model,
            loss="robust" if w.loss == "auto" else w.loss,
            optimizer="lbfgs" if w.optimizer == "lm" else w.optimizer,
            sampler=w.sampler,
            levels=w.levels or 2,
            iterations=w.iterations,
            lr=w.lr,
        )
    matrix = scaled(at_full_size(matrix, pair.base))
    polished = replace(best.polished, moving_from_fixed=matrix, history=tuple(history), converged=converged)
    # Error bars are known of least squares: where another loss leads away from them, one of the two errs as far.
    moved = pair.finish.apart(polished, best.polished)
    polished = pair.finish.as_seen(replace(polished, doubt_px=moved)).doubted()
    pair.spent("refine", began)
    evidence = best.evidence
    if moved > SAME * pair.judged_at:
        seen = pair.judge([Hypothesis(polished.moving_from_fixed, best.score)])
        evidence = replace(seen, margin=evidence.margin, rival_px=evidence.rival_px)
    return replace(pair.known(polished, evidence, best.score), behind=best.behind)
