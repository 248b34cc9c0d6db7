"""How checkpoints call the parts of an RWKV: the Hugging Face layouts, and that of the original ``.pth`` files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from mi_core.blueprint import Weight
from mi_core.tensors import TensorIndex

__all__ = ["FLASH", "HUGGING_FACE", "HUGGING_FACE_6", "ORIGINAL", "ORIGINAL_6", "ORIGINAL_7", "Layout", "is_original"]


@dataclass(frozen=True)
class Layout:
    """The tensor behind each parameter of ours.

    >>> ORIGINAL.name("blocks.3.mixer.key_weight"), ORIGINAL.name("ln_final.bias")
    ('blocks.3.att.key.weight', 'ln_out.bias')
    """

    outside: Mapping[str, str]
    """Embedding, unembedding and the norms around the layers."""
    block: str
    """What layers are called, ``{}`` for the number."""
    parts: Mapping[str, str]
    """Of a layer: ``ln1``, ``mixer``, ``ln2``, ``channel``."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Within a part, by our name, or by our name with its part; others are called as here."""
    turned: re.Pattern[str] | None = None
    """Parameters whose tensors lie the other way round."""

    def name(self, parameter: str) -> str:
        """What the checkpoint calls it."""
        where, _, leaf = parameter.rpartition(".")
        if parameter in self.outside:
            return self.outside[parameter]
        if where in self.outside:
            return f"{self.outside[where]}.{leaf}"
        _, index, part, *_ = parameter.split(".")
        spelled = self.leaves.get(f"{part}.{leaf}", self.leaves.get(leaf))
        if spelled is None:
            kind, _, what = leaf.rpartition("_")
            spelled = f"{self.leaves.get(kind, kind)}.{what}" if kind and what in ("weight", "bias") else leaf
        return f"{self.block.format(index)}.{self.parts[part]}.{spelled}"

    def __call__(self, parameter: str) -> str | Weight:
        """Where its numbers come from."""
        name = self.name(parameter)
        if self.turned is not None and self.turned.fullmatch(parameter):
            return Weight.of(name, view=transposed)
        return name


def transposed(matrix: Tensor) -> Tensor:
    """A matrix the other way round."""
    return matrix.mT


def is_original(tensors: TensorIndex | None) -> bool:
    """Whether a checkpoint has the names of the original files."""
    return tensors is not None and ORIGINAL.outside["embed_weight"] in tensors


HUGGING_FACE = Layout(
    outside={
        "embed_weight": "rwkv.embeddings.weight",
        "unembed_weight": "head.weight",
        "embed_norm": "rwkv.blocks.0.pre_ln",
        "ln_final": "rwkv.ln_out",
    },
    block="rwkv.blocks.{}",
    parts={"ln1": "ln1", "mixer": "attention", "ln2": "ln2", "channel": "feed_forward"},
    leaves={"mix_k": "time_mix_key", "mix_r": "time_mix_receptance"},
)
"""Versions 4 and 5. Source: transformers 5.24, models/rwkv; the code that RWKV/rwkv-5-world models come with."""

HUGGING_FACE_6 = replace(HUGGING_FACE, leaves={"mix_k": "time_maa_k", "mix_r": "time_maa_r"})
"""Version 6. Source: the code that RWKV/v6-Finch models come with."""

FLASH = Layout(
    outside={
        "embed_weight": "model.embeddings.weight",
        "unembed_weight": "lm_head.weight",
        "embed_norm": "model.layers.0.pre_norm",
        "ln_final": "model.norm",
    },
    block="model.layers.{}",
    parts={"ln1": "attn_norm", "mixer": "attn", "ln2": "ffn_norm", "channel": "ffn"},
    leaves={
        "mixer.receptance_weight": "r_proj.weight",
        "mixer.key_weight": "k_proj.weight",
        "mixer.value_weight": "v_proj.weight",
        "mixer.output_weight": "o_proj.weight",
        "ln_x": "g_norm",
        "mix_k": "x_k",
        **{f"{name}_down": f"{name}_lora.lora.0" for name in "wavg"},
        **{f"{name}_up": f"{name}_lora.lora.2" for name in "wavg"},
    },
)
"""Version 7 in Hugging Face repositories. Source: flash-linear-attention 0.6, models/rwkv7."""

ORIGINAL = Layout(
    outside={
        "embed_weight": "emb.weight",
        "unembed_weight": "head.weight",
        "embed_norm": "blocks.0.ln0",
        "ln_final": "ln_out",
    },
    block="blocks.{}",
    parts={"ln1": "ln1", "mixer": "att", "ln2": "ln2", "channel": "ffn"},
    leaves={
        **{f"time_mix_{name}": f"time_mix_{name[0]}" for name in ("key", "value", "receptance", "gate")},
        "mix_k": "time_mix_k",
        "mix_r": "time_mix_r",
    },
)
"""Versions 4 and 5 as their authors publish them. Source: the package rwkv 0.8.32, model.py."""

ORIGINAL_6 = replace(ORIGINAL, leaves=HUGGING_FACE_6.leaves)
"""Version 6."""

ORIGINAL_7 = replace(
    ORIGINAL,
    leaves={
        "mix_k": "x_k",
        **{f"{name}_down_weight": f"{name}1" for name in "wavg"},
        **{f"{name}_up_weight": f"{name}2" for name in "wavg"},
        **{f"{name}_up_bias": f"{name}0" for name in "wav"},
    },
    # low-rank maps lie [in, out], matrices [out, in]
    turned=re.compile(r".*\.[wavg]_(down|up)_weight"),
)
"""Version 7."""
