"""AlgZoo's transformers as a family: ``model_type: algzoo_transformer``, and the published files without a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mi_algzoo.transformer import AttentionOnly
from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_core.tensors import TensorIndex

__all__ = ["mi_config", "mi_family", "mi_family_examples"]

OUTSIDE: Final = {"embedding": "embed.weight", "positions": "pos_embed.weight", "unembedding": "unembed.weight"}
INERT: Final = {"task": "what the model was trained on"}


@hookimpl
def mi_family(config: Config) -> Blueprint:
    """``hidden_size``, ``num_layers``, ``seq_len``, and the ``input_range`` below which tokens and answers lie."""
    d_model, n_layers = config.size("hidden_size"), config.size("num_layers", default=2)
    n_ctx = config.size("seq_len")
    size = config.size("input_range", default=n_ctx)
    weights = {ours: Weight.of(theirs) for ours, theirs in OUTSIDE.items()}
    for index in range(n_layers):
        weights[f"layers.{index}.in_proj"] = Weight.of(f"attns.{index}.in_proj_weight")
        weights[f"layers.{index}.out_proj"] = Weight.of(f"attns.{index}.out_proj.weight")
    return Blueprint(backend=lambda: AttentionOnly(d_model, n_layers, n_ctx, size), weights=weights, inert=INERT)


@hookimpl
def mi_config(tensors: TensorIndex) -> Mapping[str, Any] | None:
    """Of a published file: sizes from the shapes."""
    n_layers = sum(name.endswith(".in_proj_weight") for name in tensors)
    if not n_layers or not set(OUTSIDE.values()) <= set(tensors):
        return None
    size, hidden = tensors[OUTSIDE["embedding"]].shape
    return {
        "model_type": "algzoo_transformer",
        "hidden_size": hidden,
        "num_layers": n_layers,
        "seq_len": tensors[OUTSIDE["positions"]].shape[0],
        "input_range": size,
    }


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published, and with more layers and another range."""
    tiny = {"model_type": "algzoo_transformer", "hidden_size": 64, "seq_len": 4}
    return tiny, tiny | {"num_layers": 1, "input_range": 9, "seq_len": 6}
