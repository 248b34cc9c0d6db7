"""The sizes and habits of a model under the names that ``model.cfg`` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from mi_core.compat.transformer_lens.norms import norm_kind
from mi_core.model import Model

__all__ = ["HookedTransformerConfig"]

UNSET = -1
OURS = ("dtype", "on_demand")
"""Fields that no file holds."""


@dataclass
class HookedTransformerConfig:
    """What ``model.cfg`` tells, and what a toy model is made from: ``HookedTransformer(HookedTransformerConfig(...))``.

    Of a model that was loaded, a field is None where the model has no such thing, where its layers differ, or where
    only its own config says it (``eps``).

    >>> cfg = HookedTransformerConfig(n_layers=1, d_model=32, n_ctx=16, d_head=8, d_vocab=10, act_fn="relu")
    >>> cfg.n_heads, cfg.d_mlp, cfg.d_vocab_out, round(cfg.initializer_range, 3)
    (4, 128, 10, 0.141)

    Source: TransformerLens 3.9, HookedTransformerConfig (names, defaults, and what is made of them).
    """

    d_model: int
    d_head: int | None
    n_layers: int
    n_ctx: int | None
    n_heads: int | None = UNSET
    d_mlp: int | None = None
    d_vocab: int = UNSET
    device: Any = None
    default_prepend_bos: bool = True
    """Whether texts get the begin-of-text token, where the tokenizer has one and the call does not say."""
    positional_embedding_type: str | None = "standard"
    n_key_value_heads: int | None = None
    attn_only: bool = False
    gated_mlp: bool = False
    eps: float | None = 1e-5
    act_fn: str | None = "relu"
    normalization_type: str | None = "LN"
    """``"LN"`` or ``"RMS"``, ``"LNPre"`` or ``"RMSPre"`` without gains; of a loaded model, of its final norm."""
    final_rms: bool = False
    dtype: torch.dtype = torch.float32
    model_name: str = "custom"
    use_attn_scale: bool = True
    attn_scale: float | None = float(UNSET)
    scale_attn_by_inverse_layer_idx: bool = False
    use_local_attn: bool = False
    window_size: int | None = None
    attn_types: list[str] | None = None
    attention_dir: str = "causal"
    attn_scores_soft_cap: float = float(UNSET)
    output_logits_soft_cap: float = float(UNSET)
    parallel_attn_mlp: bool = False
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    rotary_adjacent_pairs: bool = False
    d_vocab_out: int = UNSET
    clip_qkv: float | None = None
    init_mode: str | None = None
    """None: normal with ``initializer_range``, biases zero, the only way that there is."""
    init_weights: bool = True
    initializer_range: float = float(UNSET)
    seed: int | None = None
    tokenizer_name: str | None = None
    original_architecture: str | None = None
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False
    on_demand: set[str] = field(default_factory=set, repr=False)
    """Sites that filters and whole caches have beside the others: ``attn.hook_result``, ..."""

    def __post_init__(self) -> None:
        if self.n_heads == UNSET and self.d_head:
            self.n_heads = self.d_model // self.d_head
        if self.d_mlp is None and not self.attn_only:
            self.d_mlp = 4 * self.d_model
        if self.initializer_range == UNSET:
            self.initializer_range = 0.8 * self.d_model**-0.5
        if self.attn_scale == UNSET and self.use_attn_scale and self.d_head:
            self.attn_scale = self.d_head**0.5
        if self.positional_embedding_type == "rotary" and self.rotary_dim is None:
            self.rotary_dim = self.d_head
        self.d_vocab_out = self.d_vocab if self.d_vocab_out == UNSET else self.d_vocab_out

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> HookedTransformerConfig:
        """From a mapping; keys that are no fields are an error."""
        return cls(**config_dict)

    def to_dict(self) -> dict[str, Any]:
        """Every field."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def for_file(self) -> dict[str, Any]:
        """Every field that JSON can hold, as the family of toy models reads it."""
        found = {name: value for name, value in self.to_dict().items() if name not in OURS}
        return {**found, "device": None if self.device is None else str(self.device)}

    @classmethod
    def of(cls, model: Model, default_prepend_bos: bool) -> HookedTransformerConfig:
        """What a model's sites and shape say."""
        queries, keys, neurons = (sizes(model, site) for site in ("attn.hook_q", "attn.hook_k", "mlp.hook_post"))
        sites = {site.name for site in model.backend.sites()}
        made = cls(
            d_model=model.shape.d_model,
            d_head=queries.get("d_head"),
            n_layers=model.shape.n_layers,
            n_ctx=model.shape.n_ctx,
            n_heads=queries.get("head"),
            d_vocab=model.shape.d_vocab,
            device=model.device,
            default_prepend_bos=default_prepend_bos,
            positional_embedding_type=positions(sites),
            n_key_value_heads=keys.get("kv_head"),
            attn_only="hook_attn_out" in sites and "hook_mlp_out" not in sites,
            gated_mlp="mlp.hook_pre_linear" in sites,
            eps=None,
            act_fn=None,
            normalization_type=norm_kind(model),
            dtype=model.dtype,
            model_name=model.provenance.ref,
            attn_scale=None,
            parallel_attn_mlp=any(rule.kind == "parallel" for rule in model.shape.residual),
        )
        made.d_mlp = neurons.get("d_mlp")
        return made


def positions(sites: set[str]) -> str | None:
    """How a model with these sites knows where tokens stand, as far as sites tell."""
    if "attn.hook_rot_q" in sites:
        return "rotary"
    return "standard" if "hook_pos_embed" in sites else None


def sizes(model: Model, name: str) -> Mapping[str, int]:
    """The sizes of a site that are the same in all layers that have it."""
    groups = [site.sizes for site in model.backend.sites() if site.name == name]
    return {
        dim: size
        for dim, size in (groups[0] if groups else {}).items()
        if all(each.get(dim) == size for each in groups)
    }
