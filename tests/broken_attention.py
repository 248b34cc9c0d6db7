"""Backends whose attention, or what is read apart from the stream, is broken on purpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from wrapped_backends import Meddler, Wrapped


class ShowsAnotherPattern(Wrapped):
    site = "attn.hook_pattern"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value * 1.01) / 1.01


class Blind(Meddler):
    def cut_edges(self) -> Tensor | None:
        cut = super().cut_edges()
        return cut if self.wants("attn.hook_attn_scores", "attn.hook_pattern") else None


class CutsOnlyWhereSomebodyLooks(Wrapped):
    def wrap(self, tap: Any) -> Any:
        return Blind(tap, self.change)


class DividesByNothing(Wrapped):
    site = "attn.hook_z"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        z = tap(name, value)
        return torch.where((z == 0).all(-1, keepdim=True), torch.nan, z) if tap.cut_edges() is not None else z


class MasksWithALargeNumber(Wrapped):
    site = "attn.hook_attn_scores"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.masked_fill(value.isneginf(), -1e9) if tap.edits(name) else value)


class MixesUpHeads(Wrapped):
    site = "attn.hook_result"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.flip(2)).flip(2)


class WritesToTheWholeGroup(Wrapped):
    site = "attn.hook_v_per_head"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value)[:, :, [0, 0, 2, 2]]


class HandsInputsToOtherHeads(Wrapped):
    site = "hook_q_input"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value).flip(2)


class ReadsTwiceWhatIsWritten(Wrapped):
    site = "hook_mlp_in"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        seen = tap(name, value)
        return seen + (seen - value)
