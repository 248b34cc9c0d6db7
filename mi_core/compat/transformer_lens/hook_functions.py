"""Hook functions ``fn(activation, hook)`` as interventions of this library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from mi_core.compat.transformer_lens.act_names import get_act_name
from mi_core.errors import SpecError, UnknownPoint
from mi_core.interventions import Apply
from mi_core.names import Points
from mi_core.spec import HookSpec, intervene

__all__ = ["Hook", "HookFunction", "HookPoint", "NamesFilter", "checked", "hooked", "matching"]

HookFunction: TypeAlias = Callable[..., "Tensor | None"]
NamesFilter: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None
Hook: TypeAlias = tuple[str | Callable[[str], bool], HookFunction]


@dataclass
class HookPoint:
    """What a hook function is told of the place where it is called."""

    name: str
    """The name of the activation, as in the model."""
    ctx: dict[Any, Any] = field(default_factory=dict)
    """A dictionary for the functions' own use; it stays from run to run until ``reset_hooks(clear_contexts=True)``."""

    def layer(self) -> int:
        """The layer.

        >>> HookPoint("blocks.3.attn.hook_pattern").layer()
        3

        Raises:
            UnknownPoint: the place is outside the layers.
        """
        parts = self.name.split(".")
        if parts[0] != "blocks":
            raise UnknownPoint(f"{self.name!r} is outside the layers, so it has no layer number.", name=self.name)
        return int(parts[1])


def matching(points: Points, names: NamesFilter, on_demand: Iterable[str] = ()) -> list[str]:
    """The names that a filter stands for: all (None), a name or several, or those for which a function is true.

    All, and what functions see, leaves out on-demand sites but those in ``on_demand``.

    Raises:
        UnknownPoint: a name that the model does not have, or a function that is true for none.
    """
    if isinstance(names, str):
        return [points.find(get_act_name(names)).name]
    offered = [point for point in points if not point.site.on_demand or point.site.name in on_demand]
    if names is None:
        return [point.name for point in offered]
    if not callable(names):
        return points.in_order({points.find(get_act_name(name)).name for name in names})
    found = [point.name for point in offered if names(point.name)]
    if not found:
        raise UnknownPoint(
            f"{points.model}: the filter is true for none of its {len(offered)} activations, such as "
            f"{offered[-1].name!r}. On-demand ones (hook_result, ...) are among them after set_use_attn_result(True).",
            closest=[],
        )
    return found


def hooked(
    points: Points, hooks: Iterable[Hook], places: Mapping[str, HookPoint], on_demand: Iterable[str] = ()
) -> HookSpec:
    """The interventions that hook functions are, in their order."""
    spec = HookSpec()
    for hook in map(checked, hooks):
        for name in matching(points, hook[0], on_demand):
            spec += intervene(name, Apply(bound(hook[1], places[name])))
    return spec


def checked(hook: Any) -> Hook:
    """A hook as it is.

    Raises:
        SpecError: it is no pair of a name (or a filter) and a function.
    """
    if not isinstance(hook, tuple) or len(hook) != 2 or not callable(hook[1]):
        raise SpecError(f"{hook!r} is no hook: give (name, function), the function of activation and hook.")
    return hook


def bound(function: HookFunction, place: HookPoint) -> Callable[[Tensor], Tensor]:
    """A hook function as one of the activation alone; what it returns counts, or else what it did to its copy."""

    def called(activation: Tensor) -> Tensor:
        new = function(activation, hook=place)
        return activation if new is None else new

    return called
