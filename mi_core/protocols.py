"""What a backend is: an embedding, blocks and an unembedding around one residual stream.

The core owns the loop over the blocks and taps ``hook_resid_pre`` and ``hook_resid_post`` itself. Everything else is
the backend's: it calls its tap at each site that it declares, and uses what the tap returns.

Sizes in shapes: ``batch`` rows of a call, ``pos`` its columns (the same number for all rows), each row with its own
``start``. Rows are left-aligned: row ``r`` is real in the columns ``[0, length[r])``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["Backend", "Batch", "Block", "Memory", "ModelShape", "Part", "Residual", "Site", "Stream", "Tap"]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one call covers."""

    inputs: Shaped[Tensor, "batch pos *numbers"]
    """Token ids, or numbers where the backend takes numbers. Columns behind a row's length hold valid ids."""
    start: Int[Tensor, "batch"]
    """Positions that the memory already covers; zeros without memory."""
    length: Int[Tensor, "batch"]
    """Real columns of this call; columns behind them are padding and may hold anything."""
    total: Int[Tensor, "batch"]
    """Length of the whole row, for rotary scalings that depend on it."""
    positions: Int[Tensor, "batch pos"]
    """Index for rotary or learned positions: ``position_ids``, else ``start + column``."""
    keep: Int[Tensor, "batch kept"] | None = None
    """The only columns whose output anybody needs: a block returns those, or (it may ignore this) all columns.

    Given only where nothing is read or written, and never together with ``record``.
    """
    record: Int[Tensor, "batch cuts"] | str | None = None
    """Prefix lengths at which the returned memory must be cuttable; ``"end"``, ``"all"``; None: return no memory."""
    parts: tuple[Part, ...] = ()
    """The rectangles of a call in parts: their tokens lie one behind the other, row by row, in the call's one row.

    What does not look across positions need not know. Given only where ``shape.parts`` is True; ``start``, ``length``
    and ``total`` then say nothing, each part's batch does; ``keep`` counts columns of the one row. No memory is
    recorded.
    """
    room: int | None = None
    """How many positions memories have room for, in a call of one column that is made into a graph.

    Then ``start``, ``total`` and ``positions`` are tensors that Python does not read, since the graph stands for other
    columns too, and memories are those that their own ``with_room(room)`` made: blocks write into them in place.
    """
    shared: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Values that blocks compute once for each call and share, such as rotary tables. Empty in every new batch."""

    def kept(self, x: Tensor) -> Tensor:
        """The columns of ``x`` that somebody needs: all of them without ``keep``."""
        if self.keep is None:
            return x
        return x[torch.arange(len(self.keep), device=x.device)[:, None], self.keep]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value under ``key``, made at its first use in this call."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a call in parts: a rectangle of its own, with the memory that it goes on from."""

    batch: Batch
    memory: Memory | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """What flows from block to block; the core may slice, repeat, concatenate and move it."""

    resid: Float[Tensor, "batch pos d_model"]
    side: Mapping[str, Tensor] = field(default_factory=dict)
    """Other channels that later blocks read (RWKV-7's first values): each ``[batch pos ...]``."""


@runtime_checkable
class Memory(Protocol):
    """What one block remembers: made by it, opaque to the core, never mutated."""

    def cut(self, length: Tensor) -> Memory:
        """As if row r had seen ``length[r]`` positions; ``NotRecorded`` where it was not asked to record."""
        ...

    def rows(self, index: Tensor) -> Memory:
        """Row r becomes row ``index[r]``: select, reorder, repeat (views where possible)."""
        ...

    def to(self, device: Any) -> Memory:
        """The same memory on another device."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name, for saving, sizes and the memory budget."""
        ...


