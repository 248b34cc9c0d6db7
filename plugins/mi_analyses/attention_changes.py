"""What another query or key does to a softmax: patterns computed anew, in place of their gradients.

Where attention is saturated the gradient of the softmax is next to nothing, and so is every first-order estimate that
goes through it. The softmax itself costs little.

Source: Kramar et al. 2024, "AtP*: An efficient and scalable method for localizing LLM behaviour to components"
(arXiv:2403.00745), section 3.1.1 (the QK fix).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.first_order import Comparison, Gradients
from mi_core.names import Point

__all__ = ["KEYS", "QUERIES", "effects_of_keys", "effects_of_queries", "patterns_anew"]

QUERIES = ("attn.hook_q", "attn.hook_q_normed", "attn.hook_rot_q")
KEYS = ("attn.hook_k", "attn.hook_k_normed", "attn.hook_rot_k", "attn.hook_k_per_head")
ROUNDING = 1e-5
LARGEST = 80.0
"""What a score changes by is cut here: its exponential is all or nothing then."""

Edges = Float[Tensor, "batch head query_pos key_pos"]
KeyEdges = Float[Tensor, "batch kv_head query_pos key_pos"]


def patterns_anew(compared: Comparison, under: mi.Run, given: mi.Run, points: Sequence[Point]) -> mi.Run:
    """Every layer on the base run's own stream, with the source run's queries or keys at all positions.

    Each query's pattern is then what it is if that query alone is patched; each score is that of one patched key.
    """
    streams = mi.intervene("blocks.*.hook_resid_pre", mi.Replace(under))
    patched = mi.intervene([point.name for point in points], mi.Replace(given))
    reads = mi.capture([name for point in points for name in edges_of(point)])
    spec = compared.base.spec + streams + patched + reads
    return compared.model.run(compared.base.inputs, spec, logits=None, **compared.options)


def edges_of(point: Point) -> tuple[str, str]:
    """The pattern and the scores that a query or key is for."""
    return f"blocks.{point.layer}.attn.hook_pattern", f"blocks.{point.layer}.attn.hook_attn_scores"


def effects_of_queries(under: mi.Run, anew: mi.Run, gradients: Gradients, point: Point) -> Edges:
    """What each query does by way of each key that it sees."""
    pattern, _ = edges_of(point)
    return (anew[pattern] - under[pattern].detach()).float() * gradients[pattern].float()


def effects_of_keys(under: mi.Run, anew: mi.Run, gradients: Gradients, point: Point) -> KeyEdges:
    """What each key does by way of each query that sees it.

    If the score of key ``j`` goes up by ``d``, its weight ``p`` becomes ``p exp(d) / r`` and all others are divided by
    ``r = (1 - p) + p exp(d)``. With ``g`` the gradient at the weights, the change is
    ``p (exp(d) - 1) / r`` times ``(1 - p) g_j`` less the sum of ``p g`` over the others.
    """
    pattern, scores = edges_of(point)
    # a run shows zeros at pads, where no score is
    pads = ~under.mask[:, None, None].to(under[scores].device)
    before = under[scores].detach().double().masked_fill(pads, -torch.inf)
    weight = before.softmax(-1).nan_to_num(nan=0.0)
    # sinks take their share of every weight; rounding is no sink
    share = under[pattern].detach().double().sum(-1, keepdim=True)
    weight = weight * torch.where(share > 1 - ROUNDING, 1.0, share)
    rise = (anew[scores].double() - before).nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST)
    gradient = gradients[pattern].double()
    rest, others = beside(weight, torch.where(share > 1 - ROUNDING, 0.0, 1 - share), gradient)
    effect = (rest * gradient - others) * weight * torch.expm1(rise) / (rest + weight * rise.exp())
    return by_group(effect.float(), point.site.sizes.get("kv_head"))


def beside(weight: Edges, sink: Tensor, gradient: Edges) -> tuple[Edges, Edges]:
    """For each key, the weight of all others with the sink's, and their weights times gradients.

    Beside the largest weight they are summed, not subtracted: next to a weight of almost 1 nothing else would be left.
    """
    top = weight.argmax(-1, keepdim=True)
    lesser = weight.scatter(-1, top, 0.0)
    products = weight * gradient
    rest = (1 - weight).scatter(-1, top, lesser.sum(-1, keepdim=True) + sink)
    others = (products.sum(-1, keepdim=True) - products).scatter(-1, top, (lesser * gradient).sum(-1, keepdim=True))
    return rest, others


def by_group(effect: Edges, kv_heads: int | None) -> KeyEdges:
    """Summed over the query heads that share a key, where they do."""
    if kv_heads is None or effect.shape[1] == kv_heads:
        return effect
    rows, _, queries, keys = effect.shape
    return effect.reshape(rows, kv_heads, -1, queries, keys).sum(2)
