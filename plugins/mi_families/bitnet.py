"""BitNet b1.58 (unpacked weights), and everything else that ships as ``model_type: bitnet``.

Traits: LLaMA with squared ReLU in the gate, and norms before both output matrices.
Source: Ma et al. 2025, arXiv:2504.12285; transformers 5.24, models/bitnet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, gated_mlp, heads, module_names

NORMS = {"mixer.z_norm": "self_attn.attn_sub_norm", "channel.norm": "mlp.ffn_sub_norm"}
NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", NORMS)}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; packed ternary weights are refused as quantised."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=5)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, theta=5e5)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "z_norm": HeadNorm(norm, "together")}
    mlp = replace(gated_mlp(config, activation="relu2"), norm=norm)
    layer = Layer(Attention(n_heads, n_kv_heads, d_head, positions, **values), mlp, ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a scaling; the older spelling."""
    tiny = {"model_type": "bitnet", **TINY, "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"attention_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True},
    )
