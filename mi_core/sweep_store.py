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

BEGINNING = '{"key": '
"""How every line begins."""


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
        """Read what is there, or begin a file.

        Raises:
            InputError: the file cannot be written, or is something else than a store.
        """
        store = cls(Path(path), context_of(plan))
        try:
            with store.path.open("a+", encoding="utf-8", errors="replace") as file:
                file.seek(0)
                text = file.read()
        except OSError as error:
            raise store._unwritable(error) from error
        store.torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            if not (line.startswith(BEGINNING) or BEGINNING.startswith(line)):
                raise InputError(
                    f"store={str(store.path)!r} is a file of something else: a line of it is {line[:40]!r}. It stays "
                    "as it is: give the path of a new file, or of one that a sweep has written.",
                    path=store.path,
                )
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
        """Write a finished cell.

        Raises:
            InputError: there is no room for it, or no way to the file any more; those before are in it.
        """
        line = json.dumps({"key": self._key(spec), "values": values.tolist()})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self.torn + line + "\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self.torn = False

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"store={str(self.path)!r} cannot be written: {error.strerror or error}. Cells that are in it are kept and "
            "not computed again; make room, or give a path that can be written.",
            path=self.path,
        )

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
