"""GPT-NeoX, Pythia, Dolly 2, RedPajama, and everything else that ships as ``model_type: gpt_neox``.

Traits: layer norms, both parts of a layer side by side with a norm each, rotary positions over a part of each head.
Source: Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373; transformers 5.24, models/gpt_neox.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm, ParallelLayer
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.examples import TINY
from mi_decoder.fused import of_each_head
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, fused_names, heads, module_names

LAYER = {"ln1": "input_layernorm", "mixer.o": "attention.dense", "ln2": "post_attention_layernorm"}
LAYER |= {"channel.in": "mlp.dense_h_to_4h", "channel.out": "mlp.dense_4h_to_h"}
OUTSIDE = {"embed": "gpt_neox.embed_in", "ln_final": "gpt_neox.final_layer_norm", "unembed": "embed_out"}
DROPPED = {
    "*.attention.bias": "the causal mask",
    "*.attention.masked_bias": "the number that masked scores had",
    "*rotary_emb.inv_freq": "rotary frequencies are computed from the config",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers, parallel or in sequence."""
    n_heads, _, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, theta_key="rotary_emb_base", part=0.25, part_key="rotary_pct")
    bias = config.flag("attention_bias", default=True)
    activation = ACTIVATIONS[config.choice("hidden_act", ACTIVATIONS, default="gelu")]
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0))
    kind = ParallelLayer if config.flag("use_parallel_residual", default=True) else Layer
    layer = kind(
        ln1=norm,
        mixer=Attention(n_heads, n_heads, d_head, positions, bias=bias, out_bias=bias),
        ln2=norm,
        channel=MLP(config.size("intermediate_size"), activation),
    )
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    names = module_names("gpt_neox.layers.*", LAYER) | OUTSIDE
    parts = of_each_head(n_heads, d_head)
    names = fused_names("mixer", "attention.query_key_value", "qkv", parts, names=names, layer="gpt_neox.layers.*")
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, prefix="gpt_neox.", dropped=DROPPED)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: parallel and in sequence, in both spellings."""
    tiny = {key: value for key, value in TINY.items() if key != "num_key_value_heads"} | {"model_type": "gpt_neox"}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"rotary_pct": 0.5, "rotary_emb_base": 5000},
        tiny
        | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
        | {"rope_parameters": linear, "hidden_act": "gelu_new", "layer_norm_eps": 1e-4},
    )
