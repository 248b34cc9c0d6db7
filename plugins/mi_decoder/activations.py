"""Activation functions by the name that configs give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

__all__ = ["ACTIVATIONS"]


def relu2(x: Tensor) -> Tensor:
    """The square of what is positive. Source: So et al. 2021, arXiv:2109.08668."""
    return relu(x).square()


def gelu_new(x: Tensor) -> Tensor:
    """GELU through a hyperbolic tangent, step by step: in bfloat16 each step rounds, as it did in training.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; transformers 5.24, NewGELUActivation.
    """
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_fast(x: Tensor) -> Tensor:
    """The same formula in another order. Source: transformers 5.24, FastGELUActivation."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def quick_gelu(x: Tensor) -> Tensor:
    """GELU through a sigmoid. Source: transformers 5.24, QuickGELUActivation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "quick_gelu": quick_gelu,
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
    "relu2": relu2,
}
"""``hidden_act`` -> function. Source: transformers 5.24, activations.py."""
