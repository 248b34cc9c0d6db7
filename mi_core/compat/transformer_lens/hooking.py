"""Hook functions that stand: at activations on the way, and at their gradients on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Literal, Self

from torch import Tensor

from mi_core.compat.transformer_lens.config import HookedTransformerConfig
from mi_core.compat.transformer_lens.hook_functions import (
    Hook,
    HookFunction,
    HookPoint,
    NamesFilter,
    checked,
    hooked,
    matching,
)
from mi_core.errors import SpecError
from mi_core.model import Model
from mi_core.run import Run
from mi_core.spec import HookSpec

__all__ = ["Hooking"]

Direction = Literal["fwd", "bwd"]


class Hooking:
    """The hooks of a :class:`HookedTransformer`. Source: TransformerLens 3.9, HookedRootModule."""

    model: Model
    cfg: HookedTransformerConfig

    def __init__(self) -> None:
        self._standing: dict[Direction, list[Hook]] = {"fwd": [], "bwd": []}
        self._permanent: list[Hook] = []

    @cached_property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Every activation's name, with its place."""
        return {name: HookPoint(name) for name in self.model.points.by_name}

    def hook_points(self) -> list[HookPoint]:
        """Every place."""
        return list(self.hook_dict.values())

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Self]:
        """Hook functions ``fn(activation, hook)`` at names, or at all names for which a function is true.

        A function gets a private copy of the activation. What it returns takes its place; if it returns None, the copy
        does, with whatever was done to it. Functions of ``bwd_hooks`` get the gradient at the activation when somebody
        calls ``backward`` on what a run within the block returned, and go on with what they return if that is not None.

        Raises:
            UnknownPoint: a name that the model does not have, or a filter that is true for none.
        """
        self.as_spec(fwd_hooks)
        self._places(bwd_hooks)
        before = {direction: list(hooks) for direction, hooks in self._standing.items()}
        self._standing["fwd"] += fwd_hooks
        self._standing["bwd"] += bwd_hooks
        try:
            yield self
        finally:
            if reset_hooks_end:
                self._standing = before
            if clear_contexts:
                self.clear_contexts()

    def add_hook(
        self,
        name: str | Callable[[str], bool],
        hook: HookFunction,
        dir: Direction = "fwd",  # noqa: A002 - their name
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """A hook that stays until :meth:`reset_hooks`, or longer if it is permanent."""
        if dir not in self._standing:
            raise SpecError(f"dir={dir!r}: give 'fwd' or 'bwd'.", dir=dir)
        added: Hook = (name, hook)
        self._places([added])
        self._standing[dir].insert(0 if prepend else len(self._standing[dir]), added)
        if is_permanent:
            self._permanent.append(added)

    def add_perma_hook(self, name: str | Callable[[str], bool], hook: HookFunction, dir: Direction = "fwd") -> None:  # noqa: A002
        """A hook that stays until ``reset_hooks(including_permanent=True)``."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove every hook but permanent ones; with ``clear_contexts`` also what functions put into ``hook.ctx``."""
        for each, hooks in self._standing.items():
            if direction in (each, "both"):
                kept = [] if including_permanent else [hook for hook in hooks if hook in self._permanent]
                self._standing[each] = kept
        self._permanent = [] if including_permanent else self._permanent
        if clear_contexts:
            self.clear_contexts()

    def clear_contexts(self) -> None:
        """Forget what functions have put into ``hook.ctx``."""
        for place in self.hook_points():
            place.ctx.clear()

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], list[Hook], list[Hook]]:
        """A dictionary, and the hooks that put activations into it, and gradients under names with ``_grad``."""
        kept: dict[str, Tensor] = {} if cache is None else cache

        def save(value: Tensor, hook: HookPoint, mark: str) -> None:
            kept[hook.name + mark] = (value[0] if remove_batch_dim else value).detach().to(device or value.device)

        names = matching(self.model.points, names_filter, self.cfg.on_demand)
        forward: list[Hook] = [(name, partial(save, mark="")) for name in names]
        backward: list[Hook] = [(name, partial(save, mark="_grad")) for name in names]
        return kept, forward, backward if incl_bwd else []

    def add_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """A dictionary that every run fills until :meth:`reset_hooks`."""
        kept, forward, backward = self.get_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, cache)
        self._standing["fwd"] += forward
        self._standing["bwd"] += backward
        return kept

    def as_spec(self, hooks: Sequence[Hook]) -> HookSpec:
        """What hook functions do, as a spec of this library."""
        return hooked(self.model.points, hooks, self.hook_dict, self.cfg.on_demand)

    # -- inside --------------------------------------------------------------------------------------

    def _places(self, hooks: Sequence[Hook]) -> list[tuple[str, HookFunction]]:
        """Each name at which each function is called."""
        points, on_demand = self.model.points, self.cfg.on_demand
        return [(name, hook[1]) for hook in map(checked, hooks) for name in matching(points, hook[0], on_demand)]

    def _listen(self, run: Run) -> None:
        """Have backward hooks called when somebody differentiates what this run returned."""
        for name, function in self._places(self._standing["bwd"]):
            captured = run._captured.get(name)
            if captured is not None and captured.path is not None and captured.path.requires_grad:
                captured.path.register_hook(partial(called_back, function, self.hook_dict[name]))  # type: ignore[no-untyped-call]


def called_back(function: HookFunction, place: HookPoint, gradient: Tensor) -> Tensor | None:
    """What a backward hook makes of a gradient; None leaves it. Theirs return a tuple of one, too."""
    new = function(gradient, hook=place)
    return new[0] if isinstance(new, tuple) else new
