"""VaultGemma, and everything else that ships as ``model_type: vaultgemma``.

Traits: Gemma 2 with norms before both parts only.
Source: Google DeepMind and Google Research 2025, arXiv:2510.15001; transformers 5.24, models/vaultgemma.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Layer
from mi_decoder.examples import TINY
from mi_decoder.gemma2 import gemma2_decoder
from mi_decoder.translation import LLAMA_NAMES, blueprint

NAMES = {**LLAMA_NAMES, "layers.*.ln2": "model.layers.*.pre_feedforward_layernorm"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only; a cap that is null is none."""
    model = gemma2_decoder(config, lambda mixer, mlp, norm: Layer(mixer, mlp, ln1=norm, ln2=norm))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: caps that bite and short windows; none of them, in the older spelling."""
    tiny = {"model_type": "vaultgemma", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    caps = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 5}
    kinds = ["full_attention", "sliding_attention"]
    return (
        tiny | caps | {"sliding_window": 4, "attention_bias": True, "rope_parameters": {"rope_theta": 1e3}},
        tiny
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_theta": 5e3, "sliding_window": 3}
        | {"hidden_activation": "silu", "rms_norm_eps": 1e-5, "layer_types": kinds, "tie_word_embeddings": False},
    )
