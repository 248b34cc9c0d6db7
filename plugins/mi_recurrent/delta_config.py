"""Gated delta nets beside attention, from a checkpoint's config and under its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_recurrent.delta_net import GatedDeltaNet

__all__ = ["DELTA_NAMES", "IN_TEXT", "SEVERAL_TOKENS", "delta_net", "linear_layers", "of_each_key_head"]

KINDS = ("full_attention", "linear_attention")

DELTA_NAMES: Mapping[str, str] = {
    "layers.*.mixer.qkv": "model.layers.*.linear_attn.in_proj_qkv",
    "layers.*.mixer.output_gate": "model.layers.*.linear_attn.in_proj_z",
    "layers.*.mixer.beta": "model.layers.*.linear_attn.in_proj_b",
    "layers.*.mixer.decay_weight": "model.layers.*.linear_attn.in_proj_a.weight",
    "layers.*.mixer.decay_bias": "model.layers.*.linear_attn.dt_bias",
    "layers.*.mixer.rate_weight": "model.layers.*.linear_attn.A_log",
    "layers.*.mixer.conv": "model.layers.*.linear_attn.conv1d",
    "layers.*.mixer.norm": "model.layers.*.linear_attn.norm",
    "layers.*.mixer.output": "model.layers.*.linear_attn.out_proj",
}
"""Our modules -> the checkpoint's. Source: transformers 5.24, Qwen3_5GatedDeltaNet."""

SEVERAL_TOKENS: Mapping[str, str] = {"mtp.*": "for predicting several tokens at a time, which the reference leaves out"}
"""Tensors that are dropped. Source: transformers 5.24, qwen3_next."""
IN_TEXT: Mapping[str, str] = dict.fromkeys(
    ("rope_parameters.mrope_section", "rope_parameters.mrope_interleaved"),
    "positions of text are the same in every section",
)
"""Config keys that change nothing of text. Source: transformers 5.24, Qwen3_5TextRotaryEmbedding."""


def delta_net(config: Config, eps: float) -> GatedDeltaNet:
    """The mixer of a config's linear layers; ``eps`` is that of its norms.

    Raises:
        BadConfig: heads that do not divide, or another activation than SiLU.

    Source: transformers 5.24, Qwen3NextConfig.
    """
    n_heads = config.size("linear_num_value_heads", default=32)
    n_key_heads = config.size("linear_num_key_heads", default=16)
    if n_heads % n_key_heads:
        raise BadConfig(
            f"{config.where}: 'linear_num_value_heads' is {n_heads!r}, which must be a multiple of "
            f"'linear_num_key_heads' ({n_key_heads!r}): neighbouring values share a key.",
            path=config.where,
            key="linear_num_value_heads",
        )
    config.choice("hidden_act", ("silu",), default="silu")  # the convolution's too
    return GatedDeltaNet(
        n_heads,
        n_key_heads,
        d_key=config.size("linear_key_head_dim", default=128),
        d_value=config.size("linear_value_head_dim", default=128),
        width=config.size("linear_conv_kernel_dim", default=4, at_least=2),
        eps=eps,
    )


def linear_layers(config: Config) -> list[bool]:
    """Which layers are recurrent: by ``layer_types``, or all but each ``full_attention_interval``-th.

    Raises:
        BadConfig: another number of layers than there are, or an unknown kind.
    """
    n_layers, interval = config.size("num_hidden_layers"), config.size("full_attention_interval", default=4)
    kinds: Any = config.get("layer_types") or [KINDS[bool((index + 1) % interval)] for index in range(n_layers)]
    if not isinstance(kinds, list) or len(kinds) != n_layers or any(kind not in KINDS for kind in kinds):
        raise BadConfig(
            f"{config.where}: 'layer_types' is {kinds!r}, it must be a list of {n_layers} of {', '.join(KINDS)}.",
            path=config.where,
            key="layer_types",
        )
    return [kind == "linear_attention" for kind in kinds]


def of_each_key_head(net: GatedDeltaNet, widths: tuple[int, ...], parts: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The view of a matrix whose rows lie key head by key head, each with parts of these widths: some of them, in turn.

    Source: transformers 5.24, Qwen3NextGatedDeltaNet.fix_query_key_value_ordering.
    """

    def view(stored: Tensor) -> Tensor:
        groups = torch.split(stored.view(net.n_key_heads, sum(widths), -1), list(widths), 1)
        return torch.cat([groups[part].flatten(0, 1) for part in parts])

    return view
