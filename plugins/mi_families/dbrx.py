"""DBRX (132B), and everything else that ships as ``model_type: dbrx``.

Traits: layer norms without biases, queries, keys and values cut off at a largest value, experts in every layer, whose
weights are divided by a norm of any power. Source: Databricks 2024, DBRX; transformers 5.24, models/dbrx.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, Layer, LayerNorm
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.decoder import Decoder
from mi_decoder.experts import Gated
from mi_decoder.fused import EachExpert, side_by_side
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import Source, blueprint, fused_names, module_names, only, or_none

__all__ = ["mi_family", "mi_family_examples"]

LAYER = "transformer.blocks.*"
MODULES = {"ln1": "norm_attn_norm.norm_1", "ln2": "norm_attn_norm.norm_2", "channel.router": "ffn.router.layer"}
MODULES |= {"mixer.o": "norm_attn_norm.attn.out_proj"}
OUTSIDE: Mapping[str, Source] = {"embed": "transformer.wte", "ln_final": "transformer.norm_f", "unembed": "lm_head"}
INERT = {
    "emb_pdrop": "dropout",
    "num_key_value_heads": "attn_config says it",
    "ffn_config.hidden_size": "a copy of d_model",
    **dict.fromkeys(("ffn_config.moe_jitter_eps", "ffn_config.moe_loss_weight"), "for training the router"),
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    d_model, n_heads = config.size("d_model", default=2048), config.size("n_heads", default=16)
    own = config.child("attn_config", {})
    n_kv_heads = own.size("kv_n_heads", default=1)
    if d_model % n_heads or n_heads % n_kv_heads:
        raise BadConfig(
            f"{config.where}: 'n_heads' is {n_heads!r}: it must divide 'd_model' ({d_model!r}) and be a multiple of "
            f"'kv_n_heads' ({n_kv_heads!r}).",
            path=config.where,
        )
    d_head, n_ctx = d_model // n_heads, config.size("max_seq_len", default=2048)
    # trap: transformers 5 ignores what attn_config says and turns by 10000, unlike version 4 and the authors' code
    positions = rotary(config, d_head, n_ctx, theta=own.number("rope_theta", default=1e4, at_least=1.01))
    norm = LayerNorm(1e-5, bias=False)
    clip = own.number("clip_qkv", default=None, at_least=0.0)
    layer = Layer(Attention(n_heads, n_kv_heads, d_head, positions, clip=clip), experts(config), ln1=norm, ln2=norm)
    layers = (layer,) * config.size("n_layers", default=24)
    d_vocab = config.size("vocab_size", default=32000)
    model = Decoder(d_vocab, d_model, layers, norm, positions.scaling.reach(n_ctx))
    only(config, "tie_word_embeddings", False)
    return blueprint(model, tensors, tied=False, names=names(layer, d_model), prefix="transformer.", inert=INERT)


def experts(config: Config) -> Experts:
    """The experts of a layer."""
    own = config.child("ffn_config", {})
    power = own.number("moe_normalize_expert_weights", default=or_none(own, "moe_normalize_expert_weights", 1.0))
    chosen = own.child("ffn_act_fn", {}).choice("name", ACTIVATIONS, default="silu")
    return Experts(
        n_experts=own.size("moe_num_experts", default=4),
        d_mlp=own.size("ffn_hidden_size", default=3584),
        routing=TopK(own.size("moe_top_k", default=1), normalise=power is not None, power=power or 1.0),
        neurons=Gated(ACTIVATIONS[chosen]),
        rounded=True,
    )


def names(layer: Layer, d_model: int) -> Mapping[str, Source]:
    """Queries, keys and values lie behind each other, and so do experts; what writes lies as what reads."""
    mixer: Any = layer.mixer
    mixture: Any = layer.channel
    d_kv = mixer.n_kv_heads * mixer.d_head
    parts = side_by_side([d_model, d_kv, d_kv])
    own: dict[str, Source] = {**module_names(LAYER, MODULES), **OUTSIDE}

    def apart(view: Any = lambda tensor: tensor) -> EachExpert:
        return EachExpert(view, stored=lambda tensor: tensor.view(mixture.n_experts, -1, *tensor.shape[1:]))

    stem = f"{LAYER}.ffn.experts.mlp"
    own["layers.*.channel.experts.*.gate_weight"] = (f"{stem}.w1", apart())
    own["layers.*.channel.experts.*.in_weight"] = (f"{stem}.v1", apart())
    own["layers.*.channel.experts.*.out_weight"] = (f"{stem}.w2", apart(lambda tensor: tensor.T))
    return fused_names("mixer", "norm_attn_norm.attn.Wqkv", "qkv", parts, names=own, layer=LAYER)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: values that are cut off, the root of squares; weights as they are, another activation."""
    tiny = {"model_type": "dbrx", "vocab_size": 61, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
    mixture = {"ffn_hidden_size": 20, "moe_num_experts": 6, "moe_top_k": 3}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 0.6, "rope_theta": 5e3}, "rope_parameters": linear}
        | {"ffn_config": {**mixture, "moe_normalize_expert_weights": 2.0}},
        tiny
        | {"attn_config": {"kv_n_heads": 1, "clip_qkv": 8, "rope_theta": 1e3}, "rope_theta": 1e3}
        | {"ffn_config": {**mixture, "moe_normalize_expert_weights": None, "ffn_act_fn": {"name": "gelu"}}},
        tiny | {"attn_config": {"kv_n_heads": 4, "clip_qkv": 1.5, "rope_theta": 1e4}, "ffn_config": mixture},
    )
