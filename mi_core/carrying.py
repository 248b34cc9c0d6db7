"""What recurrent layers carry past a position: their state, and what the next position reads of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mi_core.errors import SpecError

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["carried"]

STATE = "mixer.hook_state"
SITES = (STATE, "mixer.hook_shift", "mixer.hook_channel_shift")


def carried(layers: str = "blocks.*", *, model: Model | None = None) -> list[str]:
    """Which points together are everything that a recurrent layer hands on to the next position?

    ``mi.intervene(mi.carried(), mi.Replace(run).at(pos=3))`` gives, from position 4 on, what a run with that run's
    prefix gives. On the state alone it patches the state and leaves what the next position reads of the tokens.
    With a ``model``, those that it has: state-space models have no channel part that looks back.

    >>> carried("blocks.2")
    ['blocks.2.mixer.hook_state', 'blocks.2.mixer.hook_shift', 'blocks.2.mixer.hook_channel_shift']

    Raises:
        SpecError: a layer of the model keeps its past in something else, such as keys and values.
    """
    if model is None:
        return [f"{layers}.{site}" for site in SITES]
    every = {point.layer for point in model.hook_points(f"{layers}.hook_resid_post") if point.layer is not None}
    have = {site.name: set(range(model.shape.n_layers)) & set(site.layers or ()) for site in model.backend.sites()}
    others = sorted(every - have.get(STATE, set()))
    if others:
        raise SpecError(
            f"layers {', '.join(map(str, others))} of {model.name} look back at earlier tokens themselves, so that no "
            "position's state is all of the past. Name recurrent layers, whose states can be patched one by one.",
            layers=others,
        )
    return [f"{layers}.{site}" for site in SITES if have.get(site, set()) & every]
