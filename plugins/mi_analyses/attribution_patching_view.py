"""Attribution patching in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import RenderableType

from mi_analyses.activation_patching_view import direction, pair_lines, several
from mi_analyses.heat_view import Map, heat_view, place_of
from mi_analyses.screening import DRAWN, LARGE

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The prompts, the estimate of each patch, what was run exactly, and the largest in words."""
    return heat_view("attribution patching", result.provenance, lines(result), maps(result), verdict(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with every pair's own estimates."""
    pairs = [Map("estimate of each pair", result.effects)] if several(result) else []
    return {
        "lead": f"What patching {direction(result)} at {result.site} would do to first order, in parts of what the "
        "whole prompt does.",
        "lines": lines(result),
        "maps": [*maps(result), *pairs],
        "last": verdict(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompts with their metrics, and how the patches were estimated."""
    how = f"mean of {result.steps} gradients between the prompts" if result.steps else "one gradient"
    fixes = [", softmax computed anew"] * result.qk_fix + [", sizes with one layer left out in turn"] * result.grad_drop
    return [
        *pair_lines(result),
        ("patch", f"{result.site}, {direction(result)}"),
        ("estimate", how + "".join(fixes)),
    ]


def maps(result: Any) -> list[Map]:
    """The mean estimate, its interval where there are several pairs, and what was run exactly."""
    over = ", mean over pairs" if several(result) else ""
    note = "estimate: 0 changes nothing, 1 does all that the whole other prompt does; a dot is a space."
    found = [Map(f"estimate{over}", result.effect, note)]
    if several(result):
        found.append(Map(f"interval of the mean, {100 * result.level:g} %, bootstrap over pairs", result.interval))
    if result.exact is not None:
        found.append(Map(f"exact effect{over}", result.exact, "Only the cells that were run; all others are empty."))
    return found


def verdict(result: Any) -> str:
    """The largest estimate; and how it compares with what was run."""
    values = result.effect.values
    if not values.numel():
        return ""
    place = int(values.abs().argmax())
    said = f"Largest estimate {float(values.flatten()[place]):.2f} at {place_of(result.effect, place)}."
    if result.exact is None:
        return said
    why, exact = result.chosen.values.flatten(), result.exact.values.flatten()
    largest = int(exact.nan_to_num(nan=0.0).abs().argmax())
    said += f" Largest exact effect {float(exact[largest]):.2f} at {place_of(result.exact, largest)}"
    drawn = why & DRAWN > 0
    ranks = "none" if result.rank_correlation is None else f"{result.rank_correlation:.2f}"
    said += f"; rank correlation {ranks} over {int(drawn.sum())} drawn cells."
    missed = torch.where(drawn & (why & LARGE == 0), exact.abs(), -1.0)
    if bool((why & LARGE > 0).any()) and float(missed.max()) >= 0:
        said += f" Largest drawn effect that the estimates did not choose: {float(missed.max()):.2f}."
    return said
