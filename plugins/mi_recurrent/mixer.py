"""What recurrent mixers of all kinds share: the recurrence with its points, cut edges, and the write gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from mi_core.errors import MemoryMismatch
from mi_core.protocols import Batch, Site, Tap
from mi_recurrent.memory import Snapshots, behind, cuts
from mi_recurrent.recurring import Kernel, Recurred, every_column_is_real, pads, recur
from mi_recurrent.sites import STATE, recurrent_site

__all__ = ["RecurrentMixer", "wide"]

PATTERN = "mixer.hook_effective_attn"


def wide(x: Tensor) -> Tensor:
    """The dtype inside recurrences: float32, or float64 of a float64 model."""
    return x if x.dtype is torch.float64 else x.float()


class RecurrentMixer(nn.Module):
    """A mixer around a recurrence: each kind computes its inputs, its output and what it remembers.

    Matrices lie as in checkpoints, ``[out, in]``; the recurrence is float32 whatever the model's dtype.
    """

    reads_positions = False
    kernel: Kernel
    kind: str
    """Of its sites; see `mi_recurrent.sites`."""
    points: tuple[str, ...]
    """Its sites, in firing order."""

    def __init__(self, d_model: int, n_heads: int, d_key: int, d_value: int) -> None:
        super().__init__()
        self.d_model, self.n_heads, self.d_key, self.d_value = d_model, n_heads, d_key, d_value

    def gate(self, like: Float[Tensor, "batch pos head _"], tap: Tap) -> Float[Tensor, "batch pos head 1"]:
        """The write gate: ones, unless somebody writes it."""
        ones = torch.ones_like(wide(like[..., 0]))
        return tap("mixer.hook_write_gate", ones)[..., None]

    def recurred(
        self,
        inputs: Sequence[Float[Tensor, "batch pos head _"]],
        values: Float[Tensor, "batch pos head d_value"],
        state: Tensor | None,
        batch: Batch,
        tap: Tap,
    ) -> tuple[Float[Tensor, "batch pos head d_value"], Tensor, Recurred]:
        """What the recurrence returns (``hook_wkv``), the state that it went on from, and all that it gave."""
        turned = [x.transpose(1, 2) for x in inputs]
        state = self.kernel.empty(turned[0], self.d_value) if state is None else state.to(turned[0].dtype)
        found = recur(self.kernel, turned, state, batch, tap, STATE)
        read = found.read + self.reweighted(turned, values.transpose(1, 2), batch, tap)
        return tap("mixer.hook_wkv", read.transpose(1, 2)), state, found

    def snapshots(
        self, state: Tensor, found: Recurred, shift: Tensor | None, batch: Batch, columns: int
    ) -> Snapshots | None:
        """What is remembered: states, and the inputs of a convolution that it kept (``shift``), which says whether."""
        if shift is None:
            return None
        length, index = cuts(batch, columns)
        kept = found.end[:, None] if found.states is None else behind(state, found.states, index)
        return Snapshots({"state": kept, "shift": shift}, length)

    def reweighted(
        self, inputs: Sequence[Tensor], values: Float[Tensor, "batch head pos d_value"], batch: Batch, tap: Tap
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

    def output(
        self, z: Float[Tensor, "batch pos head d_value"], batch: Batch, tap: Tap
    ) -> Float[Tensor, "batch kept d_model"]:
        """Through W_O, in the columns that somebody needs."""
        z = batch.kept(tap("mixer.hook_z", z)).flatten(2)
        return tap(
            "mixer.hook_out", linear(z, self.get_parameter("output_weight"), self._parameters.get("output_bias"))
        )

    def site_sizes(self) -> dict[str, int]:
        """The sizes of its sites' dims."""
        return {"d_model": self.d_model, "head": self.n_heads, "d_key": self.d_key, "d_value": self.d_value}

    def sites(self) -> Sequence[Site]:
        """From the input to the output, in firing order."""
        sizes = self.site_sizes()
        return [recurrent_site(name, self.kind, sizes) for name in self.points]
