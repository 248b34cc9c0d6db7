"""From rows of activations to features, a part of the tokens and of the features at a time.

What is held at a time stays in the processor's caches, so that finding the active features costs less than writing all
pre-activations to memory would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_dictionaries.activations import Activation, Alone, Best

__all__ = ["Encoder"]

TOKENS = 512
FEATURES = 4096
"""How many tokens and features are looked at at a time."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """``activation((h W + b) scale)``, in the finer type of activations and weights.

    ``W`` may be a view of a mapped file in any layout: it is read, and brought to that type, a part at a time.
    """

    W: Float[Tensor, "d feature"]
    b: Float[Tensor, "feature"] | None
    scale: Float[Tensor, "feature"] | None
    activation: Activation

    @property
    def n_features(self) -> int:
        """How many features there are."""
        return self.W.shape[1]

    def pre(self, h: Float[Tensor, "tokens d"], part: slice = slice(None)) -> Float[Tensor, "tokens part"]:
        """``h W + b`` of some features."""
        return self._pre(h.to(self._dtype(h)), self.W[:, part].to(self._dtype(h)), part)

    def scaled(self, z: Float[Tensor, "tokens part"], part: slice = slice(None)) -> Float[Tensor, "tokens part"]:
        """What the activation receives."""
        return z if self.scale is None else z * self.scale[part].to(z.dtype)

    def dense(self, h: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens feature"]:
        """Every feature of every token."""
        if self._learns(h):
            return self.activation(self.scaled(self.pre(h)))
        dtype = self._dtype(h)
        if isinstance(self.activation, Best):
            token, index, values = self._best(h, self.activation)
            zeros = torch.zeros(len(h), self.n_features, dtype=dtype, device=h.device)
            return zeros.index_put_((token, index), values)
        out = torch.empty(len(h), self.n_features, dtype=dtype, device=h.device)
        if isinstance(self.activation, Alone):
            for part, rows, z in self._tiles(h):
                out[rows, part] = torch.where(self.activation.on(z, part), self.activation.value(z, part), 0)
            return out
        for rows in spans(len(h), max(1, TOKENS * FEATURES // self.n_features)):
            out[rows] = self.activation(self.scaled(self.pre(h[rows])))
        return out

    def active(
        self, h: Float[Tensor, "tokens d"]
    ) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Float[Tensor, "active"]]:
        """Token, feature and value of what is active, in the order of tokens, then features."""
        if isinstance(self.activation, Alone):
            return in_order(*self._judged_alone(h, self.activation))
        if isinstance(self.activation, Best):
            return self._best(h, self.activation)
        size = max(1, TOKENS * FEATURES // self.n_features)
        found = [kept(self.activation(self.scaled(self.pre(h[rows]))), rows.start) for rows in spans(len(h), size)]
        return joined(found, h)

    def _judged_alone(self, h: Tensor, activation: Alone) -> tuple[Tensor, Tensor, Tensor]:
        found = Found(h, self._dtype(h), learns=self._learns(h))
        for part, rows, z in self._tiles(h):
            token, index = activation.on(z.detach(), part).nonzero(as_tuple=True)
            values = z[token, index]
            index = index + part.start
            found.add(token + rows.start, index, activation.value(values, index))
        return found.all()

    def _best(self, h: Tensor, activation: Best) -> tuple[Tensor, Tensor, Tensor]:
        # the best so far of each token, by blocks of tokens
        best: dict[int, tuple[Tensor, Tensor]] = {}
        for part, rows, z in self._tiles(h):
            if rows.start not in best:
                best[rows.start] = activation.offered(z)
                continue
            values, index = best[rows.start]
            more, where = z, torch.arange(part.start, part.stop, device=z.device).expand(z.shape)
            if values.shape[1] == activation.k:
                # only what beats the worst that is kept can be among the best
                more, where = packed(z, activation, activation.rank(values.detach()).amin(-1, keepdim=True), part.start)
            if more.shape[1]:
                values, index = torch.cat([values, more], dim=1), torch.cat([index, where], dim=1)
                values, place = activation.offered(values)
                best[rows.start] = values, index.gather(1, place)
        found = []
        for first, (values, index) in best.items():
            index, order = index.sort(dim=1)
            chosen = activation.finished(values.gather(1, order))
            token, place = (chosen.detach() != 0).nonzero(as_tuple=True)
            found.append((token + first, index[token, place], chosen[token, place]))
        return joined(found, h)

    def _tiles(self, h: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        dtype = self._dtype(h)
        h = h.to(dtype)
        # one place for all of them, unless gradients want each
        place = None if self._learns(h) else h.new_empty(min(TOKENS, len(h)) * min(FEATURES, self.n_features))
        for part in spans(self.n_features, FEATURES):
            weight = self.W[:, part].to(dtype)
            for rows in spans(len(h), TOKENS):
                yield part, rows, self.scaled(self._pre(h[rows], weight, part, place), part)

    def _pre(self, h: Tensor, weight: Tensor, part: slice, place: Tensor | None = None) -> Tensor:
        out = None if place is None else place[: len(h) * weight.shape[1]].view(len(h), -1)
        if self.b is None:
            return torch.mm(h, weight, out=out)
        bias = self.b[part].to(h.dtype)
        if h.dtype.itemsize < 4:  # rounded before the bias is added, as the libraries do that half precision is of
            return torch.mm(h, weight, out=out) + bias
        return torch.addmm(bias, h, weight, out=out)

    def _learns(self, h: Tensor) -> bool:
        held = (h, self.W, self.b, self.scale, *vars(self.activation).values())
        return torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in held)

    def _dtype(self, h: Tensor) -> torch.dtype:
        return torch.promote_types(h.dtype, self.W.dtype)


def spans(size: int, step: int) -> list[slice]:
    """Parts of a size, side by side."""
    return [slice(first, min(first + step, size)) for first in range(0, size, step)]


def packed(
    z: Float[Tensor, "tokens part"], activation: Best, bar: Float[Tensor, "tokens 1"], start: int
) -> tuple[Float[Tensor, "tokens most"], Int[Tensor, "tokens most"]]:
    """What ranks above each token's bar, side by side; shorter rows are filled with what ranks last."""
    token, index = (activation.rank(z.detach()) > bar).nonzero(as_tuple=True)
    counts = torch.bincount(token, minlength=len(z))
    most = int(counts.max()) if len(counts) else 0
    place = torch.arange(len(token), device=z.device) - (counts.cumsum(0) - counts)[token]
    values = z.new_full((len(z), most), activation.last).index_put((token, place), z[token, index])
    where = torch.zeros(len(z), most, dtype=torch.long, device=z.device).index_put((token, place), index + start)
    return values, where


