"""Gemma 3's image-and-text models (4b, 12b, 27b), of which the text part is loaded: ``model_type: gemma3``.

Traits: Gemma 3's text decoder under another prefix; the parts that read images are dropped.
Source: Gemma Team 2025, arXiv:2503.19786; transformers 5.24, models/gemma3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_core.inert import check_config_used
from mi_decoder.examples import TINY
from mi_decoder.gemma3 import GEMMA3_INERT, gemma3_decoder
from mi_decoder.translation import SANDWICH_NAMES, blueprint, only, renamed

ABSENT = {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
ABSENT |= {"num_attention_heads": 8}
"""What the reference takes for sizes that published files leave out. Source: transformers 5.24, Gemma3TextConfig."""
IMAGES = "for images, which are not read"
INERT = dict.fromkeys(
    ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"), IMAGES
)
DROPPED = dict.fromkeys(
    (f"{outer}{part}.*" for outer in ("", "model.") for part in ("vision_tower", "multi_modal_projector")), IMAGES
)
TEXT_INERT = {**GEMMA3_INERT, "tie_word_embeddings": "the outer config says it"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """The decoder of ``text_config``; files call it ``language_model.model``, newer ones ``model.language_model``."""
    given = config.child("text_config").plain()
    text = Config({**ABSENT, **config.get("text_config", given)}, where=f"{config.where}, text_config")
    only(text, "final_logit_softcapping", None)  # which the reference leaves out here
    model, tied = gemma3_decoder(text), config.flag("tie_word_embeddings", default=True)
    check_config_used(text, TEXT_INERT, family="gemma3")
    newer = tensors is not None and any(name.startswith("model.language_model.") for name in tensors)
    stem, head = ("model.language_model.", "lm_head") if newer else ("language_model.model.", "language_model.lm_head")
    names = renamed(SANDWICH_NAMES, {"model.": stem, "lm_head": head})
    return blueprint(model, tensors, tied=tied, names=names, prefix=stem, dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: everything on, in the older spelling; an unembedding of its own."""
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    tiny = {**TINY, **ids, "head_dim": 12, "query_pre_attn_scalar": 5, "sliding_window": 4}
    eye = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    eye |= {"image_size": 28, "patch_size": 14}
    rope = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 5e3, "rope_local_base_freq": 50.0}
    outer = {"model_type": "gemma3", "vision_config": eye, "mm_tokens_per_image": 4}
    return (
        {**outer, "text_config": tiny | rope | {"sliding_window_pattern": 2, "attention_bias": True}},
        {**outer, "text_config": {**tiny, "rms_norm_eps": 1e-5}, "tie_word_embeddings": False},
    )
