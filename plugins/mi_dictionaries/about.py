"""What is known of a dictionary beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["About"]


@dataclass(frozen=True)
class About:
    """Where does a dictionary come from, which conventions does it follow, and what looked odd in its files?"""

    format: str = "memory"
    model: str | None = None
    """The model that it was trained on, as its files name it."""
    conventions: tuple[str, ...] = ()
    """Sentences: what was applied to the stored numbers, and what happens to activations."""
    warnings: tuple[str, ...] = ()
    """Sentences: what contradicts the format's promises."""
    accepted: tuple[str, ...] = ()
    """Models that it was said to fit beside its own: `accepted_for`."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the files say: training data, context size, ..."""
