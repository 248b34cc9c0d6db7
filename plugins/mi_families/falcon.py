"""Falcon (RW-1B, 7B, 11B, 40B, 180B), and everything else that ships as ``model_type: falcon``.

Traits: layer norms, parts side by side or in sequence, one key head or groups, rotary positions or linear biases.
Source: Almazrouei et al. 2023, arXiv:2311.16867; transformers 5.24, models/falcon.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Alibi, Attention, Layer, LayerNorm, ParallelLayer
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.alibi import geometric_slopes
from mi_decoder.examples import TINY
from mi_decoder.fused import of_each_group
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, fused_names, heads, module_names

__all__ = ["kind_of_layer", "mi_family", "mi_family_examples"]

LAYER = {"mixer.o": "self_attention.dense", "channel.in": "mlp.dense_h_to_4h", "channel.out": "mlp.dense_4h_to_h"}
NORMS = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
OUTSIDE = {"embed": "transformer.word_embeddings", "ln_final": "transformer.ln_f", "unembed": "lm_head"}
INERT = dict.fromkeys(
    ("apply_residual_connection_post_layernorm", "n_head", "n_layer"), "a spelling that the reference does not read"
)


def kind_of_layer(config: Config) -> tuple[bool, bool, int]:
    """Whether key heads have groups, whether both parts lie side by side, and behind how many norms.

    Raises:
        BadConfig: a combination that the reference cannot run.

    Source: transformers 5.24, FalconDecoderLayer.
    """
    grouped = config.flag("new_decoder_architecture", default=False)
    parallel = config.flag("parallel_attn", default=True)
    n_norms = config.size("num_ln_in_parallel_attn", default=2 if grouped else 1)
    if n_norms > 1 + grouped or grouped > parallel:
        raise BadConfig(
            f"{config.where}: 'num_ln_in_parallel_attn' is {n_norms!r} and 'parallel_attn' is {parallel!r}, which "
            f"{'new_decoder_architecture' if grouped else 'the older architecture'} does not compute.",
            path=config.where,
        )
    return grouped, parallel, n_norms


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers. Linear biases count once, as in training; the reference's eager code counts twice."""
    n_heads, _, d_head = heads(config)
    grouped, parallel, n_norms = kind_of_layer(config)
    groups, shared = config.size("num_kv_heads", default=n_heads), config.flag("multi_query", default=True)
    n_kv_heads = groups if grouped else 1 if shared else n_heads
    n_ctx, bias = config.size("max_position_embeddings", default=2048), config.flag("bias", default=False)
    turned, slopes = rotary(config, d_head, n_ctx), geometric_slopes(n_heads)
    linear = config.flag("alibi", default=False)
    positions = Alibi(slopes, scale=d_head**-0.5, rounded=True) if linear else turned
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    activation = ACTIVATIONS[config.choice("activation", ACTIVATIONS, default="gelu")]
    d_mlp = config.size("ffn_hidden_size", default=4 * config.size("hidden_size"))
    kind = ParallelLayer if parallel else Layer
    own = norm if n_norms == 2 or not parallel else None
    layer = kind(mixer, MLP(d_mlp, activation, bias=bias), ln1=norm, ln2=own)
    model = decoder(config, layer, norm, turned.scaling.reach(n_ctx))
    inner = LAYER | ({"ln1": "ln_attn", "ln2": "ln_mlp"} if n_norms == 2 else NORMS)
    names, views = module_names("transformer.h.*", inner) | OUTSIDE, of_each_group(n_kv_heads, n_heads, d_head)
    names = fused_names("mixer", "self_attention.query_key_value", "qkv", views, names=names, layer="transformer.h.*")
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=names, prefix="transformer.", inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: RW-1B, 7B, 40B, 11B."""
    tiny = {key: value for key, value in TINY.items() if key not in ("num_key_value_heads", "intermediate_size")}
    tiny |= {"model_type": "falcon", "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    new = tiny | {"new_decoder_architecture": True, "num_kv_heads": 2}
    return (
        tiny
        | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "num_attention_heads": 6}
        | {"hidden_size": 48},
        tiny | {"rope_parameters": linear, "tie_word_embeddings": False},
        new | {"rope_theta": 1e3, "ffn_hidden_size": 48, "layer_norm_epsilon": 1e-4},
        new | {"num_ln_in_parallel_attn": 1, "activation": "relu", "bias": True},
    )
