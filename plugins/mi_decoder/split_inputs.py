"""Copies of the stream, on demand: what one head's query, key or value reads can be written apart from all else.

The copies lie before the norm. They are normed only where somebody writes to them or keeps gradients; a head reads what
its layer reads, bit for bit, at every position where nothing was written to its copy. What is written behind the copies
reaches them too: a denominator that is written holds for every copy, any other change is added to theirs.

Source: TransformerLens 2, components/transformer_block.py (use_attn_in, use_split_qkv_input, use_hook_mlp_in).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_core.protocols import Site, Tap
from mi_core.taps import IDLE
from mi_core.vocabulary import site

__all__ = ["MLP_INPUT", "SPLIT_INPUTS", "OwnInput", "channel_input", "read_apart", "split_input_sites"]

MLP_INPUT = "hook_mlp_in"
SPLIT_INPUTS = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", MLP_INPUT)
SCALE, NORMALIZED = "ln1.hook_scale", "ln1.hook_normalized"


@dataclass(frozen=True, eq=False)
class OwnInput:
    """What some readers get instead of the normed stream."""

    x: Float[Tensor, "batch pos *head d_model"]
    written: Bool[Tensor, "batch pos *head 1"] | None
    """Where it was written; None where it counts everywhere, so that gradients pass."""

    def instead_of(self, shared: Float[Tensor, "..."], made: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What was made of the own input where there is one, else what all share."""
        return made if self.written is None else torch.where(self.written, made, shared)


def split_input_sites(readers: Mapping[str, int], d_model: int) -> Sequence[Site]:
    """The copies for so many readers of each kind; ``hook_attn_in`` only where each head has its own key and value."""
    sites: list[Site] = []
    if "q" in readers:
        per_query = {"head": readers["q"], "d_model": d_model}
        per_key = {"kv_head": readers["k"], **per_query}
        grouped = readers["k"] != readers["q"]
        sites += [] if grouped else [site("hook_attn_in", None, **per_query)]
        sites += [site("hook_q_input", None, **per_query), site("hook_k_input", None, **per_key)]
        sites.append(site("hook_v_input", None, **per_key))
    return [*sites, site(MLP_INPUT, d_model=d_model)] if "mlp" in readers else sites


def read_apart(
    norm: Any, resid: Float[Tensor, "batch pos d_model"], readers: Mapping[str, int], tap: Tap
) -> tuple[Float[Tensor, "batch pos d_model"], Mapping[str, OwnInput]]:
    """The normed stream, and what ``readers`` (``q``, ``k``, ``v``, each so many, perhaps ``mlp``) read instead."""
    copies = offered(resid, readers, tap)
    shown = ShowsScale(tap)
    normed = resid if norm is None else norm.normalise(resid, shown)
    own: dict[str, OwnInput] = {}
    for name, copy in copies.items():
        stream, now = (resid, normed) if copy.ndim == resid.ndim else (resid.unsqueeze(2), normed.unsqueeze(2))
        x = copy if norm is None else norm.normalise(copy, shown.for_copies)
        if norm is not None and tap.edits(NORMALIZED):
            x = now + (x - norm.normalise(stream, shown.for_copies))
        own[name] = OwnInput(x, None if torch.is_grad_enabled() else (copy != stream).any(-1, keepdim=True))
    return normed, own


def offered(resid: Float[Tensor, "batch pos d_model"], readers: Mapping[str, int], tap: Tap) -> dict[str, Tensor]:
    """The copies that lie on the path, after what is written to them."""
    found: dict[str, Tensor] = {}
    each = {name: resid.unsqueeze(2).expand(-1, -1, heads, -1) for name, heads in readers.items() if name != "mlp"}
    whole = tap.edits("hook_attn_in")
    if each and readers["k"] == readers["q"] and tap.wants("hook_attn_in"):
        each = dict.fromkeys(each, tap("hook_attn_in", each["q"]))
    for name, copy in each.items():
        # a view is a tensor of its own: the gradient at it is that of its reader alone
        copy = tap(f"hook_{name}_input", copy.view_as(copy))
        if whole or tap.edits(f"hook_{name}_input"):
            found[name] = copy
    if "mlp" in readers:
        copy = channel_input(resid, tap)
        if tap.edits(MLP_INPUT):
            found["mlp"] = copy
    return found


def channel_input(resid: Float[Tensor, "batch pos d_model"], tap: Tap) -> Float[Tensor, "batch pos d_model"]:
    """What the channel part reads of the stream, before its norm."""
    return tap(MLP_INPUT, resid.view_as(resid)) if tap.wants(MLP_INPUT) else resid


class ShowsScale:
    """A tap that shows what was written to the denominator of the norm."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.for_copies: Tap = IDLE
        """The tap for norms of copies: they are divided by what was written."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value that the tap gives."""
        new = self.tap(name, value)
        if name == SCALE and self.tap.edits(SCALE):
            self.for_copies = SharedScale(value, new)
        return new

    def wants(self, *names: str) -> bool:
        """As the tap says."""
        return self.tap.wants(*names)

    def edits(self, *names: str) -> bool:
        """As the tap says."""
        return self.tap.edits(*names)

    def cut_edges(self) -> Tensor | None:
        """As the tap says."""
        return self.tap.cut_edges()


class SharedScale:
    """The tap of a copy's norm: a denominator that was written for the stream holds for the copy too."""

    def __init__(self, before: Float[Tensor, "batch pos 1"], after: Float[Tensor, "batch pos 1"]) -> None:
        self.before, self.after = before, after

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """What was written, or the copy's own where nothing was."""
        if name != SCALE:
            return value
        same = value.ndim == self.after.ndim
        before, after = (x if same else x.unsqueeze(2) for x in (self.before, self.after))
        # the sum keeps the gradient of a denominator that is only read
        return torch.where(after == before, after + (value - before), after)

    def wants(self, *names: str) -> bool:
        """Somebody wrote the denominator."""
        return SCALE in names

    def edits(self, *names: str) -> bool:
        """Somebody wrote the denominator."""
        return SCALE in names

    def cut_edges(self) -> Tensor | None:
        """Norms have no edges."""
        return None
