"""Apertus (8B, 70B), and everything else that ships as ``model_type: apertus``.

Traits: LLaMA with norms of query and key heads, and a plain MLP whose activation learns its curvature in each layer.
Source: Swiss AI 2025, arXiv:2509.14233; transformers 5.24, models/apertus.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import NORMED_HEADS, Source, blueprint, decoder, heads
from mi_decoder.xielu import XIELU

ABSENT = {"rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ABSENT |= {"original_max_position_embeddings": 8192}
"""What the reference takes for rotary positions that a config leaves out. Source: transformers 5.24, ApertusConfig."""
NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    "layers.*.ln1": "model.layers.*.attention_layernorm",
    "layers.*.ln2": "model.layers.*.feedforward_layernorm",
    **{
        f"layers.*.channel.activation.{name}_weight": f"model.layers.*.mlp.act_fn.{name}"
        for name in ("alpha_p", "alpha_n", "beta", "eps")
    },
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=65536)
    spelled = any(config.get(key) is not None for key in ("rope_parameters", "rope_scaling"))
    absent = None if spelled else Config(ABSENT, where=config.where)
    positions = rotary(config, d_head, n_ctx, theta=12e6, rope=absent)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, qk_norm=HeadNorm(norm))
    activation = config.choice("hidden_act", ("xielu", *ACTIVATIONS), default="xielu")
    learned = XIELU() if activation == "xielu" else ACTIVATIONS[activation]
    mlp = MLP(config.size("intermediate_size"), learned, bias=False)
    model = decoder(config, Layer(mixer, mlp, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: LLaMA 3's scaling and biases; another, in the older spelling; an activation as others have."""
    tiny = {"model_type": "apertus", **TINY, "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0}
    llama3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    return (
        tiny | {"attention_bias": True, "head_dim": 12, "rope_parameters": llama3},
        tiny | {"rope_theta": 1e3, "rope_scaling": linear, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
        tiny | {"rope_theta": 1e3, "rope_scaling": linear, "hidden_act": "relu2", "num_key_value_heads": 4},
    )
