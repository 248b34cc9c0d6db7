"""What a harvest is asked for, checked against the model before anything runs, and what its numbers depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from mi_core.errors import ContextOverflow, InputError, SpecError
from mi_core.fingerprint import fingerprint
from mi_core.harvests.collecting import padding_in
from mi_core.harvests.windows import Cutting
from mi_core.interventions import Apply
from mi_core.placing import dtype_name
from mi_core.selectors import Selector
from mi_core.spec import Capture, Edit, HookSpec, Insert, capture
from mi_core.spec_files import entry_to_json
from mi_core.sweep_store import digest
from mi_core.weight_samples import fingerprint_of

if TYPE_CHECKING:
    from mi_core.binding import BoundCapture
    from mi_core.model import Model

__all__ = ["Asked", "spec_of"]

CONTEXT: Final = 1024
"""Tokens of a window at most, where nobody says and the model has more."""
BATCH: Final = {"cpu": 4096}
BATCH_ELSEWHERE: Final = 16384
SHARD_BYTES: Final = 1 << 28
PROBE: Final = "The 1st text, naïve: 日本語\n\tx = {};"
"""What tells tokenizers apart."""


def spec_of(points: str | Sequence[str] | HookSpec, spec: HookSpec | None, pos: Any) -> HookSpec:
    """Captures and edits as one spec."""
    wanted = points if isinstance(points, HookSpec) else capture(points)
    if pos is not None:
        captures = [entry for entry in wanted.entries if isinstance(entry, Capture)]
        others = tuple(entry for entry in wanted.entries if not isinstance(entry, Capture))
        wanted = HookSpec(others) + HookSpec(tuple(captures)).at(pos=pos)
    return wanted if spec is None else wanted + spec


@dataclass(frozen=True, eq=False)
class Asked:
    """A harvest, decided."""

    model: Model
    spec: HookSpec
    cutting: Cutting
    points: Mapping[str, BoundCapture]
    batch_tokens: int
    dtype: str | None = None
    skip_bos: bool = False

    @classmethod
    def of(
        cls,
        model: Model,
        spec: HookSpec,
        *,
        context: int | None,
        overlap: int,
        long: Literal["split", "refuse"],
        repeat_bos: bool,
        skip_bos: bool,
        dtype: Any,
        batch_tokens: int | None,
        shard_rows: int | None,
    ) -> Asked:
        """Check and fill in what nobody said.

        Raises:
            SpecError: something that has no rows, or is captured in different ways.
            InputError: sizes that do not go together.
        """
        points, pos = rows_of(model, spec)
        bos = None if model.tokenizer is None else model.tokenizer.bos
        if skip_bos and bos is None:
            raise InputError(f"{model.name} has no tokenizer that names a BOS, so none can be skipped.")
        if long not in ("split", "refuse"):
            raise InputError(f'long={long!r}: long documents are taken with "split" or "refuse".', long=long)
        limit = model.shape.n_ctx
        context = min(limit or CONTEXT, CONTEXT) if context is None else context
        if limit is not None and context > limit:
            raise ContextOverflow(f"context={context}, but {model.name} has {limit} positions.", context=context)
        windows = ("context", context, 2), ("overlap", overlap, 0)
        sizes = ("shard_rows", shard_rows, 1), ("batch_tokens", batch_tokens, 1)
        for size, given, least in (*windows, *sizes):
            if given is not None and given < least:
                raise InputError(f"{size}={given}: give at least {least}.")
        if not overlap < context - 1:
            raise InputError(f"overlap={overlap} of windows of {context} tokens leaves no room for new ones.")
        name = dtype_name(dtype)
        rows = shard_rows or max(1, SHARD_BYTES // bytes_of_rows(points, model.dtype, name))
        tokens = batch_tokens or max(context, BATCH.get(model.device.type, BATCH_ELSEWHERE))
        cutting = Cutting(context, overlap, bos if repeat_bos else None, long == "split", rows, pos)
        return cls(model, spec, cutting, points, tokens, name, skip_bos)

    @property
    def bos(self) -> int | None:
        """The BOS that is skipped, if it is."""
        return None if not self.skip_bos or self.model.tokenizer is None else self.model.tokenizer.bos

    @property
    def bytes_of_row(self) -> int:
        """About how many bytes the activations of a row take."""
        return bytes_of_rows(self.points, self.model.dtype, self.dtype)

    def settings(self) -> dict[str, Any]:
        """Everything that the numbers depend on, data apart, in plain values."""
        model, reader = self.model, self.model.tokenizer
        said = {
            "family": model.name,
            "weights": fingerprint_of(model.backend)[:32],
            "computed": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "torch": torch.__version__,
            "tokenizer": None if reader is None else digest([reader.size, reader.bos, reader.encode(PROBE).ids]),
            "points": list(self.points),
            "spec": spec_digest(self.spec),
            "dtype": self.dtype,
            "skip_bos": self.skip_bos,
            "batch_tokens": self.batch_tokens,
            "padding": padding_in(self.batch_tokens),
            **asdict(replace(self.cutting, pos=None)),
        }
        return dict(json.loads(json.dumps(said)))

    def about(self) -> dict[str, Any]:
        """What else is worth knowing."""
        return {
            "model": repr(self.model),
            "provenance": asdict(self.model.provenance),
            "asked": repr(self.spec),
            "dims": {name: dims_of(bound) for name, bound in self.points.items()},
        }


def rows_of(model: Model, spec: HookSpec) -> tuple[Mapping[str, BoundCapture], Selector | None]:
    """The points that are captured, and which positions of them.

    Raises:
        SpecError: nothing is captured, or what is captured has no row for each token, or not the same rows.
    """
    captures = [entry for entry in spec.entries if isinstance(entry, Capture)]
    if not captures:
        raise SpecError("the spec captures nothing, so there is nothing to harvest: add mi.capture(...).", spec=spec)
    if any(entry.before for entry in captures):
        raise SpecError("before=True is not harvested: harvest again without the interventions.", spec=spec)
    positions = [entry.selectors.get("pos") for entry in captures]
    if len({fingerprint(pos) for pos in positions}) > 1:
        raise SpecError(f"points are captured at different positions ({positions}): harvest each into its own folder.")
    alone = [replace(entry, selectors={d: s for d, s in entry.selectors.items() if d != "pos"}) for entry in captures]
    inserts = tuple(entry for entry in spec.entries if isinstance(entry, Insert))
    edits = [entry for entry in spec.entries if isinstance(entry, Edit)]
    binding = model.plan([[0]], HookSpec((*inserts, *alone)), logits=None).binding
    for name, bound in binding.after.items():
        refuse_without_rows(name, bound)
    if any(edit.intervention.needs_all_rows for edit in edits):
        raise SpecError("a mean over the rows of a run depends on how documents are batched: give it a source=.")
    return {name: binding.after[name] for name in binding.points.in_order(binding.after)}, positions[0]


def refuse_without_rows(name: str, bound: BoundCapture) -> None:
    """Refuse a point that is not one row for each token."""
    dims, sizes = bound.point.site.dims, bound.point.site.sizes
    if dims[:2] != ("batch", "pos"):
        raise SpecError(
            f"{name!r} is [{' '.join(dims)}]: it has no row for each token, so it cannot be stored one behind the "
            "other. Points whose dims begin with 'batch pos' can.",
            point=name,
        )
    if "batch" in bound.selectors:
        raise SpecError(f"{name!r}: documents are batched as it fits, so batch= says nothing here.", point=name)
    if unknown := [dim for dim in dims[2:] if dim not in sizes and dim not in bound.selection.choices]:
        raise SpecError(f"{name!r}: the size of {unknown[0]!r} depends on the text, so rows differ.", point=name)


def dims_of(bound: BoundCapture) -> dict[str, int]:
    """The dims of a row that are left, with their sizes."""
    chosen = bound.selection.choices
    return {
        dim: chosen[dim].index.shape[-1] if dim in chosen else bound.point.site.sizes[dim]
        for dim in bound.point.site.dims[2:]
        if dim not in chosen or not chosen[dim].drop
    }


def bytes_of_rows(points: Mapping[str, BoundCapture], computed: torch.dtype, stored: str | None) -> int:
    """About how many bytes a row of all points takes."""
    each = computed.itemsize if stored is None else getattr(torch, stored).itemsize
    return each * sum(math.prod(dims_of(bound).values()) for bound in points.values())


def spec_digest(spec: HookSpec) -> str:
    """A hash of what a spec does: structure and numbers; of functions their names, of modules their weights."""
    said: list[Any] = []
    for entry in spec.entries:
        if isinstance(entry, Insert):
            weights = fingerprint_of(entry.module) if isinstance(entry.module, nn.Module) else ""
            said.append([entry.name, type(entry.module).__qualname__, weights])
        elif isinstance(entry, Edit) and isinstance(entry.intervention, Apply):
            function = entry.intervention.function
            said.append([entry.points, getattr(function, "__qualname__", type(function).__qualname__)])
        else:
            tensors: dict[str, Any] = {}
            plain = entry_to_json(entry, tensors)
            said.append([plain, {name: fingerprint(tensor) for name, tensor in tensors.items()}])
    return digest(said)
