"""Layers in short: as a pattern takes them, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

__all__ = ["layer_words", "spans"]


def spans(layers: Iterable[int]) -> str:
    """Layers as a pattern takes them.

    >>> spans([2]), spans([0, 1, 2]), spans([0, 2, 3])
    ('2', '{0..2}', '{0,2..3}')
    """
    parts = [f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs(layers)]
    return parts[0] if len(parts) == 1 and ".." not in parts[0] else "{" + ",".join(parts) + "}"


def layer_words(layers: Sequence[int]) -> str:
    """Layers in words.

    >>> layer_words([2]), layer_words([0, 1, 2]), layer_words([0, 2, 3])
    ('layer 2', 'layers 0 to 2', 'layers 0, 2 to 3')
    """
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs(layers)]
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(parts)}"


def runs(layers: Iterable[int]) -> list[list[int]]:
    """Layers that follow each other, together."""
    return [[layer for _, layer in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
