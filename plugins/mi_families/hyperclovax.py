"""HyperCLOVA X SEED, and everything else that ships as ``model_type: hyperclovax``.

Traits: Granite's multipliers, with norms before and behind both parts.
Source: HyperCLOVA X Team 2024, arXiv:2404.01954; transformers 5.24, models/hyperclovax.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, gated_mlp, heads, module_names

NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", {"ln1_post": "post_norm1", "ln2_post": "post_norm2"})}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; logits are multiplied by their scaling, where Granite divides."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx)
    bias, mlp_bias = (config.flag(key, default=False) for key in ("attention_bias", "mlp_bias"))
    scale = config.number("attention_multiplier", default=d_head**-0.5)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    behind = norm if config.flag("use_post_norm", default=True) else None
    layer = Layer(
        mixer=Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, scale=scale),
        channel=gated_mlp(config, bias=mlp_bias),
        ln1=norm,
        ln2=norm,
        ln1_post=behind,
        ln2_post=behind,
        multiplier=config.number("residual_multiplier", default=1.0),
    )
    outside = {
        "embed_scale": config.number("embedding_multiplier", default=1.0),
        "logit_scale": config.number("logits_scaling", default=1.0),
    }
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), **outside)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: every multiplier and bias; without norms behind the parts, in the older spelling."""
    tiny = {"model_type": "hyperclovax", **TINY, "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 0.5}
        | {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "rope_parameters": linear},
        tiny | {"use_post_norm": False, "rope_theta": 1e3, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    )
