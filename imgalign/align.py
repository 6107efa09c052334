"""`align`: two pictures in, one transform and a verdict out.

pictures -> planes -> start (cheap ones first) -> ladder -> polish -> verdict -> Alignment
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgalign import verdict
from imgalign._types import Matrix3
from imgalign.alignment import Alignment
from imgalign.coords import corners, level_from_full
from imgalign.decompose import decompose, jacobians, plain_sigma
from imgalign.descent import OPTIMIZERS, descend
from imgalign.errors import DeviceError, OptionError, ShapeError
from imgalign.ladder import Ladder
from imgalign.light import mean
from imgalign.losses import LOSSES
from imgalign.plane import Plane, plane
from imgalign.polish import Polished, polish
from imgalign.sampling import KERNELS, Reader, mask_or_none
from imgalign.search import Hypothesis, distinct, full_range, search
from imgalign.transforms import Model, corner_distance, get_model, local_scale

_BASE_PIXELS = 5e5  # up to this size the finest level is always used; above it, as far as the precision asks
_NEAR = 1.0  # pixels of the base level: a polish that moves the corners further is done again from a better start
_MOST_PIXELS = 4.2e6  # and no further than this, whatever is asked: what finer levels add is not worth their memory
_LIKE = 0.01  # of the longer side: starts nearer to each other than this lead to one answer
_SAME = 0.3  # pixels of the level on which it was judged: an answer that moves by less is not judged again
_PROMISING = 0.5  # a candidate of less probability is polished only when there is no other
_SURE = 0.97  # a cheap start with this probability needs no search
_LEAST_SQUARES = ("auto", "ssd", "robust", "ncc", "lncc")


@dataclass(frozen=True)
class Wanted:
    """The options that shape a result."""

    model: str = "affine"
    loss: str = "auto"
    optimizer: str = "lm"
    sampler: str = "cubic"
    levels: int | None = None
    iterations: int | None = None
    lr: float | None = None
    max_shift: float | None = None
    max_rotation: float | None = None
    max_scale: float | None = None
    allow_mirror: bool = False
    precision: float = 0.01
    trust: float = 0.5
    seed: int = 0


def align(
    fixed: Any,
    moving: Any,
    *,
    model: str = "affine",
    loss: str = "auto",
    optimizer: str = "lm",
    sampler: str = "cubic",
    levels: int | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    init: Any = "auto",
    mask: Any = None,
    moving_mask: Any = None,
    max_shift: float | None = None,
    max_rotation: float | None = None,
    max_scale: float | None = None,
    allow_mirror: bool = False,
    precision: float = 0.01,
    trust: float = 0.5,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
) -> Alignment | tuple[Alignment, ...]:
    """Find the transform that lays `moving` over `fixed`.

    Args:
        fixed: The picture that stays: NumPy `(H, W)` or `(H, W, C)` of any dtype, PIL image, or tensor `(H, W)`,
            `(C, H, W)` or `(B, C, H, W)`. Two or four channels end in alpha; NaN and alpha are masks by themselves.
        moving: The picture brought to it, in any of these forms, of any size.
        model: `translate`, `rigid`, `similarity`, `affine` or `homography`.
        loss: `auto` and `robust` let occluders go, `ssd` and `ncc` are plain squares, `lncc` solves gain and bias
            around each pixel; `gradient` and `mi` descend by L-BFGS.
        optimizer: `lm` (Levenberg-Marquardt), `sgd`, `adam` or `lbfgs`.
        sampler: `nearest`, `bilinear` or `cubic`, for the optimizers other than `lm`, which reads cubic splines.
        levels: Levels of the pyramid that the other optimizers use.
        iterations: Most steps on a level.
        lr: Learning rate of `sgd`, `adam` and `lbfgs`.
        init: `auto` (search), `identity`, `center`, `phase`, a 3 x 3 `moving_from_fixed`, or an `Alignment`.
        mask: `(H, W)` weights of the fixed picture, 0 to 1.
        moving_mask: The same of the moving picture.
        max_shift: Largest shift of the picture centre, px.
        max_rotation: Largest rotation, degrees.
        max_scale: Largest magnification or reduction, a factor.
        allow_mirror: Look for mirror images too.
        precision: Standard deviation of the corners, px, that is enough: large pictures are not refined further.
        trust: Least probability of a trusted result.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: Threads for PyTorch; all cores by default.
        seed: Kept in the record; nothing here is left to chance.

    Returns:
        The result; for batches of tensors a tuple of results. Failing to align is a result that is not trusted.

    Raises:
        OptionError: If an option has a value that cannot work.
        ShapeError: If a picture or mask cannot be aligned.
        DeviceError: If there is no such device.
    """
    wanted = Wanted(
        model, loss, optimizer, sampler, levels, iterations, lr, max_shift, max_rotation, max_scale, allow_mirror,
        precision, trust, seed,
    )  # fmt: skip
    _check(wanted, init)
    if threads is not None:
        if threads < 1:
            raise OptionError(f"threads must be 1 or more, got {threads}; leave it out for all cores")
        torch.set_num_threads(threads)
    where = _device(device)
    _keep_freed_memory()
    batched = [x.shape[0] for x in (fixed, moving) if isinstance(x, Tensor) and x.ndim == 4]
    with torch.no_grad():
        if not batched:
            return _align_pair(
                plane(fixed, mask, where, "fixed"), plane(moving, moving_mask, where, "moving"), init, wanted
            )
        if len(set(batched)) != 1:
            raise ShapeError(f"fixed and moving must have one batch size, got {batched[0]} and {batched[1]}")

        def row(picture: Any, index: int) -> Any:
            return picture[index] if isinstance(picture, Tensor) and picture.ndim == 4 else picture

        return tuple(
            _align_pair(
                plane(row(fixed, i), mask, where, "fixed"),
                plane(row(moving, i), moving_mask, where, "moving"),
                init,
                wanted,
            )
            for i in range(batched[0])
        )


def _keep_freed_memory() -> None:
    """Let the allocator hold on to what is freed: planes come and go by the hundred.

    The GNU C library gives large blocks back to the system when freed, and takes them anew page by page, a third of
    the running time here. It stops doing so up to the size of the largest block that it has seen freed (and 32 MiB).
    """
    torch.empty(33_000_000, dtype=torch.uint8)


def _check(wanted: Wanted, init: Any) -> None:
    get_model(wanted.model)
    for name, value, known in (
        ("loss", wanted.loss, ("auto", *LOSSES)),
        ("optimizer", wanted.optimizer, ("lm", *OPTIMIZERS)),
        ("sampler", wanted.sampler, KERNELS),
    ):
        if value not in known:
            raise OptionError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    for name in ("levels", "iterations", "lr", "max_shift", "precision"):
        value = getattr(wanted, name)
        if value is not None and not value > 0:
            raise OptionError(f"{name} must be above 0, got {value}")
    if wanted.max_rotation is not None and not wanted.max_rotation >= 0:
        raise OptionError(f"max_rotation must be 0 or more, got {wanted.max_rotation}")
    if wanted.max_scale is not None and not wanted.max_scale >= 1:
        raise OptionError(f"max_scale is a factor of 1 or more, got {wanted.max_scale}")
    if not 0 <= wanted.trust <= 1:
        raise OptionError(f"trust is a probability between 0 and 1, got {wanted.trust}")
    if isinstance(init, str) and init not in ("auto", "identity", "center", "phase"):
        raise OptionError(f"unknown init {init!r}; choose auto, identity, center, phase, or give a 3 x 3 matrix")


def _device(name: str) -> torch.device:
    if name == "auto":
        # The search and the small levels are many small steps, which a CPU takes faster than it can ask a GPU.
        return torch.device("cpu")
    if name not in ("cpu", "cuda", "mps"):
        raise OptionError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if name == "cpu":
        return torch.device(name)
    there = torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()
    if not there:
        raise DeviceError(f"no {name} device on this machine; use --device cpu or auto")
    raise DeviceError(f"alignment runs on the CPU so far, {name} is not supported yet; use --device cpu or auto")


@dataclass(frozen=True)
class Candidate:
    """What the ladder made of one set of starts, best first, and what speaks for the best."""

    ranked: list[Hypothesis]
    evidence: verdict.Evidence
    probability: float


@dataclass(frozen=True)
class Answer:
    """What came of one candidate."""

    polished: Polished
    evidence: verdict.Evidence
    probability: float


class Pair:
    """One pair of pictures on its way from starts to an answer; keeps what several attempts share."""

    def __init__(self, fixed: Plane, moving: Plane, wanted: Wanted) -> None:
        self.fixed, self.moving, self.wanted = fixed, moving, wanted
        self.model = get_model(wanted.model)
        self.size_hw = fixed.size_hw
        pixels = max(math.prod(fixed.size_hw), math.prod(moving.size_hw))
        self.base = max(1, math.ceil(math.sqrt(pixels / _BASE_PIXELS)))
        shortest = min(*fixed.size_hw, *moving.size_hw)
        self.base = min(self.base, max(1, shortest // 32))
        self.ladder = Ladder(fixed.at(self.base), moving.at(self.base), self.base)
        self.near = _LIKE * max(self.size_hw)
        self.seconds = {"start": 0.0, "refine": 0.0, "verdict": 0.0}

    def best(self, init: Any) -> Answer | None:
        """The most probable answer, from starts as dear as it takes."""
        best: Answer | None = None
        waiting: list[Candidate] = []
        seen: list[Hypothesis] = []
        for starts, wide in self.attempts(init):
            candidate = self.candidate(starts, wide=wide)
            if candidate is None or not self._is_new(candidate, seen):
                continue
            seen.append(candidate.ranked[0])
            waiting = sorted([*waiting, candidate], key=lambda c: c.probability)
            # To polish what is not promising takes longer than to look for something better.
            if waiting[-1].probability >= _PROMISING:
                best = _better(best, self.answer(waiting.pop()))
                if best.probability >= _SURE:
                    return best
        if waiting and (best is None or best.probability < self.wanted.trust):
            best = _better(best, self.answer(waiting.pop()))
        return best

    def _is_new(self, candidate: Candidate, seen: list[Hypothesis]) -> bool:
        first = candidate.ranked[0].moving_from_fixed
        return all(corner_distance(first, h.moving_from_fixed, self.size_hw) > self.near for h in seen)

    def candidate(self, starts: list[Hypothesis], *, wide: bool) -> Candidate | None:
        """The best that the ladder makes of some starts."""
        began = time.perf_counter()
        ranked = self.ladder.climb(starts, self.model, self.size_hw, wide=wide)
        ranked = [h for h in ranked if self.allowed(h.moving_from_fixed)]
        self.seconds["refine"] += time.perf_counter() - began
        if not ranked:
            return None
        evidence = self.judge(ranked)
        return Candidate(ranked, evidence, verdict.probability(evidence))

    def answer(self, candidate: Candidate) -> Answer:
        """A candidate as exact as it gets, and what speaks for it."""
        began = time.perf_counter()
        best = candidate.ranked[0]
        polished = self.polish(best.moving_from_fixed)
        for _ in range(2):
            # Far from where it started, the last level has not seen the neighbourhood of its own answer.
            if corner_distance(best.moving_from_fixed, polished.moving_from_fixed, self.size_hw) < _NEAR * self.base:
                break
            better = self.ladder.again(polished.moving_from_fixed, self.model, self.size_hw)
            if better is None or better.score < best.score:
                break
            best = better
            polished = self.polish(best.moving_from_fixed)
        self.seconds["refine"] += time.perf_counter() - began
        evidence, matrix = candidate.evidence, polished.moving_from_fixed
        if corner_distance(candidate.ranked[0].moving_from_fixed, matrix, self.size_hw) > _SAME * self.judged_at:
            evidence = self.judge([Hypothesis(matrix, best.score), *candidate.ranked[1:]])
        evidence = replace(
            evidence,
            corner_sigma_px=corner_sigma(polished, self.model, self.size_hw),
            fine_parts=self.fine_agreement(matrix),
            overlap=polished.overlap,
            correlation=polished.correlation,
        )
        return Answer(polished, evidence, verdict.probability(evidence))

    def polish(self, moving_from_fixed: Matrix3) -> Polished:
        """The last levels: as fine as the precision asks, all the way on pictures of moderate size."""
        for coarse in self._on_the_way():
            moving_from_fixed = self._polish_at(moving_from_fixed, coarse, rounds=1).moving_from_fixed
        reduction = self.base
        done = self._polish_at(moving_from_fixed, reduction)
        finest = max(1, math.ceil(math.sqrt(math.prod(self.size_hw) / _MOST_PIXELS)))
        while reduction > finest and corner_sigma(done, self.model, self.size_hw) > self.wanted.precision:
            reduction = max(finest, reduction // 2)
            done = self._polish_at(done.moving_from_fixed, reduction)
        return done

    def _on_the_way(self) -> list[int]:
        """Reductions between the ladder's last level and the base, halving: each brings the next within its basin."""
        last = self.ladder.reductions[-1] * self.base
        return [self.base * k for k in (8, 4, 2) if self.base * k < 0.75 * last]

    def _polish_at(self, moving_from_fixed: Matrix3, reduction: int, rounds: int = 3) -> Polished:
        level = level_from_full(reduction)
        full = np.linalg.inv(level)
        done = polish(
            self.fixed.at(reduction),
            self.moving.at(reduction),
            level @ moving_from_fixed @ full,
            self.model,
            rounds=rounds,
            # On large pictures the finest detail costs more than it is worth once the precision is reached.
            enough_px=0.5 * self.wanted.precision / reduction if math.prod(self.size_hw) > _BASE_PIXELS else 0.0,
            iterations=self.wanted.iterations or 10,
            robust=self.wanted.loss in ("auto", "robust", "lncc"),
            light={"auto": None, "lncc": True}.get(self.wanted.loss, None if self.wanted.loss == "robust" else False),
        )
        matrix = full @ done.moving_from_fixed @ level
        # Parameters move corners in pixels of the level: in full-size pixels they move them `reduction` times as far.
        return replace(done, moving_from_fixed=matrix / matrix[2, 2], covariance=done.covariance * reduction**2)

    def fine_agreement(self, moving_from_fixed: Matrix3) -> float:
        """`verdict.fine_agreement` on the base level, both pictures at about one density."""
        scale = local_scale(moving_from_fixed, self.size_hw)
        r_fixed, r_moving = (self.base * max(1, round(k)) for k in (1 / scale, scale))
        matrix = level_from_full(r_moving) @ moving_from_fixed @ np.linalg.inv(level_from_full(r_fixed))
        return verdict.fine_agreement(self.fixed.at(r_fixed), self.moving.at(r_moving), matrix)

    @property
    def judged_at(self) -> float:
        """Full-size pixels per pixel of the middle level, on which answers are judged."""
        return self.base * self.ladder.reductions[min(1, len(self.ladder.reductions) - 1)]

    def judge(self, ranked: list[Hypothesis]) -> verdict.Evidence:
        """Evidence for and against the first of some hypotheses, on a middle level."""
        began = time.perf_counter()
        answer = ranked[0].moving_from_fixed
        rung = self.ladder.rung(self.judged_at / self.base, local_scale(answer, self.size_hw))
        evidence = verdict.collect(rung.problem, rung.to_level(answer), ranked, self.size_hw)
        self.seconds["verdict"] += time.perf_counter() - began
        return evidence

    def allowed(self, moving_from_fixed: Matrix3) -> bool:
        """Within the bounds that the user set."""
        w = self.wanted
        if w.max_shift is None and w.max_rotation is None and w.max_scale is None:
            return True
        numbers = decompose(moving_from_fixed, self.size_hw)
        shift = math.hypot(*numbers.shift_px)
        scale = local_scale(moving_from_fixed, self.size_hw)
        return (
            (w.max_shift is None or shift <= w.max_shift)
            and (w.max_rotation is None or abs(numbers.rotation_deg) <= w.max_rotation + 1e-6)
            and (w.max_scale is None or 1 / w.max_scale - 1e-6 <= scale <= w.max_scale + 1e-6)
        )

    def cheap_starts(self, init: Any) -> list[Hypothesis]:
        """Identity, centres on each other, the best shifts: what a nearly aligned pair needs."""
        centre = np.eye(3)
        for axis in (0, 1):
            centre[axis, 2] = (self.moving.size_hw[1 - axis] - self.size_hw[1 - axis]) / 2
        if isinstance(init, Alignment):
            init = init.moving_from_fixed
        if not isinstance(init, str):
            matrix = np.asarray(init, float)
            if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
                raise OptionError("init must be a 3 x 3 matrix of finite numbers that can be inverted")
            return [Hypothesis(matrix, 0.0)]
        if init == "identity":
            return [Hypothesis(np.eye(3), 0.0)]
        if init == "center":
            return [Hypothesis(centre, 0.0)]
        shifts = self._search(full_range("translate", 0, 1, False), peaks=12 if self.model.name == "translate" else 3)
        if init == "phase":
            return shifts
        return distinct([*shifts, Hypothesis(np.eye(3), 0.0), Hypothesis(centre, 0.0)], self.size_hw, self.near, 5)

    def attempts(self, init: Any) -> Iterator[tuple[list[Hypothesis], bool]]:
        """Sets of starts, each dearer than the one before and made only when asked for; and whether to look wide."""
        auto = isinstance(init, str) and init == "auto"
        cheap = self.cheap_starts(init)
        yield cheap, not auto
        if not auto:
            return
        found = cheap
        if self.model.name != "translate" or self.wanted.allow_mirror:
            found = self.full_search()
            yield found, False
        yield found, True

    def full_search(self) -> list[Hypothesis]:
        """Hypotheses over the whole range of the model and the bounds."""
        w = self.wanted
        span = full_range(
            w.model, 180.0 if w.max_rotation is None else w.max_rotation, w.max_scale or 2.0, w.allow_mirror
        )
        return self._search(span, peaks=1 if len(span.rotations_deg) > 4 else 6)

    def _search(self, span: Any, peaks: int) -> list[Hypothesis]:
        began = time.perf_counter()
        level = level_from_full(self.base)
        found = search(self.fixed.at(self.base), self.moving.at(self.base), span, peaks=peaks)
        full = [Hypothesis(np.linalg.inv(level) @ h.moving_from_fixed @ level, h.score) for h in found]
        full = [h for h in full if self.allowed(h.moving_from_fixed)]
        best = distinct(full, self.size_hw, 0.06 * math.hypot(*self.size_hw), 12)
        self.seconds["start"] += time.perf_counter() - began
        return best


