"""The families of the engine and their example configs, as the tests against the reference need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mi_core import plugins

FAMILIES = [
    name
    for name, distribution in plugins.names("mi_core.families").items()
    if distribution.startswith("mi-core")
    and not name.startswith("rwkv")  # recurrent models have their own references
    and not (Path(__file__).parent / "mi_families" / f"test_{name}.py").exists()
]
"""All of ours that have no tests of their own, which go further."""


def examples() -> Iterator[tuple[str, Mapping[str, Any]]]:
    ids = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id"))
    for family in FAMILIES:
        for index, config in enumerate(plugins.plugin("mi_core.families", family).call("mi_family_examples")):
            yield f"{family}-{index}", {**ids, **config}


EXAMPLES = dict(examples())
"""``"qwen2-0"`` -> the first example of ``qwen2``; without special tokens where it names none."""
MIXTURES = [name for name, config in EXAMPLES.items() if any("expert" in key for key in config)]


def attention(name: str) -> str:
    """Which of the reference's implementations is meant: with linear biases its eager code adds them twice."""
    return "sdpa" if EXAMPLES[name].get("alibi") else "eager"