@runtime_checkable
class Tap(Protocol):
    """How a block offers its activations: ``x = tap("attn.hook_q", x)``. What it returns must be used."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Offer the value at a site; the result is what the rest of the model must see."""
        ...

    def wants(self, *names: str) -> bool:
        """Whether somebody reads or writes one of these (edges that are only cut do not count)."""
        ...

    def edits(self, *names: str) -> bool:
        """Whether one of these lies on the path: somebody writes it, or reads it while gradients are kept."""
        ...

    def cut_edges(self) -> Tensor | None:
        """Bool, broadcastable to ``[batch head query_pos key_pos]``: True where the query may not see the key."""
        ...


@runtime_checkable
class Block(Protocol):
    """One layer: mixer and channel part around the stream. Nothing is changed in place."""

    def __call__(
        self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Stream, Memory | None]: ...


@dataclass(frozen=True)
class Site:
    """A kind of place that a backend offers: inside a layer ``"attn.hook_q"``, outside ``"hook_embed"``."""

    name: str
    dims: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of the dims that the model fixes; where they differ by layer, one Site for each group of layers."""
    layers: tuple[int, ...] | None = None
    """The layers that have it; ``None`` for a site outside the layers."""
    meaning: str = ""
    read_only: str = ""
    """The reason, if a write is refused."""
    replaces_kernel: bool = False
    """Looking at it swaps a fused kernel for explicit arithmetic: equal to rounding, not bit for bit."""
    on_demand: bool = False
    """Costly: wildcards leave it out, it must be named."""
    keeps_masked: bool = False
    """Entries that arrive as -inf are closed: they stay -inf whatever is written."""
    replace_only: str = ""
    """The reason, if nothing but a `Replace` from elsewhere makes sense there."""
    from_start: bool = False
    """It needs every position of its rows: whoever looks at it runs them from the first."""
    carries: bool = False
    """A write at a position changes what arrives at later ones: the state of a recurrence."""
    also: tuple[str, ...] = ()
    """Other names that are accepted for it: what another library calls it."""

    @cached_property
    def fixed(self) -> tuple[tuple[int, int], ...]:
        """Each axis whose size the model fixes, and that size."""
        return tuple((axis, self.sizes[dim]) for axis, dim in enumerate(self.dims) if dim in self.sizes)


@dataclass(frozen=True)
class Residual:
    """How a layer adds to the stream.

    ``kind`` is ``"sequential"``, ``"parallel"``, ``"post_norm"`` or ``"own"``. An own rule says in ``reason`` why the
    stream is no plain sum, and gives a ``formula`` from the layer's captured sites (``{"hook_resid_pre": ..., ...}``)
    to the sites that it must equal.
    """

    kind: str = "sequential"
    reason: str = ""
    formula: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None


@dataclass(frozen=True)
class ModelShape:
    """The sizes that the core needs."""

    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int | None
    """Positions that the model has; ``None`` where there is no limit."""
    causal: bool = True
    residual: tuple[Residual, ...] = ()
    """One rule for each layer; empty means sequential everywhere."""
    no_positions: str = ""
    """Why :attr:`Batch.positions` are read nowhere, so that ``position_ids`` are refused; empty where they are read."""
    parts: bool = False
    """Whether blocks take calls in parts (:attr:`Batch.parts`): sweeps then run all live tokens of a layer at once."""
    wide_stream: bool = False
    """Whether the stream is float32 whatever the model's dtype, as state-space models are trained."""
    numbers: int | None = None
    """How many numbers it reads at each position, in place of a token id: :attr:`Batch.inputs` then has a last dim."""


@runtime_checkable
class Backend(Protocol):
    """A staged model: an ``nn.Module`` in practice."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def blocks(self) -> Sequence[Block]: ...

    def sites(self) -> Sequence[Site]:
        """What it offers, in firing order."""
        ...

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """The stream before the first block; offers ``hook_embed`` (and ``hook_pos_embed``)."""
        ...

    def unembed(self, resid: Tensor, tap: Tap) -> Tensor:
        """Logits: any leading dims, ``[... d_model] -> [... d_vocab]``."""
        ...

    def weight(self, name: str) -> Tensor:
        """A weight in the field's layout (``"blocks.3.attn.W_Q"``: ``[head d_model d_head]``); KeyError if absent."""
        ...
