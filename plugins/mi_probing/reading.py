"""Examples from live runs: one pass of the model over the prompts reads every cell, and stops behind the last layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

import mi_core as mi
from mi_core.errors import InputError, MiError, SelectorError
from mi_core.labelled import Label
from mi_core.names import Point
from mi_core.results import ResultProvenance
from mi_probing.examples import Examples, check_count

__all__ = ["SITE", "Reading", "places_of", "read_examples", "untrained"]

SITE = "hook_resid_post"


class Reading(TypedDict, total=False):
    """What is read of labelled prompts, and how: keyword arguments of `read_examples` and of `probing`."""

    groups: Sequence[Any] | None
    """What must not be on two sides of a split, such as the fact that a prompt states; by default the prompt."""
    types: Sequence[Any] | None
    """What a control task labels at random, such as the word that is read; by default the groups."""
    site: str
    """Where, without the layer: ``hook_resid_post``. Dims behind the position, such as ``head``, are cells, too."""
    layers: Any
    """Which; None, the default, for all that have the site."""
    pos: Any
    """One position, such as ``-1``, the default, or ``mi.Span("France").last``; several under names in a mapping, or
    several ints in a list; None for all, where every prompt has as many tokens."""
    spec: mi.HookSpec | None
    """Interventions that are in force."""
    batch: int
    """Prompts in one run; 64."""


def read_examples(
    model: mi.Model, inputs: Sequence[Any], labels: Sequence[Any] | Tensor, **reading: Unpack[Reading]
) -> Examples:
    """The activations of labelled prompts at a site, in every layer and at every position that is asked for.

    Args:
        model: any model with the site.
        inputs: a list of prompts, each as in `Model.run`.
        labels: one for each prompt: classes, or floats to regress on.
        reading: ``groups``, ``types``, ``site``, ``layers``, ``pos``, ``spec`` and ``batch``, as `Reading` has them.

    Raises:
        UnknownPoint: the model does not have the site.
        SelectorError, SpanError: a position that a prompt does not have, or one that is several.
        InputError: an argument that is none, another number of labels, one class only, or values that are not finite.
    """
    if unknown := reading.keys() - Reading.__annotations__.keys():
        raise InputError(f"{', '.join(sorted(unknown))}: what is read is said by {', '.join(Reading.__annotations__)}.")
    site, spec, batch = reading.get("site", SITE), reading.get("spec"), reading.get("batch", 64)
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or batch < 1:
        raise InputError(f"inputs={inputs!r:.60}, batch={batch}: give a list of prompts, and at least one to a run.")
    check_count(labels, len(inputs), "labels")
    points = layered(model, site, reading.get("layers"))
    reads = mi.capture([point.name for point in points])
    whole = reads if spec is None else spec + reads
    parts, prompts, places = [], [], None
    for first in range(0, len(inputs), batch):
        lot = list(inputs[first : first + batch])
        run = model.run(lot, whole, logits=None)
        try:
            here = places_of(reading.get("pos", -1), run)
            if places is not None and here.keys() != places.keys():
                raise SelectorError("pos=None reads every position, and the prompts have different numbers of them.")
            places = here
            chosen = [sliced(one, first, len(lot), len(inputs)) for one in here.values()]
            parts.append(torch.stack([torch.stack([one_of(run, p, at) for at in chosen], 1) for p in points], 1))
        except MiError as error:
            if not first:
                raise
            raise type(error)(f"with rows counted from prompt {first}: {error}", **error.data) from error
        prompts.append(ResultProvenance.of(model, run, whole, lot))
    values = torch.cat([part.cpu() for part in parts])
    dims = ("layer", "pos", *points[0].site.dims[2:-1])
    coords: dict[str, Sequence[Label]] = {"layer": [p.layer or 0 for p in points], "pos": list(places or ())}
    return Examples.of(
        values,
        labels,
        groups=reading.get("groups"),
        types=reading.get("types"),
        dims=dims,
        coords=coords,
        site=site,
        provenance=joined(prompts),
    )


def layered(model: mi.Model, site: str, layers: Any) -> list[Point]:
    """The points of a site in some layers.

    Raises:
        InputError: the site has no positions, or not these layers.
    """
    found = {point.layer: point for point in model.hook_points(f"blocks.*.{site}")}
    dims = next(iter(found.values())).site.dims
    if dims[:2] != ("batch", "pos") or len(dims) < 3:
        raise InputError(f"{site!r} has the dims {dims}: probes read sites of batch, position and features.", site=site)
    if layers is None:
        return list(found.values())
    wanted = [layers] if isinstance(layers, int) else list(layers)
    missing = [layer for layer in wanted if layer not in found]
    if missing or not wanted:
        raise InputError(f"layers={layers!r}: {site!r} is in the layers {sorted(map(int, filter_none(found)))}.")
    return [found[layer] for layer in wanted]


def filter_none(found: Mapping[int | None, Any]) -> list[int]:
    """The layers among keys."""
    return [layer for layer in found if layer is not None]


def places_of(pos: Any, run: mi.Run) -> dict[Label, Any]:
    """Selectors by the labels that they have in results.

    >>> places_of([0, -1], None), places_of({"end": -1}, None)
    ({0: 0, -1: -1}, {'end': -1})
    """
    if pos is None:
        lengths = set(run.mask.sum(1).tolist())
        if len(lengths) > 1:
            raise SelectorError(
                f"pos=None reads every position, and the prompts have from {min(lengths)} to {max(lengths)} tokens: "
                'name some that all have, such as {"subject": mi.Span(subjects).last, "end": -1}.'
            )
        return {at: at for at in range(int(lengths.pop()))}
    if isinstance(pos, Mapping):
        return dict(pos)
    if isinstance(pos, list | tuple | range):
        return {one if isinstance(one, int) else repr(one): one for one in pos}
    return {pos if isinstance(pos, int) else repr(pos): pos}


def sliced(selector: Any, first: int, count: int, rows: int) -> Any:
    """A selector with one text for each prompt, for some of the prompts."""
    texts = getattr(selector, "text", None)
    if not isinstance(texts, tuple):
        return selector
    check_count(texts, rows, "texts of a position")
    return replace(selector, text=texts[first : first + count])


def one_of(run: mi.Run, point: Point, selector: Any) -> Tensor:
    """One position of each row.

    Raises:
        SelectorError: several are selected.
    """
    values = run.at(point.name, pos=selector)
    if values.ndim == len(point.site.dims):
        if values.shape[1] != 1:
            raise SelectorError(
                f"pos={selector!r} selects {values.shape[1]} positions of a prompt: take one, such as a text's .last.",
                pos=selector,
            )
        values = values[:, 0]
    return values


def joined(parts: Sequence[ResultProvenance]) -> ResultProvenance:
    """The provenance of several runs of one model as one."""
    return replace(
        parts[0],
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        tokens=tuple(row for part in parts for row in part.tokens),
        ids=tuple(row for part in parts for row in part.ids),
    )


def untrained(model: mi.Model, seed: int) -> mi.Model:
    """The same architecture and tokenizer with fresh weights: what labels are easily read without training?"""
    return mi.build(
        model.config, seed=seed, trainable=False, device=model.device, dtype=model.dtype, tokenizer=model.tokenizer
    )
