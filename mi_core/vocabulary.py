"""The one table of standard sites: name, dimensions and meaning, the same on every architecture.

A backend lists its sites with :func:`site`, which takes everything but sizes and layers from here. A plugin may
declare sites of its own; it may not give a standard name another meaning (the kit checks the dims).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mi_core.protocols import Site

__all__ = ["ACCEPTED_DIMS", "LOOKALIKES", "STANDARD", "TOLD_DIMS", "Standard", "site"]

EMBEDDING = ("batch", "pos", "d_model")
NORM_SCALE = ("batch", "pos", "one")
HEADS = ("batch", "pos", "head", "d_head")
KV_HEADS = ("batch", "pos", "kv_head", "d_head")
COPIES = ("batch", "pos", "head", "d_model")
KV_COPIES = ("batch", "pos", "kv_head", "d_model")
EDGES = ("batch", "head", "query_pos", "key_pos")
NEURONS = ("batch", "pos", "d_mlp")
LOGITS = ("batch", "pos", "d_vocab")
EXPERTS = ("batch", "pos", "expert")
SLOTS = ("batch", "pos", "slot")


@dataclass(frozen=True)
class Standard:
    """One row of the table."""

    dims: tuple[str, ...]
    meaning: str
    in_layer: bool = True
    replaces_kernel: bool = False
    on_demand: bool = False
    keeps_masked: bool = False
    read_only: str = ""


def norm(where: str) -> dict[str, Standard]:
    """The two sites of the norm called ``where``."""
    layer = where not in ("embed_norm", "ln_final")
    return {
        f"{where}.hook_scale": Standard(
            NORM_SCALE, "the norm's denominator; write it to freeze the norm", layer, replaces_kernel=True
        ),
        f"{where}.hook_normalized": Standard(
            EMBEDDING, "the norm's output before gain and bias", layer, replaces_kernel=True
        ),
    }


STANDARD: Mapping[str, Standard] = {
    "embed_norm.hook_in": Standard(EMBEDDING, "the token embedding, before its norm", False),
    **norm("embed_norm"),
    "hook_embed": Standard(EMBEDDING, "what the token embedding puts on the stream, after its scaling or norm", False),
    "hook_pos_embed": Standard(EMBEDDING, "what the position embedding puts on the stream", False),
    "hook_resid_pre": Standard(EMBEDDING, "the stream before the layer"),
    "hook_attn_in": Standard(
        COPIES, "each head's own copy of the stream, before the norm; its query, key and value read it", on_demand=True
    ),
    "hook_q_input": Standard(COPIES, "what each query alone reads of the stream, before the norm", on_demand=True),
    "hook_k_input": Standard(KV_COPIES, "what each key alone reads of the stream, before the norm", on_demand=True),
    "hook_v_input": Standard(KV_COPIES, "what each value alone reads of the stream, before the norm", on_demand=True),
    **norm("ln1"),
    "attn.hook_in": Standard(EMBEDDING, "what the mixer reads: after gain and bias of its norm"),
    "attn.hook_q_latent": Standard(
        ("batch", "pos", "q_rank"), "the latent that queries are made of: after its norm, exactly what W_UQ multiplies"
    ),
    "attn.hook_kv_latent": Standard(
        ("batch", "pos", "kv_rank"),
        "the latent that keys and values are made of: after its norm, exactly what W_UK and W_UV multiply",
    ),
    "attn.hook_q": Standard(HEADS, "queries: the projection with bias, before query norm and rotary"),
    "attn.hook_k": Standard(KV_HEADS, "keys: the projection with bias, before key norm and rotary"),
    "attn.hook_v": Standard(KV_HEADS, "values: the projection with bias"),
    "attn.hook_q_clipped": Standard(HEADS, "queries cut off at the model's largest absolute value"),
    "attn.hook_k_clipped": Standard(KV_HEADS, "keys cut off at the model's largest absolute value"),
    "attn.hook_q_normed": Standard(HEADS, "queries after the query norm"),
    "attn.hook_k_normed": Standard(KV_HEADS, "keys after the key norm"),
    "attn.hook_rot_q": Standard(HEADS, "queries as the dot product sees them: after norm and rotary"),
    "attn.hook_rot_k": Standard(KV_HEADS, "keys as the dot product sees them: after norm and rotary"),
    "attn.hook_v_clipped": Standard(KV_HEADS, "values cut off at the model's largest absolute value"),
    "attn.hook_v_scaled": Standard(KV_HEADS, "values times the model's factor"),
    "attn.hook_v_normed": Standard(KV_HEADS, "values after the value norm"),
    "attn.hook_k_per_head": Standard(
        HEADS, "the key that each query head receives; a write reaches that head alone", on_demand=True
    ),
    "attn.hook_v_per_head": Standard(
        HEADS, "the value that each query head receives; a write reaches that head alone", on_demand=True
    ),
    "attn.hook_attn_scores": Standard(
        EDGES,
        "what softmax receives for the keys: scaled, biased, soft-capped, masked; a masked entry stays -inf",
        replaces_kernel=True,
        keeps_masked=True,
    ),
    "attn.hook_sink": Standard(
        ("batch", "head", "query_pos"), "the share of attention that sinks take", replaces_kernel=True
    ),
    "attn.hook_pattern": Standard(
        EDGES, "what multiplies the values; rows of real tokens sum to one (less the sink)", replaces_kernel=True
    ),
    "attn.hook_z_ungated": Standard(HEADS, "the mixed values, before an output gate or sub-norm"),
    "attn.hook_z_gate": Standard(
        HEADS, "what an output gate multiplies the mixed values by; one for each head where d_head is 1"
    ),
    "attn.hook_z": Standard(HEADS, "the mixed values: exactly what W_O multiplies"),
    "attn.hook_result": Standard(
        COPIES,
        "what each head writes; with b_O it sums to attn.hook_out",
        on_demand=True,
    ),
    "attn.hook_out": Standard(EMBEDDING, "the mixer's own output, before any post-norm or multiplier"),
    **norm("ln1_post"),
    "hook_attn_out": Standard(EMBEDDING, "what the mixer adds to the stream"),
    "hook_resid_mid": Standard(EMBEDDING, "the stream between mixer and channel part"),
    "hook_mlp_in": Standard(
        EMBEDDING, "what the channel part alone reads of the stream, before its norm", on_demand=True
    ),
    **norm("ln2"),
    "mlp.hook_in": Standard(EMBEDDING, "what the channel part reads: after gain and bias of its norm"),
    "mlp.hook_pre": Standard(NEURONS, "the (gate's) pre-activation"),
    "mlp.hook_pre_linear": Standard(NEURONS, "the linear branch of a gated MLP"),
    "mlp.hook_post": Standard(NEURONS, "neurons: exactly what W_out multiplies"),
    "mlp.hook_router_logits": Standard(EXPERTS, "the router's, before softmax, bias and groups; a write re-routes"),
    "mlp.hook_expert_weights": Standard(
        EXPERTS, "what multiplies experts' outputs: zero where not chosen; a write to a zero computes that expert"
    ),
    "mlp.hook_expert_input_weights": Standard(
        EXPERTS, "what multiplies experts' inputs: zero where not chosen; a write to a zero computes that expert"
    ),
    "mlp.hook_expert_indices": Standard(
        SLOTS, "the chosen experts, the best first", read_only="it tells what the router chose; write its logits"
    ),
    "mlp.experts.hook_pre": Standard((*SLOTS, "d_mlp"), "each chosen expert's gate pre-activation"),
    "mlp.experts.hook_pre_linear": Standard((*SLOTS, "d_mlp"), "each chosen expert's linear branch"),
    "mlp.experts.hook_post": Standard((*SLOTS, "d_mlp"), "each chosen expert's neurons: what its W_out multiplies"),
    "mlp.experts.hook_out": Standard((*SLOTS, "d_model"), "what each chosen expert writes, before its weight"),
    "mlp.shared.hook_in": Standard(EMBEDDING, "what the shared expert reads"),
    "mlp.shared.hook_pre": Standard(NEURONS, "the shared expert's gate pre-activation"),
    "mlp.shared.hook_pre_linear": Standard(NEURONS, "the shared expert's linear branch"),
    "mlp.shared.hook_post": Standard(NEURONS, "the shared expert's neurons: exactly what its W_out multiplies"),
    "mlp.shared.hook_out": Standard(EMBEDDING, "what the shared expert writes, before its gate"),
    "mlp.shared.hook_gate": Standard(NORM_SCALE, "what multiplies the shared expert's output"),
    "mlp.hook_out": Standard(EMBEDDING, "the channel part's own output, before any post-norm or multiplier"),
    **norm("ln2_post"),
    "hook_mlp_out": Standard(EMBEDDING, "what the channel part adds to the stream"),
    "hook_resid_post": Standard(EMBEDDING, "the stream after the layer"),
    **norm("ln_final"),
    "unembed.hook_in": Standard(EMBEDDING, "what W_U multiplies", False),
    "unembed.hook_out": Standard(LOGITS, "logits before soft-cap and scale; attributions close here", False),
    "hook_logits": Standard(LOGITS, "what the model returns", False),
}
"""Every standard site in firing order (recurrent mixers declare theirs with their engine)."""

ACCEPTED_DIMS: Mapping[str, str] = {"head": "kv_head"}
"""A selector over the first dim is accepted for the second where both have as many."""

TOLD_DIMS: Mapping[str, tuple[str, str]] = {"expert": ("slot", "mlp.hook_expert_indices")}
"""A selector over the first dim is accepted where the second holds entries of it, which the named site tells."""

LOOKALIKES: Sequence[tuple[str, str, str]] = (
    ("attn.hook_out", "hook_attn_out", "the part's own output / what is added to the stream"),
    ("mlp.hook_out", "hook_mlp_out", "the part's own output / what is added to the stream"),
    ("attn.hook_in", "hook_attn_in", "what all heads read, after the norm / each head's own copy, before the norm"),
    ("mlp.hook_in", "hook_mlp_in", "after the norm / before the norm, apart from the stream"),
    ("attn.hook_in", "ln1.hook_normalized", "after gain and bias / before gain and bias"),
    ("mlp.hook_in", "ln2.hook_normalized", "after gain and bias / before gain and bias"),
    ("unembed.hook_in", "ln_final.hook_normalized", "after gain and bias / before gain and bias"),
    ("unembed.hook_out", "hook_logits", "before soft-cap and scale / what the model returns"),
    ("hook_resid_post", "hook_resid_pre", "the stream after the layer / the same one layer on, tapped later"),
    ("attn.hook_q", "attn.hook_rot_q", "before query norm and rotary / what the dot product sees"),
    ("attn.hook_k", "attn.hook_rot_k", "before key norm and rotary / what the dot product sees"),
)
"""Names that look alike, and what tells them apart."""

CLOSED = -math.inf
"""The value that marks a closed entry at sites that keep their mask."""


def site(name: str, layers: Sequence[int] | None = None, **sizes: int) -> Site:
    """The standard site ``name`` of a model: sizes for the dims that the model fixes, and the layers that have it.

    >>> site("attn.hook_q", range(2), head=4, d_head=8).dims
    ('batch', 'pos', 'head', 'd_head')
    """
    row = STANDARD[name]
    return Site(
        name=name,
        dims=row.dims,
        sizes={"one": 1, **sizes} if "one" in row.dims else sizes,
        layers=tuple(layers) if layers is not None else None,
        meaning=row.meaning,
        read_only=row.read_only,
        replaces_kernel=row.replaces_kernel,
        on_demand=row.on_demand,
        keeps_masked=row.keeps_masked,
    )
