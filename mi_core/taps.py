"""What a block's tap does: nothing, or the edits and captures bound to its points.

With nothing bound to a layer the tap is one shared object that knows no layer. No callbacks are registered on
modules, so nothing can be left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mi_core.errors import HookContractBroken
from mi_core.names import Point
from mi_core.placing import AS_COMPUTED, Placement
from mi_core.vocabulary import CLOSED

__all__ = ["IDLE", "BoundTap", "IdleTap", "PointActions", "Record"]


STREAM = ("hook_resid_pre", "hook_resid_post")
"""The points that the core taps itself."""


def each_token_alone(dims: Sequence[str]) -> bool:
    """Whether a site is one position wide: ``batch pos``, and nothing about other positions behind it."""
    return tuple(dims[:2]) == ("batch", "pos") and not {"query_pos", "key_pos"}.intersection(dims)


class IdleTap:
    """The tap of a layer at which nobody looks: the identity."""

    __slots__ = ()

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def wants(self, *names: str) -> bool:
        """Nobody looks."""
        return False

    def edits(self, *names: str) -> bool:
        """Nobody writes."""
        return False

    def cut_edges(self) -> Tensor | None:
        """Nothing is cut."""
        return None


IDLE = IdleTap()


@dataclass(eq=False)
class Record:
    """What one call brings back: captures (selected, left-aligned), and which points fired."""

    after: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    path: dict[str, Tensor] = field(default_factory=dict)
    """Under gradients: the whole tensor on the path of each captured point."""
    fired: set[str] = field(default_factory=set)


class Reader(Protocol):
    """What is captured of an activation: a `Selection`."""

    def read(self, value: Tensor) -> Tensor:
        """That part of it."""
        ...


@dataclass(eq=False)
class PointActions:
    """Everything bound to one point in one call, in order."""

    point: Point
    steps: list[Callable[[Tensor], Tensor]] = field(default_factory=list)
    after: Reader | None = None
    before: Reader | None = None
    after_placed: Placement = AS_COMPUTED
    before_placed: Placement = AS_COMPUTED
    grad: bool = False
    hear: Callable[[Tensor], None] | None = None
    """Somebody who acts behind this point and needs its value."""
    pads: Tensor | None = None
    """Entries that are no real tokens: no write reaches them, so that they never influence anything."""
    across: bool = False
    """Whether something that acts here looks across positions."""

    @property
    def edits(self) -> bool:
        """Whether the point lies on the path."""
        return bool(self.steps) or (self.grad and self.after is not None)

    def run(self, value: Tensor, record: Record) -> Tensor:
        """Steps from left to right, then the capture of what the rest of the model sees."""
        name = self.point.name
        self._check(value)
        record.fired.add(name)
        if self.hear is not None:
            self.hear(value)
        if self.before is not None:
            record.before[name] = self.before_placed.put(self.before.read(value))
        if self.steps:
            value = self._edited(value)
        if self.after is None:
            return value
        if self.grad and value.is_floating_point():
            if not value.requires_grad:
                # a leaf: the graph starts at the first point that somebody looks at
                value = value.detach().requires_grad_()
            record.path[name] = value
        record.after[name] = self.after_placed.put(self.after.read(value))
        return value

    def _edited(self, value: Tensor) -> Tensor:
        original, dtype = value, value.dtype
        for step in self.steps:
            value = step(value)
        if value.dtype != dtype:
            value = value.to(dtype)
        if value.requires_grad and not self.grad:
            # a tensor of the spec itself, which asks for gradients
            value = value.detach()
        if self.point.site.keeps_masked:
            value = torch.where(original == CLOSED, original, value)
        return value if self.pads is None else torch.where(self.pads.to(value.device), original, value)

    def _check(self, value: Tensor) -> None:
        site, seen = self.point.site, value.shape
        if len(seen) == len(site.dims):
            for axis, size in site.fixed:
                if seen[axis] != size:
                    break
            else:
                return
        declared = {dim: site.sizes.get(dim, "any") for dim in site.dims}
        raise HookContractBroken(
            f"{self.point.name!r} fired with the shape {list(seen)}, but is declared as {declared}. The backend's "
            "sites() and its tap disagree.",
            point=self.point.name,
            shape=tuple(seen),
        )


class BoundTap:
    """The tap of a layer (or of embedding and unembedding, or of an insert) at which somebody looks."""

    __slots__ = ("_actions", "_cut", "_cut_names", "_record", "by_token", "inside")

    def __init__(
        self,
        actions: Mapping[str, PointActions],
        record: Record,
        cut: Tensor | None = None,
        cut_names: tuple[str, ...] = (),
    ) -> None:
        self._actions = actions
        self._record = record
        self._cut = cut
        self._cut_names = cut_names
        self.by_token = cut is None and all(
            each_token_alone(acts.point.site.dims) and not acts.across for acts in actions.values()
        )
        """Whether every site that somebody looks at belongs to one token."""
        self.inside = bool(cut_names) or any(name not in STREAM for name in actions)
        """Whether somebody looks inside the block, not only at the stream before and behind it."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Run what is bound to this site."""
        actions = self._actions.get(name)
        return value if actions is None else actions.run(value, self._record)

    def wants(self, *names: str) -> bool:
        """Whether something is bound to one of these."""
        return any(name in self._actions for name in names)

    def edits(self, *names: str) -> bool:
        """Whether one of these lies on the path."""
        return any(name in self._actions and self._actions[name].edits for name in names)

    def only(self, name: str) -> bool:
        """Whether nothing is bound to any other site of the layer, and no edge is cut."""
        return self._cut is None and all(own == name for own in self._actions)

    def cut_edges(self) -> Tensor | None:
        """The edges that are cut in this layer; asking counts as firing."""
        self._record.fired.update(self._cut_names)
        return self._cut
