"""What all dictionaries share: their points, and the way from a model's activations to rows of numbers and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mi_core.errors import ValueMismatch
from mi_dictionaries.about import About
from mi_dictionaries.features import Features
from mi_dictionaries.transforms import State, Transform

__all__ = ["Entered", "Framed"]


@dataclass(frozen=True, eq=False)
class Entered:
    """Activations on their way to an encoder."""

    h: Float[Tensor, "tokens d"]
    shape: tuple[int, ...]
    """The dims of the tokens."""
    state: tuple[State, ...]
    heads: tuple[int, int] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Framed:
    """Where a dictionary reads and writes, and what surrounds its encoder and decoder."""

    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    """Empty: those that it reads."""
    transforms: tuple[Transform, ...] = ()
    """Adapters to a processed model and norms, in the order in which they are applied."""
    b_in: Float[Tensor, "..."] | None = None
    """What is subtracted behind the transforms and never added again; the decoder's bias, where a format says so."""
    heads: bool = False
    """Activations come as ``head d_head`` and are encoded as one row: ``hook_z``."""
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        if not self.writes:
            object.__setattr__(self, "writes", self.reads)

    @property
    def shape_in(self) -> tuple[int, ...]:
        """The dims behind those of the tokens, of what is encoded."""
        raise NotImplementedError

    @property
    def shape_out(self) -> tuple[int, ...]:
        """The dims behind those of the tokens, of what is decoded."""
        raise NotImplementedError

    @property
    def site_in(self) -> str:
        """The first point that it reads."""
        return self.reads[0]

    @property
    def site_out(self) -> str:
        """The first point that it writes."""
        return self.writes[0]

    @property
    def d_in(self) -> int:
        """The width of a point that it reads."""
        return self.shape_in[-1]

    @property
    def d_out(self) -> int:
        """The width of a point that it writes."""
        return self.shape_out[-1]

    def enter(self, x: Float[Tensor, "..."]) -> Entered:
        """Activations as rows: heads put together, transforms applied, ``b_in`` subtracted."""
        heads = (x.shape[-2], x.shape[-1]) if self.heads and x.dim() > 1 else None
        flat = x.flatten(-2) if heads is not None else x
        n = len(self.shape_in)
        if tuple(flat.shape[flat.dim() - n :]) != self.shape_in:
            raise ValueMismatch(
                f"the dictionary at {self.site_in!r} encodes activations of the shape [... "
                f"{' '.join(map(str, self.shape_in))}], it was given {list(x.shape)}. It belongs to another model, or "
                "to another point.",
                shape=tuple(x.shape),
                wanted=self.shape_in,
            )
        shape = tuple(flat.shape[: flat.dim() - n])
        h = flat.reshape(math.prod(shape), math.prod(self.shape_in))
        state: tuple[State, ...] = ()
        for transform in self.transforms:
            h, own = transform.into(h)
            state = (*state, own)
        if self.b_in is not None:
            h = h - self.b_in.reshape(-1).to(h.dtype)
        return Entered(h, shape, state, heads)

    def leave(self, y: Float[Tensor, "tokens d"], features: Features, *, change: bool = False) -> Float[Tensor, "..."]:
        """Rows behind the decoder as activations: transforms undone, heads apart; of a ``change`` its linear part."""
        for transform, state in reversed(list(zip(self.transforms, features.state, strict=True))):
            if transform.undo:
                y = transform.back(y, state, change=change)
        trailing = self.shape_out if features.heads is None else features.heads
        return y.reshape(*features.shape, *trailing)
