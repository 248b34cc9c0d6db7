"""Dictionaries in a run: what is read is encoded, features become points, what they change is written.

With its error term a splice changes nothing until somebody writes to one of its points: what is added is the change of
the reconstruction, never the reconstruction and its error apart, so that the identity is exact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Bool
from torch import Tensor

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import SpecError, ValueMismatch
from mi_core.protocols import Site, Tap
from mi_core.provenance import Provenance
from mi_dictionaries.belonging import check_model
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.temporal import Temporal
from mi_dictionaries.token_masks import AllBut, OfRows

__all__ = ["Splice", "splice", "stacked"]

PRE: Final = "hook_sae_acts_pre"
POST: Final = "hook_sae_acts_post"
RECONS: Final = "hook_sae_recons"
ERROR: Final = "hook_sae_error"


def splice(
    dictionary: Dictionary | DictionarySet,
    error: bool = True,
    name: str | None = None,
    *,
    mask: Bool[Tensor, "batch pos"] | None = None,
    skip_tokens: Collection[int] = (),
    layers: Iterable[int] | None = None,
    constant_error: bool = False,
) -> mi.HookSpec:
    """A spec that puts a dictionary, or a set of them, into a run.

    Its features are points of the run, under the point that it reads (or under ``name``; of a set, under
    ``name.layer``): ``hook_sae_acts_pre``, ``hook_sae_acts_post``, ``hook_sae_recons`` and ``hook_sae_error``.

    Args:
        dictionary: read at its ``site_in``, written at its ``site_out``; a cross-layer transcoder at every later layer.
        error: add what the reconstruction misses, so that only changes of features change the run. Without it the
            reconstruction stands in for what was there.
        name: where its points are, instead of under the point that it reads; needed where two read one point.
        mask: splice in where it is true, counted on each row's real tokens. For positions that are the same in every
            row, ``.at(pos=...)`` does it.
        skip_tokens: splice in everywhere but at these tokens.
        layers: of a set, the layers whose outputs are replaced; all by default.
        constant_error: gradients go through the features alone, and the error counts as a constant. Otherwise they are
            those of what is computed: with the error term and no write, the model's own.

    Raises:
        SpecError: a mask and tokens to skip at once; layers of what is no set, or that it has not; a constant error
            where one dictionary writes to several points; a crosscoder, which `precomputed_splice` takes.

    Source: SAELens 6.54, HookedSAETransformer, for the names; Marks et al. 2024, "Sparse Feature Circuits", A.3, for
    the constant error.
    """
    if mask is not None and skip_tokens:
        raise SpecError("give a mask or tokens to skip, not both: AND them into one mask.")
    if isinstance(dictionary, DictionarySet):
        spec = sum(of_set(dictionary, error, name, layers, constant_error), mi.HookSpec())
    elif layers is not None:
        raise SpecError(f"layers={list(layers)} selects layers of a set; this is one dictionary.")
    elif len(dictionary.reads) > 1 and len(dictionary.writes) > 1:
        raise SpecError(
            f"the dictionary at {dictionary.site_in!r} is a crosscoder: it reads {list(dictionary.reads)} and writes "
            f"{list(dictionary.writes)}, and when its features are known, points that it writes are past. Take two "
            "passes: mi_dictionaries.precomputed_splice(model, inputs, dictionary, edits).",
            reads=tuple(dictionary.reads),
            writes=tuple(dictionary.writes),
        )
    else:
        spec = mi.insert(Splice(dictionary, error, constant_error), name or dictionary.site_in)
    if mask is not None:
        return spec.at(pos=OfRows(mask))
    return spec.at(pos=AllBut(frozenset(skip_tokens))) if skip_tokens else spec


def of_set(
    held: DictionarySet, error: bool, name: str | None, layers: Iterable[int] | None, constant_error: bool
) -> list[mi.HookSpec]:
    """The splices of a set, in the order in which they must write.

    Without the error term a layer's own dictionary replaces what stands at its output, and earlier layers add to it
    afterwards: later layers come first.
    """
    chosen = list(held) if layers is None else list(layers)
    if unknown := [layer for layer in chosen if layer not in held]:
        raise SpecError(f"layers={unknown}: the set has dictionaries for the layers {list(held)}.", layers=unknown)
    replaced = {held[layer].site_out for layer in chosen}
    found = []
    for layer in sorted(held, reverse=True):
        own = held[layer]
        if not replaced.intersection(own.writes):
            continue
        called = own.site_in if name is None else f"{name}.{layer}"
        found.append(mi.insert(Splice(own, error, constant_error, frozenset(replaced)), called))
    return found


class Splice:
    """The insert: one dictionary between the points that it reads and writes.

    ``only``: of several writes, those that it writes to; None: all.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        error: bool = True,
        constant_error: bool = False,
        only: frozenset[str] | None = None,
    ) -> None:
        self.dictionary: Any = dictionary  # beyond the protocol: pre_activations, decode_change, skip where it has them
        self.error = error
        self.constant_error = constant_error
        self.only = frozenset(dictionary.writes) if only is None else only
        self.single = len(dictionary.writes) == 1
        if constant_error and not self.single:
            raise SpecError(f"{dictionary.site_in!r} writes to several points: no error of its own can be constant.")
        # the output itself is read where its error is a point
        self.reads = tuple(dict.fromkeys((*dictionary.reads, *(dictionary.writes if self.single else ()))))
        self.writes = tuple(dictionary.writes)
        self.across_positions = isinstance(dictionary, Temporal)
        self.sites = self._sites()

    def _sites(self) -> tuple[Site, ...]:
        held = self.dictionary
        features = ("batch", "pos", "feature"), {"feature": held.d_sae}
        pre = (Site(PRE, *features, meaning="what the activation function receives"),)
        post = Site(POST, *features, meaning="how active each feature is")
        if getattr(held, "heads", False):
            whole: tuple[tuple[str, ...], dict[str, int]] = ("batch", "pos", "head", "d_head"), {}
        elif self.single:
            whole = ("batch", "pos", "d_out"), {"d_out": held.d_out}
        else:
            whole = ("batch", "pos", "write", "d_out"), {"write": len(self.writes), "d_out": held.d_out}
        recons = Site(RECONS, *whole, meaning="what the features, and a skip connection, make of what was read")
        without = "" if self.error else "the splice has no error term, so nothing would come of it"
        missed = Site(ERROR, *whole, meaning="what stands at the output beyond the reconstruction", read_only=without)
        has_pre = hasattr(held, "pre_activations")
        return (*(pre if has_pre else ()), post, recons, *((missed,) if self.single else ()))

    def check(self, sites: Mapping[str, Site]) -> None:
        """Refuse points of another width, with both."""
        held = self.dictionary
        for points, width in ((held.reads, held.d_in), (held.writes, held.d_out)):
            for point in points:
                sizes = [sites[point].sizes.get(dim) for dim in sites[point].dims[2:]]
                if None not in sizes and math.prod(size for size in sizes if size is not None) != width:
                    raise ValueMismatch(
                        f"the dictionary has the width {width} at {point!r}, where this model has {sizes}. It belongs "
                        "to another model, or to another point.",
                        point=point,
                        width=width,
                        sizes=tuple(sizes),
                    )

    def check_model(self, model: Provenance) -> Iterator[str]:
        """Refuse the dictionary of another model of the same width."""
        return check_model(self.dictionary, model)

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor | mi.Intervention | None]:
        """Encode, offer, and say what is written at each point."""
        through = self.constant_error and torch.is_grad_enabled()
        if self.error and not through and not tap.wants(PRE, POST, RECONS, ERROR):
            return dict.fromkeys(self.writes)
        x = stacked([values[point] for point in self.dictionary.reads])
        clean, features = self._features(x, tap)
        out = values.get(self.writes[0])
        if not self.error:
            return self._replaced(self._recons(features, x), out, tap)
        change = self._change(clean, features, through)
        if tap.wants(RECONS):
            change = added(change, moved(RECONS, self._recons(features, x), tap))
        if tap.wants(ERROR) and out is not None:
            change = added(change, moved(ERROR, out - self._recons(clean, x), tap))
        if change is not None and through and out is not None:
            return {self.writes[0]: out.detach() + change.to(out.dtype)}
        return self._added(change)

    def _features(self, x: Tensor, tap: Tap) -> tuple[Any, Any]:
        """The features as they are, and as somebody left them; the same object where nobody could write."""
        held = self.dictionary
        # views: their gradients are those of what is written, not of what was there
        if tap.wants(PRE):
            pre = held.pre_activations(x)
            clean = held.activate(pre)
            z = tap(PRE, pre.values.view_as(pre.values))
            features = held.activate(pre.with_dense(z)) if tap.edits(PRE) else clean
        else:
            clean = features = held.encode(x, sparse=not tap.wants(POST))
        if tap.wants(POST):
            values = features.dense()
            f = tap(POST, values.view_as(values))
            features = features.with_dense(f) if tap.edits(POST) else features
        return clean, features

    def _change(self, clean: Any, features: Any, through: bool) -> Tensor | None:
        """How the reconstruction changed; ``through``: with the gradient of all that the features are."""
        if features is clean and not through:
            return None
        if features.is_sparse != clean.is_sparse:
            features, clean = features.with_dense(features.dense()), clean.with_dense(clean.dense())
        before = clean.values.detach() if through else clean.values
        change = features.with_values(features.values - before)
        found: Tensor = self.dictionary.decode_change(change if change.values.requires_grad else change.sparse())
        return found

    def _recons(self, features: Any, x: Tensor) -> Tensor:
        recons: Tensor = self.dictionary.decode(features)
        skip = self.dictionary.skip(x) if hasattr(self.dictionary, "skip") else None
        return recons if skip is None else recons + skip

    def _replaced(self, recons: Tensor, out: Tensor | None, tap: Tap) -> dict[str, Tensor | mi.Intervention | None]:
        """What stands at each output without the error term: the first write's own, and its share of later ones."""
        if tap.wants(ERROR) and out is not None:
            tap(ERROR, out - recons)
        recons = tap(RECONS, recons)
        if self.single:
            return {self.writes[0]: recons}
        own, *later = recons.unbind(-2)
        shares = {point: mi.Add(share) for point, share in zip(self.writes[1:], later, strict=True)}
        return self._to({self.writes[0]: own, **shares})

    def _added(self, change: Tensor | None) -> dict[str, Tensor | mi.Intervention | None]:
        """What is added at each output."""
        if change is None:
            return dict.fromkeys(self.writes)
        parts = (change,) if self.single else change.unbind(-2)
        return self._to({point: mi.Add(part) for point, part in zip(self.writes, parts, strict=True)})

    def _to(self, found: Mapping[str, Tensor | mi.Intervention]) -> dict[str, Tensor | mi.Intervention | None]:
        return {point: result if point in self.only else None for point, result in found.items()}


def stacked(values: Sequence[Tensor]) -> Tensor:
    """What a dictionary encodes, of the values at its reads."""
    return values[0] if len(values) == 1 else torch.stack(list(values), dim=-2)


def moved(site: str, value: Tensor, tap: Tap) -> Tensor | None:
    """By how much somebody moved what stands at a site; None where nobody could."""
    offered = tap(site, value.view_as(value))
    return offered - value if tap.edits(site) else None


def added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The sum of what there is."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
