"""gpt-oss 20b and 120b (in MXFP4 as released, or plain), and everything else that ships as ``model_type: gpt_oss``.

Traits: attention sinks; windows on every second layer; experts with biases and clamped branches in every layer.
Source: OpenAI 2025, arXiv:2508.10925; transformers 5.24, models/gpt_oss.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.experts import ClampedSwiglu
from mi_decoder.fused import EachExpert
from mi_decoder.moe_config import LEARNING_TO_ROUTE, n_experts
from mi_decoder.rope_config import rotary
from mi_decoder.routing import ChosenSoftmax
from mi_decoder.translation import LLAMA_NAMES, Source, blueprint, decoder, heads, or_none
from mi_decoder.windows import layer_windows

ABSENT = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
ABSENT |= {"original_max_position_embeddings": 4096, "rope_theta": 150000.0}
"""What the reference takes for rotary positions that a config leaves out. Source: transformers 5.24, GptOssConfig."""
EXPERTS = "model.layers.*.mlp.experts"
# trap: both branches are interleaved, and matrices lie [expert, in, out]
BRANCHES: Mapping[str, tuple[str, EachExpert]] = {
    "gate_weight": ("gate_up_proj", EachExpert(lambda tensor: tensor[:, ::2].T)),
    "gate_bias": ("gate_up_proj_bias", EachExpert(lambda tensor: tensor[::2])),
    "in_weight": ("gate_up_proj", EachExpert(lambda tensor: tensor[:, 1::2].T)),
    "in_bias": ("gate_up_proj_bias", EachExpert(lambda tensor: tensor[1::2])),
    "out_weight": ("down_proj", EachExpert(lambda tensor: tensor.T)),
    "out_bias": ("down_proj_bias", EachExpert()),
}
NAMES: Mapping[str, Source] = {
    **LLAMA_NAMES,
    "layers.*.mixer.sink_bias": "model.layers.*.self_attn.sinks",
    "layers.*.channel.router": "model.layers.*.mlp.router",
    **{f"layers.*.channel.experts.*.{ours}": (f"{EXPERTS}.{name}", view) for ours, (name, view) in BRANCHES.items()},
}
INERT = {
    **LEARNING_TO_ROUTE,
    "hidden_act": "experts have an activation of their own",
    "experts_per_token": "num_experts_per_tok, in the training code's spelling",
    "initial_context_length": "the rotary scaling's original length, in the training code's spelling",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window: without a list of kinds, each second from the first has one."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=64)
    n_ctx = config.size("max_position_embeddings", default=131072)
    spelled = any(config.get(key) is not None for key in ("rope_parameters", "rope_scaling"))
    absent = None if spelled else Config(ABSENT, where=config.where)
    positions = rotary(config, d_head, n_ctx, theta=150000.0, rope=absent)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 128))
    windows = layer_windows(config, window, lambda index: index % 2 == 0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0), WideGain())
    bias = config.flag("attention_bias", default=True)
    alpha, limit = config.number("swiglu_alpha", default=1.702), config.number("swiglu_limit", default=7.0)
    experts = Experts(
        n_experts=n_experts(config, "num_local_experts", "num_experts", default=128),
        d_mlp=config.size("intermediate_size"),
        routing=ChosenSoftmax(config.size("num_experts_per_tok", default=4), wide=False),
        neurons=ClampedSwiglu(alpha, limit),
        bias=True,
        router_bias=True,
    )

    def layer(index: int) -> Layer:
        values: dict[str, Any] = {"bias": bias, "out_bias": bias, "sinks": True}
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index], **values)
        return Layer(mixer, experts, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: branches that are clamped, a short window; plain rotary positions and kinds by list."""
    tiny = {"model_type": "gpt_oss", **TINY, "num_hidden_layers": 2, "num_local_experts": 6, "head_dim": 12}
    tiny |= {"num_experts_per_tok": 3, "intermediate_size": 20, "sliding_window": 4}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": False}
    return (
        tiny | {"swiglu_limit": 0.5, "rope_parameters": {**yarn, "rope_theta": 1e4}},
        tiny
        | {"layer_types": ["full_attention", "sliding_attention"], "tie_word_embeddings": True}
        | {"rope_theta": 1e3, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "attention_bias": False},
    )
