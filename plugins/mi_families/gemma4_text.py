"""Gemma 4's dense text decoder (31B), which ships as ``model_type: gemma4_text``.

Traits: Gemma 3 with norms of values, keys that serve as values, wider heads and proportional rotary positions on full
layers, and a number that multiplies the stream behind each layer. Source: Gemma Team 2026, Gemma 4; transformers 5.24,
models/gemma4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.own_residuals import ScaledLayer
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.translation import SANDWICH_NAMES, Source, blueprint, decoder, gated_mlp, heads, only
from mi_decoder.values import NormedValues
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES: Mapping[str, Source] = {**SANDWICH_NAMES, "layers.*.scale_weight": "model.layers.*.layer_scalar"}
INERT = dict.fromkeys(
    ("vocab_size_per_layer_input", "use_double_wide_mlp", "num_experts", "top_k_experts", "moe_intermediate_size"),
    "of parts that dense models do not have",
)
ROPE: Mapping[str, Mapping[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}
"""What the reference takes for positions that a config leaves out. Source: transformers 5.24, Gemma4TextConfig."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers are near or full; full ones have heads of their own width and number."""
    refuse_what_is_not_dense(config)
    n_ctx = config.size("max_position_embeddings", default=131072)
    n_layers, window = config.size("num_hidden_layers"), config.size("sliding_window", default=512)
    windows = layer_windows(config, window, lambda index: (index + 1) % 6 != 0 and index + 1 < n_layers)
    if windows[-1] is not None:
        raise BadConfig(f"{config.where}: the last of 'layer_types' must be 'full_attention'.", path=config.where)
    shared = config.flag("attention_k_eq_v", default=False)
    widths = head_widths(config, windows, shared)
    bias, norm = config.flag("attention_bias", default=False), norm_of(config)
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm), "scale": 1.0}
    values["values"] = NormedValues(norm.eps)
    mlp = gated_mlp(config, key="hidden_activation", activation="gelu_pytorch_tanh")

    def layer(index: int) -> ScaledLayer:
        kind = "sliding_attention" if windows[index] else "full_attention"
        n_heads, n_kv_heads, d_head = widths[index]
        rope = rope_of_kind(config, kind, absent=ROPE[kind])
        positions = rotary(config, d_head, n_ctx, rope=rope, theta_key="", part=1.0)
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index], **values)
        return ScaledLayer(mixer, mlp, ln1=norm, ln1_post=norm, ln2=norm, ln2_post=norm)

    cap = config.number("final_logit_softcapping", default=None, at_least=1e-9)
    model = decoder(config, layer, norm, n_ctx, embed_scale=config.size("hidden_size") ** 0.5, logit_softcap=cap)
    kinds = ("weight", "bias") if bias else ("weight",)
    full = [index for index, seen in enumerate(windows) if shared and seen is None]
    same = {f"layers.{index}.mixer.v_{kind}": f"layers.{index}.mixer.k_{kind}" for index in full for kind in kinds}
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT, same=same)


def norm_of(config: Config) -> RMSNorm:
    """The norm of all slots; here the stored gain is the factor itself."""
    return RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), WideGain())


def refuse_what_is_not_dense(config: Config) -> None:
    """Embeddings for each layer, keys and values of other layers, experts: none is computed."""
    for key, default in (("hidden_size_per_layer_input", 256), ("num_kv_shared_layers", 0), ("enable_moe_block", 0)):
        seen = config.get(key, default)
        if seen:
            raise BadConfig(
                f"{config.where}: {key!r} is {seen!r}; of Gemma 4 only the dense decoder is computed, which has none.",
                path=config.where,
            )
    only(config, "use_bidirectional_attention", "vision")  # which is about images


def head_widths(config: Config, windows: Sequence[int | None], shared: bool) -> list[tuple[int, int, int]]:
    """Query heads, key heads and width of each layer: by ``per_layer_config``, or the same on all full layers.

    Source: transformers 5.24, Gemma4TextConfig.
    """
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=256)
    wide = config.size("global_head_dim", default=512)
    fewer = config.size("num_global_key_value_heads", default=None)
    fewer = fewer if shared and fewer is not None else n_kv_heads
    full = {"head_dim": wide, "num_key_value_heads": fewer}
    made = {str(index): full for index, window in enumerate(windows) if window is None}
    own = config.child("per_layer_config", made)
    found = []
    for index in range(len(windows)):
        here = own.child(str(index), {})
        heads_here = here.size("num_key_value_heads", default=n_kv_heads)
        if n_heads % heads_here:
            raise BadConfig(
                f"{config.where}: layer {index} has {heads_here!r} key heads, which do not divide {n_heads!r}.",
                path=config.where,
            )
        found.append((n_heads, heads_here, here.size("head_dim", default=d_head)))
    return found


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: keys that are values, wider heads on the full layer; biases, caps and other positions."""
    tiny = {"model_type": "gemma4_text", **TINY, "hidden_size_per_layer_input": 0, "sliding_window": 4, "head_dim": 12}
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    nested = {
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "factor": 2.0},
        "sliding_attention": {"rope_type": "linear", "rope_theta": 1e3, "factor": 2.0},
    }
    return (
        tiny
        | {"attention_k_eq_v": True, "global_head_dim": 16, "num_global_key_value_heads": 1, "layer_types": kinds}
        | {"attention_bias": True},
        tiny
        | {"global_head_dim": 12, "rope_parameters": nested, "final_logit_softcapping": 5.0, "rms_norm_eps": 1e-5}
        | {"sliding_window": 3, "tie_word_embeddings": False}
        | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    )
