"""What can be written to a point, as data: values, arithmetic, directions.

Every intervention is immutable, comparable and can be saved, except ``Apply``. ``.at(...)`` narrows it to a part of
the activation; a value is a number, a tensor, or a run ("the same point, the same selection, of that run").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mi_core.editing import Intervention, brief
from mi_core.errors import SelectorError, ValueMismatch
from mi_core.fitting import aligned, fit, from_rows
from mi_core.noise import normal_like, picked_rows
from mi_core.scene import Scene, real_entries
from mi_core.selectors import Selector
from mi_core.sources import Value, is_source
from mi_core.subspaces import component, orthonormal, unit, wide

__all__ = [
    "Add",
    "Apply",
    "Clamp",
    "ClampAlong",
    "Detach",
    "Interpolate",
    "Intervention",
    "Mean",
    "Noise",
    "ProjectOut",
    "Replace",
    "Resample",
    "Scale",
    "Zero",
]

Dims = tuple[str, ...] | None


def check_bounds(edit: Clamp | ClampAlong) -> None:
    """Refuse bounds that bound nothing, or that nothing can be between."""
    if (edit.min is None and edit.max is None) or (None not in (edit.min, edit.max) and not edit.min <= edit.max):  # type: ignore[operator]
        raise ValueMismatch(
            f"{type(edit).__name__}(min={edit.min}, max={edit.max}): give one bound, or two with min at most max.",
            min=edit.min,
            max=edit.max,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Intervention):
    """Put a value there. With ``within`` (basis ``[k d]`` or a direction ``[d]``) only the part inside that subspace.

    Source for ``within``: Geiger et al. 2024, "Finding Alignments Between Interpretable Causal Variables and
    Distributed Neural Representations" (interchange interventions).
    """

    value: Value
    within: Tensor | None = None
    dims: Dims = None

    fitted: ClassVar[tuple[str, ...]] = ("value",)
    directions: ClassVar[tuple[str, ...]] = ("within",)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        new = fit(self.value, x, scene, dims=self.dims).expand(x.shape)
        if self.within is None:
            return new
        return x + component(new - x, orthonormal(self.within, x, scene.point.name))


@dataclass(frozen=True, eq=False, repr=False)
class Add(Intervention):
    """Add ``scale`` times a value; ``norm="match"`` first scales it to the activation's norm at each position."""

    value: Value
    scale: float = 1.0
    norm: Literal["match"] | None = None
    dims: Dims = None

    fitted: ClassVar[tuple[str, ...]] = ("value",)

    def __post_init__(self) -> None:
        if self.norm not in (None, "match"):
            raise ValueMismatch(f"Add(norm={self.norm!r}): norm is None or 'match'.", norm=self.norm)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        added = fit(self.value, x, scene, dims=self.dims)
        if self.norm == "match":
            added = added.expand(x.shape)
            length = wide(added).norm(dim=-1, keepdim=True)
            unit = wide(added) / torch.where(length > 0, length, 1.0)
            added = (unit * wide(x).norm(dim=-1, keepdim=True)).to(x.dtype)
        return x + self.scale * added


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Intervention):
    """Multiply by a factor."""

    factor: Value
    dims: Dims = None

    fitted: ClassVar[tuple[str, ...]] = ("factor",)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x * fit(self.factor, x, scene, dims=self.dims, what="factor")


