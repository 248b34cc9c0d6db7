"""Layers without a channel part: those of state-space models, and of the first toy models of circuits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mi_core.protocols import Batch, Memory, Residual, Stream, Tap
from mi_decoder.layers import DecoderBlock
from mi_decoder.parts import Mixer, Norm

__all__ = ["AttentionLayer"]


@dataclass(frozen=True)
class AttentionLayer:
    """The mixer reads the stream through its norm and adds to it; that is all.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (attention-only transformers);
    TransformerLens 3.9, TransformerBlock with ``attn_only``.
    """

    mixer: Mixer
    ln1: Norm | None = None
    wide_stream: bool = False
    """Whether the stream is float32 whatever the model's dtype (see `Decoder`): the norm reads it rounded.

    Source: transformers 5.24, MambaBlock.
    """

    def build(self, d_model: int) -> AttentionBlock:
        """The module."""
        return AttentionBlock(self, d_model)


class AttentionBlock(DecoderBlock):
    """There is no stream between attention and what follows it, and no point of an MLP."""

    residual = Residual("sequential")
    order = ("hook_resid_pre", "split_inputs", "ln1", "mixer", "hook_attn_out", "hook_resid_post")

    def __init__(self, spec: AttentionLayer, d_model: int) -> None:
        super().__init__(spec, d_model)
        self.wide_stream = spec.wide_stream

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        resid: Tensor = stream.resid
        read = resid.to(next(self.parameters()).dtype) if self.wide_stream else resid
        out, memory, _ = self.mixed(read, batch, tap, memory)
        out = tap("hook_attn_out", out)
        if out.shape[1] != resid.shape[1]:
            resid = batch.kept(resid)
        return Stream(resid + out, stream.side), memory