def kept(values: Float[Tensor, "tokens feature"], first: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is active of dense features, with tokens counted from ``first``."""
    token, index = (values.detach() != 0).nonzero(as_tuple=True)
    return token + first, index, values[token, index]


class Found:
    """What is active, part after part.

    Many small tensors that stay among large ones that go would keep an allocator from using the room again, so what is
    found goes into three that grow; with gradients it stays apart until the end.
    """

    def __init__(self, h: Tensor, dtype: torch.dtype, *, learns: bool) -> None:
        self.apart: list[tuple[Tensor, Tensor, Tensor]] | None = [] if learns else None
        self.h = h
        self.held = tuple(torch.empty(4096, dtype=kind, device=h.device) for kind in (torch.long, torch.long, dtype))
        self.n = 0

    def add(self, *part: Tensor) -> None:
        """Token, feature and value of some more."""
        token, index, values = part
        if self.apart is not None:
            self.apart.append((token, index, values))
            return
        end = self.n + len(token)
        if end > len(self.held[0]):
            grown = tuple(held.new_empty(max(end, 2 * len(held))) for held in self.held)
            for new, held in zip(grown, self.held, strict=True):
                new[: self.n] = held[: self.n]
            self.held = grown
        for held, more in zip(self.held, part, strict=True):
            held[self.n : end] = more
        self.n = end

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """All of them."""
        if self.apart is not None:
            return joined(self.apart, self.h)
        token, index, values = (held[: self.n] for held in self.held)
        return token, index, values


def joined(found: list[tuple[Tensor, Tensor, Tensor]], h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Parts as one."""
    if not found:
        none = torch.zeros(0, dtype=torch.long, device=h.device)
        return none, none, h.new_zeros(0)
    token, index, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return token, index, values


def in_order(
    token: Int[Tensor, "active"], index: Int[Tensor, "active"], values: Float[Tensor, "active"]
) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Float[Tensor, "active"]]:
    """By tokens; the features of each are in order already."""
    ordered: Bool[Tensor, ""] = (token[1:] >= token[:-1]).all()
    if ordered:
        return token, index, values
    token, order = token.sort(stable=True)
    return token, index[order], values[order]