def _better(best: Answer | None, other: Answer) -> Answer:
    return other if best is None or other.probability > best.probability else best


def corner_sigma(polished: Polished, model: Model, size_hw: tuple[int, int]) -> float:
    """Predicted standard deviation of a mapped corner, px (root mean square over the corners)."""
    c = corner_covariance(polished, model, size_hw)
    return float(math.sqrt(max(np.trace(c), 0.0) / 4))


def corner_covariance(polished: Polished, model: Model, size_hw: tuple[int, int]) -> np.ndarray:
    """`(8, 8)` covariance of the mapped corners, px^2, from that of the parameters."""
    points = corners(size_hw)
    homogeneous = np.c_[points, np.ones(4)]
    slopes = jacobians(polished.moving_from_fixed, points)
    columns = []
    for generator in model.generators(size_hw):
        moved = homogeneous @ generator.T
        shift = moved[:, :2] - points * moved[:, 2:]
        columns.append(np.einsum("nij,nj->ni", slopes, shift).ravel())
    jacobian = np.nan_to_num(np.stack(columns, 1), nan=1e6, posinf=1e6, neginf=-1e6)
    out = jacobian @ polished.covariance.numpy() @ jacobian.T
    return np.asarray(0.5 * (out + out.T))


def _align_pair(fixed: Plane, moving: Plane, init: Any, wanted: Wanted) -> Alignment:
    began = time.perf_counter()
    pair = Pair(fixed, moving, wanted)
    pair.seconds["start"] += time.perf_counter() - began
    empty = _nothing_to_see(pair)
    if empty:
        return _no_answer(pair, init, empty)
    best = pair.best(init)
    if best is None:
        return _no_answer(pair, init, "no overlap")
    if wanted.optimizer != "lm" or wanted.loss not in _LEAST_SQUARES:
        best = _descended(pair, best)
    return _result(pair, init, best)


