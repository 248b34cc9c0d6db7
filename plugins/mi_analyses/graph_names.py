"""What nodes and edges of a model are called.

A node is ``embed``, ``L3H2`` (a head), ``attn 3`` (all heads of a layer as one), ``mlp 3``, ``resid 3`` (the whole
stream before a layer) or ``logits``. Where a head reads is ``L3H2.q``, ``.k`` or ``.v``; under grouped queries heads
share keys and values, which read at ``L3KV1.k`` and ``L3KV1.v``. An edge is ``L0H1 -> L3H2.q``. The spellings of Hanna
et al.'s code (``input``, ``a3.h2<q>``, ``m3``) are read too.

Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), section 2 (nodes and edges).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mi_core.errors import SelectorError

__all__ = ["PARTS", "Edge", "Kind", "Node"]

Kind = Literal["embed", "resid", "head", "kv_head", "attn", "mlp", "logits"]
PARTS = ("q", "k", "v")
"""Where a head reads."""
SPELLINGS: tuple[tuple[str, Kind], ...] = (
    (r"embed|input", "embed"),
    (r"logits", "logits"),
    (r"L(?P<layer>\d+)H(?P<head>\d+)(\.(?P<part>[qkv]))?", "head"),
    (r"a(?P<layer>\d+)\.h(?P<head>\d+)(<(?P<part>[qkv])>)?", "head"),
    (r"L(?P<layer>\d+)KV(?P<head>\d+)\.(?P<part>[kv])", "kv_head"),
    (r"attn ?(?P<layer>\d+)", "attn"),
    (r"(mlp ?|m)(?P<layer>\d+)", "mlp"),
    (r"resid ?(?P<layer>\d+)", "resid"),
)


@dataclass(frozen=True)
class Node:
    """Something that writes to the stream or reads it; with ``part`` one of a head's three readings."""

    kind: Kind
    layer: int = -1
    head: int = -1
    part: str = ""

    def __str__(self) -> str:
        if self.kind in ("head", "kv_head"):
            name = f"L{self.layer}{'H' if self.kind == 'head' else 'KV'}{self.head}"
            return f"{name}.{self.part}" if self.part else name
        return self.kind if self.layer < 0 else f"{self.kind} {self.layer}"

    @classmethod
    def parse(cls, text: str | Node) -> Node:
        """The node of a name.

        >>> [str(Node.parse(name)) for name in ("L3H2.q", "a3.h2<q>", "m3", "input")]
        ['L3H2.q', 'L3H2.q', 'mlp 3', 'embed']

        Raises:
            SelectorError: no node is spelled so.
        """
        if isinstance(text, Node):
            return text
        for pattern, kind in SPELLINGS:
            found = re.fullmatch(pattern, text.strip())
            if found:
                given = {name: value for name, value in found.groupdict().items() if value is not None}
                numbers = {name: int(value) for name, value in given.items() if name != "part"}
                return cls(kind, part=given.get("part", ""), **numbers)
        raise SelectorError(
            f"{text!r} names no node: a node is 'embed', 'L3H2' (where it reads: 'L3H2.q'), 'L3KV1.k', 'attn 3', "
            "'mlp 3', 'resid 3' or 'logits'.",
            node=text,
        )


@dataclass(frozen=True)
class Edge:
    """What one node reads of another."""

    sender: Node
    receiver: Node

    def __str__(self) -> str:
        return f"{self.sender} -> {self.receiver}"

    @classmethod
    def parse(cls, text: str | Edge) -> Edge:
        """The edge of a name.

        >>> str(Edge.parse("m0->a1.h3<k>"))
        'mlp 0 -> L1H3.k'

        Raises:
            SelectorError: it is not two nodes with an arrow between.
        """
        if isinstance(text, Edge):
            return text
        ends = text.split("->")
        if len(ends) != 2:
            raise SelectorError(f"{text!r} names no edge: write 'SENDER -> RECEIVER'.", edge=text)
        return cls(Node.parse(ends[0]), Node.parse(ends[1]))
