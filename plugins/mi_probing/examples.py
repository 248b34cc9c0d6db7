"""Activations with a label each: what probes are fitted on, from live runs, harvested sets or any tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mi_core.errors import InputError
from mi_core.labelled import Label, Labelled
from mi_core.results import ResultProvenance

__all__ = ["Examples", "numbered"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Activations of labelled examples in every cell, which is a layer, a position, perhaps a head.

    >>> examples = Examples.of(torch.randn(4, 2, 8), ["a", "b", "a", "b"], dims=("layer",))
    >>> examples
    Examples(4 of 2 classes in 4 groups, layer 2, d 8)
    """

    x: Float[Tensor, "cell example d"]
    labels: Shaped[Tensor, "example"]
    """Numbers of classes, or floats."""
    classes: tuple[str, ...]
    """Empty where labels are numbers."""
    groups: Int[Tensor, "example"]
    types: Int[Tensor, "example"]
    cells: Mapping[str, tuple[Label, ...]]
    """The axes of the cells, with their labels."""
    site: str = ""
    provenance: ResultProvenance | None = None

    @classmethod
    def of(
        cls,
        values: Tensor | Labelled,
        labels: Sequence[Any] | Tensor,
        *,
        groups: Sequence[Any] | None = None,
        types: Sequence[Any] | None = None,
        dims: Sequence[str] | None = None,
        coords: Mapping[str, Sequence[Label]] | None = None,
        site: str = "",
        provenance: ResultProvenance | None = None,
    ) -> Self:
        """Examples of a tensor ``[example *dims d]``, or of a labelled array whose last axis are the features.

        Args:
            values: activations; of a labelled array the axes between are the cells, whatever their order.
            labels: a class for each example (text, bool or int), or floats to regress on.
            groups: what must not be on two sides of a split, such as the fact; by default each example is one.
            types: what a control task gives random labels to, such as the word; by default the groups.
            dims: the axes of the cells of a tensor, such as ``("layer", "pos")``.
            coords: their labels.
            site: where the activations are from, without the layer.
            provenance: what they depend on.

        Raises:
            InputError: counts that differ, one class only, or activations that are not finite.
        """
        if isinstance(values, Labelled):
            dims, coords, values = unlabelled(values)
        dims = tuple(f"axis {at}" for at in range(1, values.ndim - 1)) if dims is None else tuple(dims)
        if values.ndim != len(dims) + 2:
            raise InputError(
                f"activations of shape {list(values.shape)} with the cells {dims}: their dims are example, "
                f"{', '.join((*dims, 'd'))}."
            )
        sizes = values.shape[1:-1]
        named = {dim: tuple((coords or {}).get(dim, range(size))) for dim, size in zip(dims, sizes, strict=True)}
        for dim, size in zip(dims, sizes, strict=True):
            if len(named[dim]) != size:
                raise InputError(f"{dim}: {len(named[dim])} labels for {size} places.", dim=dim)
        check_finite(values)
        count = len(values)
        check_count(labels, count, "labels")
        numbers, classes = labelled(labels)
        parts = torch.arange(count) if groups is None else numbered(groups, count, "groups")
        kinds = parts if types is None else numbered(types, count, "types")
        x = values.detach().movedim(0, -2).reshape(-1, count, values.shape[-1])
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return cls(x, numbers, classes, parts, kinds, named, site, provenance)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis of the cells."""
        return tuple(map(len, self.cells.values()))

    def __repr__(self) -> str:
        what = f"{len(self.classes)} classes" if self.classes else "numbers"
        cells = "".join(f", {dim} {len(labels)}" for dim, labels in self.cells.items())
        return (
            f"Examples({len(self)} of {what} in {len(torch.unique(self.groups))} groups{cells}, d {self.x.shape[-1]})"
        )


def unlabelled(values: Labelled) -> tuple[tuple[str, ...], Mapping[str, Sequence[Label]], Tensor]:
    """A labelled array as cells, their labels, and a tensor ``[example *cells d]``."""
    if "example" not in values.dims or len(values.dims) < 2 or values.dims[-1] == "example":
        raise InputError(f"{values!r}: an axis 'example' is needed, and the last axis is that of the features.")
    dims = tuple(dim for dim in values.dims[:-1] if dim != "example")
    return dims, values.coords, values.values.movedim(values.dims.index("example"), 0)


def check_finite(values: Tensor) -> None:
    """Refuse activations that are no numbers, naming the first."""
    wrong = ~values.isfinite()
    if bool(wrong.any()):
        rows = wrong.flatten(1).any(1).nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise InputError(
            f"the activations of {len(rows)} of {len(values)} examples hold NaN or infinity (examples {shown}): "
            "leave them out, or run the model in a wider dtype.",
            examples=rows,
        )


def check_count(given: Sequence[Any] | Tensor, count: int, what: str) -> None:
    """Refuse another number of labels than of examples."""
    if len(given) != count:
        raise InputError(f"{len(given)} {what} for {count} examples: give one for each.")


def labelled(labels: Sequence[Any] | Tensor) -> tuple[Shaped[Tensor, "example"], tuple[str, ...]]:
    """Labels as numbers, and the names of the classes in order; floats stay what they are.

    >>> labelled(["no", "yes", "no"])
    (tensor([0, 1, 0]), ('no', 'yes'))
    """
    plain = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if any(isinstance(label, float) for label in plain):
        numbers = torch.tensor([float(label) for label in plain])
        if not bool(numbers.isfinite().all()) or float(numbers.std(correction=0)) == 0:
            raise InputError("labels that are numbers must be finite, and not all the same.")
        return numbers, ()
    names = sorted(set(plain), key=lambda one: (str(type(one)), one))
    if len(names) < 2:
        raise InputError(
            f"every label is {names[0]!r}: a probe tells classes apart, so give examples of at least two."
            if names
            else "no examples were given.",
            labels=tuple(names),
        )
    return torch.tensor([names.index(label) for label in plain]), tuple(map(str, names))


def numbered(given: Sequence[Any] | Tensor, count: int, what: str) -> Int[Tensor, "example"]:
    """Anything with names as numbers.

    >>> numbered(["b", "a", "b"], 3, "groups").tolist()
    [0, 1, 0]
    """
    check_count(given, count, what)
    plain = given.tolist() if isinstance(given, Tensor) else list(given)
    names = {name: number for number, name in enumerate(dict.fromkeys(plain))}
    return torch.tensor([names[name] for name in plain])