def _descended(pair: Pair, best: Answer) -> Answer:
    w = pair.wanted
    began = time.perf_counter()
    matrix, history = descend(
        pair.fixed.at(pair.base),
        pair.moving.at(pair.base),
        level_from_full(pair.base) @ best.polished.moving_from_fixed @ np.linalg.inv(level_from_full(pair.base)),
        pair.model,
        loss="robust" if w.loss == "auto" else w.loss,
        optimizer="lbfgs" if w.optimizer == "lm" else w.optimizer,
        sampler=w.sampler,
        levels=w.levels or 2,
        iterations=w.iterations,
        lr=w.lr,
    )
    full = np.linalg.inv(level_from_full(pair.base)) @ matrix @ level_from_full(pair.base)
    polished = replace(best.polished, moving_from_fixed=full / full[2, 2], history=tuple(history))
    pair.seconds["refine"] += time.perf_counter() - began
    return replace(best, polished=polished)


def _nothing_to_see(pair: Pair) -> str:
    for role, picture in (("fixed", pair.fixed), ("moving", pair.moving)):
        image, weight = picture.at(pair.base)
        if float(weight.sum()) < 30:
            return f"the {role} picture is masked or transparent everywhere"
        seen = weight > 0.5
        low, high = image.where(seen, math.inf).min(), image.where(seen, -math.inf).max()
        if not float(high - low) > 1e-6 * max(1.0, abs(float(high)), abs(float(low))):
            return f"the {role} picture is constant"
    return ""


