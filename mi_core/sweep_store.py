"""Finished cells of sweeps on disk: one line each, found by what they are of, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.errors import InputError
from mi_core.fingerprint import fingerprint
from mi_core.run import Run
from mi_core.source_runs import SourceRun
from mi_core.spec import Edit, HookSpec, Insert
from mi_core.weight_samples import fingerprint_of

if TYPE_CHECKING:
    from mi_core.sweep_plans import SweepPlan

__all__ = ["Store"]


@dataclass(eq=False)
class Store:
    """A file of JSON lines ``{"key": ..., "values": [...]}``; half a line at the end, from a kill, is not read."""

    path: Path
    context: str
    """A hash of everything but the cell: weights, tokens, what is done under the cells, metric, version."""
    known: dict[str, list[float]] = field(default_factory=dict)
    torn: bool = False
    """Whether the file ends inside a line."""

    @classmethod
    def open(cls, path: str | os.PathLike[str], plan: SweepPlan) -> Store:
        """Read what is there; a new file is made at the first finished cell."""
        store = cls(Path(path), context_of(plan))
        if store.path.exists():
            text = store.path.read_text(encoding="utf-8")
            store.torn = not text.endswith("\n")
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                    store.known[entry["key"]] = [float(value) for value in entry["values"]]
                except (ValueError, KeyError, TypeError):
                    continue  # cut off by a kill: computed again
        return store

    def fill(self, values: Tensor, index: int, spec: HookSpec) -> bool:
        """Put a finished cell where it belongs; False if it is not there."""
        found = self.known.get(self._key(spec))
        if found is None or len(found) != values.shape[1]:
            return False
        values[index] = torch.tensor(found)
        return True

    def add(self, spec: HookSpec, values: Tensor) -> None:
        """Write a finished cell."""
        line = json.dumps({"key": self._key(spec), "values": values.tolist()})
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self.torn + line + "\n")
        self.torn = False

    def _key(self, spec: HookSpec) -> str:
        return digest([self.context, *(entry_key(entry) for entry in spec.entries)])


def entry_key(entry: Any) -> Any:
    """What a cell does, by content: runs by their numbers; functions and modules cannot be told apart across runs."""
    if isinstance(entry, Insert) or (isinstance(entry, Edit) and type(entry.intervention).__name__ == "Apply"):
        raise InputError(
            f"{entry!r} cannot be stored: a function has no content to recognise it by. Sweep without store=, or write "
            "the edit as Replace, Add, Scale, ..."
        )
    if not isinstance(entry, Edit):
        return fingerprint(entry)
    edit = entry.intervention
    arguments = {
        name: source_key(value, entry) if isinstance(value, Run) else fingerprint(value)
        for name, value in edit.arguments().items()
    }
    return [entry.points, type(edit).__name__, arguments, fingerprint(dict(edit.selectors))]


def source_key(run: Run, entry: Edit) -> Any:
    """The content of a run that values are taken from: what the cell takes of it, or what a sweep runs for it."""
    if isinstance(run, SourceRun):
        return ["run", *map(fingerprint, run.content)]
    taken = run.recorded(entry.points, entry.intervention.selectors)
    return fingerprint(dict(taken.values))


def context_of(plan: SweepPlan) -> str:
    """A hash of what all cells share."""
    base, model, metric = plan.base, plan.base.model, plan.metric
    from importlib.metadata import version

    if metric.content is None:
        raise InputError(
            f"the metric {metric.name!r} is a function, and a store must know it from others: name it, "
            'mi.metric(function, name="...").'
        )
    return digest(
        [
            version("mi-core"),
            model.provenance.family,
            model.name,
            str(model.dtype),
            fingerprint(model.config),
            fingerprint_of(model.backend),
            fingerprint(base.prompts.ids),
            fingerprint(base.layout.mask),
            fingerprint(base.layout.positions),
            [entry_key(entry) for entry in base.binding.spec.entries],
            fingerprint(metric.content),
            str(metric.pos),
        ]
    )


def digest(content: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:32]
