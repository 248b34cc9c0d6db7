"""A matrix in fewer bits that behaves as the matrix it stands for: what quantised parameters are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves, tree_map_only

from mi_core.errors import InputError
from mi_core.tracing import NotAGraph, Tracer

__all__ = ["QuantisedWeight"]

aten = torch.ops.aten
KEPT: Final = (aten.detach.default, aten.alias.default, aten.clone.default)
"""What is done to the small numbers and leaves them small."""
PRODUCTS: Final = (torch.float32, torch.bfloat16, torch.float16)
"""What torchao multiplies in; in float64, products are of dequantised numbers."""
TRAINED: Final = (Tensor.requires_grad_, Tensor.requires_grad.__set__)  # type: ignore[attr-defined]
WRITTEN: Final = (Tensor.__setitem__, Tensor.data.__set__)  # type: ignore[attr-defined]
"""Writes that reach no operator that says so."""
WAY_OUT: Final = "Load the model without quantise= to change its weights or to train them."


class QuantisedWeight(Tensor):
    """Small numbers and scales: ``linear`` multiplies by them as torchao does, all else sees what they stand for.

    Views, products and copies are made of the dequantised numbers, so that whoever reads a weight in another way than
    ``linear`` computes the same model. Nothing is written into it, and it has no gradient; activations have theirs.

    Raises:
        InputError: its numbers are to be changed, or to be trained.
    """

    held: Any
    """torchao's tensor."""

    @staticmethod
    def __new__(cls, held: Tensor, dtype: torch.dtype | None = None) -> QuantisedWeight:
        """A weight of that shape and device, and of that dtype if no other is given; it stores what it holds alone."""
        made: QuantisedWeight = Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=dtype or held.dtype, device=held.device, requires_grad=False
        )
        return made

    def __init__(self, held: Tensor, dtype: torch.dtype | None = None) -> None:
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes more
        return f"QuantisedWeight({list(self.shape)}, {self.dtype}, {type(self.held).__name__} on {self.device})"

    def dequantize(self) -> Tensor:
        """The plain numbers that it stands for, in its dtype."""
        made: Tensor = self.held.dequantize()
        return made.to(self.dtype)

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Bytes that are held."""
        names, _ = self.held.__tensor_flatten__()
        return sum(getattr(self.held, name).nbytes for name in names)

    def untyped_storage(self) -> torch.UntypedStorage:
        """That of the small numbers."""
        storage: torch.UntypedStorage = self.held.qdata.untyped_storage()
        return storage

    def __tensor_flatten__(self) -> tuple[list[str], torch.dtype]:
        return ["held"], self.dtype

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor], dtype: torch.dtype, size: object, stride: object
    ) -> QuantisedWeight:
        return QuantisedWeight(inner["held"], dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`linear` by torchao's rule; anything else goes on to PyTorch's dispatcher."""
        kwargs = kwargs or {}
        if func is linear:
            return multiplied(**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs)
        if func in TRAINED and all((*args[1:], *kwargs.values())):
            raise InputError(f"quantised weights cannot be trained. {WAY_OUT}")
        if func in WRITTEN and isinstance(args[0], cls):
            raise InputError(f"quantised weights cannot be written. {WAY_OUT}")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            views = any(isinstance(each, Tensor) and is_view(each, cls) for each in tree_leaves(result))
        # autograd takes plain results for views of this, which then are none: views are made of plain numbers again
        return func(*tree_map_only(cls, plain, tuple(args)), **kwargs) if views else result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch annotates it as a method
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Moves and copies keep the bits; everything else is done with plain numbers."""
        kwargs = kwargs or {}
        if func in KEPT:
            return cls(func(args[0].held, *args[1:], **kwargs), args[0].dtype)
        if func is aten._to_copy.default and (dtype := kwargs.get("dtype", args[0].dtype)).is_floating_point:
            return cls(moved(args[0].held, dtype if dtype in PRODUCTS else torch.float32, kwargs), dtype)
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        given |= kwargs
        if any(isinstance(given.get(name), cls) for name in written_by(func)):
            raise InputError(f"quantised weights cannot be written ({func.name()}). {WAY_OUT}", operation=func)
        args, kwargs = tree_map_only(cls, plain, (tuple(args), dict(kwargs)))
        return func(*args, **kwargs)


def is_view(tensor: Tensor, of: type[Tensor]) -> bool:
    """Whether a plain tensor counts as a view of a quantised one."""
    return not isinstance(tensor, of) and isinstance(tensor._base, of)


@cache
def written_by(func: Any) -> tuple[str, ...]:
    """The arguments that an operator writes to."""
    given = func._schema.arguments
    return tuple(each.name for each in given if each.alias_info is not None and each.alias_info.is_write)


def moved(held: Any, dtype: torch.dtype, options: Mapping[str, Any]) -> Tensor:
    """The same small numbers elsewhere, or for products in another dtype, which torchao's own conversion leaves."""
    made = aten._to_copy.default(held, **{**options, "dtype": None})
    names, attributes = made.__tensor_flatten__()
    inner = {name: getattr(made, name) for name in names}
    changed: Tensor = type(held).__tensor_unflatten__(inner, {**attributes, "dtype": dtype}, held.shape, held.stride())
    return changed


def multiplied(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002  # torch's names
    """`linear`, where one of its tensors is quantised."""
    if isinstance(_get_current_dispatch_mode(), Tracer):
        raise NotAGraph("its weights are quantised, and a graph would hold them dequantised")
    x, bias = plain(input), None if bias is None else plain(bias)
    if isinstance(x, FakeTensor):  # a rehearsal needs the shape alone
        with x.fake_mode:
            return linear(x, torch.empty(weight.shape, dtype=weight.dtype, device=weight.device), bias)
    if isinstance(weight, QuantisedWeight) and weight.dtype in PRODUCTS:
        return linear(x, weight.held, bias)
    return linear(x, plain(weight), bias)


def plain(tensor: Tensor) -> Tensor:
    """A tensor without quantisation."""
    return tensor.dequantize() if isinstance(tensor, QuantisedWeight) else tensor
