"""What an analysis is, how it is found by its name, and how a model that it cannot read is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mi_core.errors import UnsupportedAnalysis
from mi_core.model import Model
from mi_core.plugins import plugin
from mi_core.results import Result
from mi_core.vocabulary import STANDARD

__all__ = ["Analysis", "analysis", "require"]


@dataclass(frozen=True)
class Analysis:
    """What a plugin of the group ``mi_core.analyses`` returns from `mi_analysis`."""

    summary: str
    """One line: what it answers."""
    needs: tuple[str, ...]
    """The sites that it reads; a model without one of them is refused."""
    run: Callable[..., Result]
    """``run(model, ...)``; it begins with `require`."""


def analysis(name: str) -> Callable[..., Result]:
    """Which installed analysis has this name? Only its own plugin is imported.

    Raises:
        UnknownPlugin: none has; the message gives the closest.
        BrokenPlugin: it cannot be imported, or breaks the contract.
    """
    found: Analysis = plugin("mi_core.analyses", name).call("mi_analysis")
    return found.run


def require(model: Model, needs: Iterable[str], name: str) -> None:
    """Whether ``model`` has every site that the analysis ``name`` needs; to be asked before anything runs.

    Raises:
        UnsupportedAnalysis: it lacks some; the message names them, with what they are.
    """
    # not hook_points("*"): that leaves out what is on demand
    have = {site.name for site in model.backend.sites()}
    missing = tuple(site for site in needs if site not in have)
    if not missing:
        return
    listed = "; ".join(f"{site!r} ({STANDARD[site].meaning})" if site in STANDARD else repr(site) for site in missing)
    source = model.provenance
    raise UnsupportedAnalysis(
        f"{name} cannot read {source.ref!r}: the family {source.family!r} has no {listed}. "
        f"Use an analysis that needs only what it has: {', '.join(sorted(have))}",
        name=name,
        missing=missing,
        family=source.family,
    )
