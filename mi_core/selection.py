"""Selectors resolved for one call: which entries of an activation they stand for, read and written.

Each selected dim holds the same indexes in every row, or (positions) a row's own. Rows that select fewer entries than
others are filled up; what is filled up reads as zero and is never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_core.anchoring import anchored, may_come
from mi_core.errors import SelectorError
from mi_core.layout import POSITION_DIMS, Layout
from mi_core.names import Point
from mi_core.prompts import RowText
from mi_core.protocols import Site
from mi_core.selectors import Mask, Selector, as_index, chosen, in_text
from mi_core.vocabulary import ACCEPTED_DIMS, TOLD_DIMS

__all__ = ["Choice", "Selection", "own_dims", "select", "told_by"]

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Choice:
    """The selected entries of one dim."""

    index: Int[Tensor, "*batch n"]
    """``[n]`` for all rows alike, or ``[batch n]``."""
    present: Bool[Tensor, "batch n"] | None = None
    """Which of a row's entries are selected; None where all are."""
    drop: bool = False
    """Whether reading drops the dim (it was selected by an int)."""

    @property
    def per_row(self) -> bool:
        """Whether rows have their own entries."""
        return self.index.ndim == 2

    def rows(self, index: Tensor) -> Choice:
        """The same choice for some of the rows."""
        if not self.per_row:
            return self
        present = None if self.present is None else self.present[index]
        return Choice(self.index[index], present, self.drop)


