"""SmolLM 3, and everything else that ships as ``model_type: smollm3``.

Traits: LLaMA where every fourth layer has no positions.
Source: Bakouch et al. 2025, huggingface.co/blog/smollm3; transformers 5.24, models/smollm3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples", "turned_layers"]


def turned_layers(config: Config) -> list[bool]:
    """Which layers have positions: the list says so by ones, although its name says the opposite."""
    n_layers, every = config.size("num_hidden_layers"), config.size("no_rope_layer_interval", default=4)
    turned = config.get("no_rope_layers") or [int((index + 1) % every != 0) for index in range(n_layers)]
    if not isinstance(turned, list) or len(turned) != n_layers or any(one not in (0, 1) for one in turned):
        raise BadConfig(
            f"{config.where}: 'no_rope_layers' is {turned!r}, it must be a list of {n_layers} zeros and ones.",
            path=config.where,
        )
    return [bool(one) for one in turned]


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their positions and in their window."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4)
    n_ctx = config.size("max_position_embeddings", default=32768)
    positions, turned = rotary(config, d_head, n_ctx, theta=2e6), turned_layers(config)
    bias, window = config.flag("attention_bias", default=False), config.size("sliding_window", default=None)
    used = window if config.flag("use_sliding_window", default=False) else None
    windows = layer_windows(config, used, lambda index: used is not None and not turned[index])
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))

    def layer(index: int) -> Layer:
        place = positions if turned[index] else None
        mixer = Attention(n_heads, n_kv_heads, d_head, place, bias=bias, out_bias=bias, window=windows[index])
        return Layer(mixer, mlp, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: windows on layers without positions, and biases; a list of layers, in the older spelling."""
    tiny = {"model_type": "smollm3", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 4, "attention_bias": True}
        | {"mlp_bias": True, "rope_parameters": linear},
        tiny | {"no_rope_layers": [0, 1, 1], "rope_theta": 1e3, "tie_word_embeddings": False, "rms_norm_eps": 1e-5},
    )
