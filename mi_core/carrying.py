"""What recurrent layers carry past a position: their state, and what the next position reads of this one."""

from __future__ import annotations

__all__ = ["carried"]

SITES = ("mixer.hook_state", "mixer.hook_shift", "mixer.hook_channel_shift")


def carried(layers: str = "blocks.*") -> list[str]:
    """Which points together are everything that a recurrent layer hands on to the next position?

    ``mi.intervene(mi.carried(), mi.Replace(run).at(pos=3))`` gives, from position 4 on, what a run with that run's
    prefix gives. On the state alone it patches the state and leaves what the next position reads of the tokens.

    >>> carried("blocks.2")
    ['blocks.2.mixer.hook_state', 'blocks.2.mixer.hook_shift', 'blocks.2.mixer.hook_channel_shift']
    """
    return [f"{layers}.{site}" for site in SITES]
