"""Attention arithmetic: one fused kernel where nobody looks inside, explicit scores where somebody does.

Both take heads before positions, ``[batch head pos d_head]``. A query that may see no key gets zeros, and passes no
gradient on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mi_core.protocols import Batch, Tap
from mi_decoder.memory import extents, per_head

__all__ = ["Chunk", "Window", "causal_is_enough", "explicit", "fused", "masked", "open_edges"]


@dataclass(frozen=True)
class Chunk:
    """A window that does not slide: the stretch of ``size`` positions that a query lies in, up to the query.

    Source: transformers 5.24, masking_utils.chunked_overlay.
    """

    size: int


Window = int | Chunk | None
"""How many positions a query sees, its own included; which stretch of them; or all earlier ones."""


def causal_is_enough(batch: Batch, continued: bool, window: Window = None) -> bool:
    """Whether the fused kernel needs no mask: a square causal pattern, or one last query that sees every key.

    A window is no matter to rows that fit into it.
    """
    if batch.keep is not None or batch.room is not None:
        return False
    window = window.size if isinstance(window, Chunk) else window
    columns = batch.positions.shape[1]
    if not continued:
        return window is None or columns <= window
    starts, _ = extents(batch)
    return columns == 1 and min(starts) == max(starts) and (window is None or max(starts) < window)


def open_edges(
    batch: Batch, continued: bool, cut: Bool[Tensor, "_ _ _ _"] | None, window: Window = None
) -> Bool[Tensor, "_ _ query_pos key_pos"]:
    """Which keys each query may see: none behind it, none outside its window, none whose edge is cut."""
    # one mask for all layers with this window
    edges: Tensor = batch.once(
        ("mi_decoder.causal", batch.start.device, batch.keep is None, window), lambda: causal(batch, continued, window)
    )
    return edges if cut is None else edges & ~cut


def causal(batch: Batch, continued: bool, window: Window) -> Bool[Tensor, "_ 1 query_pos key_pos"]:
    """Column c of a row is position ``start + c`` of that row and sees the ``window`` positions that end there.

    Source: Jiang et al. 2023, arXiv:2310.06825, section 2; transformers 5.24, masking_utils.sliding_window_overlay (a
    window counts the query's own position).
    """
    columns = torch.arange(batch.positions.shape[1], device=batch.start.device)
    if batch.keep is not None:
        columns = batch.keep
    elif not continued:
        return within(columns, columns[:, None], window)[None, None]
    n_keys = batch.positions.shape[1]
    if continued:
        n_keys = max(extents(batch)[1]) if batch.room is None else batch.room
    own = batch.start[:, None] + columns
    return within(torch.arange(n_keys, device=own.device), own[:, None, :, None], window)


def within(keys: Int[Tensor, "..."], queries: Int[Tensor, "..."], window: Window) -> Bool[Tensor, "..."]:
    """Whether a key lies at or before the query, and inside its window."""
    seen = keys <= queries
    if isinstance(window, Chunk):
        return seen & (keys // window.size == queries // window.size)
    return seen if window is None else seen & (keys > queries - window)


def fused(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch _ key_pos d_head"],
    v: Float[Tensor, "batch _ key_pos d_value"],
    scale: float,
) -> Float[Tensor, "batch head query_pos d_value"]:
    """The mixed values where the causal pattern is all there is."""
    if q.is_cuda and q.dtype == torch.float32:  # CUDA's fast kernel for it takes no groups
        k, v = per_head(k, q.shape[1]), per_head(v, q.shape[1])
    grouped = k.shape[1] != q.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, scale=scale, enable_gqa=grouped)


def masked(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch _ key_pos d_head"],
    v: Float[Tensor, "batch _ key_pos d_value"],
    scale: float,
    edges: Bool[Tensor, "_ _ query_pos key_pos"],
    bias: Float[Tensor, "_ _ _ key_pos"] | None = None,
) -> Float[Tensor, "batch head query_pos d_value"]:
    """The mixed values over the open edges, still in one kernel; ``bias`` is added to scores."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and q.shape[2] == 1 and edges.shape[1] == 1 and bias is None:
        # one query of each head of a group is as many queries of its key head: no key is repeated
        z = masked(q.reshape(len(q), k.shape[1], groups, -1), k, v, scale, edges.expand(-1, -1, groups, -1))
        return z.reshape(len(q), q.shape[1], 1, -1)
    if q.is_cuda:  # with a mask, CUDA's fast kernels take no groups
        k, v = per_head(k, q.shape[1]), per_head(v, q.shape[1])
    # kernels differ on a query without keys: it gets all keys here, and its output is taken away
    blocked = ~edges.any(-1, keepdim=True)
    grouped = k.shape[1] != q.shape[1]
    mask = edges | blocked
    mask = mask if bias is None else torch.where(mask, bias, -math.inf)
    z = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return z.masked_fill(blocked, 0.0)


def explicit(
    q: Float[Tensor, "batch head query_pos d_head"],
    k: Float[Tensor, "batch _ key_pos d_head"],
    v: Float[Tensor, "batch _ key_pos d_value"],
    scale: float,
    edges: Bool[Tensor, "_ _ query_pos key_pos"],
    tap: Tap,
    softcap: float | None = None,
    bias: Float[Tensor, "_ _ _ key_pos"] | None = None,
    sinks: Float[Tensor, "head"] | None = None,
) -> Float[Tensor, "batch head query_pos d_value"]:
    """The mixed values, with scores and pattern offered on the way; scores are biased and squeezed below ``softcap``.

    A head's sink is one more score without a value: it takes its share of the softmax.

    Source: transformers 5.24, modeling_llama.py and modeling_gemma2.py, eager_attention_forward: scores in the model's
    dtype, cap before mask, softmax in float32, pattern in the model's dtype.
    """
    k, v = per_head(k, q.shape[1]), per_head(v, q.shape[1])
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(scale)
    if bias is not None:
        scores = scores.add_(bias)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = tap("attn.hook_attn_scores", scores.masked_fill_(~edges, -math.inf))
    if sinks is not None:
        return torch.matmul(tap("attn.hook_pattern", beside_sinks(scores, sinks, tap).to(v.dtype)), v)
    wide = torch.promote_types(scores.dtype, torch.float32)
    if tap.cut_edges() is None and not tap.edits("attn.hook_attn_scores"):
        pattern = torch.softmax(scores, -1, dtype=wide)  # every query sees itself
    else:
        pattern = softmax_of_some(scores, wide)
    return torch.matmul(tap("attn.hook_pattern", pattern.to(v.dtype)), v)


def softmax_of_some(
    scores: Float[Tensor, "batch head query_pos key_pos"], dtype: torch.dtype
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """The softmax; zeros where a query has no key: a softmax over nothing but -inf is NaN, and so is its gradient."""
    blocked = scores.isneginf().all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(blocked, 0.0), -1, dtype=dtype).masked_fill(blocked, 0.0)


def beside_sinks(
    scores: Float[Tensor, "batch head query_pos key_pos"], sinks: Float[Tensor, "head"], tap: Tap
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """The pattern that sinks leave: the softmax over a query's scores and its head's sink, without the sink's share.

    Source: Xiao et al. 2023, arXiv:2309.17453; transformers 5.24, modeling_gpt_oss.py, eager_attention_forward: in the
    model's dtype, the largest taken off first.
    """
    every = torch.cat((scores, sinks[:, None, None].expand(*scores.shape[:3], 1)), -1)
    shares = torch.softmax(every - every.amax(-1, keepdim=True), -1)
    seen = tap("attn.hook_sink", shares[..., -1])
    if not tap.edits("attn.hook_sink"):
        return shares[..., :-1]
    return softmax_of_some(scores, scores.dtype) * (1 - seen[..., None])
