"""The cells of a sweep: specs with labelled axes, made from a list, a mapping or a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from mi_core.errors import SelectorError, SpecError
from mi_core.grids import Axis, Grid
from mi_core.labelled import Label
from mi_core.sources import is_source
from mi_core.spec import HookSpec, capture

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.plans import Plan

__all__ = ["Specs", "cells_of", "source_plan", "under_all"]

Specs: TypeAlias = Sequence[HookSpec] | Mapping[Label, HookSpec] | Grid


def under_all(specs: Specs) -> HookSpec:
    """What is done under every cell; refuses what is no spec."""
    if isinstance(specs, Grid):
        return specs.under
    listed = list(specs.values() if isinstance(specs, Mapping) else specs)
    wrong = [spec for spec in listed if not isinstance(spec, HookSpec)]
    if wrong or not listed:
        seen = repr(wrong[0]) if wrong else "no spec"
        raise SpecError(f"a sweep takes specs: a list, a mapping from labels, or a grid; got {seen}.")
    return HookSpec()


def source_plan(model: Model, specs: Specs, attention_mask: Any, position_ids: Any) -> Plan | None:
    """The run that a grid takes values from, capturing what the cells need; None where it needs none, or has it."""
    if not isinstance(specs, Grid) or specs.source is None or is_source(specs.source):
        return None
    given = specs.source
    as_ids = not isinstance(given, str) and hasattr(given, "shape")
    own = {"attention_mask": attention_mask, "position_ids": position_ids} if as_ids else {}
    return model.plan(given, capture(specs.points), logits="last", **own)


def cells_of(specs: Specs, base: Plan, source: Any) -> tuple[dict[str, Axis], list[HookSpec]]:
    """The axes, and one spec for each cell, the last axis fastest; ``source`` is the run that a grid takes from."""
    if isinstance(specs, Grid):
        check_source(base, source, specs)
        axes = specs.filled(base.model.points, base.layout, base.prompts.rows)
        return axes, replace(specs, under=HookSpec()).cells(axes, source)
    labels = tuple(specs) if isinstance(specs, Mapping) else tuple(range(len(specs)))
    return {"spec": Axis(labels, labels)}, list(specs.values() if isinstance(specs, Mapping) else specs)


def check_source(base: Plan, source: Any, grid: Grid) -> None:
    """Refuse prompts of different lengths when cells go over positions, showing both."""
    over_positions = any(name in ("pos", "query_pos", "key_pos") and axis is None for name, axis in grid.axes.items())
    if source is None or not over_positions or not hasattr(source, "text_tokens"):
        return
    theirs, ours = source.text_tokens, [list(row.tokens) for row in base.prompts.rows]
    for row, tokens in enumerate(ours):
        other = theirs[row if len(theirs) > 1 else 0]
        if len(other) != len(tokens):
            differs = next((i for i, (a, b) in enumerate(zip(tokens, other, strict=False)) if a != b), len(tokens))
            raise SelectorError(
                f"row {row}: the input has {len(tokens)} tokens, the source {len(other)}, so their positions do not "
                f"belong together. Input {tokens}; source {other}; they differ from token {differs} on. Use prompts "
                'cut into as many tokens, or spans: each={"pos": {"subject": mi.Span(...)}}.',
                row=row,
            )
