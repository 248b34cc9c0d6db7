"""The families of the engine and their example configs, as the tests against the reference need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_core import plugins

FAMILIES = [
    name
    for name, distribution in plugins.names("mi_core.families").items()
    if distribution.startswith("mi-core")
    and not name.startswith(("rwkv", "algzoo", "hooked_transformer"))  # these have their own references
    and not (Path(__file__).parent / "mi_families" / f"test_{name}.py").exists()
]
"""All of ours that have no tests of their own, which go further."""


def examples_of(family: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    ids = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id"))
    for index, config in enumerate(plugins.plugin("mi_core.families", family).call("mi_family_examples")):
        yield f"{family}-{index}", {**ids, **config}


EXAMPLES = {name: config for family in FAMILIES for name, config in examples_of(family)}
"""``"qwen2-0"`` -> the first example of ``qwen2``; without special tokens where it names none."""
MIXTURES = [
    name
    for name, config in EXAMPLES.items()
    if "expert" in repr(config) and config.get("num_local_experts") != 0  # which means a dense MLP
]
YOUNG = ("gemma4_text", "laguna", "mellum", "qwen3_5", "qwen3_5_moe")
"""Families whose configs were never spelled as transformers 4 spelled rotary positions."""
UNSHARED = ("granite_swa", "granitemoe_swa")
"""Families whose reference returns patterns before sinks have taken their share."""


NORMED_READINGS = ("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next")
"""Families whose heads' readings are normed once more, so that rounding of what nearly cancels grows with it:
differences are parts of the largest number there. In double precision they are held to what all others are."""


WITHOUT_ATTENTION = ("falcon_mamba", "mamba", "mamba2")
"""Families without a layer that has a pattern; what the reference lists of streams begins behind the first layer."""
LEAKING = ("falcon_mamba-1", "granitemoehybrid-1", "mamba-1", "mamba2-1")
"""Examples in which biases reach the reference's convolution at pads, so that pads on the left change its numbers."""


def scale_of(name: str, theirs: Tensor) -> float:
    """What a difference is a part of."""
    return max(1.0, theirs.abs().max().item()) if name.rpartition("-")[0] in NORMED_READINGS else 1.0


def listed_stream(name: str) -> str:
    """Which stream of a layer the reference lists."""
    return "hook_resid_post" if name.rpartition("-")[0] in WITHOUT_ATTENTION else "hook_resid_pre"


def attending(model: Any) -> list[int]:
    """The layers that have a pattern, as the reference lists them."""
    has = any(site.name == "attn.hook_pattern" for site in model.backend.sites())
    return [point.layer for point in model.hook_points("blocks.*.attn.hook_pattern")] if has else []


def attention(name: str) -> str:
    """Which of the reference's implementations is meant: with linear biases its eager code adds them twice."""
    return "sdpa" if EXAMPLES[name].get("alibi") else "eager"


def as_routed(name: str, logits: Tensor) -> Tensor:
    """Router logits as the reference returns them: squeezed, where it squeezes them."""
    cap = EXAMPLES[name].get("moe_router_logit_softcapping")
    return torch.tanh(logits / cap) * cap if cap else logits


def pattern_points(name: str) -> list[str]:
    """What must be captured to compare patterns; where there are none, what the recurrence reads."""
    if name.rpartition("-")[0] in WITHOUT_ATTENTION:
        return ["blocks.*.mixer.hook_wkv"]
    points = ["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_sink"]
    return points if name.rpartition("-")[0] in UNSHARED else points[:1]


def pattern_of(name: str, run: Any, layer: int) -> Tensor:
    """A layer's pattern as the reference returns it; a pad's shares are not looked at."""
    pattern: Tensor = run[f"blocks.{layer}.attn.hook_pattern"]
    if name.rpartition("-")[0] not in UNSHARED:
        return pattern
    left: Tensor = 1 - run[f"blocks.{layer}.attn.hook_sink"]
    return pattern / left[..., None]
