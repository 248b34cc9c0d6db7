"""What can be written to a point, as data: values, arithmetic, directions.

Every intervention is immutable, comparable and can be saved, except ``Apply``. ``.at(...)`` narrows it to a part of
the activation; a value is a number, a tensor, or a run ("the same point, the same selection, of that run").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from mi_core.errors import SelectorError, ValueMismatch
from mi_core.noise import normal_like, picked_rows
from mi_core.scene import Scene, Value
from mi_core.selectors import Selector, merged
from mi_core.subspaces import component, orthonormal, unit

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


@dataclass(frozen=True, eq=False, repr=False)
class Intervention:
    """The base of all interventions: selectors, and a function from the selected activation to the new one."""

    selectors: Mapping[str, Selector] = field(default_factory=dict, kw_only=True)

    kinds: ClassVar[dict[str, type[Intervention]]] = {}
    fitted: ClassVar[tuple[str, ...]] = ()
    """The fields that hold values for the selected entries."""
    directions: ClassVar[tuple[str, ...]] = ()
    """The fields that hold directions or bases of the last dim."""
    needs_all_rows: ClassVar[bool] = False
    """Whether it looks across rows, so that the rows cannot be run in chunks."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kinds[cls.__name__] = cls

    def at(self, **selectors: Any) -> Self:
        """The same intervention on a part of the activation (or on some ``layer``).

        >>> Zero().at(head=3, pos=-1)
        Zero().at(head=3, pos=-1)
        """
        return dataclasses.replace(self, selectors=merged(self.selectors, selectors))

    def edit(self, value: Tensor, scene: Scene) -> Tensor:
        """The whole activation after the intervention; ``value`` itself is never changed."""
        selected, _ = scene.selection.gather(value)
        new = self.apply(selected, scene)
        return scene.selection.write(value, new.expand(selected.shape))

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        """The selected entries after the intervention; every dim of the site is kept."""
        raise NotImplementedError

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse what does not fit; ``x`` has the selected shape and no numbers to rely on."""
        for name in self.fitted:
            scene.fit(getattr(self, name), x, dims=getattr(self, "dims", None), what=name)
        for name in self.directions:
            if getattr(self, name) is not None:
                orthonormal(getattr(self, name), x, scene.point.name)

    def arguments(self) -> dict[str, Any]:
        """The fields that describe it, without the selectors."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "selectors"}

    def __repr__(self) -> str:
        shown = [
            f"{name}={brief(value)}"
            for f in dataclasses.fields(self)
            if (name := f.name) != "selectors" and not is_default(f, value := getattr(self, name))
        ]
        narrowed = ", ".join(f"{dim}={brief(selector)}" for dim, selector in self.selectors.items())
        return f"{type(self).__name__}({', '.join(shown)})" + (f".at({narrowed})" if narrowed else "")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervention):
            return NotImplemented
        from mi_core.fingerprint import fingerprint

        return fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        from mi_core.fingerprint import fingerprint

        return hash(fingerprint(self))


def brief(value: object) -> str:
    """A value in a few characters: tensors by shape."""
    if isinstance(value, Tensor):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if isinstance(value, slice):
        parts = [value.start, value.stop, *([] if value.step in (None, 1) else [value.step])]
        return f"slice({', '.join(map(repr, parts))})"
    if isinstance(value, tuple) and type(value) is not tuple:
        return repr(list(value))
    return repr(value)


def is_default(field_: dataclasses.Field[Any], value: object) -> bool:
    """Whether a field holds its default, so that its repr can leave it out."""
    default = field_.default
    if default is dataclasses.MISSING or isinstance(value, Tensor):
        return False
    return type(value) is type(default) and value == default


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
        new = scene.fit(self.value, x, dims=self.dims).expand(x.shape)
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
        added = scene.fit(self.value, x, dims=self.dims)
        if self.norm == "match":
            added = added.expand(x.shape)
            size = x.float().norm(dim=-1, keepdim=True) / added.float().norm(dim=-1, keepdim=True).clamp(min=1e-30)
            added = (added.float() * size).to(x.dtype)
        return x + self.scale * added


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Intervention):
    """Multiply by a factor."""

    factor: Value
    dims: Dims = None

    fitted: ClassVar[tuple[str, ...]] = ("factor",)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return x * scene.fit(self.factor, x, dims=self.dims, what="factor")


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

    needs_all_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        over = (self.over,) if isinstance(self.over, str) else tuple(self.over)
        object.__setattr__(self, "over", over)

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse dims that the site lacks, and a mean over a single element."""
        unknown = [dim for dim in self.over if dim not in scene.dims]
        if unknown:
            raise SelectorError(
                f"Mean(over={self.over}): {scene.point.name!r} has no dim {unknown[0]!r}; it has {scene.dims}.",
                dim=unknown[0],
            )
        self.apply(x, scene)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        values, present = x, scene.present(x)
        if self.source is not None:
            values, present = self.source.take_present(scene.point, scene.selectors)
            values, present = values.to(x), present.to(x.device)
        axes = [scene.dims.index(dim) for dim in self.over]
        if all(values.shape[axis] == 1 for axis in axes):
            raise ValueMismatch(
                f"Mean over {self.over} at {scene.point.name!r} has a single element, so it would change nothing. "
                "Give several rows (or positions), or a reference run as source.",
                point=scene.point.name,
            )
        weight = present.expand(values.shape).float()
        total = (values.float() * weight).sum(axes, keepdim=True)
        return (total / weight.sum(axes, keepdim=True).clamp(min=1)).to(x.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Intervention):
    """Put there what a row of another run has, chosen for each row by ``seed``: resample ablation.

    Source: Chan et al. 2022, "Causal Scrubbing".
    """

    source: Value
    seed: int = 0

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse a source with other shapes."""
        self.apply(x, scene)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        taken: Tensor = self.source.take(scene.point, scene.selectors).to(x)
        chosen = picked_rows(self.seed, scene.selected_rows(), taken.shape[0])
        new = taken[chosen.to(taken.device)]
        if new.shape != x.shape:
            raise ValueMismatch(
                f"Resample at {scene.point.name!r}: the source run gives {list(new.shape)}, here is {list(x.shape)}. "
                "Select the same number of positions in both.",
                point=scene.point.name,
            )
        return new


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
        return x + self.weight * (scene.fit(self.towards, x, dims=self.dims, what="target") - x)


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

    directions: ClassVar[tuple[str, ...]] = ("direction",)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        along = unit(self.direction, x, scene.point.name)
        coefficient = (x.float() @ along)[..., None]
        return (x.float() + (coefficient.clamp(self.min, self.max) - coefficient) * along).to(x.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Intervention):
    """Keep every entry between ``min`` and ``max``."""

    min: float | None = None
    max: float | None = None

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
