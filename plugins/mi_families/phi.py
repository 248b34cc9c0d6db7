"""Phi-1, Phi-1.5, Phi-2, and everything else that ships as ``model_type: phi``.

Traits: both parts of a layer side by side behind one layer norm, rotary positions over a part of each head, biases.
Source: Gunasekar et al. 2023, arXiv:2306.11644; Li et al. 2023, arXiv:2309.05463; transformers 5.24, models/phi.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, LayerNorm, ParallelLayer
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads, module_names, plain_mlp

LAYER = {"mixer.o": "self_attn.dense", "mixer.q_norm": "self_attn.q_layernorm", "mixer.k_norm": "self_attn.k_layernorm"}
LAYER |= {"channel.in": "mlp.fc1", "channel.out": "mlp.fc2"}
NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", LAYER), "ln_final": "model.final_layernorm"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, part=0.5)
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0))
    qk_norm = HeadNorm(norm) if config.flag("qk_layernorm", default=False) else None
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=True, out_bias=True, qk_norm=qk_norm)
    layer = ParallelLayer(mixer, plain_mlp(config, activation="gelu_new"), ln1=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), unembed_bias=True)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: norms of queries and keys and a scaling; the older spelling."""
    tiny = {"model_type": "phi", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"qk_layernorm": True, "rope_parameters": linear},
        tiny | {"partial_rotary_factor": 0.25, "rope_theta": 1e3, "layer_norm_eps": 1e-4, "hidden_act": "gelu"},
    )
