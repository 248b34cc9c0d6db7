"""Attention arithmetic: one fused kernel where nobody looks inside, explicit scores where somebody does.

Both take heads before positions, ``[batch head pos d_head]``. A query that may see no key gets zeros, and passes no
gradient on.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mi_core.protocols import Batch, Tap
from mi_decoder.memory import per_head, prefix_lengths

__all__ = ["explicit", "fused", "open_edges"]


def open_edges(
    batch: Batch, width: int, tap: Tap, *, causal_kernel: bool
) -> Bool[Tensor, "_ _ query_pos key_pos"] | None:
    """Which keys each query may see; None where the fused kernel's own causal mask (or no mask) says the same."""
    queries = batch.positions.shape[1]
    cut = tap.cut_edges()
    if cut is None and causal_kernel and (queries == width or (queries == 1 and uniform(batch, width))):
        return None
    # one mask for all layers
    edges: Tensor = batch.once(("mi_decoder.causal", width), lambda: causal(batch, queries, width))
    if cut is None:
        return edges
    if 1 < cut.shape[-1] != width:
        cut = pad(cut, (0, width - cut.shape[-1]))
    return edges & ~cut


def uniform(batch: Batch, width: int) -> bool:
    """Whether all rows fill the whole width."""
    return min(prefix_lengths(batch)) + batch.positions.shape[1] == width


def causal(batch: Batch, queries: int, width: int) -> Bool[Tensor, "_ 1 query_pos key_pos"]:
    """Column c of a row is position ``start + c`` of that row and sees what lies at or before it."""
    columns = torch.arange(queries, device=batch.start.device)
    own = columns[None] if queries == width else batch.start[:, None] + columns
    return torch.arange(width, device=own.device) <= own[:, None, :, None]


def fused(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch _ key_pos d_head"],
    v: Float[Tensor, "batch _ key_pos d_value"],
    edges: Bool[Tensor, "_ _ query_pos key_pos"] | None,
    scale: float,
    tap: Tap,
) -> Float[Tensor, "batch head query_pos d_value"]:
    """The mixed values, without scores or patterns."""
    n_heads = q.shape[1]
    if edges is None:
        grouped = k.shape[1] != n_heads
        return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, scale=scale, enable_gqa=grouped)
    if q.is_cuda:  # with a mask, CUDA's fast kernels take no groups
        k, v = per_head(k, n_heads), per_head(v, n_heads)
    blocked = None
    if tap.cut_edges() is not None:
        blocked = ~edges.any(-1, keepdim=True)
        edges = edges | blocked  # kernels differ on a row without keys: give it keys, then take its output away
    z = scaled_dot_product_attention(q, k, v, attn_mask=edges, scale=scale, enable_gqa=k.shape[1] != n_heads)
    return z if blocked is None else z.masked_fill(blocked, 0.0)


def explicit(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch _ key_pos d_head"],
    v: Float[Tensor, "batch _ key_pos d_value"],
    edges: Bool[Tensor, "_ _ query_pos key_pos"],
    scale: float,
    tap: Tap,
) -> Float[Tensor, "batch head query_pos d_value"]:
    """The mixed values, with scores and pattern offered on the way.

    Source: transformers 5.24, modeling_llama.py, eager_attention_forward: scores in the model's dtype, softmax in
    float32, pattern in the model's dtype.
    """
    n_heads = q.shape[1]
    k, v = per_head(k, n_heads), per_head(v, n_heads)
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(scale).masked_fill_(~edges, -math.inf)
    scores = tap("attn.hook_attn_scores", scores)
    wide = torch.promote_types(scores.dtype, torch.float32)
    if tap.cut_edges() is None and not tap.edits("attn.hook_attn_scores"):
        pattern = torch.softmax(scores, -1, dtype=wide)
    else:
        # a softmax over nothing but -inf is NaN, its gradient too
        blocked = scores.isneginf().all(-1, keepdim=True)
        pattern = torch.softmax(scores.masked_fill(blocked, 0.0), -1, dtype=wide).masked_fill(blocked, 0.0)
    return torch.matmul(tap("attn.hook_pattern", pattern.to(v.dtype)), v)
