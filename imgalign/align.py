"""`align`: two pictures in, one transform and a verdict out."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, Union, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgalign._types import Matrix3
from imgalign.alignment import Alignment
from imgalign.behind import behind
from imgalign.coords import at_level, lattice
from imgalign.cores import limited, watched
from imgalign.decompose import plain_sigma
from imgalign.descended import descended
from imgalign.engine import Answer, Pair
from imgalign.errors import DeviceError, OptionError, ShapeError
from imgalign.finish import corner_covariance
from imgalign.judge import verdict
from imgalign.numerics.masks import least_weight
from imgalign.numerics.sums import plane_means, total
from imgalign.planes.aside import set_aside
from imgalign.planes.intake import plane
from imgalign.planes.plane import Plane
from imgalign.pyramid import reduce
from imgalign.sampling import Reader
from imgalign.start.starts import is_automatic
from imgalign.wanted import STARTS, AlignOptions, Wanted, check_number

if TYPE_CHECKING:
    from PIL.Image import Image

_One: TypeAlias = Union[NDArray[Any], "Image", Plane]
_MANY_PIXELS = 20_000  # some of so many tell a correlation
_ACROSS = 8  # pixels of the shortest side that are left of it there
_DOUBTED = 0.3  # most probability of an answer that a frame around the scene may explain
_AT_BOUND = "at a bound"
_FIRST_MPS = (2, 13)  # reads up to the border of a picture there (`grid_sample`)
_LEAST_SQUARES = ("auto", "ssd", "robust", "ncc", "lncc")


# A batch is a tensor, and only its number of axes tells: what is no tensor has one result.
@overload
def align(
    fixed: _One, moving: _One, *, model: str = ..., loss: str = ..., optimizer: str = ..., sampler: str = ...,
    levels: int | None = ..., iterations: int | None = ..., lr: float | None = ..., init: Any = ..., mask: Any = ...,
    moving_mask: Any = ..., max_shift: float | None = ..., max_rotation: float | None = ...,
    max_scale: float | None = ..., allow_mirror: bool = ..., precision: float = ..., trust: float = ...,
    device: str | torch.device = ..., threads: int | None = ..., seed: int = ...,
) -> Alignment: ...  # fmt: skip
@overload
def align(
    fixed: Any, moving: Any, *, model: str = ..., loss: str = ..., optimizer: str = ..., sampler: str = ...,
    levels: int | None = ..., iterations: int | None = ..., lr: float | None = ..., init: Any = ..., mask: Any = ...,
    moving_mask: Any = ..., max_shift: float | None = ..., max_rotation: float | None = ...,
    max_scale: float | None = ..., allow_mirror: bool = ..., precision: float = ..., trust: float = ...,
    device: str | torch.device = ..., threads: int | None = ..., seed: int = ...,
) -> Alignment | tuple[Alignment, ...]: ...  # fmt: skip
def align(
    fixed: Any,
    moving: Any,
    *,
    model: str = Wanted.model,
    loss: str = Wanted.loss,
    optimizer: str = Wanted.optimizer,
    sampler: str = Wanted.sampler,
    levels: int | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    init: Any = AlignOptions.init,
    mask: Any = None,
    moving_mask: Any = None,
    max_shift: float | None = None,
    max_rotation: float | None = None,
    max_scale: float | None = None,
    allow_mirror: bool = Wanted.allow_mirror,
    precision: float = Wanted.precision,
    trust: float = Wanted.trust,
    device: str | torch.device = AlignOptions.device,
    threads: int | None = None,
    seed: int = Wanted.seed,
) -> Alignment | tuple[Alignment, ...]:
    """Find the transform that lays `moving` over `fixed`.

    Args:
        fixed: The picture that stays: NumPy `(H, W)` or `(H, W, C)` of any dtype, PIL image, or tensor `(H, W)`,
            `(C, H, W)` or `(B, C, H, W)`. Two or four channels end in alpha; NaN, alpha and what a masked array
            hides are masks by themselves. Or what `prepare` made of it.
        moving: The picture brought to it, in any of these forms, of any size.
        model: `translate`, `rigid`, `similarity`, `affine` or `homography`.
        loss: `auto` and `robust` let occluders go, `ssd` and `ncc` are plain squares, `lncc` solves gain and bias
            around each pixel; `gradient` and `mi` descend by L-BFGS.
        optimizer: `lm` (Levenberg-Marquardt), `sgd`, `adam` or `lbfgs`.
        sampler: `nearest`, `bilinear` or `cubic`, for the optimizers other than `lm`, which reads cubic splines.
        levels: Levels of the pyramid of the optimizers other than `lm`; 2 without it.
        iterations: Most steps on a level.
        lr: Learning rate of the optimizers other than `lm`.
        init: `auto` (search), `identity`, `center`, `phase`, a 3 x 3 `moving_from_fixed`, or an `Alignment`.
        mask: `(H, W)` weights of the fixed picture: bool, integers (zeros and ones, or 8 or 16 bits in full), or floats
            of 0 to 1.
        moving_mask: The same of the moving picture.
        max_shift: Largest shift of the picture centre, px. What lies on this bound, or one of the next two, is found a
            little beyond it as well: by three standard deviations of its error.
        max_rotation: Largest rotation, degrees; 0 for none.
        max_scale: Largest magnification or reduction, a factor from 1 (none) to 20.
        allow_mirror: Look for mirror images too.
        precision: Standard deviation of the corners, px, that is enough: pictures above 0.1 megapixel are not refined
            further.
        trust: Least probability of a trusted result.
        device: `auto` (the CPU), `cpu`, `cuda`, `cuda:1` or `mps`, or a `torch.device`.
        threads: Threads for PyTorch meanwhile, no more than there are cores; without it as many as PyTorch is set to.
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
    if isinstance(init, str) and init not in STARTS:
        raise OptionError(f"unknown init {init!r}; choose {', '.join(STARTS)}, or give a 3 x 3 matrix")
    if threads is not None:
        check_number("threads", threads, whole=True)
        if threads < 1:
            raise OptionError(f"threads must be 1 or more, got {threads}; leave it out for all cores")
    where = _device(device)
    _keep_freed_memory()
    batched = [x.shape[0] for x in (fixed, moving) if isinstance(x, Tensor) and x.ndim == 4]
    if len(set(batched)) > 1:
        raise ShapeError(f"fixed and moving must have one batch size, got {batched[0]} and {batched[1]}")

    def aligned(one: Any, other: Any) -> Alignment:
        return _align_pair(_ready(one, mask, where, "fixed"), _ready(other, moving_mask, where, "moving"), init, wanted)

    with limited(threads), torch.no_grad():
        if not batched:
            return aligned(fixed, moving)
        return tuple(aligned(_row(fixed, i), _row(moving, i)) for i in range(batched[0]))


