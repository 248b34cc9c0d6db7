"""Layers whose stream is no plain sum of what is written: each gives the formula that holds instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.protocols import Batch, Memory, Residual, Stream, Tap
from mi_decoder.layers import DecoderBlock, Layer, SequentialBlock

__all__ = ["NormedStreamBlock", "NormedStreamLayer", "ScaledLayer"]


@dataclass(frozen=True)
class ScaledLayer(Layer):
    """A layer whose whole stream is multiplied in the end by a number that the checkpoint has.

    Source: transformers 5.24, Gemma4TextDecoderLayer (layer_scalar).
    """

    def build(self, d_model: int) -> ScaledBlock:
        """The module."""
        return ScaledBlock(self, d_model)


@dataclass(frozen=True)
class NormedStreamLayer(Layer):
    """What a part writes is added to its normed input, not to the stream that the norm reads.

    Source: transformers 5.24, BloomBlock (apply_residual_connection_post_layernorm).
    """

    def build(self, d_model: int) -> NormedStreamBlock:
        """The module."""
        return NormedStreamBlock(self, d_model)


class ScaledBlock(SequentialBlock):
    """``resid_post = (resid_mid + mlp_out) * scale``."""

    scale_weight: Tensor

    def __init__(self, spec: Layer, d_model: int) -> None:
        super().__init__(spec, d_model)
        self.register_buffer("scale_weight", torch.empty(1, device="meta"))
        reason = "each layer multiplies the whole stream by a number of its own, so it is no plain sum"
        self.residual = Residual("own", reason, self.formula)

    def formula(self, here: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the stream must be."""
        middle = here["hook_resid_pre"] + here["hook_attn_out"]
        return {"hook_resid_mid": middle, "hook_resid_post": (middle + here["hook_mlp_out"]) * self.scale_weight}

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        stream, memory = super().forward(stream, batch, tap, memory)
        return Stream(stream.resid * self.scale_weight, stream.side), memory

    def initialise(self) -> None:
        """A plain sum."""
        self.scale_weight.fill_(1.0)

    def weights(self) -> Mapping[str, Tensor]:
        """Those of all parts, and the number."""
        return {**super().weights(), "scale": self.scale_weight}


class NormedStreamBlock(DecoderBlock):
    """``resid_mid = attn.hook_in + attn_out``, ``resid_post = mlp.hook_in + mlp_out``."""

    order = (
        *("hook_resid_pre", "split_inputs", "ln1", "mixer", "hook_attn_out", "hook_resid_mid"),
        *("ln2", "channel", "hook_mlp_out", "hook_resid_post"),
    )

    def __init__(self, spec: Layer, d_model: int) -> None:
        super().__init__(spec, d_model)
        reason = "what a part writes is added to its normed input, so the stream is no plain sum"
        self.residual = Residual("own", reason, self.formula)

    def formula(self, here: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the stream must be."""
        return {
            "hook_resid_mid": here["attn.hook_in"] + here["hook_attn_out"],
            "hook_resid_post": here["mlp.hook_in"] + here["hook_mlp_out"],
        }

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        parts: Mapping[str, Any] = self._modules  # spares a Python call for each part
        out, memory, normed = self.mixed(stream.resid, batch, tap, memory)
        out = tap("hook_attn_out", out)
        normed = normed if out.shape[1] == normed.shape[1] else batch.kept(normed)
        resid = tap("hook_resid_mid", normed + out)
        read: Float[Tensor, "batch pos d_model"] = parts["ln2"].normalise(resid, tap)
        out = tap("hook_mlp_out", parts["channel"].transform(read, batch, tap))
        return Stream(read + out, stream.side), memory
