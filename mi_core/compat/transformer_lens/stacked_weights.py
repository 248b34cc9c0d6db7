"""All layers' weights in one tensor, and the circuits that are made of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.compat.transformer_lens.config import HookedTransformerConfig
from mi_core.compat.transformer_lens.factored_matrix import FactoredMatrix
from mi_core.compat.transformer_lens.weight_parts import Block, FinalNorm, Part, Unembedding, weight
from mi_core.errors import UnknownPoint
from mi_core.model import Model

__all__ = ["StackedWeights"]

SINGLE = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U", "b_U": "unembed.b_U"}
STACKED = {
    **{name: f"attn.{name}" for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")},
    **{name: f"mlp.{name}" for name in ("W_in", "W_gate", "W_out", "b_in", "b_out")},
}


class StackedWeights:
    """The weight side of a :class:`HookedTransformer`: ``W_E``, ``W_U`` and others, and stacks ``[layer ...]``.

    ``W_Q W_K W_V [layer head d_model d_head]``, ``W_O [layer head d_head d_model]``, ``W_in W_gate [layer d_model
    d_mlp]``, ``W_out [layer d_mlp d_model]``, biases alike. A stack is a copy; ``blocks[3].attn.W_Q`` is a view.
    """

    model: Model
    cfg: HookedTransformerConfig

    def __getattr__(self, name: str) -> Any:
        if name not in SINGLE and name not in STACKED:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        try:
            if name in SINGLE:
                return weight(self.model, self.cfg, SINGLE[name])
            layers = range(self.cfg.n_layers)
            return torch.stack([weight(self.model, self.cfg, f"blocks.{layer}.{STACKED[name]}") for layer in layers])
        except UnknownPoint as error:
            raise AttributeError(str(error)) from error

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The layers."""
        return tuple(Block(self.model, self.cfg, f"blocks.{layer}") for layer in range(self.cfg.n_layers))

    @cached_property
    def embed(self) -> Part:
        """The token embedding."""
        return Part(self.model, self.cfg, "embed")

    @cached_property
    def pos_embed(self) -> Part:
        """The position embedding."""
        return Part(self.model, self.cfg, "pos_embed")

    @cached_property
    def ln_final(self) -> FinalNorm:
        """The final norm."""
        return FinalNorm(self.model, self.cfg, "ln_final")

    @cached_property
    def unembed(self) -> Unembedding:
        """The unembedding."""
        return Unembedding(self.model, self.cfg, "unembed")

    @property
    def QK(self) -> FactoredMatrix:  # noqa: N802 - their name
        """``W_Q W_K'`` of every head, ``[layer head d_model d_model]``; rotation and norms are not in it."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:  # noqa: N802 - their name
        """``W_V W_O`` of every head, ``[layer head d_model d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """The sum of all biases that were added to the stream before ``layer``."""
        total = torch.zeros(self.cfg.d_model, device=self.cfg.device, dtype=self.cfg.dtype)
        for index in range(layer + mlp_input):
            total = total + self.blocks[index].attn.b_O
            if include_mlp_biases and index < layer and not self.cfg.attn_only:
                total = total + self.blocks[index].mlp.b_out
        return total

    def all_head_labels(self) -> list[str]:
        """``L0H0`` and so on."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads or 0)]
