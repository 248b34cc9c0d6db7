"""What heat maps of analyses share: a terminal view and the lines of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from mi_core.labelled import Labelled, visible
from mi_core.pages.heat import Heat, strips
from mi_core.pages.terminal import Bands
from mi_core.results import ResultProvenance

__all__ = ["Map", "heat_view", "origin", "place_of", "quiet", "spelled"]

ROUNDING = 1e-5
"""What is smaller than this part of the largest number is shown as zero."""


@dataclass(frozen=True)
class Map:
    """One array under its heading; ``note`` says how to read it."""

    heading: str
    array: Labelled
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", quiet(self.array))


def heat_view(
    title: str, source: ResultProvenance, lines: Sequence[tuple[str, str]], maps: Sequence[Map], last: str = ""
) -> RenderableType:
    """A heading, some labelled lines, and one coloured table for each two axes of each map."""
    parts: list[RenderableType] = [origin(title, source)]
    parts += [Text.assemble((f"{label:<8} ", "dim"), text) for label, text in lines]
    for one in maps:
        parts += [Text(), Text(one.heading, "bold")]
        scale = Heat.of(one.array)
        for strip in strips(one.array):
            parts += [Text(strip.heading, "dim")] if strip.heading else []
            parts.append(Bands(strip, scale))
        parts += [Text(one.note, "dim")] if one.note else []
    if last:
        parts += [Text(), Text(last, "bold")]
    return Group(*parts)


def origin(title: str, source: ResultProvenance) -> Text:
    """What is shown, of which model, in which numbers."""
    model = f"  {visible(source.model)} ({source.family}, {source.dtype}, {source.device})"
    return Text.assemble((title, "bold"), (model, "dim"))


def quiet(array: Labelled) -> Labelled:
    """The array to be shown: zeros in place of what rounding leaves.

    >>> quiet(Labelled(torch.tensor([1.0, -2e-7]), ("pos",))).values.tolist()
    [1.0, 0.0]
    """
    values = array.values
    finite = values[values.isfinite()]
    if not values.is_floating_point() or not finite.numel():
        return array
    shown = torch.where(values.abs() <= ROUNDING * finite.abs().max(), torch.zeros_like(values), values)
    return replace(array, values=shown)


def place_of(array: Labelled, flat: int) -> str:
    """Where the ``flat``-th number of an array is, in words.

    >>> place_of(Labelled(torch.zeros(2, 2), ("layer", "pos"), {"pos": ((0, "The"), (1, " cat"))}), 3)
    'layer 1, pos 1 ·cat'
    """
    places = torch.unravel_index(torch.tensor(flat), array.values.shape)
    labels = [array.coords[dim][int(place)] for dim, place in zip(array.dims, places, strict=True)]
    return ", ".join(f"{dim} {visible(label)}" for dim, label in zip(array.dims, labels, strict=True))


def spelled(tokens: Sequence[str]) -> str:
    """The tokens of a prompt, a dot for each space in them.

    >>> spelled(["<bos>", "The", " cat"])
    '<bos> The ·cat'
    """
    return " ".join(visible(token) for token in tokens)
