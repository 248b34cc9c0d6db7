"""What configs and checkpoints of state-space models share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mi_core.config import Config
from mi_recurrent.mamba import Mamba

__all__ = ["INERT", "MAMBA_NAMES", "SELECTIVE_NAMES", "selective"]

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


SELECTIVE_NAMES: Mapping[str, str] = {
    **MAMBA_NAMES,
    "layers.*.mixer.select": "backbone.layers.*.mixer.x_proj",
    "layers.*.mixer.step": "backbone.layers.*.mixer.dt_proj",
}
"""The same of the first version. Source: transformers 5.24, mamba."""


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
