"""What the time-mixes of all versions share: the token shift, the recurrence with its points, and the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import group_norm

from mi_core.protocols import Batch, Memory, Tap
from mi_recurrent.memory import Snapshots, behind, cuts, recall
from mi_recurrent.mixer import RecurrentMixer, wide

__all__ = ["TimeMix", "one_before", "wide"]


def one_before(x: Float[Tensor, "batch pos d_model"], first: Tensor | None) -> Float[Tensor, "batch pos d_model"]:
    """What the position before has left; ``first`` is what lies before the call, nothing is zero."""
    start = torch.zeros_like(x[:, 0]) if first is None else first.to(x.dtype)
    return torch.cat((start[:, None], x[:, :-1]), 1)


class TimeMix(RecurrentMixer):
    """A recurrent mixer of RWKV: each version computes its inputs and its output, the rest is here."""

    keeps_norms = "mixes each token with the one before, and the first with zeros, which have no norm's bias"
    kind = "heads"
    multiplies = ("receptance", "key", "value", "gate", "output")

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__(d_model, n_heads, d_model // n_heads, d_model // n_heads)
        self.d_head = d_model // n_heads

    def shifted(
        self, x: Float[Tensor, "batch pos d_model"], tap: Tap, past: Mapping[str, Tensor] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
        """What each position leaves for the next, and what the one before has left."""
        left = tap("mixer.hook_shift", x)
        return left, one_before(left, None if past is None else past["shift"])

    def heads(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """Split into heads."""
        return x.view(*x.shape[:-1], self.n_heads, self.d_head)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """One row's state."""
        return (self.n_heads, self.d_head, self.d_head)

    def recall(self, memory: Memory | None, batch: Batch) -> dict[str, Tensor] | None:
        """What lies before the call."""
        return recall(memory, batch, state=self.state_shape, shift=(self.d_model,))

    def run(
        self,
        inputs: Sequence[Float[Tensor, "batch pos head _"]],
        values: Float[Tensor, "batch pos head d_head"],
        left: Float[Tensor, "batch pos d_model"],
        past: Mapping[str, Tensor] | None,
        batch: Batch,
        tap: Tap,
    ) -> tuple[Float[Tensor, "batch pos head d_head"], Snapshots | None]:
        """What the recurrence returns (``hook_wkv``), and what is remembered."""
        read, state, recurred = self.recurred(inputs, values, None if past is None else past["state"], batch, tap)
        remembered = None
        if batch.record is not None:
            length, index = cuts(batch, left.shape[1])
            first = torch.zeros_like(left[:, 0]) if past is None else past["shift"]
            kept = recurred.end[:, None] if recurred.states is None else behind(state, recurred.states, index)
            remembered = Snapshots({"state": kept, "shift": behind(first, left, index)}, length)
        return read, remembered

    def normed(
        self, read: Float[Tensor, "batch pos head d_head"], eps: float
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Each head by its own mean and variance, with the gain and bias of ``ln_x``; float32."""
        own: Mapping[str, Any] = self._parameters
        rows = read.flatten(0, 1).flatten(1)
        weight, bias = own["ln_x_weight"].to(rows.dtype), own["ln_x_bias"].to(rows.dtype)
        return group_norm(rows, self.n_heads, weight, bias, eps).view(read.shape)

    def site_sizes(self) -> dict[str, int]:
        """The sizes of its sites' dims."""
        return {**super().site_sizes(), "d_head": self.d_head, "part": 3}

    def weights(self) -> Mapping[str, Tensor]:
        """``W_R``, ``W_K``, ``W_V``, ``W_G``: ``[head d_model d_head]``; ``W_O``: ``[head d_head d_model]``."""
        own: Mapping[str, Any] = self._parameters
        found = {}
        for letter, name in (("R", "receptance"), ("K", "key"), ("V", "value"), ("G", "gate")):
            if own.get(f"{name}_weight") is not None:
                matrix = own[f"{name}_weight"].view(self.n_heads, self.d_head, self.d_model)
                found[f"mixer.W_{letter}"] = matrix.transpose(1, 2)
        output = own["output_weight"].view(self.d_model, self.n_heads, self.d_head)
        return {**found, "mixer.W_O": output.permute(1, 2, 0)}
