"""What to do in a run, as one immutable value: captures, interventions and inserts.

Specs are built by :func:`capture`, :func:`intervene` and :func:`insert`, and joined by ``+``. Interventions at one
point apply from left to right; captures commute, and see the value that the rest of the model sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from mi_core.editing import Intervention, brief
from mi_core.errors import ChangedInPlace, SpecError, ValueMismatch
from mi_core.fingerprint import fingerprint, tensors_in, version_of
from mi_core.placing import AS_COMPUTED, Placement, device_name, dtype_name
from mi_core.protocols import Site, Tap
from mi_core.selectors import Selector, merged

__all__ = ["Capture", "Edit", "HookSpec", "Insert", "InsertModule", "capture", "insert", "intervene"]


@runtime_checkable
class InsertModule(Protocol):
    """A module that reads points and writes points: a dictionary, an adapter, a translator.

    It is called once in a run, as soon as everything it reads has fired, and says for each point that it writes (at
    that moment or later in the model) what stands there: a tensor, ``Add(tensor)`` for what is added to what stands
    there when the point fires, or None to leave it. ``sites`` are its own: they become points ``NAME.site`` of the run.
    One whose values at a position depend on other positions says ``across_positions = True``, and is refused where rows
    are run piece by piece. One that has ``check(sites)`` is shown the site of each point that it reads or writes, by
    the names that it gave, before anything runs, so that it can refuse another model's. One that has
    ``check_model(provenance)`` is shown whose points they are; it refuses, or returns sentences for the receipt.
    """

    @property
    def reads(self) -> Sequence[str]:
        """The points that it reads."""
        ...

    @property
    def writes(self) -> Sequence[str]:
        """The points that it writes."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """Its own."""
        ...

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor | Intervention | None]:
        """What happens at each point that it writes."""
        ...


@dataclass(frozen=True, eq=False)
class Capture:
    """Keep the values at some points, or a part of them."""

    points: tuple[str, ...]
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    before: bool = False
    placement: Placement = AS_COMPUTED

    def __repr__(self) -> str:
        before = ", before=True" if self.before else ""
        place = "".join(f", {name}={value!r}" for name, value in vars(self.placement).items() if value is not None)
        return f"capture({listed(self.points)}{before}{place}){narrowing(self.selectors)}"


@dataclass(frozen=True, eq=False)
class Edit:
    """Write to some points."""

    points: tuple[str, ...]
    intervention: Intervention
    versions: tuple[tuple[Tensor, int], ...] = field(default=(), repr=False)
    """The tensors of the intervention, each with its version when it entered the spec."""

    def __repr__(self) -> str:
        return f"intervene({listed(self.points)}, {self.intervention!r})"

    def check_unchanged(self) -> None:
        """Refuse tensors that were edited in place after they entered the spec."""
        for tensor, version in self.versions:
            if version_of(tensor) != version:
                raise ChangedInPlace(
                    f"a tensor of shape {list(tensor.shape)} in {self!r} was changed in place after it entered the "
                    "spec, so the spec no longer says what it said. Build the spec again, from a clone.",
                    shape=tuple(tensor.shape),
                )


@dataclass(frozen=True, eq=False)
class Insert:
    """Put a module between points, where it writes at all positions or at some."""

    module: InsertModule
    name: str
    selectors: Mapping[str, Selector] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"insert(<{type(self.module).__name__}>, {self.name!r}){narrowing(self.selectors)}"


Entry: TypeAlias = Capture | Edit | Insert


@dataclass(frozen=True, eq=False)
class HookSpec:
    """What a run should read and write. ``HookSpec()`` is the empty one, so ``sum(specs, HookSpec())`` works.

    >>> from mi_core.interventions import Zero
    >>> intervene("blocks.0.hook_mlp_out", Zero()) + capture("blocks.*.hook_resid_post").at(pos=-1)
    intervene('blocks.0.hook_mlp_out', Zero()) + capture('blocks.*.hook_resid_post').at(pos=-1)
    """

    entries: tuple[Entry, ...] = ()

    def __add__(self, other: HookSpec) -> HookSpec:
        if not isinstance(other, HookSpec):
            return NotImplemented
        return HookSpec(self.entries + other.entries)

    def __radd__(self, other: object) -> HookSpec:
        # sum() starts from 0
        return self if other == 0 else NotImplemented

    def at(self, **selectors: Any) -> HookSpec:
        """The same spec on a part of each activation (or on some ``layer``)."""
        return HookSpec(tuple(narrowed(entry, selectors) for entry in self.entries))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, HookSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> Any:
        captures = {fingerprint(entry) for entry in self.entries if isinstance(entry, Capture)}
        edits = (entry for entry in self.entries if not isinstance(entry, Capture))
        ordered = tuple(
            fingerprint((entry.points, entry.intervention))
            if isinstance(entry, Edit)
            else (entry.name, id(entry.module), fingerprint(entry.selectors))
            for entry in edits
        )
        return frozenset(captures), ordered

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.entries)) or "HookSpec()"

    def save(self, path: str | Path) -> None:
        """Write the structure as JSON and, beside it, the tensors as safetensors.

        Raises:
            NotSerialisable: it holds an ``Apply`` or an insert; the message names it.
        """
        from mi_core.spec_files import save_spec

        save_spec(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> HookSpec:
        """Read what :meth:`save` wrote."""
        from mi_core.spec_files import load_spec

        return load_spec(Path(path))


def capture(
    points: str | Iterable[str],
    *,
    before: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookSpec:
    """Keep the values at these points; with ``before`` those before interventions, read as ``run.before[name]``.

    They stay where and as they are computed, or go to ``device`` (``"host"``: off the accelerator) and ``dtype`` as
    soon as they are selected; only the selected part is moved.

    >>> capture("blocks.*.hook_resid_post").at(layer=range(2, 6))
    capture('blocks.*.hook_resid_post').at(layer=slice(2, 6))
    >>> capture("blocks.*.hook_resid_post", device="host", dtype="bfloat16")
    capture('blocks.*.hook_resid_post', device='cpu', dtype='bfloat16')
    """
    placement = Placement(device_name(device), dtype_name(dtype))
    return HookSpec((Capture(named(points), before=before, placement=placement),))


def intervene(points: str | Iterable[str], intervention: Intervention) -> HookSpec:
    """Write to these points."""
    if not isinstance(intervention, Intervention):
        raise SpecError(
            f"{intervention!r} is no intervention: use Replace(value), Add(value), Zero(), Apply(function), ...",
            intervention=intervention,
        )
    intervention.check_kinds()
    held = list(tensors_in(intervention.arguments()))
    if any(tensor.is_complex() for tensor in held):
        raise ValueMismatch(f"{intervention!r} holds a complex tensor; activations are real.")
    versions = tuple((tensor, version_of(tensor)) for tensor in held)
    return HookSpec((Edit(named(points), intervention, versions),))


def insert(module: InsertModule, name: str) -> HookSpec:
    """Put a module between points: its sites become points ``NAME.site``, with ``NAME`` usually the point it writes."""
    missing = [part for part in ("reads", "writes", "sites") if not hasattr(module, part)]
    if missing or not callable(module):
        raise SpecError(
            f"{module!r} is no insert: it needs {', '.join(missing) or 'to be callable'} (reads: points, writes: "
            "points, sites: its own Sites, and a call with the values read and a tap).",
            missing=missing,
        )
    return HookSpec((Insert(module, name),))


def named(points: str | Iterable[str]) -> tuple[str, ...]:
    """A list of names or patterns as a tuple."""
    names = (points,) if isinstance(points, str) else tuple(points)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise SpecError(f"{points!r} names no point: give a name, a pattern, or a list of them.", points=points)
    return names


def narrowed(entry: Entry, selectors: Mapping[str, Any]) -> Entry:
    """An entry with more selectors."""
    if isinstance(entry, Insert) and "layer" in selectors:
        raise SpecError(f"{entry!r} has no layers to select: the module says which points it writes.", name=entry.name)
    if isinstance(entry, Capture | Insert):
        return dataclasses.replace(entry, selectors=merged(entry.selectors, selectors))
    return dataclasses.replace(entry, intervention=entry.intervention.at(**selectors))


def listed(points: tuple[str, ...]) -> str:
    """Names as they would be written."""
    return repr(points[0]) if len(points) == 1 else repr(list(points))


def narrowing(selectors: Mapping[str, Selector]) -> str:
    """Selectors as they would be written."""
    shown = ", ".join(f"{dim}={brief(selector)}" for dim, selector in selectors.items())
    return f".at({shown})" if shown else ""
