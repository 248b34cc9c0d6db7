"""What the time-mixes of all versions share: the token shift, the recurrence with its points, and the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import group_norm, linear

from mi_core.errors import MemoryMismatch
from mi_core.protocols import Batch, Memory, Site, Tap
from mi_recurrent.memory import Snapshots, behind, cuts, recall
from mi_recurrent.recurring import Kernel, every_column_is_real, pads, recur
from mi_recurrent.sites import recurrent_site

__all__ = ["TimeMix", "one_before", "wide"]

PATTERN = "mixer.hook_effective_attn"


def wide(x: Tensor) -> Tensor:
    """The dtype inside recurrences: float32, or float64 of a float64 model."""
    return x if x.dtype is torch.float64 else x.float()


def one_before(x: Float[Tensor, "batch pos d_model"], first: Tensor | None) -> Float[Tensor, "batch pos d_model"]:
    """What the position before has left; ``first`` is what lies before the call, nothing is zero."""
    start = torch.zeros_like(x[:, 0]) if first is None else first.to(x.dtype)
    return torch.cat((start[:, None], x[:, :-1]), 1)


class TimeMix(nn.Module):
    """A recurrent mixer: each version computes its inputs and its output, the rest is here.

    Matrices lie as in checkpoints, ``[out, in]``; the recurrence is float32 whatever the model's dtype.
    """

    reads_positions = False
    keeps_norms = "mixes each token with the one before, and the first with zeros, which have no norm's bias"
    kernel: Kernel
    kind = "heads"
    points: tuple[str, ...]
    """The sites of this version, in firing order."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads

    def shifted(
        self, x: Float[Tensor, "batch pos d_model"], tap: Tap, past: Mapping[str, Tensor] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
        """What each position leaves for the next, and what the one before has left."""
        left = tap("mixer.hook_shift", x)
        return left, one_before(left, None if past is None else past["shift"])

    def heads(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """Split into heads."""
        return x.view(*x.shape[:-1], self.n_heads, self.d_head)

    def gate(self, like: Float[Tensor, "batch pos head d_head"], tap: Tap) -> Float[Tensor, "batch pos head 1"]:
        """The write gate: ones, unless somebody writes it."""
        ones = torch.ones_like(wide(like[..., 0]))
        return tap("mixer.hook_write_gate", ones)[..., None]

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
        turned = [x.transpose(1, 2) for x in inputs]
        state = self.kernel.empty(turned[0], self.d_head) if past is None else past["state"].to(turned[0].dtype)
        recurred = recur(self.kernel, turned, state, batch, tap)
        read = recurred.read + self.reweighted(turned, values.transpose(1, 2), batch, tap)
        remembered = None
        if batch.record is not None:
            length, index = cuts(batch, left.shape[1])
            first = torch.zeros_like(left[:, 0]) if past is None else past["shift"]
            kept = recurred.end[:, None] if recurred.states is None else behind(state, recurred.states, index)
            remembered = Snapshots({"state": kept, "shift": behind(first, left, index)}, length)
        return tap("mixer.hook_wkv", read.transpose(1, 2)), remembered

    def reweighted(
        self, inputs: Sequence[Tensor], values: Float[Tensor, "batch head pos d_head"], batch: Batch, tap: Tap
    ) -> Tensor | float:
        """What writes to the effective attention, and edges that are cut, change in what is read."""
        cut = tap.cut_edges()
        if cut is None and not tap.wants(PATTERN):
            return 0.0
        if bool(batch.start.any()):
            raise MemoryMismatch(
                f"{PATTERN} gives every earlier token its weight, and a state does not tell them apart: run the rows "
                "from their first token.",
                point=PATTERN,
            )
        silent = inputs if every_column_is_real(batch) else self.kernel.silenced(inputs, pads(batch))
        pattern = self.kernel.pattern(silent)
        written = tap(PATTERN, pattern.clone())
        if cut is None and not tap.edits(PATTERN):
            return 0.0
        if cut is not None:
            written = written.masked_fill(cut, 0.0)
        # no write opens an edge to the future
        return self.weighed((written - pattern).tril(), values)

    def weighed(self, pattern: Float[Tensor, "batch _ query_pos key_pos"], values: Tensor) -> Tensor:
        """Weights times values."""
        return pattern @ values

    def normed(
        self, read: Float[Tensor, "batch pos head d_head"], eps: float
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Each head by its own mean and variance, with the gain and bias of ``ln_x``; float32."""
        own: Mapping[str, Any] = self._parameters
        rows = read.flatten(0, 1).flatten(1)
        weight, bias = own["ln_x_weight"].to(rows.dtype), own["ln_x_bias"].to(rows.dtype)
        return group_norm(rows, self.n_heads, weight, bias, eps).view(read.shape)

    def output(
        self, z: Float[Tensor, "batch pos head d_head"], batch: Batch, tap: Tap
    ) -> Float[Tensor, "batch kept d_model"]:
        """Through W_O, in the columns that somebody needs."""
        z = batch.kept(tap("mixer.hook_z", z)).flatten(2)
        return tap("mixer.hook_out", linear(z, self.get_parameter("output_weight")))

    def sites(self) -> Sequence[Site]:
        """From the input to the output, in firing order."""
        sizes = {"d_model": self.d_model, "head": self.n_heads, "d_head": self.d_head}
        sizes |= {"d_key": self.d_head, "d_value": self.d_head, "part": 3}
        return [recurrent_site(name, self.kind, sizes) for name in self.points]

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
