"""What every intervention is: immutable data with selectors, which edits an activation in a scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, ClassVar, Self

from torch import Tensor

from mi_core.errors import ValueMismatch
from mi_core.fingerprint import fingerprint
from mi_core.fitting import fit
from mi_core.scene import Scene
from mi_core.selectors import Selector, merged
from mi_core.sources import is_source
from mi_core.subspaces import orthonormal

__all__ = ["Intervention", "brief"]


@dataclass(frozen=True, eq=False, repr=False)
class Intervention:
    """The base of all interventions: selectors, and a function from the selected activation to the new one."""

    selectors: Mapping[str, Selector] = field(default_factory=dict, kw_only=True)

    kinds: ClassVar[dict[str, type[Intervention]]] = {}
    fitted: ClassVar[tuple[str, ...]] = ()
    """The fields that hold values for the selected entries: numbers, tensors or runs."""
    sources: ClassVar[tuple[str, ...]] = ()
    """The fields that hold runs."""
    directions: ClassVar[tuple[str, ...]] = ()
    """The fields that hold directions or bases of the last dim."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kinds[cls.__name__] = cls

    def at(self, **selectors: Any) -> Self:
        """The same intervention on a part of the activation (or on some ``layer``).

        >>> from mi_core.interventions import Zero
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
            fit(getattr(self, name), x, scene, dims=getattr(self, "dims", None), what=name)
        for name in self.directions:
            if getattr(self, name) is not None:
                orthonormal(getattr(self, name), x, scene.point.name)

    def sought(self, selectors: Mapping[str, Selector]) -> dict[str, Selector]:
        """What is read of a run that it holds, where it is written at ``selectors``."""
        return dict(selectors)

    @property
    def needs_all_rows(self) -> bool:
        """Whether it looks across rows, so that the rows cannot be run in chunks."""
        return False

    def check_kinds(self) -> None:
        """Refuse values that are no numbers, tensors or runs."""
        for name in (*self.fitted, *self.sources):
            value = getattr(self, name)
            numeric = name in self.fitted and isinstance(value, int | float | Tensor)
            if not numeric and not is_source(value):
                kinds = "a number, a tensor or a run" if name in self.fitted else "a run"
                raise ValueMismatch(
                    f"{type(self).__name__}: {name} is {brief(value)} ({type(value).__name__}); it must be {kinds}.",
                    value=value,
                )

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
        return fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        return hash(fingerprint(self))


def brief(value: object) -> str:
    """A value in a few characters: tensors by shape."""
    if isinstance(value, Tensor):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if isinstance(value, FunctionType):
        return f"<function {value.__qualname__}>"
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