@dataclass(frozen=True, eq=False, repr=False)
class Zero(Intervention):
    """Put zeros there."""

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False, repr=False)
class Mean(Intervention):
    """Put the mean over the named dims there: of a reference run, or (``source=None``) of this run itself.

    Only real tokens count. A mean over a single element is refused: it would change nothing.
    """

    source: Value = None
    over: tuple[str, ...] = ("batch",)

    def check_kinds(self) -> None:
        """Refuse a source that is no run."""
        if self.source is not None and not is_source(self.source):
            raise ValueMismatch(f"Mean: source is {brief(self.source)}; it must be a run, or None.", value=self.source)

    def __post_init__(self) -> None:
        over = (self.over,) if isinstance(self.over, str) else tuple(self.over)
        object.__setattr__(self, "over", over)

    def sought(self, selectors: Mapping[str, Selector]) -> dict[str, Selector]:
        """All rows of the reference, if the mean is over them."""
        return {dim: selector for dim, selector in selectors.items() if dim != "batch" or "batch" not in self.over}

    @property
    def needs_all_rows(self) -> bool:
        """Whether it is a mean over the rows of the run itself."""
        return self.source is None and "batch" in self.over

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse dims that the site lacks, and a mean over a single element."""
        unknown = [dim for dim in self.over if dim not in scene.dims]
        if unknown or not self.over:
            raise SelectorError(
                f"Mean(over={self.over}): {scene.point.name!r} has the dims {scene.dims}; name some of them.",
                dims=self.over,
            )
        self.apply(x, scene)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        values, counts = x, scene.selection.counts(scene.layout)
        if self.source is not None:
            values, counts = self.source.values_at(scene.point, self.sought(scene.selectors))
        present = real_entries(counts, scene.dims, values)
        axes = [scene.dims.index(dim) for dim in self.over]
        # along other dims the mask stays narrow
        sizes = [values.shape[axis] if axis in axes else present.shape[axis] for axis in range(values.ndim)]
        count = present.expand(sizes).sum(axes, keepdim=True)
        if int(count.max()) < 2:
            raise ValueMismatch(
                f"Mean over {self.over} at {scene.point.name!r} has a single element, so it would change nothing. "
                "Give several rows (or positions), or a reference run as source.",
                point=scene.point.name,
            )
        total = torch.where(present, wide(values), 0.0).sum(axes, keepdim=True)
        return aligned((total / count.clamp(min=1)).to(x), x, scene)


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Intervention):
    """Put there what a row of another run has, picked for each row by ``seed``: resample ablation.

    Source: Chan et al. 2022, "Causal Scrubbing".
    """

    source: Value
    seed: int = 0

    sources: ClassVar[tuple[str, ...]] = ("source",)

    def sought(self, selectors: Mapping[str, Selector]) -> dict[str, Selector]:
        """All rows of the source: any of them may be picked."""
        return {dim: selector for dim, selector in selectors.items() if dim != "batch"}

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse a source with other shapes."""
        self.apply(x, scene)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        values, counts = self.source.values_at(scene.point, self.sought(scene.selectors))
        picked = picked_rows(self.seed, scene.selected_rows(), values.shape[0])
        return from_rows(values, counts, picked, x, scene).to(x)


@dataclass(frozen=True, eq=False, repr=False)
class Noise(Intervention):
    """Add normal noise of standard deviation ``std``, a function of seed, row, real position and element only."""

    std: float
    seed: int = 0

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x + self.std * normal_like(x, self.seed, scene)


@dataclass(frozen=True, eq=False, repr=False)
class Interpolate(Intervention):
    """Move a part ``weight`` of the way towards a value: ``x + weight * (towards - x)``."""

    towards: Value
    weight: float
    dims: Dims = None

    fitted: ClassVar[tuple[str, ...]] = ("towards",)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x + self.weight * (fit(self.towards, x, scene, dims=self.dims, what="target") - x)


@dataclass(frozen=True, eq=False, repr=False)
class ProjectOut(Intervention):
    """Remove the part along a direction ``[d]``, or inside a subspace ``[k d]``; normalised here.

    Source: Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction".
    """

    direction: Tensor

    directions: ClassVar[tuple[str, ...]] = ("direction",)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x - component(x, orthonormal(self.direction, x, scene.point.name))


@dataclass(frozen=True, eq=False, repr=False)
class ClampAlong(Intervention):
    """Keep the coefficient along a direction ``[d]`` (normalised here) between ``min`` and ``max``."""

    direction: Tensor
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        check_bounds(self)

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse what is no direction of the last dim."""
        unit(self.direction, x, scene.point.name)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        along = unit(self.direction, x, scene.point.name).to(wide(x).dtype)
        coefficient = (wide(x) @ along)[..., None]
        return (wide(x) + (coefficient.clamp(self.min, self.max) - coefficient) * along).to(x.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Intervention):
    """Keep every entry between ``min`` and ``max``."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        check_bounds(self)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x.clamp(self.min, self.max)


@dataclass(frozen=True, eq=False, repr=False)
class Detach(Intervention):
    """The same value; gradients stop here."""

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x.detach()


@dataclass(frozen=True, eq=False, repr=False)
class Apply(Intervention):
    """The escape hatch: any function of the selected entries, which gets a private copy with every dim kept.

    It must return the same shape and dtype. It cannot be saved or shared.
    """

    function: Callable[[Tensor], Tensor]

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        new = self.function(x.clone())
        if not isinstance(new, Tensor) or new.shape != x.shape or new.dtype != x.dtype:
            seen = f"{list(new.shape)} {new.dtype}" if isinstance(new, Tensor) else repr(new)
            raise ValueMismatch(
                f"the function applied at {scene.point.name!r} returned {seen} for {list(x.shape)} {x.dtype}. "
                "It must return a tensor of the same shape and dtype.",
                point=scene.point.name,
            )
        return new
