"""Going on from a finished run: only what a spec can change is computed again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_core.binding import Binding, bind
from mi_core.captured import captured_as
from mi_core.errors import MissingActivation, SpecError
from mi_core.forking import fork_of
from mi_core.packing import Pack, Variant
from mi_core.rows import RowText
from mi_core.spec import Capture, HookSpec

if TYPE_CHECKING:
    from mi_core.run import Run
    from mi_core.trunk import Trunk

__all__ = ["resumed", "under", "variant_of"]


def under(binding: Binding) -> HookSpec:
    """What a base run writes, without what it captured."""
    return HookSpec(tuple(entry for entry in binding.spec.entries if not isinstance(entry, Capture)))


def resumed(base: Run, spec: HookSpec) -> Run:
    """See :meth:`Run.resume`."""
    from mi_core.run import Run

    began = time.perf_counter()
    trunk = base._trunk
    if trunk is None:
        raise MissingActivation("this run kept no streams to go on from: run with resumable=True.")
    if not isinstance(spec, HookSpec):
        raise SpecError(f"{spec!r} is no spec: build one with mi.capture(...), mi.intervene(...), or their sum.")
    texts = base._prompts.rows
    variant = variant_of(trunk, texts, spec)
    whole, fork = variant.binding, variant.fork
    with torch.no_grad():
        Pack(trunk, [variant], tokens=1 << 62).run(last_only=base._last_only)
    n_layers = len(trunk.backend.blocks)
    receipt = dataclasses.replace(
        base.receipt,
        spec=repr(whole.spec),
        asked=dict(whole.spellings),
        fired=tuple(name for name in whole.points.by_name if name in variant.record.fired),
        layers=tuple(range(max(fork.layer, 0), n_layers)),
        stopped_after=None,
        kernels={layer: whole.kernel(layer) for layer in range(max(fork.layer, 0), n_layers)},
        seconds=time.perf_counter() - began,
        notes=(f"went on from a base run before layer {fork.layer}, columns {fork.first.tolist()}",),
    )
    return Run(
        prompts=base._prompts,
        layout=trunk.layout,
        points=whole.points,
        logits=spliced(base, trunk, variant),
        last_only=base._last_only,
        captured=captured_as(whole.after, variant.record.after, {}),
        before=captured_as(whole.before, variant.record.before, {}),
        receipt=receipt,
    )


def variant_of(trunk: Trunk, texts: Sequence[RowText], spec: HookSpec) -> Variant:
    """What a spec does on top of a base run; the points of the base's inserts are known to it."""
    own = bind(spec, trunk.binding.points, trunk.layout, texts)
    before = under(trunk.binding)
    whole = bind(before + spec, trunk.binding.of_model, trunk.layout, texts) if before else own
    return Variant(whole, fork_of(own, whole))


def spliced(base: Run, trunk: Trunk, variant: Variant) -> Tensor | None:
    """The base's logits up to the fork, the variant's from there on; None where the base has none."""
    if base._logits is None:
        return None
    assert variant.logits is not None
    if base._last_only:
        return variant.logits[:, None]
    return behind(base._logits, variant.logits, variant, trunk)


def behind(old: Tensor, new: Tensor, variant: Variant, trunk: Trunk) -> Tensor:
    """``new`` in the columns from the fork on, ``old`` before."""
    first = variant.fork.first
    if not bool(first.any()):
        return new
    column = (first[:, None] + torch.arange(new.shape[1])).to(new.device)
    real = column < trunk.layout.length[:, None].to(new.device)
    row = torch.arange(len(first), device=new.device)[:, None].expand_as(column)
    out = old.detach().clone()
    out[row[real], column[real]] = new[real]
    return out
