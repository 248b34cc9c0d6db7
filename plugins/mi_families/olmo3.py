"""OLMo 3, and everything else that ships as ``model_type: olmo3``.

Traits: OLMo 2 with a window on three of four layers; a rotary scaling is for the layers without one.
Source: OLMo Team 2025, arXiv:2512.13961; transformers 5.24, models/olmo3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.translation import BEHIND_NAMES, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window and in their rotary positions."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    near, far = (rope_of_kind(config, f"{kind}_attention", scaled=kind == "full") for kind in ("sliding", "full"))
    full = rotary(config, d_head, n_ctx, rope=far, theta=5e5, wide=True)
    # an older file's theta is for full layers, as the reference reads it
    sliding = rotary(config, d_head, n_ctx, rope=near, theta=5e5, theta_key="", wide=True)
    bias = config.flag("attention_bias", default=False)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    windows = layer_windows(config, window, lambda index: (index + 1) % 4 != 0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0), WideGain())
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, "together")}
    mlp = gated_mlp(config)

    def layer(index: int) -> Layer:
        seen = windows[index]
        mixer = Attention(n_heads, n_kv_heads, d_head, sliding if seen else full, window=seen, **values)
        return Layer(mixer, mlp, ln1_post=norm, ln2_post=norm)

    model = decoder(config, layer, norm, full.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=BEHIND_NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: windows, and a scaling of the full layers in both spellings."""
    tiny = {"model_type": "olmo3", **TINY, "sliding_window": 4}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    rope = {"full_attention": {**yarn, "rope_theta": 5e3}, "sliding_attention": {"rope_theta": 5e5}}
    return (
        tiny | {"layer_types": kinds, "rope_parameters": rope, "attention_bias": True},
        tiny
        | {"num_hidden_layers": 4, "rope_scaling": yarn, "rope_theta": 5e5, "sliding_window": 3}
        | {"rms_norm_eps": 1e-4, "tie_word_embeddings": True},
    )
