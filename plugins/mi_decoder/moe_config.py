"""What configs and checkpoints of mixtures of experts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.experts import Experts, Gated
from mi_decoder.mlp import GatedMLP
from mi_decoder.routing import Groups, TopK
from mi_decoder.translation import Source

__all__ = [
    "BESIDE_SHARED",
    "BIASED_ROUTER",
    "LEARNING_TO_ROUTE",
    "dense_or_sparse",
    "expert_names",
    "gate",
    "mixture_beside_shared",
    "moe_names",
    "n_experts",
    "sigmoid_experts",
    "spare_layers",
    "sparse_by_step",
]

LEARNING_TO_ROUTE: Mapping[str, str] = dict.fromkeys(
    (
        *("router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "output_router_logits"),
        *("router_jitter_noise", "input_jitter_noise", "ep_size"),
    ),
    "for training the router",
)
"""Config keys that change nothing of what a trained model computes."""

BIASED_ROUTER: Mapping[str, Source] = {
    "layers.*.channel.selection_bias": "model.layers.*.mlp.gate.e_score_correction_bias"
}
"""The bias that takes part in the choice of experts. Source: transformers 5.24, deepseek_v3."""

BESIDE_SHARED: Mapping[str, Source] = {"layers.*.channel.shared_gate": "model.layers.*.mlp.shared_expert_gate"}
"""What `mixture_beside_shared` has beside `moe_names`. Source: transformers 5.24, qwen2_moe."""


def n_experts(config: Config, *keys: str, default: int | None = None) -> int:
    """How many experts a layer has; ``keys`` are the names that this number goes by, of which files have one."""
    found = next((key for key in keys if config.get(key) is not None), keys[0])
    number: int = config.size(found) if default is None else config.size(found, default=default)
    return number


def gate(config: Config, key: str = "hidden_act", activation: str = "silu") -> Gated:
    """How an expert's neurons come from its two branches; ``activation`` where the key is absent."""
    return Gated(ACTIVATIONS[config.choice(key, ACTIVATIONS, default=activation)])


def mixture_beside_shared(
    config: Config, count: int, chosen: int, d_mlp: int, d_shared: int, normalise: bool
) -> Experts:
    """Experts chosen by a softmax, beside a shared one with a gate of its own.

    The numbers are the family's defaults: how many there are and how many a token gets, the width of each and of the
    shared one. Source: transformers 5.24, Qwen2MoeSparseMoeBlock.
    """
    neurons = gate(config)
    return Experts(
        n_experts=n_experts(config, "num_experts", default=count),
        d_mlp=config.size("moe_intermediate_size", default=d_mlp),
        routing=TopK(config.size("num_experts_per_tok", default=chosen), normalise=normalise),
        neurons=neurons,
        shared=GatedMLP(config.size("shared_expert_intermediate_size", default=d_shared), neurons.activation),
        shared_gate=True,
        rounded=True,
    )


def sparse_by_step(config: Config, dense: Sequence[int] = ()) -> Callable[[int], bool]:
    """Which layers have experts: each ``decoder_sparse_step``-th that ``mlp_only_layers`` does not name.

    ``dense`` are those that the family's configs mean where they name none.

    Source: transformers 5.24, Qwen2MoeDecoderLayer.
    """
    step, named = config.size("decoder_sparse_step", default=1), config.get("mlp_only_layers")
    if not isinstance(named, list | None):
        raise BadConfig(f"{config.where}: 'mlp_only_layers' is {named!r}, it must be a list.", path=config.where)
    return lambda index: index not in (dense if named is None else named) and (index + 1) % step == 0


