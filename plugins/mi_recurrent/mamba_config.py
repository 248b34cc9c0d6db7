"""What configs and checkpoints of state-space models share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_recurrent.mamba import Mamba
from mi_recurrent.mamba2 import Mamba2

__all__ = ["INERT", "MAMBA_NAMES", "check_heads", "mamba2_names", "selective", "selective_names", "step_limits"]

ENDLESS = (None, "Infinity", "inf", {"__float__": "Infinity"})
"""How files spell that there is no limit. Source: transformers 5.24, PreTrainedConfig.to_json_string."""

INERT: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("time_step_min", "time_step_max", "time_step_floor", "time_step_init_scheme", "time_step_scale"),
            "rescale_prenorm_residual",
        ),
        "for fresh weights",
    ),
    **dict.fromkeys(
        ("use_mambapy", "use_falcon_mambapy", "use_associative_scan", "chunk_size"), "which kernel the reference uses"
    ),
}
"""Config keys that change nothing of what a trained model computes. Source: transformers 5.24, MambaConfig."""

MAMBA_NAMES: Mapping[str, str] = {
    "embed": "backbone.embeddings",
    "layers.*.ln1": "backbone.layers.*.norm",
    "layers.*.mixer.conv": "backbone.layers.*.mixer.conv1d",
    "layers.*.mixer.rate_weight": "backbone.layers.*.mixer.A_log",
    "layers.*.mixer.skip_weight": "backbone.layers.*.mixer.D",
    "layers.*.mixer.output": "backbone.layers.*.mixer.out_proj",
    "ln_final": "backbone.norm_f",
    "unembed": "lm_head",
}
"""Our modules -> the checkpoint's. Source: transformers 5.24, mamba and mamba2."""


def selective(config: Config, norm_eps: float | None = None) -> Mamba:
    """The first version's mixer. Source: transformers 5.24, MambaConfig."""
    d_model = config.size("hidden_size")
    config.choice("hidden_act", ("silu",), default="silu")
    config.get("intermediate_size")  # which the reference computes anew
    auto = config.get("time_step_rank", "auto") == "auto"
    return Mamba(
        d_inner=config.size("expand", default=2) * d_model,
        d_state=config.size("state_size", default=16),
        rank=math.ceil(d_model / 16) if auto else config.size("time_step_rank"),
        width=config.size("conv_kernel", default=4, at_least=2),
        bias=config.flag("use_bias", default=False),
        conv_bias=config.flag("use_conv_bias", default=True),
        norm_eps=norm_eps,
    )


def selective_names(mixer: Mamba) -> dict[str, Any]:
    """Our modules -> the checkpoint's, of the first version: the convolution's input and the gate lie in one.

    Source: transformers 5.24, MambaMixer.
    """
    stem = "backbone.layers.*.mixer"
    parts = {"inner": (0, mixer.d_inner), "output_gate": (mixer.d_inner, 2 * mixer.d_inner)}
    own = {"layers.*.mixer.select": f"{stem}.x_proj", "layers.*.mixer.step": f"{stem}.dt_proj"}
    return {**MAMBA_NAMES, **own, **parts_of(f"{stem}.in_proj", parts)}


def check_heads(config: Config, mixer: Mamba2, d_inner: int, key: str) -> None:
    """Refuse heads that do not fill the inner width, or that groups do not divide; ``key`` says how many there are.

    Raises:
        BadConfig: the message gives the numbers.
    """
    if mixer.n_heads * mixer.d_value != d_inner or mixer.n_heads % mixer.n_groups:
        raise BadConfig(
            f"{config.where}: {key!r} is {mixer.n_heads!r}: heads of {mixer.d_value} numbers must fill the inner width "
            f"of {d_inner}, and be a multiple of the {mixer.n_groups} groups.",
            path=config.where,
            key=key,
        )


def step_limits(config: Config) -> tuple[float, float]:
    """Between what Mamba-2's step sizes are kept.

    Raises:
        BadConfig: no pair of numbers, the smaller first.
    """
    found = config.get("time_step_limit", [0.0, math.inf])
    pair = [math.inf if limit in ENDLESS else limit for limit in found or ()]
    if len(pair) != 2 or not all(isinstance(limit, int | float) for limit in pair) or not pair[0] <= pair[1]:
        raise BadConfig(
            f"{config.where}: 'time_step_limit' is {found!r}, it must be two numbers, the smaller first.",
            path=config.where,
            key="time_step_limit",
        )
    return float(pair[0]), float(pair[1])


def mamba2_names(mixer: Mamba2, stem: str) -> dict[str, Any]:
    """Our modules -> those of a checkpoint that calls the mixer ``stem``: gate, convolution's input and step in one.

    Source: transformers 5.24, Mamba2Mixer.
    """
    d_inner = mixer.n_heads * mixer.d_value
    behind = 2 * d_inner + 2 * mixer.n_groups * mixer.d_state
    parts = {"output_gate": (0, d_inner), "inner": (d_inner, behind), "step": (behind, behind + mixer.n_heads)}
    own = {"conv": "conv1d", "rate_weight": "A_log", "skip_weight": "D", "decay_bias": "dt_bias", "norm": "norm"}
    names: dict[str, Any] = {f"layers.*.mixer.{name}": f"{stem}.{theirs}" for name, theirs in own.items()}
    names["layers.*.mixer.output"] = f"{stem}.out_proj"
    return names | parts_of(f"{stem}.in_proj", parts)


def parts_of(fused: str, parts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Modules that are rows of one of the checkpoint's."""
    return {f"layers.*.mixer.{name}": (fused, partial(rows, *between)) for name, between in parts.items()}


def rows(start: int, stop: int, stored: Tensor) -> Tensor:
    """Some rows of a matrix, or of its bias."""
    return stored[start:stop]