def _no_answer(pair: Pair, init: Any, why: str) -> Alignment:
    return Alignment(
        model=pair.wanted.model,
        moving_from_fixed=np.eye(3),
        fixed_size_hw=pair.size_hw,
        moving_size_hw=pair.moving.size_hw,
        status="no overlap" if why == "no overlap" else "no structure",
        trusted=False,
        probability=0.0,
        reasons=("no position was found" if why == "no overlap" else why,),
        seconds=pair.seconds,
        options=_options(pair.wanted, init),
    )


def _result(pair: Pair, init: Any, best: Answer) -> Alignment:
    p, w = best.polished, pair.wanted
    covariance = corner_covariance(p, pair.model, pair.size_hw)
    trusted = best.probability >= w.trust
    at_bound = not pair.allowed(p.moving_from_fixed)
    why = verdict.reasons(best.evidence, trusted and not at_bound)
    sigma = (
        {} if not np.isfinite(covariance).all() else plain_sigma(p.moving_from_fixed, pair.size_hw, covariance, w.model)
    )
    return Alignment(
        model=w.model,
        moving_from_fixed=p.moving_from_fixed,
        fixed_size_hw=pair.size_hw,
        moving_size_hw=pair.moving.size_hw,
        status="at a bound" if at_bound else "converged" if p.converged else "iteration limit",
        trusted=trusted and not at_bound,
        probability=best.probability,
        reasons=("the answer lies outside the bounds that were set", *why) if at_bound else why,
        corner_covariance=covariance,
        parameter_sigma=sigma,
        quality={
            **_before_and_after(pair, p.moving_from_fixed),
            "correlation_relit": p.correlation,
            "overlap": p.overlap,
            "noise": p.noise,
            **{f"evidence_{k}": v for k, v in best.evidence.features().items()},
        },
        history=p.history,
        seconds=pair.seconds,
        options=_options(w, init),
    )


