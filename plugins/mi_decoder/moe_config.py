"""What configs and checkpoints of mixtures of experts share."""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.config import Config
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.experts import Gated
from mi_decoder.translation import Source

__all__ = ["LEARNING_TO_ROUTE", "expert_names", "gate", "shared_names"]

LEARNING_TO_ROUTE: Mapping[str, str] = dict.fromkeys(
    (
        *("router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "output_router_logits"),
        *("router_jitter_noise", "input_jitter_noise", "ep_size"),
    ),
    "for training the router",
)
"""Config keys that change nothing of what a trained model computes."""


def gate(config: Config, key: str = "hidden_act", activation: str = "silu") -> Gated:
    """How an expert's neurons come from its two branches; ``activation`` where the key is absent."""
    return Gated(ACTIVATIONS[config.choice(key, ACTIVATIONS, default=activation)])


def expert_names(
    stem: str, *, gate: str = "gate_proj", linear: str = "up_proj", out: str = "down_proj"
) -> dict[str, Source]:
    """Where the experts' matrices lie in a checkpoint with modules for each expert: ``stem.5.gate_proj``."""
    ours = {"gate": gate, "in": linear, "out": out}
    return {f"layers.*.channel.experts.*.{name}": f"{stem}.*.{theirs}" for name, theirs in ours.items()}


def shared_names(stem: str) -> dict[str, Source]:
    """Where the shared expert's matrices lie."""
    ours = {"gate": "gate_proj", "in": "up_proj", "out": "down_proj"}
    return {f"layers.*.channel.shared.{name}": f"{stem}.{theirs}" for name, theirs in ours.items()}
