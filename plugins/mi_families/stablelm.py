"""StableLM 2, StableLM 3B, Stable Code, and everything else that ships as ``model_type: stablelm``.

Traits: LLaMA with layer norms and rotary positions over a part of each head; in 12B both parts side by side.
Source: Bellagente et al. 2024, arXiv:2402.17834; transformers 5.24, models/stablelm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, LayerNorm, ParallelLayer
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, Source, blueprint, decoder, gated_mlp, heads, stacked

__all__ = ["mi_family", "mi_family_examples", "names_of"]


def names_of(n_heads: int, n_kv_heads: int) -> Mapping[str, Source]:
    """Each head's norm is a module of its own in these files."""
    stem = "model.layers.*.self_attn"
    return {
        **LLAMA_NAMES,
        "layers.*.mixer.q_norm": stacked(f"{stem}.q_layernorm.norms", n_heads),
        "layers.*.mixer.k_norm": stacked(f"{stem}.k_layernorm.norms", n_kv_heads),
    }


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers, parallel or in sequence."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=32)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx, part=0.25)
    eps = config.number("layer_norm_eps", default=1e-5, at_least=0.0)
    norm, bias = LayerNorm(eps), config.flag("use_qkv_bias", default=False)
    own = config.flag("qk_layernorm", default=False)
    qk_norm = HeadNorm(LayerNorm(eps, bias=False), "own") if own else None
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, qk_norm=qk_norm)
    if config.flag("use_parallel_residual", default=False):
        layer: Any = ParallelLayer(mixer, gated_mlp(config), ln1=norm)
    else:
        layer = Layer(mixer, gated_mlp(config), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names_of(n_heads, n_kv_heads))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: parallel with norms of each head; in sequence with biases, in the older spelling."""
    tiny = {"model_type": "stablelm", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"use_parallel_residual": True, "qk_layernorm": True, "rope_parameters": linear},
        tiny | {"use_qkv_bias": True, "rope_theta": 1e3, "layer_norm_eps": 1e-4, "tie_word_embeddings": True},
    )
