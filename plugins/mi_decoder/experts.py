"""Mixtures of experts: a router sends each token to a few of many MLPs, and a shared MLP may read all tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Site, Tap
from mi_core.taps import IDLE
from mi_core.vocabulary import site
from mi_decoder.dispatch import Dispatch, tokens_of
from mi_decoder.mlp import GatedMLP, GatedMLPModule, weights_of
from mi_decoder.routing import Routing

__all__ = ["ClampedSwiglu", "Experts", "ExpertsModule", "Gated"]


@dataclass(frozen=True)
class Gated:
    """``activation(gate) * linear``."""

    activation: Callable[[Tensor], Tensor] = silu

    def __call__(self, pre: Float[Tensor, "*batch d_mlp"], pre_linear: Tensor) -> Float[Tensor, "*batch d_mlp"]:
        """The neurons."""
        return self.activation(pre) * pre_linear


@dataclass(frozen=True)
class ClampedSwiglu:
    """``gate * sigmoid(alpha gate) * (linear + 1)``, branches clamped. Source: transformers 5.24, GptOssExperts."""

    alpha: float
    limit: float

    def __call__(self, pre: Float[Tensor, "*batch d_mlp"], pre_linear: Tensor) -> Float[Tensor, "*batch d_mlp"]:
        """The neurons."""
        gate, up = pre.clamp(max=self.limit), pre_linear.clamp(-self.limit, self.limit)
        return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))


@dataclass(frozen=True)
class Experts:
    """``n_experts`` gated MLPs of ``d_mlp`` neurons, of which each token's router chooses a few.

    Source: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961.
    """

    n_experts: int
    d_mlp: int
    routing: Routing
    neurons: Callable[[Tensor, Tensor], Tensor] = field(default_factory=Gated)
    """From both branches of an expert to its neurons."""
    bias: bool = False
    """Whether the experts' products have biases."""
    shared: GatedMLP | None = None
    """What every token goes through besides."""
    shared_gate: bool = False
    """Whether a sigmoid of the input multiplies the shared expert's output."""
    router_bias: bool = False
    selection_bias: bool = False
    """Whether a bias takes part in the choice of experts, but not in their weights."""
    wide_router: bool = False
    """Whether router logits are computed in float32 whatever the model's dtype is."""
    rounded: bool = False
    """Whether weights are rounded to the model's dtype."""
    weighs_input: bool = False
    """Whether weights multiply what experts read instead of what they write. Source: Llama4TextMoe."""

    def build(self, d_model: int) -> ExpertsModule:
        """The module."""
        return ExpertsModule(self, d_model)


class ExpertModule(nn.Module):
    """One expert's matrices, as in checkpoints: ``[out, in]``."""

    multiplies = ("gate", "in", "out")

    def __init__(self, spec: Experts, d_model: int) -> None:
        super().__init__()
        for name, rows, columns in (
            ("gate", spec.d_mlp, d_model),
            ("in", spec.d_mlp, d_model),
            ("out", d_model, spec.d_mlp),
        ):
            self.register_parameter(f"{name}_weight", empty(rows, columns))
            self.register_parameter(f"{name}_bias", empty(rows) if spec.bias else None)


