"""A short convolution over earlier tokens, as a recurrence: what it keeps is the last few inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv1d

from mi_core.protocols import Batch, Tap
from mi_recurrent.memory import behind, cuts
from mi_recurrent.recurring import recur
from mi_recurrent.sites import SHIFT

__all__ = ["convolved"]


@dataclass(frozen=True, eq=False)
class Convolution:
    """Each channel's own weighted sum of the last inputs, the present one last."""

    weight: Float[Tensor, "channel 1 width"]
    bias: Float[Tensor, "channel"] | None
    size = 1
    steps_up_to = 0

    def step(
        self, inputs: Sequence[Float[Tensor, "*lead channel"]], state: Float[Tensor, "*lead lag channel"]
    ) -> tuple[Float[Tensor, "*lead channel"], Float[Tensor, "*lead lag channel"]]:
        """One token: its sum, and the inputs that the next one sees."""
        window = torch.cat((state, inputs[0][..., None, :]), -2)
        read = (window * self.weight[:, 0].T).sum(-2)
        return read if self.bias is None else read + self.bias, window[..., 1:, :]

    def chunked(
        self, inputs: Sequence[Float[Tensor, "batch 1 pos channel"]], state: Float[Tensor, "batch 1 lag channel"]
    ) -> tuple[Float[Tensor, "batch 1 pos channel"], Float[Tensor, "batch 1 boundary lag channel"]]:
        """All tokens; the states are views of what went in."""
        line = torch.cat((state, inputs[0]), 2)
        read = conv1d(line[:, 0].mT, self.weight, self.bias, groups=len(self.weight)).mT[:, None]
        return read, line.unfold(2, state.shape[2], 1).mT

    def silenced(self, inputs: Sequence[Tensor], pads: Bool[Tensor, "batch 1 pos 1"]) -> tuple[Tensor, ...]:
        """As they are: pads lie behind a row's tokens, and what is kept of a row is taken from its last token."""
        return tuple(inputs)


@dataclass(frozen=True, eq=False)
class OneHead:
    """A tap for a recurrence without heads."""

    tap: Tap

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.tap(name, value.squeeze(2)).unsqueeze(2)

    def wants(self, *names: str) -> bool:
        return self.tap.wants(*names)

    def edits(self, *names: str) -> bool:
        return self.tap.edits(*names)

    def cut_edges(self) -> Tensor | None:
        return self.tap.cut_edges()


def convolved(
    x: Float[Tensor, "batch pos channel"],
    weight: Float[Tensor, "channel 1 width"],
    bias: Float[Tensor, "channel"] | None,
    past: Float[Tensor, "batch lag channel"] | None,
    batch: Batch,
    tap: Tap,
) -> tuple[Float[Tensor, "batch pos channel"], Float[Tensor, "batch cut lag channel"] | None]:
    """The sums, and the inputs that are kept behind each prefix that ``batch.record`` asks for.

    A write to ``mixer.hook_shift`` changes what later tokens see of this one and of those before it.
    """
    lag = weight.shape[-1] - 1
    state = (x.new_zeros(len(x), lag, x.shape[-1]) if past is None else past.to(x.dtype))[:, None]
    found = recur(Convolution(weight, bias), [x[:, None]], state, batch, OneHead(tap), SHIFT)
    if batch.record is None:
        return found.read[:, 0], None
    _, index = cuts(batch, x.shape[1])
    if found.states is not None:
        return found.read[:, 0], behind(state, found.states, index)[:, :, 0]
    line = torch.cat((state[:, 0], x), 1)
    row = torch.arange(len(x), device=x.device)[:, None, None]
    return found.read[:, 0], line[row, index[..., None] + torch.arange(lag, device=x.device)]
