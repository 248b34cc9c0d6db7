"""The sizes and habits of a model under the names that ``model.cfg`` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from mi_core.compat.transformer_lens.norms import norm_kind
from mi_core.model import Model

__all__ = ["HookedTransformerConfig"]


@dataclass
class HookedTransformerConfig:
    """What ``model.cfg`` tells. None where the model has no such thing, or where its layers differ."""

    model_name: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int | None
    n_heads: int | None
    n_key_value_heads: int | None
    d_head: int | None
    d_mlp: int | None
    normalization_type: str | None
    """``"LN"`` or ``"RMS"``: of the final norm."""
    gated_mlp: bool
    parallel_attn_mlp: bool
    device: torch.device
    dtype: torch.dtype
    default_prepend_bos: bool = True
    """Whether texts get the begin-of-text token, where the tokenizer has one and the call does not say."""
    on_demand: set[str] = field(default_factory=set, repr=False)
    """Sites that filters and whole caches have beside the others: ``attn.hook_result``, ..."""

    @property
    def d_vocab_out(self) -> int:
        """Logits: as many as tokens."""
        return self.d_vocab

    @property
    def attn_only(self) -> bool:
        """Whether it has no MLPs."""
        return self.d_mlp is None

    @classmethod
    def of(cls, model: Model, default_prepend_bos: bool) -> HookedTransformerConfig:
        """What a model's sites and shape say."""
        queries, keys, neurons = (sizes(model, site) for site in ("attn.hook_q", "attn.hook_k", "mlp.hook_post"))
        return cls(
            model_name=model.provenance.ref,
            n_layers=model.shape.n_layers,
            d_model=model.shape.d_model,
            d_vocab=model.shape.d_vocab,
            n_ctx=model.shape.n_ctx,
            n_heads=queries.get("head"),
            n_key_value_heads=keys.get("kv_head"),
            d_head=queries.get("d_head"),
            d_mlp=neurons.get("d_mlp"),
            normalization_type=norm_kind(model),
            gated_mlp=bool(sizes(model, "mlp.hook_pre_linear")),
            parallel_attn_mlp=any(rule.kind == "parallel" for rule in model.shape.residual),
            device=model.device,
            dtype=model.dtype,
            default_prepend_bos=default_prepend_bos,
        )


def sizes(model: Model, name: str) -> Mapping[str, int]:
    """The sizes of a site that are the same in all layers that have it."""
    groups = [site.sizes for site in model.backend.sites() if site.name == name]
    return {
        dim: size
        for dim, size in (groups[0] if groups else {}).items()
        if all(each.get(dim) == size for each in groups)
    }