def prepare(picture: Any, *, mask: Any = None, device: str | torch.device = "auto", copy: bool = True) -> Plane:
    """Make a picture ready to be the `fixed` of several alignments: what depends on it alone is then done once.

    Args:
        picture: In any form that `align` takes, but a batch.
        mask: `(H, W)` weights, in place of the `mask` of `align`.
        device: As in `align`, and the same there.
        copy: Keep the picture's values as they are now, whatever is written into its memory later; False for one that
            nobody writes to.

    Raises:
        ShapeError: If it cannot be aligned.
        DeviceError: If there is no such device.
    """
    with torch.no_grad():
        made = plane(picture, mask, _device(device), "fixed")
        return replace(made, pixels=made.pixels.clone()) if copy else made


def _row(picture: Any, index: int) -> Any:
    """A picture of a batch, if it is one; one picture serves all rows."""
    return picture[index] if isinstance(picture, Tensor) and picture.ndim == 4 else picture


def _ready(picture: Any, mask: Any, device: torch.device, role: str) -> Plane:
    if not isinstance(picture, Plane):
        return plane(picture, mask, device, role)
    if mask is not None:
        raise OptionError(f"a prepared {role} picture has its mask already; give the mask to prepare()")
    if picture.device != device:
        raise OptionError(f"the {role} picture was prepared for {picture.device}; give prepare() the device of align()")
    return picture


def _keep_freed_memory() -> None:
    """Let the allocator hold on to what is freed: planes come and go by the hundred.

    The GNU C library gives large blocks back to the system when freed, and takes them anew page by page, a third of
    the running time here. It stops doing so up to the size of the largest block that it has seen freed (and 32 MiB).
    """
    torch.empty(33_000_000, dtype=torch.uint8)


