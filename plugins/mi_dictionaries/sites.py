"""Which point does a dictionary read or write? Names of modules in Hugging Face's models, as our points.

TransformerLens' names (``blocks.3.hook_resid_post``) and circuit-tracer's suffixes (``mlp.hook_in``) are ours already.
Hugging Face's name modules, and one name means different things in different families: in Gemma-2 and Gemma-3
``post_attention_layernorm`` norms what attention gives, elsewhere it norms what the MLP reads.

Source: transformers 5, modeling_{llama,qwen2,qwen3,mistral,gemma2,gemma3,gpt2,gpt_neox}.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mi_core.errors import BadConfig

__all__ = ["layer_of", "point_of", "set_point"]

LAYER: Final = r"(?:model\.)?(?:language_model\.)?(?:model\.)?(?:transformer\.|gpt_neox\.)?(?:layers|h|blocks)\.(\d+)"
EMBEDDING: Final = r"(?:model\.|transformer\.|gpt_neox\.)*(?:embed_tokens|wte|embed_in)"

STREAM: Final[Mapping[tuple[str, str], str]] = {
    ("", "input"): "hook_resid_pre",
    ("", "output"): "hook_resid_post",
    ("input_layernorm", "input"): "hook_resid_pre",
    ("input_layernorm", "output"): "attn.hook_in",
    ("ln_1", "output"): "attn.hook_in",
    ("self_attn", "input"): "attn.hook_in",
    ("self_attn", "output"): "attn.hook_out",
    ("attn", "output"): "attn.hook_out",
    ("attention", "output"): "attn.hook_out",
    ("self_attn.o_proj", "input"): "attn.hook_z",
    ("self_attn.o_proj", "output"): "attn.hook_out",
    ("attn.c_proj", "input"): "attn.hook_z",
    ("attn.c_proj", "output"): "attn.hook_out",
    ("attention.dense", "input"): "attn.hook_z",
    ("attention.dense", "output"): "attn.hook_out",
    ("mlp", "input"): "mlp.hook_in",
    ("mlp", "output"): "mlp.hook_out",
    ("ln_2", "output"): "mlp.hook_in",
    ("mlp.down_proj", "input"): "mlp.hook_post",
    ("mlp.down_proj", "output"): "mlp.hook_out",
    ("mlp.c_proj", "input"): "mlp.hook_post",
    ("mlp.c_proj", "output"): "mlp.hook_out",
    ("mlp.dense_4h_to_h", "input"): "mlp.hook_post",
    ("mlp.dense_4h_to_h", "output"): "mlp.hook_out",
}
"""Module inside a layer and side of it -> our site, in every family that has the module."""

PRE_NORM: Final[Mapping[tuple[str, str], str]] = {
    # Llama, Mistral, Qwen, GPT-NeoX: what stands between attention and MLP is the MLP's norm
    ("post_attention_layernorm", "input"): "hook_resid_mid",
    ("post_attention_layernorm", "output"): "mlp.hook_in",
    ("ln_2", "input"): "hook_resid_mid",
}

SANDWICH: Final[Mapping[tuple[str, str], str]] = {
    # Gemma-2, Gemma-3: norms on both sides of each part
    ("post_attention_layernorm", "input"): "attn.hook_out",
    ("post_attention_layernorm", "output"): "hook_attn_out",
    ("pre_feedforward_layernorm", "input"): "hook_resid_mid",
    ("pre_feedforward_layernorm", "output"): "mlp.hook_in",
    ("post_feedforward_layernorm", "input"): "mlp.hook_out",
    ("post_feedforward_layernorm", "output"): "hook_mlp_out",
}


def point_of(name: str, *, model: str = "", side: str = "output", where: str = "the config") -> str:
    """Our point for a module of a Hugging Face model, or for a point that is named as ours are already.

    ``side`` holds where the name does not end in ``.input`` or ``.output``; ``model`` decides between families.

    >>> point_of("model.layers.7.output")
    'blocks.7.hook_resid_post'
    >>> point_of("model.layers.2.post_attention_layernorm.output", model="google/gemma-3-1b-pt")
    'blocks.2.hook_attn_out'
    >>> point_of("model.layers.2.post_attention_layernorm.output", model="meta-llama/Llama-3.1-8B")
    'blocks.2.mlp.hook_in'

    Raises:
        BadConfig: no table says what is there.
    """
    if re.search(r"(?:^|\.)hook_\w+$", name):
        return name
    module, last = name, side
    if name.rpartition(".")[2] in ("input", "output"):
        module, _, last = name.rpartition(".")
    if re.fullmatch(EMBEDDING, module) and last == "output":
        return "hook_embed"
    found = re.fullmatch(rf"{LAYER}(?:\.(.+))?", module)
    sandwich = re.search(r"gemma-?v?[23]|gemma[-_]scope", model.lower()) is not None
    table = {**STREAM, **(SANDWICH if sandwich or "feedforward_layernorm" in module else PRE_NORM)}
    site = table.get((found[2] or "", last)) if found else None
    if found is None or site is None:
        raise BadConfig(
            f"{where}: {name!r} ({last}) is no place that is known as a point; modules inside a layer: "
            f"{', '.join(sorted({known for known, _ in table if known}))}. It is not guessed.",
            name=name,
        )
    return f"blocks.{found[1]}.{site}"


def set_point(layer: int, suffix: str) -> str:
    """The point of one layer of a set, from the suffix that its config states.

    >>> set_point(3, "mlp.hook_in")
    'blocks.3.mlp.hook_in'
    """
    return suffix.format(layer) if "{" in suffix else f"blocks.{layer}.{suffix}"


def layer_of(text: str) -> int | None:
    """The layer that a folder or file name states: ``layer_7``, ``layer7``, ``L5R``, ``_l19``, ``blocks.3``; or None.

    >>> layer_of("layer_7_width_16k"), layer_of("Llama3_1-8B-Base-L5R-8x"), layer_of("SAE-l19.pt")
    (7, 5, 19)
    >>> layer_of("width_16k_average_l0_59")  # a sparsity
    """
    for pattern in (
        r"layers?[_.]?(\d+)",
        r"blocks\.(\d+)\.",
        r"(?:^|[-_/])(?![lL]0_(?:\d|[a-z]))[lL](\d+)(?=[A-Z._-]|$)",
    ):
        if found := re.search(pattern, text):
            return int(found[1])
    return None
