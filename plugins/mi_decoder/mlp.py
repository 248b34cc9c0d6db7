"""The channel part: an MLP, gated or plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, silu

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Site, Tap
from mi_core.vocabulary import site
from mi_decoder.norms import RMSNorm

__all__ = ["MLP", "GatedMLP", "GatedMLPModule", "LearnedActivation", "MLPModule", "weights_of"]


@runtime_checkable
class LearnedActivation(Protocol):
    """Describes an activation that has weights of its own."""

    def build(self, name: str) -> nn.Module:
        """A module from neurons to neurons, with ``weights()``, whose names start with ``name``."""
        ...


@dataclass(frozen=True)
class GatedMLP:
    """``W_out (activation(W_gate x) * W_in x)``, each product with an optional bias.

    Source: Shazeer 2020, arXiv:2002.05202; transformers 5.24, LlamaMLP (gate_proj, up_proj, down_proj in this order).
    """

    d_mlp: int
    activation: Callable[[Tensor], Tensor] = silu
    bias: bool = False
    norm: RMSNorm | None = None
    """What neurons go through before W_out. Source: transformers 5.24, BitNetMLP (ffn_sub_norm)."""

    def build(self, d_model: int, name: str = "mlp") -> GatedMLPModule:
        """The module; ``name`` is what its sites and weights start with."""
        return GatedMLPModule(self, d_model, name)


@dataclass(frozen=True)
class MLP:
    """``W_out activation(W_in x)``, each product with an optional bias.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.3; transformers 5.24, GPT2MLP.
    """

    d_mlp: int
    activation: Callable[[Tensor], Tensor] | LearnedActivation = gelu
    bias: bool = True

    def build(self, d_model: int) -> MLPModule:
        """The module."""
        return MLPModule(self, d_model)


class GatedMLPModule(nn.Module):
    """A gated MLP; matrices lie as in checkpoints, ``[out, in]``."""

    reads = ("gate", "in")
    writes = ("out",)
    multiplies = (*reads, *writes)

    def __init__(self, spec: GatedMLP, d_model: int, name: str = "mlp") -> None:
        super().__init__()
        self.activation = spec.activation
        self.name = name
        self.names = tuple(f"{name}.hook_{site}" for site in ("in", "pre", "pre_linear", "post", "out"))
        self.sizes = {"d_model": d_model, "d_mlp": spec.d_mlp}
        for name, rows, columns in (
            ("gate", spec.d_mlp, d_model),
            ("in", spec.d_mlp, d_model),
            ("out", d_model, spec.d_mlp),
        ):
            self.register_parameter(f"{name}_weight", empty(rows, columns))
            self.register_parameter(f"{name}_bias", empty(rows) if spec.bias else None)
        self.norm = None if spec.norm is None else spec.norm.build(spec.d_mlp, f"{self.name}.norm")

    def transform(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap
    ) -> Float[Tensor, "batch pos d_model"]:
        """The output of the MLP, its bias included."""
        own: Mapping[str, Any] = self._parameters  # spares a Python call for each parameter
        in_site, pre_site, linear_site, post_site, out_site = self.names
        x = tap(in_site, x)
        pre = tap(pre_site, linear(x, own["gate_weight"], own["gate_bias"]))
        pre_linear = tap(linear_site, linear(x, own["in_weight"], own["in_bias"]))
        gate = self.activation(pre)
        # a tensor that the activation has made is nobody else's, and may be reused unless gradients need it
        fresh = gate is not pre and not torch.is_grad_enabled()
        post, norm = gate.mul_(pre_linear) if fresh else gate * pre_linear, self.norm
        post = tap(post_site, post if norm is None else norm.plain(post))
        return tap(out_site, linear(post, own["out_weight"], own["out_bias"]))

    def sites(self) -> Sequence[Site]:
        """Input, both branches, neurons, output."""
        ends = (self.names[0], self.names[-1])
        return tuple(
            site(name, d_model=self.sizes["d_model"]) if name in ends else site(name, d_mlp=self.sizes["d_mlp"])
            for name in self.names
        )

    def weights(self) -> Mapping[str, Tensor]:
        """``W_gate``, ``W_in`` as ``[d_model d_mlp]``, ``W_out`` as ``[d_mlp d_model]``, biases where there are any.

        Source: TransformerLens 2, components/mlps/gated_mlp.py: gate_proj is W_gate, up_proj W_in, down_proj W_out.
        """
        norm: Any = self.norm
        return {**weights_of(self, ("gate", "in", "out"), self.name), **({} if norm is None else norm.weights())}


class MLPModule(nn.Module):
    """A plain MLP; matrices lie as in torch, ``[out, in]``."""

    reads = ("in",)
    writes = ("out",)
    multiplies = (*reads, *writes)

    def __init__(self, spec: MLP, d_model: int) -> None:
        super().__init__()
        given = spec.activation
        self.activation: Any = given.build("mlp.activation") if isinstance(given, LearnedActivation) else given
        self.sizes = {"d_model": d_model, "d_mlp": spec.d_mlp}
        for name, rows, columns in (("in", spec.d_mlp, d_model), ("out", d_model, spec.d_mlp)):
            self.register_parameter(f"{name}_weight", empty(rows, columns))
            self.register_parameter(f"{name}_bias", empty(rows) if spec.bias else None)

    def transform(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap
    ) -> Float[Tensor, "batch pos d_model"]:
        """The output of the MLP, its bias included."""
        own: Mapping[str, Any] = self._parameters  # spares a Python call for each parameter
        x = tap("mlp.hook_in", x)
        pre = tap("mlp.hook_pre", linear(x, own["in_weight"], own["in_bias"]))
        post = tap("mlp.hook_post", self.activation(pre))
        return tap("mlp.hook_out", linear(post, own["out_weight"], own["out_bias"]))

    def sites(self) -> Sequence[Site]:
        """Input, neurons before and after the activation, output."""
        d_model, d_mlp = self.sizes["d_model"], self.sizes["d_mlp"]
        return (
            site("mlp.hook_in", d_model=d_model),
            site("mlp.hook_pre", d_mlp=d_mlp),
            site("mlp.hook_post", d_mlp=d_mlp),
            site("mlp.hook_out", d_model=d_model),
        )

    def weights(self) -> Mapping[str, Tensor]:
        """``W_in`` as ``[d_model d_mlp]``, ``W_out`` as ``[d_mlp d_model]``, biases and what the activation learns."""
        learned = self.activation.weights() if hasattr(self.activation, "weights") else {}
        return {**weights_of(self, ("in", "out")), **learned}


def weights_of(module: nn.Module, names: Sequence[str], start: str = "mlp") -> Mapping[str, Tensor]:
    """The matrices of an MLP as they multiply from the right, and their biases; names begin with ``start``."""
    weights: dict[str, Tensor] = {}
    for name in names:
        weights[f"{start}.W_{name}"] = module.get_parameter(f"{name}_weight").T
        bias = getattr(module, f"{name}_bias")
        if bias is not None:
            weights[f"{start}.b_{name}"] = bias
    return weights
