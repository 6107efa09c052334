"""A device that is not there: tensors that say they live on a GPU, and refuse what a GPU would refuse.

    with OtherDevice("cuda"):
        align(fixed, moving, device="cuda")

Their values lie in ordinary memory and every operation is computed there, so that results can be compared. In one
point this is stricter than CUDA, as MPS is: of the CPU's tensors none but a number may take part in an operation, not
even as an index.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

_UNKNOWN_TO_MPS = (torch.float64, torch.complex128)
_ACROSS = (torch.ops.aten.copy_.default,)  # goes from one device to another
# Lazy in PyTorch: a mark on the tensor, which would not be seen through the one wrapped around it.
_AT_ONCE = {torch.ops.aten._conj.default: torch.ops.aten._conj_physical.default,
            torch.ops.aten._neg_view.default: torch.ops.aten.neg.default}  # fmt: skip
_READ = ("item", "tolist", "__float__", "__bool__", "__int__", "equal")


class FarTensor(Tensor):
    """A tensor on the device; `near` holds its values."""

    near: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, near: Tensor, place: torch.device) -> "FarTensor":  # noqa: PYI034  (Self is not in Python 3.10)
        if place.type == "mps" and near.dtype in _UNKNOWN_TO_MPS:
            raise TypeError(f"MPS has no {near.dtype}")
        # Inside PyTorch it is a tensor of the CPU, for which autograd needs no driver.
        far = Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype
        )
        far.near, far.place = near, place
        return far

    def __init__(self, near: Tensor, place: torch.device) -> None:
        """All is done in `__new__`."""

    @property
    def device(self) -> torch.device:
        """Where it says it lives."""
        return self.place

    def __repr__(self) -> str:
        return f"{self.near!r} on {self.place}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places: list[torch.device] = []
        here: list[Tensor] = []

        def near(x: Any) -> Any:
            if isinstance(x, FarTensor):
                places.append(x.place)
                return x.near
            if isinstance(x, Tensor) and x.ndim > 0 and func not in _ACROSS:
                here.append(x)
            return x

        near_args, near_kwargs = _each(near, args), {k: _each(near, v) for k, v in (kwargs or {}).items()}
        place = places[0]
        if here:
            raise RuntimeError(f"{func}: a {tuple(here[0].shape)} tensor of the CPU among tensors on {place}")
        out = _AT_ONCE.get(func, func)(*near_args, **near_kwargs)
        if func._schema.is_mutable:
            given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **(kwargs or {})}
            written = [
                given[a.name]
                for a in func._schema.arguments
                if a.alias_info and a.alias_info.is_write and a.name in given
            ]
            assert len(written) == 1, f"{func} writes to more than one tensor"
            return written[0]
        return _each(lambda x: FarTensor(x, place) if isinstance(x, Tensor) else x, out)


def _each(function: Callable[[Any], Any], x: Any) -> Any:
    """What a function makes of a thing, or of each of a list of things."""
    return type(x)(_each(function, y) for y in x) if type(x) in (list, tuple) else function(x)


class _Carry(Function):
    """Bring a tensor to a device, or (None) back; its gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, place: torch.device | None) -> Tensor:
        ctx.back = tensor.place if isinstance(tensor, FarTensor) else None
        near = (tensor.near if isinstance(tensor, FarTensor) else tensor).detach().clone()
        return near if place is None else FarTensor(near, place)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Carry.apply(upstream, ctx.back), None


class _Again(TorchFunctionMode):
    """The same mode once more."""

    def __init__(self, mode: TorchFunctionMode) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.mode.__torch_function__(func, types, args, kwargs)


class OtherDevice(TorchFunctionMode):
    """Where such a device exists: `cuda` (its name is then `cuda:0`) or `mps`.

    Attributes:
        place: The device.
        arrived: How many tensors were brought there, and
        returned: how many were brought back or read as numbers: for each a GPU would have to be waited for.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.place = torch.device(kind, 0)
        self.arrived = self.returned = 0
        there = {"cuda": torch.cuda, "mps": torch.backends.mps}[kind]
        run_backward = torch.autograd._engine_run_backward

        def run_backward_here(*args: Any, **kwargs: Any) -> Any:
            with _Again(self):  # within one of its own calls a mode sees nothing
                return run_backward(*args, **kwargs)

        present: dict[str, Any] = {"is_available": lambda: True}
        if kind == "cuda":
            present |= {"device_count": lambda: 1, "current_device": lambda: 0}
        self._patches = [
            mock.patch.multiple(there, **present),
            mock.patch.object(torch.autograd, "_engine_run_backward", run_backward_here),
        ]

    def __enter__(self) -> "OtherDevice":  # noqa: PYI034  (likewise)
        for patch in self._patches:
            patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for patch in self._patches:
            patch.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, first = getattr(func, "__name__", ""), args[0] if args else None
        far = isinstance(first, FarTensor)
        if name in ("to", "cpu", "cuda") and isinstance(first, Tensor):
            return self._moved(first, [*args[1:], *kwargs.values()] if name == "to" else [name])
        if far and name in ("numpy", "__array__", "data_ptr"):
            raise TypeError(f"a tensor on {self.place} has no memory here; use Tensor.cpu() first")
        self.returned += far and name in _READ
        if far and name == "tolist":
            return first.near.tolist()
        if name == "new_tensor" and far:
            kwargs = {"dtype": first.dtype, "device": self.place, **kwargs}
            func, args = torch.tensor, args[1:]
        if far and torch.is_inference_mode_enabled() and not first.is_inference():
            # Within inference mode a wrapper can be no view of one from outside it.
            args = (FarTensor(first.near.clone(), first.place), *args[1:])
        wanted = kwargs.get("device")
        if wanted is None or torch.device(wanted).type != self.place.type:
            return func(*args, **kwargs)
        self.arrived += name in ("tensor", "as_tensor", "new_tensor")
        made = func(*args, **{**kwargs, "device": torch.device("cpu")})
        return made if isinstance(made, FarTensor) else FarTensor(made, self.place)

    def _moved(self, tensor: Tensor, wanted: list[Any]) -> Tensor:
        """`Tensor.to`: to another device, another dtype, or both."""
        wanted = [x for w in wanted for x in ((w.device, w.dtype) if isinstance(w, Tensor) else (w,))]
        places = [torch.device(w) for w in wanted if isinstance(w, str | torch.device)]
        dtypes = [w for w in wanted if isinstance(w, torch.dtype)]
        there = isinstance(tensor, FarTensor)
        leaves = bool(places) and there and places[0].type == "cpu"
        arrives = bool(places) and not there and places[0].type == self.place.type
        if dtypes and dtypes[0] != tensor.dtype:
            # Before it leaves and before it arrives: a device of few dtypes may fail at the first.
            tensor = torch.ops.aten._to_copy.default(tensor, dtype=dtypes[0])
        self.returned += leaves
        self.arrived += arrives
        return _Carry.apply(tensor, self.place if arrives else None) if leaves or arrives else tensor
