"""The sites of attention: which there are follows from what its description has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mi_core.protocols import Site
from mi_core.vocabulary import site

if TYPE_CHECKING:
    from mi_decoder.attention import Attention

__all__ = ["attention_sites"]


def attention_sites(spec: Attention, d_model: int, *, turned: bool) -> Sequence[Site]:
    """Everything from the input to the output, in firing order; ``turned``: whether positions are rotary."""
    d_value = spec.d_value or spec.d_head
    per_query = {"head": spec.n_heads, "d_head": spec.d_head}
    # with the number of query heads, for the error that tells which of them read a key head
    per_key = {"kv_head": spec.n_kv_heads, "d_head": spec.d_head, "head": spec.n_heads}
    per_value, mixed = {**per_key, "d_head": d_value}, {**per_query, "d_head": d_value}

    def both(there: bool, query: str, key: str) -> tuple[Site, ...]:
        return (site(query, None, **per_query), site(key, None, **per_key)) if there else ()

    normed = both(spec.qk_norm is not None, "attn.hook_q_normed", "attn.hook_k_normed")
    clipped = both(spec.clip is not None, "attn.hook_q_clipped", "attn.hook_k_clipped")
    gate = None if spec.gate is None else spec.gate.width(d_value)
    return (
        site("attn.hook_in", d_model=d_model),
        site("attn.hook_q", None, **per_query),
        site("attn.hook_k", None, **per_key),
        site("attn.hook_v", None, **per_value),
        *((*normed, *clipped) if spec.clip_normed else (*clipped, *normed)),
        *both(turned or spec.temperature is not None, "attn.hook_rot_q", "attn.hook_rot_k"),
        *(() if spec.clip is None else (site("attn.hook_v_clipped", None, **per_value),)),
        *(() if spec.values is None else (site(spec.values.site, None, **per_value),)),
        site("attn.hook_k_per_head", None, **per_query),
        site("attn.hook_v_per_head", None, **mixed),
        site("attn.hook_attn_scores", head=spec.n_heads),
        *((site("attn.hook_sink", head=spec.n_heads),) if spec.sinks else ()),
        site("attn.hook_pattern", head=spec.n_heads),
        *(() if spec.z_norm is None and gate is None else (site("attn.hook_z_ungated", None, **mixed),)),
        *(() if gate is None else (site("attn.hook_z_gate", None, head=spec.n_heads, d_head=gate),)),
        site("attn.hook_z", None, **mixed),
        site("attn.hook_result", head=spec.n_heads, d_model=d_model),
        site("attn.hook_out", d_model=d_model),
    )
