"""Which parameters layers multiply activations by: what can be held in fewer bits (`mi_core.quantising`).

A module says so as ``multiplies``: its matrices by their names, without the ``_weight``, all ``[out, in]`` and given to
`torch.nn.functional.linear`. What routes tokens or steers a recurrence is not among them: it is small, and its errors
are not.
"""

from __future__ import annotations

from torch import nn

__all__ = ["matrices"]


def matrices(module: nn.Module, path: str) -> tuple[str, ...]:
    """The names of those that a module at this path has, and its parts."""
    return tuple(
        f"{path}.{inner}.{name}_weight"
        for inner, part in module.named_modules()
        for name in getattr(part, "multiplies", ())
        if part._parameters.get(f"{name}_weight") is not None
    )