def _before_and_after(pair: Pair, moving_from_fixed: Matrix3) -> dict[str, float]:
    """Correlation of the grey pictures over the overlap, laid as they came and as aligned, at some 250 pixels.

    The loss is the variance left unexplained.
    """
    reduction = pair.base * max(1, max(*pair.size_hw, *pair.moving.size_hw) // (250 * pair.base))
    (f, wf), (m, wm) = pair.fixed.at(reduction), pair.moving.at(reduction)
    level = level_from_full(reduction)
    matrices = torch.as_tensor(np.stack([np.eye(3), level @ moving_from_fixed @ np.linalg.inv(level)]))
    seen, weight = Reader(m, mask_or_none(wm), (m.shape[-2], m.shape[-1])).on_grid(matrices, (f.shape[-2], f.shape[-1]))
    weight = weight * wf
    out: dict[str, float] = {}
    for name, warped, w in zip(("before", "after"), seen, weight, strict=True):
        one, other = f[0] - mean(f[0], w), warped - mean(warped, w)
        power = mean(one * one, w) * mean(other * other, w)
        correlation = float(mean(one * other, w) / power.clamp_min(1e-30).sqrt())
        out |= {f"loss_{name}": 1 - correlation**2, f"correlation_{name}": correlation}
    return out


def _options(wanted: Wanted, init: Any) -> dict[str, Any]:
    start = init if isinstance(init, str) else "given"
    return {**vars(wanted), "init": start}
