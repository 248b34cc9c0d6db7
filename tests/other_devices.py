"""Devices that this machine does not have: their tensors hold numbers, and refuse to meet those of another device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["ManyDevices"]


class Elsewhere(Tensor):
    """A tensor that says it is on another device; its numbers are in the host's memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=device, requires_grad=False
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held}, {self.device})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class ManyDevices(TorchDispatchMode):
    """Meanwhile there are devices ``"lazy:0"``, ``"lazy:1"``, ...: what is made or moved there is `Elsewhere`.

    The name is that of a kind of device that torch lets be without being linked with it.
    """

    def __enter__(self) -> ManyDevices:
        # torch.tensor(..., device=...) then makes its tensor here and moves it, which a mode sees
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self.before)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


MOVES = ("aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense")


def computed(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """An operator, where its tensors are; they must be in one place, but for single numbers and indices of the host."""
    tensors = list(tensors_of((*args, *kwargs.values())))
    asked = kwargs.get("device")
    if asked is None and not any(isinstance(tensor, Elsewhere) for tensor in tensors):
        return func(*args, **kwargs)
    name = func._schema.name  # type: ignore[attr-defined]
    refuse_strangers(name, tensors)
    here = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
    if name == "aten::copy_":
        here = args[0].device
    where = here if asked is None else torch.device(asked)
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}
    bare = {key: mapped(bare_tensor, value) for key, value in kwargs.items()}
    out = func(*mapped(bare_tensor, args), **(bare if asked is None else {**bare, "device": torch.device("cpu")}))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or where.type == "cpu":
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value, where)

    return mapped(placed, out)


def refuse_strangers(name: str, tensors: list[Tensor]) -> None:
    """Refuse an operator on tensors of several devices, as torch does."""
    places = {tensor.device for tensor in tensors if tensor.ndim > 0}
    if name.startswith("aten::index") and "select" not in name:
        places = {place for place in places if place.type != "cpu"}
    if len(places) > 1 and name not in MOVES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {sorted(map(str, places))}")


def tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values and lists of values."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A value, or the values of lists, each replaced."""
    return type(value)(mapped(function, each) for each in value) if type(value) in (list, tuple) else function(value)


def bare_tensor(value: Any) -> Any:
    """The numbers of a tensor."""
    return value.held if isinstance(value, Elsewhere) else value
