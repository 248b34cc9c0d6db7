"""What another output of one node changes in the streams that receivers read, everything else as it was.

With MLPs frozen that is the change of the output itself: the direct edge. With MLPs recomputed it is what arrives when
all attention stays as it was and the MLPs in between answer to what reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.graph_nodes import Graph, Node
from mi_core.interventions import Replace

__all__ = ["Changes", "PathRuns"]

TOKENS = 4096
"""Tokens of prompts, repeated for each sender, that run at once."""

Changes = Mapping[tuple[Node, str], Float[Tensor, "batch pos d_model"]]
"""For each sender and each stream that receivers read: what is added there."""


@dataclass(frozen=True, eq=False)
class PathRuns:
    """The two runs that paths are taken from."""

    model: mi.Model
    graph: Graph
    inputs: Any
    """Of the base run."""
    base: mi.Run
    source: mi.Run
    streams: Sequence[str]
    options: Mapping[str, Any]
    """Of both runs."""

    def direct(self, senders: Sequence[Node]) -> Changes:
        """What each sender writes in the source run less what it writes in the base run, the same in every stream."""
        found: dict[tuple[Node, str], Tensor] = {}
        written = self.graph.written(self.model, (self.source, self.base), senders)
        for sender, (new, old) in zip(senders, written, strict=True):
            found.update(dict.fromkeys([(sender, stream) for stream in self.streams], new - old))
        return found

    def recomputed(self, senders: Sequence[Node], pos: Any = None) -> Changes:
        """What arrives in each stream when MLPs are recomputed; the sender is written at ``pos`` alone if given."""
        few = max(1, TOKENS // self.base.tokens.numel())
        in_order = sorted(senders, key=self.graph.writes_at)
        found: dict[tuple[Node, str], Tensor] = {}
        for begin in range(0, len(in_order), few):
            found |= self._arriving(in_order[begin : begin + few], pos)
        return found

    def _arriving(self, senders: Sequence[Node], pos: Any) -> Changes:
        """One run of the base prompts, once for each sender."""
        rows, copies = len(self.base.tokens), len(senders)
        spec = self._written(senders, pos) + self._frozen(senders) + mi.capture(self.streams)
        options = {name: repeated(given, copies) for name, given in self.options.items()}
        run = self.model.run(repeated(self.inputs, copies), spec, logits=None, **options)
        return {
            (sender, stream): run[stream][at * rows : (at + 1) * rows] - self.base[stream]
            for at, sender in enumerate(senders)
            for stream in self.streams
        }

    def _written(self, senders: Sequence[Node], pos: Any) -> mi.HookSpec:
        """Each sender's output of the source run, in its own copy of the prompts."""
        rows, spec = len(self.base.tokens), mi.HookSpec()
        values: dict[str, Tensor] = {}
        for at, sender in enumerate(senders):
            place = self.graph.made_of(sender)
            if place.point not in values:
                values[place.point] = repeated(self.source[place.point], len(senders))
            where = {"batch": slice(at * rows, (at + 1) * rows)} | ({} if pos is None else {"pos": pos})
            spec = spec + place.write(Replace(values[place.point]).at(**where))
        return spec

    def _frozen(self, senders: Sequence[Node]) -> mi.HookSpec:
        """The base run's attention in the copies whose sender it would read."""
        rows, spec = len(self.base.tokens), mi.HookSpec()
        for layer in range(len(self.graph.layers)):
            point = f"blocks.{layer}.hook_attn_out"
            reached = sum(self.graph.feeds(sender, Node("attn", layer)) for sender in senders)
            if reached and point in self.base:
                value = repeated(self.base[point], reached)
                spec = spec + mi.intervene(point, Replace(value).at(batch=slice(0, reached * rows)))
        return spec


def repeated(given: Any, times: int) -> Any:
    """Prompts or an array of their rows, one copy behind the other.

    >>> repeated("a", 2), repeated([[1], [2]], 2), repeated([1, 2], 2)
    (['a', 'a'], [[1], [2], [1], [2]], [[1, 2], [1, 2]])
    """
    if given is None:
        return None
    if isinstance(given, Tensor):
        rows = given[None] if given.ndim == 1 else given
        return rows.repeat(times, *[1] * (rows.ndim - 1))
    if not isinstance(given, list | tuple) or all(isinstance(entry, int) for entry in given):
        given = [given]
    return list(given) * times