@dataclass(frozen=True, eq=False)
class Selection:
    """The product of the choices over a site's dims."""

    dims: tuple[str, ...]
    choices: Mapping[str, Choice]

    def __bool__(self) -> bool:
        return bool(self.choices)

    @property
    def empty(self) -> bool:
        """Whether it reaches none of the rows (of a call that covers some of them)."""
        return "batch" in self.choices and len(self.choices["batch"].index) == 0

    def rows(self, index: Int[Tensor, "rows"]) -> Selection:
        """The same selection for some of the rows of the call."""
        choices = {dim: choice.rows(index) for dim, choice in self.choices.items()}
        if "batch" in choices:
            wanted = choices["batch"].index.tolist()
            place = {row: here for here, row in enumerate(index.tolist())}
            here_selected = as_index([place[row] for row in wanted if row in place], CPU)
            choices["batch"] = Choice(here_selected, drop=choices["batch"].drop)
        return Selection(self.dims, choices)

    def behind(self, first: Int[Tensor, "rows"] | None) -> Selection:
        """The same entries for a call that leaves out the first columns of each row."""
        if first is None:
            return self
        same = bool((first == first[0]).all())
        choices = dict(self.choices)
        for dim in ("pos", "query_pos"):
            if dim in choices:
                old = choices[dim]
                if same:
                    choices[dim] = Choice(old.index - int(first[0]), old.present, old.drop)
                else:
                    index = old.index if old.per_row else old.index.expand(len(first), -1)
                    choices[dim] = Choice(index - first[:, None], old.present, old.drop)
        return Selection(self.dims, choices)

    def sizes(self, shape: Sequence[int]) -> list[int]:
        """The selected size of each dim of a value of this shape."""
        return [
            self.choices[dim].index.shape[-1] if dim in self.choices else size
            for dim, size in zip(self.dims, shape, strict=True)
        ]

    def counts(self, layout: Layout) -> dict[str, Tensor]:
        """How many real entries each selected row has along each position dim; they come first."""
        batch = self.choices.get("batch")
        counts = {}
        for dim in self.dims:
            if dim in POSITION_DIMS:
                choice = self.choices.get(dim)
                if choice is None:
                    count = layout.counts(dim)
                elif choice.present is None:
                    count = torch.full((len(layout.ids),), choice.index.shape[-1])
                else:
                    count = choice.present.sum(1)
                counts[dim] = count if batch is None else count[batch.index]
        return counts

    def _grid(self, shape: Sequence[int], device: torch.device) -> tuple[list[Tensor], Tensor | None]:
        """One index for each dim up to the last that is selected, broadcastable to each other; and what is present."""
        last = max(axis for axis, dim in enumerate(self.dims) if dim in self.choices)
        index: list[Tensor] = []
        present: Tensor | None = None
        batch = self.choices.get("batch")
        for axis in range(last + 1):
            choice = self.choices.get(self.dims[axis])
            if choice is None:
                choice = Choice(torch.arange(shape[axis]))
            view = [1] * (last + 1)
            view[axis] = choice.index.shape[-1]
            if choice.per_row:
                own = choice.rows(batch.index) if batch else choice
                view[0] = len(own.index)
                if own.present is not None:
                    here = moved(own.present.reshape(view), device)
                    present = here if present is None else present & here
                index.append(moved(own.index.reshape(view), device))
            else:
                index.append(moved(choice.index.reshape(view), device))
        return index, present

    def gather(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """The selected entries with every dim kept, and which of them are present (None: all)."""
        if not self.choices:
            return value, None
        if self.empty:
            # the rows of this call are none of those that are selected, and may be shorter
            return value.new_zeros(self.sizes(value.shape)), None
        if not any(choice.per_row for choice in self.choices.values()):
            for axis, dim in enumerate(self.dims):
                if dim in self.choices:
                    value = value.index_select(axis, moved(self.choices[dim].index, value.device))
            return value, None
        index, present = self._grid(value.shape, value.device)
        taken = value[tuple(index)]
        if present is None:
            return taken, None
        present = present.reshape(*present.shape, *[1] * (taken.ndim - present.ndim))
        return torch.where(present, taken, torch.zeros((), dtype=value.dtype, device=value.device)), present

    def read(self, value: Tensor) -> Tensor:
        """The selected entries; dims selected by an int are dropped."""
        return self.squeezed(self.gather(value)[0]) if self.choices else value

    def squeezed(self, taken: Tensor) -> Tensor:
        """Gathered entries without the dims that were selected by an int."""
        drops = [axis for axis, dim in enumerate(self.dims) if dim in self.choices and self.choices[dim].drop]
        return taken.squeeze(drops) if drops else taken

    def write(self, value: Tensor, new: Tensor) -> Tensor:
        """``value`` with the selected entries replaced; nothing is changed in place."""
        if not self.choices:
            return new
        index, present = self._grid(value.shape, value.device)
        if present is not None:
            lead = torch.Size(max(sizes) for sizes in zip(present.shape, *(part.shape for part in index), strict=True))
            keep = present.expand(lead)
            index = [part.expand(lead)[keep] for part in index]
            new = new.expand(*lead, *new.shape[len(lead) :])[keep]
        return torch.index_put(value, tuple(index), new)


def moved(index: Tensor, device: torch.device) -> Tensor:
    """Host numbers on a device; CUDA takes a copy of them at once, and the host need not wait for what it computes."""
    return index.to(device, non_blocking=device.type == "cuda")


def select(
    selectors: Mapping[str, Selector], point: Point, layout: Layout, texts: Sequence[RowText], *, model: str = "model"
) -> Selection:
    """Resolve selectors at a point for the rows of a call; refuses what the site does not have."""
    site = point.site
    choices: dict[str, Choice] = {}
    # rows first: positions must exist in those that are selected
    for dim, selector in sorted(own_dims(selectors, point).items(), key=lambda item: item[0] != "batch"):
        if dim in POSITION_DIMS:
            choices[dim] = choose_positions(dim, selector, layout, texts, point.name, choices.get("batch"))
            continue
        if in_text(selector):
            raise SelectorError(f"{selector!r} is a position; {dim!r} of {point.name!r} is not one.", dim=dim)
        size = layout.size(dim) if dim == "batch" else site.sizes.get(dim)
        if size is None:
            raise SelectorError(f"{point.name!r} does not say how large {dim!r} is, so it cannot be selected.", dim=dim)
        index = chosen(selector, size, dim=dim, where=f"{model}'s {point.name!r}")
        if not index:
            raise SelectorError(f"{dim}={selector!r} selects nothing at {point.name!r} (size {size}).", dim=dim)
        if len(set(index)) != len(index):
            raise SelectorError(f"{dim}={selector!r} selects an entry twice at {point.name!r}.", dim=dim)
        if dim in site.dims:  # else another site tells where those are
            choices[dim] = Choice(as_index(index, CPU), drop=isinstance(selector, int))
    return Selection(site.dims, choices)


def own_dims(selectors: Mapping[str, Selector], point: Point) -> dict[str, Selector]:
    """Selectors by the site's own names of its dims."""
    named: dict[str, Selector] = {}
    for asked, selector in selectors.items():
        dim = accepted(asked, selector, point)
        if dim in named:
            raise SelectorError(f"{asked!r} and {dim!r} are one dim of {point.name!r}: select it once.", dim=dim)
        named[dim] = selector
    return named


def accepted(dim: str, selector: Selector, point: Point) -> str:
    """The site's own name of a dim: ``head`` is accepted for ``kv_head`` where there are as many."""
    site = point.site
    if dim in site.dims or told_by(dim, site) is not None:
        return dim
    other = ACCEPTED_DIMS.get(dim)
    if other in site.dims:
        heads, groups = site.sizes.get(dim), site.sizes[other]
        if heads == groups:
            return other
        if heads is None:
            raise SelectorError(f"{point.name!r} has no dim {dim!r}: select {other!r} (it has {groups}).", dim=dim)
        wanted = [] if in_text(selector) else chosen(selector, heads, dim=dim, where=repr(point.name))
        index = wanted[0] if wanted else 0
        what = "v" if point.name.rpartition("hook_")[2].startswith("v") else "k"
        alone = f"{point.name.rpartition('hook_')[0].removesuffix('attn.')}attn.hook_{what}_per_head"
        raise SelectorError(
            f"{point.name!r} has {groups} {other}s for {heads} {dim}s: query head {index} reads {other} "
            f"{index // (heads // groups)}. Select {other}=..., or name {alone!r} to reach one head alone.",
            dim=dim,
        )
    raise SelectorError(f"{point.name!r} has no dim {dim!r}; it has {', '.join(site.dims)}.", dim=dim, dims=site.dims)


def told_by(dim: str, site: Site) -> str | None:
    """The site that tells which entries are of ``dim``, where a site has slots for them instead of the dim itself."""
    slots, teller = TOLD_DIMS.get(dim, ("", ""))
    return teller if slots in site.dims and dim in site.sizes and dim not in site.dims else None


def choose_positions(
    dim: str, selector: Selector, layout: Layout, texts: Sequence[RowText], where: str, batch: Choice | None = None
) -> Choice:
    """The positions that a selector stands for in each row, of those that ``batch`` selects."""
    reached = set(range(len(layout.ids)) if batch is None else batch.index.tolist())
    rows: list[list[int]] = []
    prompt = None if layout.prompt is None else layout.prompt.tolist()
    if prompt and isinstance(selector, Mask):
        chosen(selector, max(prompt), dim=dim, where=where)
    for row, count in enumerate(layout.counts(dim).tolist()):
        if row not in reached:
            rows.append([])
        elif prompt is not None:
            label = f"row {row} at {where!r}"
            rows.append(anchored(selector, prompt[row], count, texts[row], row, dim=dim, where=label))
        elif in_text(selector):
            offset = int(layout.start[row]) if dim == "key_pos" else 0
            rows.append([offset + index for index in selector.resolve(texts[row], row)])
        elif isinstance(selector, Mask):
            # a mask covers the columns of the widest row; what lies behind a shorter row is not there
            wanted = chosen(selector, int(layout.counts(dim).max()), dim=dim, where=where)
            rows.append([index for index in wanted if index < count])
        else:
            rows.append(chosen(selector, count, dim=dim, where=f"row {row} at {where!r}"))
    width = max(map(len, rows))
    if width == 0 and not (prompt and may_come(selector)):
        raise SelectorError(f"{dim}={selector!r} selects no token in any row at {where!r}.", dim=dim)
    if any(len(set(row)) != len(row) for row in rows):
        raise SelectorError(f"{dim}={selector!r} selects a position twice at {where!r}.", dim=dim)
    drop = isinstance(selector, int) and width > 0
    kept = [rows[row] for row in sorted(reached)]
    if all(row == kept[0] for row in kept):
        return Choice(as_index(kept[0], CPU), drop=drop)
    index = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    present = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return Choice(index, None if bool(present.all()) else present, drop)
