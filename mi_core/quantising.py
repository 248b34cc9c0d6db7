"""Quantising weights while a model is loaded: matrices that layers multiply by are held in eight bits, by torchao.

Only weights are quantised: products are computed in the model's dtype. Embeddings, norms, biases, routers, what steers
a recurrence and the unembedding stay as they are.

Source: torchao 0.18, quantization/quant_api.py: Int8WeightOnlyConfig and Float8WeightOnlyConfig, with their defaults.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from mi_core.errors import LoadError
from mi_core.protocols import Backend

__all__ = ["Multiplying", "Quantiser", "check_scheme"]


@runtime_checkable
class Multiplying(Protocol):
    """A backend that says which of its parameters its layers multiply activations by."""

    def matrices(self) -> Collection[str]:
        """Their names; each is ``[out, in]``, as `torch.nn.functional.linear` takes it."""
        ...


def int8(matrix: Tensor) -> Tensor:
    """Whole numbers from -128 to 127, symmetric."""
    from torchao.quantization import Int8Tensor, PerRow  # type: ignore[import-untyped]

    made: Tensor = Int8Tensor.from_hp(matrix, granularity=PerRow())
    return made


def float8(matrix: Tensor) -> Tensor:
    """Four bits of exponent and three of mantissa."""
    from torchao.quantization import Float8Tensor, PerRow

    made: Tensor = Float8Tensor.from_hp(matrix, float8_dtype=torch.float8_e4m3fn, granularity=PerRow())
    return made


SCHEMES: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {"int8": int8, "float8": float8}
"""Scheme -> what makes torchao's tensor of a matrix, with one scale for each row."""
AT_ONCE: Final = 1 << 16
"""Numbers that the host quantises at one time: half as many leave a sixth less behind, and take half as long again."""
DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
"""What torchao's int8 is made of."""


def check_scheme(scheme: str, device_map: object = None) -> None:
    """Refuse what cannot be done before a file is opened.

    Raises:
        LoadError: an unknown scheme, one with a device map, or torchao is not here.
    """
    if scheme not in SCHEMES:
        why = " torchao's int4 needs kernels of an accelerator, and is not offered." if scheme == "int4" else ""
        raise LoadError(f"quantise={scheme!r} must be one of {', '.join(SCHEMES)}.{why}", scheme=scheme)
    if device_map is not None:
        raise LoadError(
            f"quantise={scheme!r} is for models on one device: leave out device_map, or load without quantise.",
            scheme=scheme,
        )
    try:
        with quietly():
            from torchao.quantization import Float8Tensor, Int8Tensor  # noqa: F401  # what SCHEMES use
    except ImportError as error:
        raise LoadError(
            f"quantise={scheme!r} needs torchao 0.18 or newer: pip install 'mi-core[quantised]' ({error}).",
            scheme=scheme,
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Import torchao without its warnings about kernels for accelerators, none of which is used."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class Quantiser:
    """What becomes of each parameter on its way into a model."""

    scheme: str
    matrices: frozenset[str]

    @classmethod
    def of(cls, scheme: str, backend: Backend, dtype: torch.dtype, family: str) -> Quantiser:
        """For a model that is about to be filled.

        Raises:
            LoadError: the backend does not say what its layers multiply by, or its dtype is none to quantise.
        """
        matrices = backend.matrices() if isinstance(backend, Multiplying) else ()
        if not matrices:
            raise LoadError(
                f"quantise={scheme!r}: the backend of {family!r} does not say which matrices its layers multiply by "
                "(matrices()), so none can be quantised. Leave it out.",
                family=family,
            )
        if dtype not in DTYPES:
            raise LoadError(f"quantise={scheme!r} is for float32, bfloat16 and float16, not {dtype}.", dtype=dtype)
        return cls(scheme, frozenset(matrices))

    @torch.no_grad()
    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The parameter in few bits if layers multiply by it, else as it is; without numbers where it has none."""
        if name not in self.matrices:
            return value
        from mi_core.quantised_weight import QuantisedWeight

        return QuantisedWeight(by_rows(SCHEMES[self.scheme], value))

    def __str__(self) -> str:
        count = len(self.matrices)
        return f"{count} matrices in {self.scheme} with a scale for each row (torchao {version('torchao')})"


def by_rows(made: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    """What is made of a matrix, on the host a few rows at a time, since rows do not depend on each other.

    What passes is several times the size of what is kept. Allocated as large as matrices are, it would leave holes in
    the heap that the next one does not fit: more than twice the model, which nobody can use.
    """
    whole: Any = made(torch.empty_like(matrix, device="meta"))
    if matrix.is_meta:
        return cast(Tensor, whole)
    names, attributes = whole.__tensor_flatten__()
    held = {name: torch.empty_like(getattr(whole, name), device=matrix.device) for name in names}
    step = max(1, AT_ONCE // max(1, matrix.shape[1])) if matrix.device.type == "cpu" else len(matrix)
    for start in range(0, len(matrix), step):
        part = made(matrix[start : start + step])
        for name, tensor in held.items():
            tensor[start : start + step] = getattr(part, name)
    joined: Tensor = type(whole).__tensor_unflatten__(held, attributes, whole.shape, whole.stride())
    return joined
