"""Backends with experts or sinks that are broken on purpose, for the checks that only those models have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from wrapped_backends import Wrapped

MIXTURE: dict[str, Any] = {
    "model_type": "qwen2_moe",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 24,
    "mlp_only_layers": [0],
    "max_position_embeddings": 64,
}

SINKS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "max_position_embeddings": 64,
}


class WrappedMixture(Wrapped):
    """Around a correct Qwen 2 with experts; as it is, it changes nothing."""

    config = MIXTURE


class WrappedSinks(Wrapped):
    """Around a correct gpt-oss; as it is, it changes nothing."""

    config = SINKS


class ShowsExpertsInAnotherOrder(WrappedMixture):
    site = "mlp.experts.hook_out"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.flip(2)).flip(2)


class ForgetsTheSharedExpert(WrappedMixture):
    site = "mlp.shared.hook_gate"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value) * 0


class RoutesByWhatWasThere(WrappedMixture):
    site = "mlp.hook_router_logits"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        tap(name, value)
        return value


class CallsOnlyWhomTheRouterChose(WrappedMixture):
    site = "mlp.hook_expert_weights"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return torch.where(value == 0, value, tap(name, value))


class ShowsWhereSinksTakeNothing(WrappedSinks):
    site = "attn.hook_sink"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        tap(name, value)
        return value
