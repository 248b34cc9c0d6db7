"""AlgZoo's recurrent network: one layer of ReLU units that reads a sequence of numbers, one at each step.

    pre_t = W_ih x_t + W_hh h_{t-1}      h_t = relu(pre_t)      h_0 = 0      y = W_oh h_n

Time is depth: step t is block t, and the stream is the hidden state, so that every point of every step is there, can be
written, and is where a sweep can begin. The numbers of a sequence are read at one position; a row of several positions
is several sequences, each by itself.

Source: Alignment Research Center, alg-zoo: ``nn.RNN(1, hidden, nonlinearity="relu", bias=False)``, then ``nn.Linear``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.memory import NOTHING, Nothing
from mi_core.protocols import Batch, ModelShape, Residual, Site, Stream, Tap
from mi_core.vocabulary import site

__all__ = ["HIDDEN", "ReluRNN"]

HIDDEN = ("batch", "pos", "d_model")
NUMBERS = "numbers"


def after_relu(captured: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a step's points must equal, given the others."""
    pre = captured["mixer.hook_input"] + captured["mixer.hook_recurrent"]
    return {"mixer.hook_pre": pre, "hook_resid_post": captured["mixer.hook_pre"].relu()}


STEP = Residual("own", "a step of a recurrent network replaces the hidden state, it adds nothing to it", after_relu)


class Step:
    """One step in time: all steps share the weights of their model."""

    def __init__(self, model: ReluRNN, time: int) -> None:
        self.model, self.time = model, time

    def __call__(self, stream: Stream, batch: Batch, tap: Tap, memory: Any) -> tuple[Stream, Nothing]:
        """From the hidden state before the step to the one after it."""
        x = stream.side[NUMBERS][..., self.time : self.time + 1]
        read = tap("mixer.hook_input", linear(x, self.model.weight_ih))
        kept = tap("mixer.hook_recurrent", linear(stream.resid, self.model.weight_hh))
        return Stream(tap("mixer.hook_pre", read + kept).relu(), stream.side), NOTHING


class ReluRNN(nn.Module):
    """The backend: ``seq_len`` steps of ``hidden_size`` units, and a linear readout of ``output_size`` numbers."""

    def __init__(self, hidden_size: int, seq_len: int, output_size: int) -> None:
        super().__init__()
        rules = (STEP,) * seq_len
        self.shape = ModelShape(seq_len, hidden_size, output_size, None, residual=rules, numbers=seq_len)
        self.weight_ih, self.weight_hh = empty(hidden_size, 1), empty(hidden_size, hidden_size)
        self.weight_oh = empty(output_size, hidden_size)
        self._steps = tuple(Step(self, time) for time in range(seq_len))

    @property
    def blocks(self) -> Sequence[Step]:
        """The steps in time."""
        return self._steps

    def sites(self) -> Sequence[Site]:
        """In firing order: the hidden state before and after each step, and what it is made of."""
        steps, units, classes = tuple(range(self.shape.n_layers)), self.shape.d_model, self.shape.d_vocab

        def own(name: str, meaning: str) -> Site:
            return Site(f"mixer.{name}", HIDDEN, {"d_model": units}, steps, meaning)

        return (
            site("hook_embed", d_model=units),
            site("hook_resid_pre", steps, d_model=units),
            own("hook_input", "what the step's number puts into the units"),
            own("hook_recurrent", "what the hidden state before the step puts into the units"),
            own("hook_pre", "the units before their ReLU"),
            site("hook_resid_post", steps, d_model=units),
            site("unembed.hook_in", d_model=units),
            site("unembed.hook_out", d_vocab=classes),
            site("hook_logits", d_vocab=classes),
        )

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """The hidden state before the first step, zeros, with the numbers beside it."""
        numbers = batch.inputs.to(self.weight_ih.dtype)
        zeros = numbers.new_zeros((*numbers.shape[:2], self.shape.d_model))
        return Stream(tap("hook_embed", zeros), {NUMBERS: numbers})

    def unembed(self, resid: Tensor, tap: Tap) -> Tensor:
        """The readout, for any leading dims."""
        out = linear(tap("unembed.hook_in", resid), self.weight_oh)
        return tap("hook_logits", tap("unembed.hook_out", out))

    def weight(self, name: str) -> Tensor:
        """Views in the field's layout, ``[in out]``; each step has the same."""
        views = {"unembed.W_U": self.weight_oh.T}
        for time in range(self.shape.n_layers):
            views[f"blocks.{time}.mixer.W_in"] = self.weight_ih.T
            views[f"blocks.{time}.mixer.W_hh"] = self.weight_hh.T
        if name not in views:
            raise KeyError(f"no weight {name!r}; there are {', '.join(views)}")
        return views[name]
