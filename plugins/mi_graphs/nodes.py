"""What an attribution graph is drawn between: features, reconstruction errors, tokens and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ERROR", "FEATURE", "KINDS", "LOGIT", "TOKEN", "Node"]

FEATURE: Final = "feature"
ERROR: Final = "error"
TOKEN: Final = "token"
LOGIT: Final = "logit"
KINDS: Final = (FEATURE, ERROR, TOKEN, LOGIT)
"""In the order in which a graph has them."""


@dataclass(frozen=True, order=True)
class Node:
    """One node.

    >>> Node("feature", 2, 5, 107).id, Node("error", 2, 5).id, Node("token", -1, 5, 300).id
    ('2_107_5', '2_-1_5', 'E_300_5')
    """

    kind: str
    layer: int
    """Of a token -1; of a logit one more than the model's layers."""
    pos: int
    number: int = -1
    """Which feature of its layer, or which token of the vocabulary; -1 of an error."""

    @property
    def id(self) -> str:
        """Its name in files.

        Source: circuit-tracer, frontend/graph_models.py, ``Node``; before its issue 78 was mended errors were called
        ``0_LAYER_POS``, as a feature of layer 0 may be.
        """
        return f"{'E' if self.kind == TOKEN else self.layer}_{self.number}_{self.pos}"
