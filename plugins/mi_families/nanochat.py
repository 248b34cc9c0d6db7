"""nanochat, and everything else that ships as ``model_type: nanochat``.

Traits: RMS norms without gains, also of embeddings and behind the rotation, which turns backwards; squared ReLU.
Source: Karpathy 2025, github.com/karpathy/nanochat; transformers 5.24, models/nanochat.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, NoGain, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads, module_names, or_none, plain_mlp

NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", {"channel.in": "mlp.fc1", "channel.out": "mlp.fc2"})}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; a cap that is null is none."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = replace(rotary(config, d_head, n_ctx), backwards=True)
    bias = config.flag("attention_bias", default=False)
    cap = config.number("final_logit_softcapping", default=or_none(config, "final_logit_softcapping", 15.0))
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), NoGain())
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, late=True)}
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, **values)
    layer = Layer(mixer, plain_mlp(config, bias=False, activation="relu2"), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), embed_norm=norm, logit_softcap=cap)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a cap that bites, biases, a scaling; no cap, in the older spelling."""
    tiny = {"model_type": "nanochat", **TINY, "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"final_logit_softcapping": 1.5, "attention_bias": True, "rope_parameters": linear},
        tiny
        | {"final_logit_softcapping": None, "rope_theta": 1e3, "rms_norm_eps": 1e-5, "hidden_act": "gelu"}
        | {"tie_word_embeddings": True},
    )
