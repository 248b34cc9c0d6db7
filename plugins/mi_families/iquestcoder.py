"""IQuest-Coder, and everything else that ships as ``model_type: iquestcoder``.

Traits: LLaMA under another name.
Source: IQuest Lab 2025, huggingface.co/IQuestLab; transformers 5.24, models/iquestcoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.llama import llama_decoder
from mi_decoder.translation import blueprint, only

INERT = dict.fromkeys(("sliding_window", "max_window_layers"), "the window is off")


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; what the training code could do besides, no checkpoint does."""
    only(config, "clip_qkv", None)
    only(config, "use_sliding_window", False)
    model = llama_decoder(config, n_kv_heads=8, d_head=128, n_ctx=131072, eps=1e-5)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a scaling; the older spelling."""
    tiny = {"model_type": "iquestcoder", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"attention_bias": True, "mlp_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-6, "hidden_act": "gelu", "tie_word_embeddings": True},
    )
