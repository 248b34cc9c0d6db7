"""Activation functions by the name that configs give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor
from torch.nn.functional import gelu, relu, silu

__all__ = ["ACTIVATIONS"]


def relu2(x: Tensor) -> Tensor:
    """The square of what is positive. Source: So et al. 2021, arXiv:2109.08668."""
    return relu(x).square()


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
    "relu2": relu2,
}
"""``hidden_act`` -> function. Source: transformers 5.24, activations.py."""
