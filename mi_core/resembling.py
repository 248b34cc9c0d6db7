"""Which other family a checkpoint looks like, when its tensors do not fit the one that its config names."""

from __future__ import annotations

import difflib
from typing import Final

from mi_core import plugins
from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import LoadError, MiError
from mi_core.families import GROUP, blueprint_of
from mi_core.fill import gaps
from mi_core.inert import is_inert
from mi_core.tensors import TensorIndex

__all__ = ["hinted", "looks_like"]

SHOWN: Final = 3


def hinted(error: LoadError, blueprint: Blueprint, config: Config, tensors: TensorIndex, family: str) -> LoadError:
    """The error, with the families whose tensors have the names that were found, if there are any."""
    similar = looks_like(blueprint, config, tensors, family)
    if not similar:
        return error
    named = " or ".join(repr(name) for name in similar)
    hint = f"This looks like {named}: correct 'model_type', or ask for that family with backend=."
    return type(error)(f"{error} {hint}", **{**error.data, "looks_like": similar})


def looks_like(blueprint: Blueprint, config: Config, tensors: TensorIndex, family: str) -> tuple[str, ...]:
    """Families that this config and these tensors fit better than ``family``: the best, closest names first."""
    found: dict[str, tuple[int, int]] = {}
    for name in plugins.names(GROUP):
        if name != family:
            try:
                stated = Config(config.plain(), where=config.where)
                other = blueprint_of(plugins.plugin(GROUP, name), stated, tensors)
                unread = [key for key, value in stated.unread().items() if not is_inert(key, value, other.inert)]
                found[name] = misfit(other, tensors), len(unread)
            except MiError:
                continue  # it cannot read this config, or is broken, which `mi models` reports
    best = min(found.values(), default=(0, 0))
    if best[0] >= misfit(blueprint, tensors):
        return ()
    # several families may have the same tensors: the name of the reference's class, where it is given, knows more
    classes = config.plain().get("architectures")
    known = str(classes[0]).removesuffix("ForCausalLM").lower() if isinstance(classes, list) and classes else family
    fitting = [name for name in found if found[name] == best]
    return tuple(difflib.get_close_matches(known, fitting, n=SHOWN, cutoff=0.0))


def misfit(blueprint: Blueprint, tensors: TensorIndex) -> int:
    """How many tensors are missing or left over."""
    return sum(map(len, gaps(blueprint, tensors)))
