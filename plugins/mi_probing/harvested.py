"""Examples from a harvest: rows of activations that are on disk, each with a label; documents stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

import mi_core as mi
from mi_core.errors import InputError, MissingActivation
from mi_core.results import ResultProvenance
from mi_probing.examples import Examples

__all__ = ["harvested_examples"]


def harvested_examples(
    harvest: mi.Harvest,
    labels: Sequence[Any] | Tensor,
    *,
    rows: Sequence[int] | Int[Tensor, "example"] | None = None,
    groups: Sequence[Any] | None = None,
    types: Sequence[Any] | None = None,
    site: str = "hook_resid_post",
) -> Examples:
    """Some rows of a harvest with a label each, in every layer that was harvested.

    Args:
        harvest: what `mi_core.harvest` wrote.
        labels: one for each of the rows: classes, or floats to regress on.
        rows: which rows; None for all.
        groups: what must not be on two sides of a split; by default the document.
        types: what a control task labels at random; by default the token.
        site: where, without the layer; dims such as ``head`` are cells of their own.

    Raises:
        MissingActivation: the harvest does not have the site.
        InputError: another number of labels than of rows, one class only, or values that are not finite.
    """
    layers = {int(point.split(".")[1]): point for point in harvest if ends(point, site)}
    if not layers:
        raise MissingActivation(f"{harvest!r} has no {site!r}; it has {', '.join(harvest)}.", site=site)
    chosen = torch.arange(harvest.rows) if rows is None else torch.as_tensor(rows)
    if len(labels) != len(chosen):
        raise InputError(f"{len(labels)} labels for {len(chosen)} rows of {harvest!r}: give one for each.")
    order = sorted(layers)
    values = torch.stack([harvest[layers[layer]][chosen] for layer in order], 1)
    source = harvest.index["provenance"]
    return Examples.of(
        values,
        labels,
        groups=harvest.documents[chosen].tolist() if groups is None else groups,
        types=harvest.tokens[chosen].tolist() if types is None else types,
        dims=("layer", *harvest[layers[order[0]]].dims[1:-1]),
        coords={"layer": order},
        site=site,
        provenance=ResultProvenance(
            model=source["ref"],
            family=source["family"],
            plugin=source["plugin"],
            revision=source["revision"],
            seed=source["seed"],
            versions=source["versions"],
            spec=harvest.index["asked"],
        ),
    )


def ends(point: str, site: str) -> bool:
    """Whether a point is of a site in some layer.

    >>> ends("blocks.3.hook_resid_post", "hook_resid_post"), ends("hook_embed", "hook_embed")
    (True, False)
    """
    parts = point.split(".", 2)
    return len(parts) == 3 and parts[0] == "blocks" and parts[2] == site
