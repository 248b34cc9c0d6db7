"""An array whose axes say what they are: the shape in which every result arrives."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_core.errors import SelectorError, ValueMismatch
from mi_core.plain import from_plain, numbers_from_plain, numbers_to_plain, read_json, to_plain, write_json

__all__ = ["Label", "Labelled", "visible"]

Label = int | float | str | tuple[int, str]
"""What one place along an axis is called; ``(3, " France")`` is position 3 and its token."""

SIGNS = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "▁": "·", "Ġ": "·"})


def visible(label: Label) -> str:
    r"""A label as one printable word: a space shows as a dot, a line break as an arrow, control characters escaped.

    >>> visible(" Paris"), visible((3, "\n")), visible("\x1b[31m")
    ('·Paris', '3 ↵', '\\x1b[31m')
    """
    if isinstance(label, tuple):
        return f"{label[0]} {visible(label[1])}"
    if not isinstance(label, str):
        return f"{label:g}" if isinstance(label, float) else str(label)
    shown = label.translate(SIGNS)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in shown)


@dataclass(frozen=True, eq=False, repr=False)
class Labelled:
    """Numbers with named axes, each place along an axis with its label. Read-only by contract.

    Axes without ``coords`` are numbered. Two arrays are equal if names, labels, dtype and numbers are (NaN equals NaN).

    >>> heat = Labelled(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ("layer", "pos"), {"pos": ((0, "The"), (1, " cat"))})
    >>> heat.sel(layer=1, pos=" cat").item()
    4.0
    >>> (heat - heat.sel(layer=0).mean("pos").item()).values.tolist()
    [[-0.5, 0.5], [1.5, 2.5]]
    """

    values: Tensor
    dims: tuple[str, ...]
    coords: Mapping[str, Sequence[Label]] = field(default_factory=dict)
    name: str = ""
    unit: str = ""
    """What one is one of: ``"nats"``, ``"probability"``, ``"logits"``; empty for counts and ratios."""

    def __post_init__(self) -> None:
        values = self.values.detach().cpu()
        if len(self.dims) != values.ndim or len(set(self.dims)) != len(self.dims):
            raise ValueMismatch(
                f"{self.name or 'an array'} has the shape {tuple(values.shape)} and the axes {self.dims!r}: "
                "one name for each axis is needed",
                shape=tuple(values.shape),
                dims=self.dims,
            )
        coords = {
            dim: tuple(self.coords.get(dim, range(size))) for dim, size in zip(self.dims, values.shape, strict=True)
        }
        for dim, size in zip(self.dims, values.shape, strict=True):
            if len(coords[dim]) != size:
                raise ValueMismatch(
                    f"axis {dim!r} of {self.name or 'an array'} has {size} places and {len(coords[dim])} labels",
                    dim=dim,
                    size=size,
                    labels=coords[dim],
                )
        if unknown := sorted(set(self.coords) - set(self.dims)):
            raise ValueMismatch(
                f"labels for {unknown!r}, but the axes are {self.dims!r}", dims=self.dims, unknown=unknown
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "coords", coords)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return tuple(self.values.shape)

    def item(self) -> float | int | bool:
        """The one number.

        Raises:
            SelectorError: there are several; the message says what is left to select.
        """
        if self.values.numel() != 1:
            raise SelectorError(
                f"{self!r} holds {self.values.numel()} numbers: select one by {self.dims!r}", dims=self.dims
            )
        return self.values.item()

    def sel(self, **labels: Any) -> Labelled:
        """The part at these labels; a single label drops its axis, a list or a slice keeps it.

        A position is found by its number or its token. An int is a label where the labels are numbers, else it counts
        places; a negative int that is no label counts from the end, and so do slices.

        Raises:
            SelectorError: no such axis, no such label, or several places with it; the message lists the labels.
        """
        part = self
        for dim, label in labels.items():
            if dim not in part.dims:
                raise SelectorError(f"{part!r} has no axis {dim!r}. Its axes: {part.dims!r}", dim=dim)
            if isinstance(label, slice):
                part = part.at_places(dim, range(len(part.coords[dim]))[label])
            elif isinstance(label, list | range):
                part = part.at_places(dim, [part.place(dim, one) for one in label])
            else:
                part = part.at_place(dim, part.place(dim, label))
        return part

    def at_place(self, dim: str, place: int) -> Labelled:
        """The part at one place along an axis, counted from zero; the axis is dropped."""
        coords = {name: self.coords[name] for name in self.dims if name != dim}
        return replace(self, values=self.values.select(self.dims.index(dim), place), dims=tuple(coords), coords=coords)

    def at_places(self, dim: str, places: Sequence[int]) -> Labelled:
        """The part at several places along an axis, in that order."""
        index = torch.tensor(list(places), dtype=torch.long)
        coords = {**self.coords, dim: tuple(self.coords[dim][place] for place in places)}
        return replace(self, values=self.values.index_select(self.dims.index(dim), index), coords=coords)

    def place(self, dim: str, label: Label) -> int:
        """Where along the axis ``dim`` a label is, as ``sel`` finds it."""
        labels = self.coords[dim]
        found = [i for i, seen in enumerate(labels) if seen == label]
        if not found:
            found = [i for i, seen in enumerate(labels) if isinstance(seen, tuple) and label in seen]
        numbered = any(not isinstance(seen, str) for seen in labels)
        if not found and isinstance(label, int) and (label < 0 or not numbered) and -len(labels) <= label < len(labels):
            found = [label % len(labels)]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(repr(seen) for seen in labels[:60]) + (", ..." if len(labels) > 60 else "")
        raise SelectorError(
            f"{label!r} is {'no label' if not found else f'the label of {len(found)} places'} of axis {dim!r} of "
            f"{self.name or 'this array'}. Its labels: {listed}",
            dim=dim,
            label=label,
            labels=labels,
        )

    def mean(self, dim: str) -> Labelled:
        """The average along one axis; NaN where any of it is NaN."""
        if dim not in self.dims:
            raise SelectorError(f"{self!r} has no axis {dim!r}. Its axes: {', '.join(self.dims) or 'none'}", dim=dim)
        values = self.values if self.values.is_floating_point() else self.values.float()
        dims = tuple(name for name in self.dims if name != dim)
        coords = {name: self.coords[name] for name in dims}
        return replace(self, values=values.mean(self.dims.index(dim)), dims=dims, coords=coords)

    def combine(self, other: Labelled | float, operation: Callable[[Any, Any], Tensor], sign: str) -> Labelled:
        """``operation`` element by element with a number, or with an array of the same axes.

        Raises:
            ValueMismatch: the axes or their labels differ; the message names both.
        """
        if not isinstance(other, Labelled):
            return replace(self, values=operation(self.values, other))
        if (self.dims, self.coords) != (other.dims, other.coords):
            differ = [dim for dim in self.dims if self.coords[dim] != other.coords.get(dim)]
            raise ValueMismatch(
                f"{self!r} {sign} {other!r}: the axes differ"
                + "".join(
                    f"; {dim!r} is {self.coords[dim]!r} and {other.coords.get(dim, 'absent')!r}" for dim in differ
                )
                + ". Select the same labels on both first",
                left=self.dims,
                right=other.dims,
            )
        unit = self.unit if self.unit == other.unit and sign in "+-" else ""
        return replace(self, values=operation(self.values, other.values), unit=unit)

    def __add__(self, other: Labelled | float) -> Labelled:
        return self.combine(other, operator.add, "+")

    def __sub__(self, other: Labelled | float) -> Labelled:
        return self.combine(other, operator.sub, "-")

    def __mul__(self, other: Labelled | float) -> Labelled:
        return self.combine(other, operator.mul, "*")

    def __truediv__(self, other: Labelled | float) -> Labelled:
        return self.combine(other, operator.truediv, "/")

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float) -> Labelled:
        return self.combine(other, lambda mine, number: number - mine, "-")

    def __rtruediv__(self, other: float) -> Labelled:
        return replace(self.combine(other, lambda mine, number: number / mine, "/"), unit="")

    def __neg__(self) -> Labelled:
        return replace(self, values=-self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Labelled):
            return NotImplemented
        return (
            self.signature() == other.signature()
            and self.values.dtype == other.values.dtype
            and torch.allclose(self.values, other.values, rtol=0, atol=0, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def signature(self) -> tuple[Any, ...]:
        """Everything but the numbers, as one comparable value."""
        return (self.name, self.unit, self.dims, tuple(self.coords[dim] for dim in self.dims))

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON; floats exact, NaN and infinities as strings."""
        return {
            "name": self.name,
            "unit": self.unit,
            "dims": list(self.dims),
            "coords": {dim: [to_plain(label) for label in labels] for dim, labels in self.coords.items()},
            "dtype": str(self.values.dtype).removeprefix("torch."),
            "values": numbers_to_plain(self.values.tolist()),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Labelled:
        """The array that ``to_data`` wrote."""
        coords = {dim: tuple(from_plain(label) for label in labels) for dim, labels in data["coords"].items()}
        shape = [len(coords[dim]) for dim in data["dims"]]
        dtype = getattr(torch, data["dtype"])
        values = torch.tensor(numbers_from_plain(data["values"]), dtype=dtype).reshape(shape)
        return cls(values, tuple(data["dims"]), coords, data["name"], data["unit"])

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON text, written to ``path`` if one is given. Exact: ``from_json`` gives an equal array."""
        return write_json(self.to_data(), path)

    @classmethod
    def from_json(cls, source: str | Path) -> Labelled:
        """The array in a JSON text or in a file."""
        return cls.from_data(read_json(source))

    def to_frame(self) -> Any:
        """A pandas data frame with one row for each number: a column for each axis, and one for the numbers.

        Raises:
            MiError: pandas is not installed.
        """
        from mi_core.frames import frame

        return frame([self])

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained page with the numbers as heat tables, written to ``path`` if one is given."""
        from mi_core.pages import render, write

        return write(render("mi_core/labelled.html", title=self.name or "Labelled", arrays=[self]), path)

    def _repr_html_(self) -> str:
        from mi_core.pages import framed

        return framed(self.to_html(), f"{min(40, 9 + 2 * (self.shape[-2] if len(self.shape) > 1 else 1))}em")

    def __rich__(self) -> Any:
        from mi_core.pages.terminal import heat_table

        return heat_table(self)

    def show(self) -> None:
        """Print one or two axes as a heat table; with more it says what to select."""
        from rich.console import Console

        Console().print(self)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        dtype = str(self.values.dtype).removeprefix("torch.")
        return f"Labelled({self.name or 'values'} [{sizes}]{' ' + self.unit if self.unit else ''}, {dtype})"