def dense_or_sparse(config: Config, *, n_dense: int = 1) -> list[bool]:
    """Which layers have experts: by ``mlp_layer_types``, or all behind the first dense ones, ``n_dense`` if unsaid.

    Raises:
        BadConfig: another number of layers than there are, or an unknown kind.
    """
    n_layers = config.size("num_hidden_layers")
    n_dense = config.size("first_k_dense_replace", default=n_dense, at_least=0)
    found = config.get("mlp_layer_types") or ["dense" if index < n_dense else "sparse" for index in range(n_layers)]
    if not isinstance(found, list) or len(found) != n_layers or set(found) - {"dense", "sparse"}:
        raise BadConfig(
            f"{config.where}: 'mlp_layer_types' is {found!r}, it must be a list of {n_layers} of 'dense', 'sparse'.",
            path=config.where,
        )
    return [kind == "sparse" for kind in found]


def sigmoid_experts(
    config: Config,
    *,
    normalise: bool = True,
    scale: float = 1.0,
    n_shared: int | None = None,
    groups: tuple[int, int] = (1, 1),
) -> Experts:
    """DeepSeek 3's mixture: sigmoid scores, a bias and groups for the choice, shared experts as one wide MLP.

    The other arguments are the family's numbers for keys that a config leaves out.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2; transformers 5.24, DeepseekV3TopkRouter.
    """
    count, kept = config.size("n_group", default=groups[0]), config.size("topk_group", default=groups[1])
    routed = n_experts(config, "n_routed_experts", "num_experts", "num_local_experts")
    top_k = config.size("num_experts_per_tok")
    if routed % count or kept > count or top_k > kept * routed // count:
        raise BadConfig(
            f"{config.where}: {top_k!r} of {routed!r} experts cannot be chosen from {kept!r} of {count!r} groups.",
            path=config.where,
        )
    neurons, d_mlp = gate(config), config.size("moe_intermediate_size")
    shared = config.size("num_shared_experts", default=n_shared, at_least=0)
    shared = config.size("n_shared_experts", default=shared, at_least=0)
    routing = TopK(
        top_k,
        score="sigmoid",
        normalise=config.flag("norm_topk_prob", default=normalise),
        extra=1e-20,
        scale=config.number("routed_scaling_factor", default=scale),
        groups=Groups(count, kept, 2, float("-inf")) if count > 1 else None,
    )
    values: dict[str, Any] = {"selection_bias": True, "wide_router": True, "neurons": neurons}
    values["shared"] = GatedMLP(d_mlp * shared, neurons.activation) if shared else None
    return Experts(routed, d_mlp, routing, **values)


def spare_layers(config: Config, *keys: str) -> dict[str, str]:
    """Layers behind the last one, which predict further tokens and are left out; ``keys`` say how many there are.

    Source: transformers 5.24, DeepseekV3PreTrainedModel (_keys_to_ignore_on_load_unexpected).
    """
    first, spare = config.size("num_hidden_layers"), 0
    for key in keys:
        spare = max(spare, config.size(key, default=0, at_least=0))
    return {f"model.layers.{first + index}.*": "predicts further tokens, for training" for index in range(spare)}


def expert_names(
    stem: str, *, gate: str = "gate_proj", linear: str = "up_proj", out: str = "down_proj"
) -> dict[str, Source]:
    """Where the experts' matrices lie in a checkpoint with modules for each expert: ``stem.5.gate_proj``."""
    ours = {"gate": gate, "in": linear, "out": out}
    return {f"layers.*.channel.experts.*.{name}": f"{stem}.*.{theirs}" for name, theirs in ours.items()}


def moe_names(stem: str = "model.layers.*.mlp", *, router: str = "gate", shared: str = "") -> dict[str, Source]:
    """Where router, experts and the ``shared`` expert lie. Source: transformers 5.24, qwen2_moe and deepseek_v3."""
    names: dict[str, Source] = {"layers.*.channel.router": f"{stem}.{router}", **expert_names(f"{stem}.experts")}
    ours = {"gate": "gate_proj", "in": "up_proj", "out": "down_proj"}
    if shared:
        names.update({f"layers.*.channel.shared.{name}": f"{stem}.{shared}.{own}" for name, own in ours.items()})
    return names