def _device(wanted: str | torch.device) -> torch.device:
    name = str(wanted)
    if name == "auto":
        # The search and the small levels are many small steps, which a CPU takes faster than it can ask a GPU.
        return torch.device("cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and index.isdecimal())):
        raise OptionError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu":
        return torch.device(kind)
    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if count <= int(index or 0):
        raise DeviceError(f"no {name} device on this machine; use --device cpu or auto")
    if kind == "mps" and tuple(int(n) for n in torch.__version__.split(".")[:2]) < _FIRST_MPS:
        raise DeviceError(
            f"alignment on mps needs PyTorch {'.'.join(map(str, _FIRST_MPS))}, this is {torch.__version__}"
        )
    # With its number, as tensors have it.
    return torch.device(kind, int(index) if index else torch.cuda.current_device() if kind == "cuda" else 0)


@torch.inference_mode()  # with less to keep of each tensor than without gradients alone, a twentieth of the time
def _align_pair(fixed: Plane, moving: Plane, init: Any, wanted: Wanted) -> Alignment:
    with watched() as cores:
        began = time.perf_counter()
        pair = Pair(fixed, moving, wanted, between=cores.check)
        aside = set_aside(fixed, moving, pair.base)
        pair.spent("start", began)
        if aside is None:
            return _answered(pair, init)
        inner = Pair(*aside.taken_off(fixed, moving), wanted, between=cores.check)
        inner.seconds = pair.seconds  # of both, if both are aligned
        within = _answered(inner, init)
        within = replace(within, reasons=(*within.reasons, *aside.notes))
        if within.trusted:
            return within
        whole = _answered(pair, init)
        why = aside.doubt(whole.moving_from_fixed, pair.size_hw)
        if why:
            probability = min(whole.probability, _DOUBTED)
            trusted = whole.trusted and probability >= wanted.trust  # outside the bounds it is not, however probable
            beyond = whole.reasons[:1] if whole.status == _AT_BOUND else ()
            whole = replace(whole, trusted=trusted, probability=probability, reasons=(*beyond, why))
        return max(within, whole, key=lambda answer: answer.probability)


def _answered(pair: Pair, init: Any) -> Alignment:
    empty = _nothing_to_see(pair)
    if empty:
        return _no_answer(pair, init, "no structure", empty)
    best = pair.best(init)
    if best is None:
        return _no_answer(pair, init, "no overlap", "no position was found")
    if is_automatic(init):
        best = behind(pair, best)
    if pair.wanted.optimizer != "lm" or pair.wanted.loss not in _LEAST_SQUARES:
        best = descended(pair, best)
    return _result(pair, init, best)


def _nothing_to_see(pair: Pair) -> str:
    for role, picture in (("fixed", pair.fixed), ("moving", pair.moving)):
        image, weight = picture.at(pair.base)
        if float(total(weight)) < 30:
            return f"the {role} picture is masked or transparent everywhere"
        low, high = image[weight > 0.5].aminmax() if least_weight(weight) <= 0.5 else image.aminmax()
        if not float(high - low) > 1e-6 * max(1.0, abs(float(high)), abs(float(low))):
            return f"the {role} picture is constant"
    return ""


def _no_answer(pair: Pair, init: Any, status: str, why: str) -> Alignment:
    return Alignment(
        model=pair.wanted.model,
        moving_from_fixed=np.eye(3),
        fixed_size_hw=pair.size_hw,
        moving_size_hw=pair.moving.size_hw,
        status=status,
        trusted=False,
        probability=0.0,
        reasons=(why,),
        seconds=pair.seconds,
        options=_options(pair.wanted, init),
    )


def _result(pair: Pair, init: Any, best: Answer) -> Alignment:
    p, w = best.polished, pair.wanted
    covariance = corner_covariance(p, pair.model, pair.size_hw)
    trusted = best.probability >= w.trust
    at_bound = not pair.finish.is_allowed(p)
    why = verdict.reasons(best.evidence, trusted and not at_bound)
    if best.behind:
        why = (*why, "what stands still in both pictures was set aside")
    sigma = (
        {} if not np.isfinite(covariance).all() else plain_sigma(p.moving_from_fixed, pair.size_hw, covariance, w.model)
    )
    return Alignment(
        model=w.model,
        moving_from_fixed=p.moving_from_fixed,
        fixed_size_hw=pair.size_hw,
        moving_size_hw=pair.moving.size_hw,
        status=_AT_BOUND if at_bound else "converged" if p.converged else "iteration limit",
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

    At every second of them along each axis, which tells it as well; at more of long and thin pictures. The loss is the
    variance left unexplained.
    """
    sides = *pair.size_hw, *pair.moving.size_hw
    further = max(1, min(max(sides) // (250 * pair.base), min(sides) // (_ACROSS * pair.base)))
    reduction = pair.base * further
    (f, wf), (m, wm) = (reduce(*picture.at(pair.base), further) for picture in (pair.fixed, pair.moving))
    matrices = np.stack([np.eye(3), at_level(moving_from_fixed, reduction)])
    step = 2 if f.numel() > _MANY_PIXELS else 1
    f, wf = (x[..., ::step, ::step] for x in (f, wf))
    seen, weight = Reader.of(m, wm).on_grid(matrices @ lattice(step), (f.shape[-2], f.shape[-1]))
    weight = weight * wf
    one, other = f - plane_means(f, weight), seen - plane_means(seen, weight)
    power = plane_means(one * one, weight) * plane_means(other * other, weight)
    found = (plane_means(one * other, weight) * power.clamp_min(1e-30).rsqrt()).flatten().tolist()
    out: dict[str, float] = {}
    for name, correlation in zip(("before", "after"), found, strict=True):
        out |= {f"loss_{name}": 1 - correlation**2, f"correlation_{name}": correlation}
    return out


def _options(wanted: Wanted, init: Any) -> dict[str, Any]:
    start = init if isinstance(init, str) else "given"
    return {**vars(wanted), "init": start}
