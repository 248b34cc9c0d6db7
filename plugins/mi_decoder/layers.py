"""Layers: a mixer and a channel part around the residual stream, in sequence or side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mi_core.protocols import Batch, Memory, Residual, Site, Stream, Tap
from mi_core.vocabulary import site
from mi_decoder.parts import Channel, Mixer, Norm
from mi_decoder.split_inputs import MLP_INPUT, SPLIT_INPUTS, channel_input, read_apart, split_input_sites

__all__ = ["DecoderBlock", "Layer", "ParallelLayer", "PostNormLayer"]


@dataclass(frozen=True)
class Layer:
    """Mixer, then channel part: each reads the stream through its norm and adds to it, through a post-norm if given.

    What is added is multiplied by ``multiplier`` first. Source: transformers 5.24, GraniteDecoderLayer.
    """

    mixer: Mixer
    channel: Channel
    ln1: Norm | None = None
    ln2: Norm | None = None
    ln1_post: Norm | None = None
    ln2_post: Norm | None = None
    multiplier: float = 1.0

    def build(self, d_model: int) -> DecoderBlock:
        """The module."""
        return SequentialBlock(self, d_model)


@dataclass(frozen=True)
class ParallelLayer:
    """Mixer and channel part read the same stream: through one shared norm, or through two if ``ln2`` is given.

    What the channel part adds is multiplied by ``mlp_multiplier`` first.
    """

    mixer: Mixer
    channel: Channel
    ln1: Norm | None = None
    ln2: Norm | None = None
    mlp_multiplier: float = 1.0

    def build(self, d_model: int) -> ParallelBlock:
        """The module."""
        return ParallelBlock(self, d_model)


@dataclass(frozen=True)
class PostNormLayer:
    """Mixer, then channel part, with norms on the stream itself: behind each sum, as in the first transformers.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1; transformers 5.24, openai-gpt and OPT-350m.
    """

    mixer: Mixer
    channel: Channel
    ln1_post: Norm
    ln2_post: Norm

    def build(self, d_model: int) -> PostNormBlock:
        """The module."""
        return PostNormBlock(self, d_model)


class DecoderBlock(nn.Module):
    """What the kinds of block share: their parts, sites and weights."""

    residual: Residual
    order: tuple[str, ...]
    """Parts and the stream's own sites, in firing order."""

    def __init__(self, spec: Any, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.multiplier: float = getattr(spec, "multiplier", 1.0)
        for slot in ("ln1", "ln1_post", "ln2", "ln2_post"):
            norm = getattr(spec, slot, None)
            self.add_module(slot, None if norm is None else norm.build(d_model, slot))
        self.mixer = spec.mixer.build(d_model)
        channel: Channel | None = getattr(spec, "channel", None)
        self.add_module("channel", None if channel is None else channel.build(d_model))
        self.heads: Mapping[str, int] = getattr(self.mixer, "heads_that_read", {})
        """How many queries, keys and values have an input of their own; empty where they have none."""
        self.readers = dict(self.heads)
        """The same, and the channel part where it shares the mixer's norm."""

    @property
    def takes_parts(self) -> bool:
        """Whether its mixer takes calls in parts; nothing else looks across positions."""
        return bool(getattr(self.mixer, "takes_parts", False))

    def sites(self) -> Sequence[Site]:
        """All sites of the layer, in firing order."""
        sites: list[Site] = []
        for name in self.order:
            part: Any = self._modules.get(name)
            if part is not None:
                lost = name == "ln1" and getattr(self.mixer, "loses_scale", False)
                sites.extend(map(read_only_scale, part.sites()) if lost else part.sites())
            elif name == "split_inputs":
                sites.extend(split_input_sites(self.readers, self.d_model))
            elif name.startswith("hook_") and not (name == MLP_INPUT and "mlp" in self.readers):
                sites.append(site(name, d_model=self.d_model))
        return sites

    def mixed(
        self, resid: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Float[Tensor, "batch query_pos d_model"], Memory | None, Float[Tensor, "batch pos d_model"]]:
        """The mixer's own output, what it remembers, and what a channel part reads that shares its norm."""
        parts: Mapping[str, Any] = self._modules  # spares a Python call for each part
        ln1, mixer = parts["ln1"], parts["mixer"]
        if not tap.wants(*SPLIT_INPUTS):
            normed = resid if ln1 is None else ln1.normalise(resid, tap)
            return *mixer.mix(normed, batch, tap, memory), normed
        normed, own = read_apart(ln1, resid, self.readers, tap)
        out, memory = mixer.mix(normed, batch, tap, memory, *([own] if self.heads else []))
        return out, memory, own["mlp"].instead_of(normed, own["mlp"].x) if "mlp" in own else normed

    def weights(self) -> Mapping[str, Tensor]:
        """The weights of all parts."""
        parts: list[Any] = [part for part in self._modules.values() if part is not None]
        return {name: tensor for part in parts for name, tensor in part.weights().items()}


def read_only_scale(offered: Site) -> Site:
    """A norm's denominator, where what reads the norm loses it."""
    reason = "queries, keys and values are normed once more, so that a factor of what they read is lost"
    return replace(offered, read_only=reason) if offered.name.endswith("hook_scale") else offered


class SequentialBlock(DecoderBlock):
    """The channel part reads what the mixer has written."""

    residual = Residual("sequential")
    order = (
        *("hook_resid_pre", "split_inputs", "ln1", "mixer", "ln1_post", "hook_attn_out", "hook_resid_mid"),
        *("hook_mlp_in", "ln2", "channel", "ln2_post", "hook_mlp_out", "hook_resid_post"),
    )

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        parts: Mapping[str, Any] = self._modules  # spares a Python call for each part
        ln1_post, ln2, ln2_post = parts["ln1_post"], parts["ln2"], parts["ln2_post"]
        multiplier = self.multiplier
        resid = stream.resid
        out, memory, _ = self.mixed(resid, batch, tap, memory)
        out = out if ln1_post is None else ln1_post.normalise(out, tap)
        out = tap("hook_attn_out", out if multiplier == 1.0 else out * multiplier)
        if out.shape[1] != resid.shape[1]:
            resid = batch.kept(resid)
        resid = tap("hook_resid_mid", resid + out)
        read = channel_input(resid, tap)
        out = parts["channel"].transform(read if ln2 is None else ln2.normalise(read, tap), batch, tap)
        out = out if ln2_post is None else ln2_post.normalise(out, tap)
        out = tap("hook_mlp_out", out if multiplier == 1.0 else out * multiplier)
        return Stream(resid + out, stream.side), memory


class ParallelBlock(DecoderBlock):
    """Mixer and channel part read the same stream; there is no stream between them."""

    residual = Residual("parallel")
    order = (
        *("hook_resid_pre", "split_inputs", "ln1", "mixer", "hook_attn_out"),
        *("hook_mlp_in", "ln2", "channel", "hook_mlp_out", "hook_resid_post"),
    )

    def __init__(self, spec: ParallelLayer, d_model: int) -> None:
        super().__init__(spec, d_model)
        self.multiplier = spec.mlp_multiplier
        if spec.ln2 is None:
            self.readers["mlp"] = 1

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        parts: Mapping[str, Any] = self._modules  # spares a Python call for each part
        resid, ln2 = stream.resid, parts["ln2"]
        mixed, memory, shared = self.mixed(resid, batch, tap, memory)
        mixed = tap("hook_attn_out", mixed)
        if mixed.shape[1] != resid.shape[1]:
            resid, shared = batch.kept(resid), batch.kept(shared)
        read = shared if ln2 is None else ln2.normalise(channel_input(resid, tap), tap)
        out, multiplier = parts["channel"].transform(read, batch, tap), self.multiplier
        out = tap("hook_mlp_out", out if multiplier == 1.0 else out * multiplier)
        return Stream(resid + mixed + out, stream.side), memory


class PostNormBlock(DecoderBlock):
    """Each part reads the stream as it is, and the stream is normed behind each sum."""

    residual = Residual("post_norm", "the stream itself is normed behind each part, so it is no plain sum")
    order = (
        *("hook_resid_pre", "split_inputs", "mixer", "hook_attn_out", "ln1_post", "hook_resid_mid"),
        *("hook_mlp_in", "channel", "hook_mlp_out", "ln2_post", "hook_resid_post"),
    )

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        parts: Mapping[str, Any] = self._modules  # spares a Python call for each part
        resid = stream.resid
        out, memory, _ = self.mixed(resid, batch, tap, memory)
        out = tap("hook_attn_out", out)
        if out.shape[1] != resid.shape[1]:
            resid = batch.kept(resid)
        resid = tap("hook_resid_mid", parts["ln1_post"].normalise(resid + out, tap))
        out = tap("hook_mlp_out", parts["channel"].transform(channel_input(resid, tap), batch, tap))
        return Stream(parts["ln2_post"].normalise(resid + out, tap), stream.side), memory