class ExpertsModule(nn.Module):
    """A router, its experts, and the shared expert."""

    def __init__(self, spec: Experts, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.d_model = d_model
        self.weights_site = "mlp.hook_expert_input_weights" if spec.weighs_input else "mlp.hook_expert_weights"
        self.router_weight = empty(spec.n_experts, d_model)
        self.register_parameter("router_bias", empty(spec.n_experts) if spec.router_bias else None)
        self.register_parameter("selection_bias", empty(spec.n_experts) if spec.selection_bias else None)
        self.experts = nn.ModuleList(ExpertModule(spec, d_model) for _ in range(spec.n_experts))
        self.shared = None if spec.shared is None else spec.shared.build(d_model, "mlp.shared")
        self.register_parameter("shared_gate_weight", empty(1, d_model) if spec.shared_gate else None)

    @property
    def keeps_norm_biases(self) -> str:
        """Why the bias of the norm before it cannot become biases of its matrices, if it cannot."""
        if self.spec.weighs_input:
            return "multiplies what experts read by their weights, and with it the norm's bias"
        return "has a gate without a bias" if self.spec.shared_gate else ""

    def reading(self) -> Iterator[tuple[nn.Module, str]]:
        """The matrices that multiply its input: the router's, every expert's, the shared one's and its gate's."""
        yield self, "router"
        for expert in self.experts:
            yield from ((expert, name) for name in GatedMLPModule.reads)
        shared: Any = self.shared
        if shared is not None:
            yield from ((shared, name) for name in shared.reads)
        if self.spec.shared_gate:
            yield self, "shared_gate"

    def writing(self) -> Iterator[tuple[nn.Module, str]]:
        """The matrices whose products are summed: every expert's, and the shared one's."""
        for expert in (*self.experts, *(() if self.shared is None else (self.shared,))):
            yield expert, "out"

    def transform(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap
    ) -> Float[Tensor, "batch pos d_model"]:
        """The weighted sum of what each token's experts write, and what the shared one writes."""
        x = tap("mlp.hook_in", x)
        logits = tap("mlp.hook_router_logits", self.router_logits(x))
        indices, chosen = self.spec.routing.choose(logits, self._parameters["selection_bias"])
        chosen = chosen.to(x.dtype) if self.spec.rounded else chosen
        weights = None
        if tap.wants(self.weights_site):
            zeros = chosen.new_zeros(*chosen.shape[:-1], self.spec.n_experts)
            weights = tap(self.weights_site, zeros.scatter(-1, indices, chosen))
            weights = weights if tap.edits(self.weights_site) else None
        chosen = chosen if weights is None else weights.gather(-1, indices)
        indices = tap("mlp.hook_expert_indices", indices)
        dispatch = Dispatch.of_slots(indices, tokens_of(batch, x.shape[1]))
        out = self.written(x, dispatch, chosen.flatten()[dispatch.place], tap)
        if weights is not None:
            out = out + self.written_beside(x, indices, weights, batch)
        shared: Any = self.shared
        if shared is not None:
            out = out + self.gated(x, shared.transform(x, batch, tap), tap)
        return tap("mlp.hook_out", out)

    def router_logits(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos expert"]:
        """One for each expert."""
        weight, bias = self.router_weight, self._parameters["router_bias"]
        if not self.spec.wide_router:
            return linear(x, weight, bias)
        wide = torch.promote_types(x.dtype, torch.float32)
        return linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))

    def written(
        self,
        x: Float[Tensor, "batch pos d_model"],
        dispatch: Dispatch,
        weights: Float[Tensor, "pair"],
        tap: Tap,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What experts write for their pairs of tokens, weighted and summed over slots in the order of rank."""
        rows = x.flatten(0, 1)[dispatch.token]
        if self.spec.weighs_input:
            rows = rows * weights[:, None].to(rows.dtype)
        pre = dispatch.offered("mlp.experts.hook_pre", self.each("gate", rows, dispatch), tap)
        pre_linear = dispatch.offered("mlp.experts.hook_pre_linear", self.each("in", rows, dispatch), tap)
        post = dispatch.offered("mlp.experts.hook_post", self.spec.neurons(pre, pre_linear), tap)
        out = dispatch.offered("mlp.experts.hook_out", self.each("out", post, dispatch), tap)
        if not self.spec.weighs_input:
            out = out * weights[:, None]
        return dispatch.laid(out).sum(2).to(x.dtype)

    def written_beside(
        self,
        x: Float[Tensor, "batch pos d_model"],
        indices: Int[Tensor, "batch pos slot"],
        weights: Float[Tensor, "batch pos expert"],
        batch: Batch,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What experts write that the router has not chosen, but to which somebody gave a weight."""
        # a weight of zero has a slope, which is what its expert would write
        given = torch.ones_like(weights, dtype=torch.bool) if weights.requires_grad else weights != 0
        tokens = tokens_of(batch, x.shape[1])
        given = given if tokens is None else given & tokens[..., None]
        dispatch = Dispatch.of_mask(given.scatter(-1, indices, False))
        if not dispatch.spans:
            return torch.zeros_like(x)
        return self.written(x, dispatch, weights.flatten()[dispatch.place], IDLE)

    def each(self, name: str, rows: Float[Tensor, "pair d_in"], dispatch: Dispatch) -> Float[Tensor, "pair d_out"]:
        """Rows times one matrix of their experts."""
        products = []
        for expert, start, stop in dispatch.spans:
            own: Mapping[str, Any] = self.experts[expert]._parameters  # spares a Python call for each parameter
            products.append(linear(rows[start:stop], own[f"{name}_weight"], own[f"{name}_bias"]))
        return torch.cat(products)

    def gated(
        self, x: Float[Tensor, "batch pos d_model"], out: Float[Tensor, "batch pos d_model"], tap: Tap
    ) -> Float[Tensor, "batch pos d_model"]:
        """The shared expert's output behind its gate, where there is one."""
        weight = self._parameters["shared_gate_weight"]
        if weight is None:
            return out
        return tap("mlp.shared.hook_gate", torch.sigmoid(linear(x, weight))) * out

    def sites(self) -> Sequence[Site]:
        """Router, experts by slot, shared expert."""
        spec, shared = self.spec, self.shared
        neurons = {"slot": spec.routing.top_k, "d_mlp": spec.d_mlp, "expert": spec.n_experts}
        stream = {"slot": spec.routing.top_k, "d_model": self.d_model, "expert": spec.n_experts}
        of_shared: Any = () if shared is None else shared.sites()
        return (
            site("mlp.hook_in", d_model=self.d_model),
            site("mlp.hook_router_logits", expert=spec.n_experts),
            site(self.weights_site, expert=spec.n_experts),
            site("mlp.hook_expert_indices", slot=spec.routing.top_k),
            site("mlp.experts.hook_pre", None, **neurons),
            site("mlp.experts.hook_pre_linear", None, **neurons),
            site("mlp.experts.hook_post", None, **neurons),
            site("mlp.experts.hook_out", None, **stream),
            *of_shared,
            *((site("mlp.shared.hook_gate"),) if spec.shared_gate else ()),
            site("mlp.hook_out", d_model=self.d_model),
        )

    def weights(self) -> Mapping[str, Tensor]:
        """``mlp.W_router`` as ``[d_model expert]``, and each expert's and the shared one's like those of a gated MLP.

        Source: TransformerLens 2, components/mlps/moe.py, for ``mlp.experts.5.W_in``.
        """
        weights = {"mlp.W_router": self.router_weight.T}
        for name, parameter in (("router", self.router_bias), ("selection", self.selection_bias)):
            if isinstance(parameter, Tensor):
                weights[f"mlp.b_{name}"] = parameter
        for index, expert in enumerate(self.experts):
            weights.update(weights_of(expert, ("gate", "in", "out"), f"mlp.experts.{index}"))
        shared: Any = self.shared
        if shared is not None:
            weights.update(shared.weights())
        if isinstance(self.shared_gate_weight, Tensor):
            weights["mlp.shared.W_gate_out"] = self.shared_gate_weight.T
        return weights
