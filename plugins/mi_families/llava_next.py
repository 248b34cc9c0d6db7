"""LLaVA 1.6 (LLaVA-NeXT), of which the text part is loaded: ``model_type: llava_next``.

Traits: a LLaMA, a Mistral or a Qwen 2 under another prefix; the parts that read images are dropped.
Source: Liu et al. 2024, llava-vl.github.io/blog/2024-01-30-llava-next; transformers 5.24, models/llava_next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import EYE, TINY
from mi_decoder.text_part import text_part


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """The decoder of ``text_config``."""
    return text_part(config, tensors, family="llava_next")


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: around a LLaMA, around a Mistral."""
    tiny = {**TINY, "num_hidden_layers": 2}
    outer = {"model_type": "llava_next", "vision_config": EYE, "image_seq_length": 4}
    return (
        {**outer, "text_config": {"model_type": "llama", **tiny, "rope_theta": 1e3, "attention_bias": True}},
        {**outer, "text_config": {"model_type": "mistral", **tiny, "sliding_window": 4, "head_dim": 12}},
    )
