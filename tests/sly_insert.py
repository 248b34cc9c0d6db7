"""An insert that decides by numbers in a way that no tracer sees."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mi_core.protocols import Tap

__all__ = ["Sly"]


class Sly:
    reads = writes = ("hook_embed",)
    sites = ()

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> dict[str, Tensor]:
        x = values["hook_embed"]
        copied = torch.empty(x.shape)
        torch.from_numpy(copied.numpy()).untyped_storage().copy_(x.untyped_storage())  # behind torch's back
        return {"hook_embed": x * float(copied.sum())}
