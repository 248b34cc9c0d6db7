"""Specs on disk: JSON for the structure, safetensors beside it for the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_core.editing import Intervention
from mi_core.errors import NotSerialisable, SpecError
from mi_core.interventions import Apply
from mi_core.selectors import selector_from_json, selector_to_json
from mi_core.sources import Recorded
from mi_core.spec import Capture, Edit, Entry, HookSpec, Insert, capture, intervene

__all__ = ["load_spec", "save_spec", "spec_to_json"]

FORMAT = "mi-core spec 1"


def spec_to_json(spec: HookSpec) -> dict[str, Any]:
    """The structure of a spec for provenance: tensors by shape, functions and modules by name."""
    return {"format": FORMAT, "entries": [repr(entry) for entry in spec.entries]}


def save_spec(spec: HookSpec, path: Path) -> None:
    """Write ``path`` (JSON) and, where there are tensors, the same name with ``.safetensors``."""
    if path == tensor_file(path):
        raise SpecError(f"{str(path)!r} is where the tensors of a spec go: save it as .json.", path=path)
    tensors: dict[str, Tensor] = {}
    data = {"format": FORMAT, "entries": [entry_to_json(entry, tensors) for entry in spec.entries]}
    if tensors:
        from safetensors.torch import save_file

        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, tensor_file(path))
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def load_spec(path: Path) -> HookSpec:
    """Read what :func:`save_spec` wrote."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"there is no spec at {str(path)!r}.", path=path) from None
    except ValueError as error:
        raise SpecError(f"{str(path)!r} is not valid JSON: {error}", path=path) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise SpecError(f"{str(path)!r} is no saved spec: its format is not {FORMAT!r}.", path=path)
    tensors = Tensors(tensor_file(path))
    try:
        return sum((entry_from_json(entry, tensors) for entry in data["entries"]), HookSpec())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{str(path)!r} is no saved spec: {type(error).__name__}: {error}.", path=path) from error


class Tensors:
    """The tensors beside a saved spec, read when the first is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self.held is None:
            self.held = self._read()
        if name not in self.held:
            raise SpecError(f"{str(self.path)!r} has no {name!r}: it is of another spec.", path=self.path)
        return self.held[name]

    def _read(self) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.path.exists():
            raise SpecError(
                f"the spec's tensors are not at {str(self.path)!r}: keep both files together.", path=self.path
            )
        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise SpecError(f"{str(self.path)!r} cannot be read: {error}.", path=self.path) from error


def tensor_file(path: Path) -> Path:
    """Where the tensors of a spec lie."""
    return path.with_suffix(".safetensors")


def entry_to_json(entry: Entry, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One entry; its tensors are added to ``tensors``."""
    if isinstance(entry, Insert) or (isinstance(entry, Edit) and isinstance(entry.intervention, Apply)):
        raise NotSerialisable(
            f"{entry!r} cannot be saved: it holds a Python object. Save the rest of the spec, or write the edit with "
            "Replace, Add, Scale, ... instead of Apply.",
            entry=entry,
        )
    if isinstance(entry, Capture):
        return {
            "kind": "capture",
            "points": list(entry.points),
            "before": entry.before,
            **{name: value for name, value in vars(entry.placement).items() if value is not None},
            "at": {dim: selector_to_json(selector) for dim, selector in entry.selectors.items()},
        }
    entry.check_unchanged()
    edit = entry.intervention
    return {
        "kind": "intervene",
        "points": list(entry.points),
        "intervention": type(edit).__name__,
        "arguments": {name: value_to_json(value, entry, tensors) for name, value in edit.arguments().items()},
        "at": {dim: selector_to_json(selector) for dim, selector in edit.selectors.items()},
    }


def value_to_json(value: Any, entry: Edit, tensors: dict[str, Tensor]) -> Any:
    """One argument of an intervention."""
    if isinstance(value, Tensor):
        return {"tensor": kept(value, tensors)}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, tuple):
        return {"tuple": list(value)}
    if not isinstance(value, Recorded):
        value = value.recorded(entry.points, entry.intervention.sought(entry.intervention.selectors))
    return {
        "recorded": {name: kept(tensor, tensors) for name, tensor in value.values.items()},
        "counts": {
            name: {dim: count.tolist() for dim, count in counts.items()} for name, counts in value.counts.items()
        },
        "at": {dim: selector_to_json(selector) for dim, selector in value.selectors.items()},
        "provenance": dict(value.provenance),
    }


def kept(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    """Put a tensor among those to save; its name there."""
    name = f"tensor_{len(tensors)}"
    tensors[name] = tensor
    return name


def entry_from_json(data: dict[str, Any], tensors: Tensors) -> HookSpec:
    """The inverse of :func:`entry_to_json`."""
    selectors = {dim: selector_from_json(item) for dim, item in data["at"].items()}
    if data["kind"] == "capture":
        spec = capture(data["points"], before=data["before"], device=data.get("device"), dtype=data.get("dtype"))
        return spec.at(**selectors) if selectors else spec
    kind = Intervention.kinds.get(data["intervention"])
    if kind is None:
        raise SpecError(
            f"the spec uses an intervention {data['intervention']!r} that is not known here: import its package.",
            intervention=data["intervention"],
        )
    arguments = {name: value_from_json(value, tensors) for name, value in data["arguments"].items()}
    return intervene(data["points"], kind(**arguments, selectors=selectors))


def value_from_json(value: Any, tensors: Tensors) -> Any:
    """The inverse of :func:`value_to_json`."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(value["tuple"])
    counts = {
        name: {dim: torch.tensor(count) for dim, count in counts.items()} for name, counts in value["counts"].items()
    }
    at = {dim: selector_from_json(item) for dim, item in value["at"].items()}
    return Recorded({name: tensors[key] for name, key in value["recorded"].items()}, counts, at, value["provenance"])
