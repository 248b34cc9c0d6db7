"""SAELens' architectures that have no encoder of their own: matching pursuit and temporal."""

from __future__ import annotations

import dataclasses
from typing import Any

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_dictionaries.matching_pursuit import MatchingPursuit
from mi_dictionaries.stored import Stored
from mi_dictionaries.temporal import Temporal, TemporalAttention
from mi_dictionaries.transforms import Scaled

__all__ = ["attention_layers", "matching_pursuit", "temporal"]


def matching_pursuit(config: Config, stored: Stored, frame: dict[str, Any]) -> MatchingPursuit:
    """Features are taken one by one; the bias is added only where it was subtracted."""
    stored.take("b_dec", "d_in")
    return MatchingPursuit(
        **frame,
        W_dec=stored.take("W_dec", "d_sae d_in"),
        b_dec=frame["b_in"],
        residual_threshold=config.number("residual_threshold", default=1e-2),
        max_iterations=config.size("max_iterations", default=None),
        stop_on_duplicate_support=config.flag("stop_on_duplicate_support", default=True),
    )


def temporal(config: Config, stored: Stored, frame: dict[str, Any]) -> Temporal:
    """Attention over codes, then the codes of what it leaves."""
    tied = config.flag("tied_weights", default=True)
    if config.get("normalize_activations") == "constant_scalar_rescale":
        factor = config.number("activation_normalization_factor")
        frame["transforms"] = (*frame["transforms"], Scaled(factor))
        said = (*frame["about"].conventions, f"activations times {factor:.6g}")
        frame["about"] = dataclasses.replace(frame["about"], conventions=said)
    else:
        config.get("activation_normalization_factor")
    W_dec = stored.take("W_dec", "d_sae d_in")
    bias = frame["b_in"] if frame["b_in"] is not None else stored.take("b_dec", "d_in")
    return Temporal(
        **frame,
        W_dec=W_dec,
        W_enc=None if tied else stored.take("W_enc", "d_in d_sae"),
        b_dec=bias if not tied or frame["b_in"] is not None else None,
        attention=attention_layers(config, stored),
        k=novel(config),
    )


def novel(config: Config) -> int | None:
    """How many novel codes a token has at most."""
    kind = config.choice("sae_diff_type", ["relu", "topk"], default="topk")
    k: int | None = config.size("kval_topk", default=None)
    return k if kind == "topk" else None


def attention_layers(config: Config, stored: Stored) -> tuple[TemporalAttention, ...]:
    """The layers that predict codes; biases are there in every layer."""
    n_heads, factor = config.size("n_heads", default=8), config.size("bottleneck_factor", default=64)
    found = []
    for layer in range(config.size("n_attn_layers", default=1)):
        parts = {}
        for name, out in (("k_ctx", "bottleneck"), ("q_target", "bottleneck"), ("v_ctx", "d_sae"), ("c_proj", "d_sae")):
            start = f"attn_layers.{layer}.{name}"
            parts[name] = (stored.take(f"{start}.weight", f"{out} d_sae"), stored.take(f"{start}.bias", out))
        found.append(TemporalAttention(n_heads=n_heads, **parts))
    stored.sizes.agree("bottleneck", stored.sizes["d_sae"] // factor, f"d_sae // bottleneck_factor ({factor})")
    if found and stored.sizes["bottleneck"] % n_heads:
        raise BadConfig(f"{config.where}: n_heads {n_heads} does not divide {stored.sizes['bottleneck']}.")
    return tuple(found)
