"""AlgZoo's transformer: attention only, one head, in both directions, no norms and no biases.

    x = embed[token] + pos_embed[position]
    x = x + softmax(x W_Q (x W_K)^T / sqrt(d)) x W_V W_O     in each layer
    y = x_last W_U

Source: Alignment Research Center, alg-zoo: ``nn.MultiheadAttention`` with one head and without biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.protocols import Batch, ModelShape, Residual, Site, Stream, Tap
from mi_core.vocabulary import CLOSED, site

__all__ = ["AttentionOnly"]


def plain_sum(captured: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a layer's points must equal, given the others."""
    return {"hook_resid_post": captured["hook_resid_pre"] + captured["hook_attn_out"]}


SUM: Final = Residual("own", "a layer that only attends has no stream between mixer and channel part", plain_sum)


class AttentionLayer(nn.Module):
    """One layer: its one head reads the stream and adds to it."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = empty(3 * d_model, d_model), empty(d_model, d_model)

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Any) -> tuple[Stream, None]:
        """Every position looks at every position of its row."""
        read = tap("attn.hook_in", stream.resid)
        q, k, v = (
            tap(f"attn.hook_{name}", x[:, :, None])
            for name, x in zip("qkv", linear(read, self.in_proj).chunk(3, -1), strict=True)
        )
        shut = closed(batch, tap.cut_edges())
        scores = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).masked_fill(shut, CLOSED)
        scores = tap("attn.hook_attn_scores", scores)
        # a row of pads sees nothing at all: zeros, not the NaN of an empty softmax
        pattern = tap("attn.hook_pattern", scores.softmax(-1).nan_to_num())
        z = tap("attn.hook_z", torch.einsum("bhqk,bkhd->bqhd", pattern, v))
        out = tap("hook_attn_out", tap("attn.hook_out", linear(z[:, :, 0], self.out_proj)))
        return Stream(stream.resid + out, stream.side), None


def closed(batch: Batch, cut: Bool[Tensor, "..."] | None) -> Bool[Tensor, "batch _ query_pos key_pos"]:
    """True where a query may not look: pads, on either side, and edges that are cut."""
    real = torch.arange(batch.positions.shape[1], device=batch.length.device) < batch.length[:, None]
    shut = ~(real[:, None, :, None] & real[:, None, None, :])
    return shut if cut is None else shut | cut


class AttentionOnly(nn.Module):
    """The backend: tokens are numbers below ``size``, and so are the answers."""

    def __init__(self, d_model: int, n_layers: int, n_ctx: int, size: int) -> None:
        super().__init__()
        self.shape = ModelShape(n_layers, d_model, size, n_ctx, causal=False, residual=(SUM,) * n_layers)
        self.embedding, self.positions = empty(size, d_model), empty(n_ctx, d_model)
        self.unembedding = empty(size, d_model)
        self.layers = nn.ModuleList(AttentionLayer(d_model) for _ in range(n_layers))

    @property
    def blocks(self) -> Sequence[Any]:
        """What the core loops over."""
        return tuple(self.layers)

    def sites(self) -> Sequence[Site]:
        """In firing order: standard sites only."""
        layers, size, classes = tuple(range(self.shape.n_layers)), self.shape.d_model, self.shape.d_vocab
        return (
            site("hook_embed", d_model=size),
            site("hook_pos_embed", d_model=size),
            site("hook_resid_pre", layers, d_model=size),
            site("attn.hook_in", layers, d_model=size),
            site("attn.hook_q", layers, head=1, d_head=size),
            *(site(f"attn.hook_{name}", layers, kv_head=1, d_head=size) for name in "kv"),
            *(site(f"attn.hook_{name}", layers, head=1) for name in ("attn_scores", "pattern")),
            site("attn.hook_z", layers, head=1, d_head=size),
            *(site(name, layers, d_model=size) for name in ("attn.hook_out", "hook_attn_out", "hook_resid_post")),
            site("unembed.hook_in", d_model=size),
            site("unembed.hook_out", d_vocab=classes),
            site("hook_logits", d_vocab=classes),
        )

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """Token and place."""
        token = tap("hook_embed", torch.embedding(self.embedding, batch.inputs))
        return Stream(token + tap("hook_pos_embed", torch.embedding(self.positions, batch.positions)))

    def unembed(self, resid: Float[Tensor, "*batch d_model"], tap: Tap) -> Float[Tensor, "*batch d_vocab"]:
        """The readout, for any leading dims; the models answer at the last position."""
        out = linear(tap("unembed.hook_in", resid), self.unembedding)
        return tap("hook_logits", tap("unembed.hook_out", out))

    def weight(self, name: str) -> Tensor:
        """Views in the field's layout, ``[head d_model d_head]``."""
        views = {
            "embed.W_E": self.embedding,
            "pos_embed.W_pos": self.positions,
            "unembed.W_U": self.unembedding.T,
        }
        for index, layer in enumerate(self.blocks):
            for letter, matrix in zip("QKV", layer.in_proj.chunk(3), strict=True):
                views[f"blocks.{index}.attn.W_{letter}"] = matrix.T[None]
            views[f"blocks.{index}.attn.W_O"] = layer.out_proj.T[None]
        if name not in views:
            raise KeyError(f"no weight {name!r}; there are {', '.join(views)}")
        return views[name]
