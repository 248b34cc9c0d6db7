"""A dictionary while it is trained: its parameters, and the loss of a batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mi_dictionaries.training.options import Options
from mi_dictionaries.training.reading import Codes, PreActivations

__all__ = ["Learner", "Moment", "Step", "Trainee", "squared_error"]

O = TypeVar("O", bound=Options)  # noqa: E741 - options of one architecture


@dataclass(frozen=True, eq=False)
class Step:
    """What one batch gave: losses that add up to ``loss``, the reconstructions, and how often each feature fired."""

    losses: dict[str, Float[Tensor, ""]]
    outs: tuple[Float[Tensor, "token out"], ...]
    fired: Float[Tensor, "feature"]
    """At how many of the batch's tokens each feature was not zero."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """The sum of the losses."""
        return torch.stack(list(self.losses.values())).sum()


@dataclass(frozen=True, eq=False)
class Moment:
    """What a step depends on besides parameters and data."""

    dead: Bool[Tensor, "feature"] | None = None
    """Features that did not fire for long; None where there are none."""
    coefficients: dict[str, float] = field(default_factory=dict)
    """Sparsity coefficients, warmed up."""


class Learner(nn.Module, ABC, Generic[O]):
    """What a training needs of a dictionary: the losses of a batch, and scales that can be folded."""

    def __init__(self, options: O) -> None:
        super().__init__()
        self.options = options

    @property
    @abstractmethod
    def features(self) -> int:
        """How many features, of all layers together."""

    def forward(self, parts: Sequence[Tensor], moment: Moment) -> Step:
        """The losses of a batch, with gradients."""
        return self.losses(parts, moment)

    @abstractmethod
    def losses(self, parts: Sequence[Tensor], moment: Moment) -> Step:
        """The losses of a batch: the activations at each point, all [token width]."""

    @abstractmethod
    def targets(self, parts: Sequence[Any]) -> Sequence[Any]:
        """Those of the points that are reconstructed."""

    def coefficients(self) -> dict[str, tuple[float, int]]:
        """Each sparsity coefficient with its steps of warm-up."""
        return {}

    @abstractmethod
    def start_at(self, means: Sequence[Tensor]) -> None:
        """Set the decoder's biases to the mean of each point."""

    @abstractmethod
    def fold(self, factors: Sequence[float]) -> None:
        """Fold the factors by which each point was multiplied into the weights."""


class Trainee(Learner[O]):
    """One dictionary that reads one point and reconstructs one, the same or another.

    The encoder is stored as rows [feature in], whose gradients are sums over active features like the decoder's.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, options: O, d_in: int, d_out: int, generator: torch.Generator) -> None:
        super().__init__(options)
        self.d_in, self.d_out = d_in, d_out
        self.centres = bool(options.apply_b_dec_to_input)
        rows = torch.empty(options.d_sae, d_out)
        nn.init.kaiming_uniform_(rows, generator=generator)
        if options.decoder_init_norm is not None:
            rows *= options.decoder_init_norm / rows.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.make_encoder(generator)
        if options.skip:
            self.W_skip = nn.Parameter(torch.zeros(d_out, d_in))

    def make_encoder(self, generator: torch.Generator) -> None:
        """The parameters of the encoder: the decoder's rows at the start, random ones of their norm in other widths."""
        if self.d_in == self.d_out:
            rows = self.W_dec.detach().clone()
        else:
            rows = torch.randn(self.options.d_sae, self.d_in, generator=generator) / math.sqrt(self.d_in)
            rows *= self.W_dec.detach().norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter(rows)
        self.b_enc = nn.Parameter(torch.zeros(self.options.d_sae))

    @property
    def features(self) -> int:
        """``d_sae``."""
        return self.options.d_sae

    def losses(self, parts: Sequence[Tensor], moment: Moment) -> Step:
        """The first point is read, the last reconstructed."""
        return self.step(parts[0], parts[-1], moment)

    def targets(self, parts: Sequence[Any]) -> Sequence[Any]:
        """The last."""
        return parts[-1:]

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """What the architecture makes of a batch."""

    def pre_activations(self, x: Float[Tensor, "token in"], bias: Tensor | None = None) -> PreActivations:
        """What every feature reads."""
        return PreActivations.of(
            x, self.W_enc, self.b_enc if bias is None else bias, self.b_dec if self.centres else None
        )

    def decoded(self, codes: Codes, x: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        """What the features and the skip connection write."""
        out = codes.times(self.W_dec) + self.b_dec
        return out + x @ self.W_skip.T if self.options.skip else out

    def decoder_norms(self) -> Float[Tensor, "feature"]:
        """The norm of each decoder row."""
        norms: Tensor = torch.linalg.vector_norm(self.W_dec, dim=-1)
        return norms

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the dictionary that was trained, in SAELens' names and shapes."""
        found = {name: value.detach().clone() for name, value in self.named_parameters()}
        return {**found, "W_enc": found["W_enc"].T.contiguous()} if "W_enc" in found else found

    def start_at(self, means: Sequence[Tensor]) -> None:
        """The mean of what is reconstructed."""
        with torch.no_grad():
            self.b_dec.copy_(means[-1])

    def fold(self, factors: Sequence[float]) -> None:
        """Of the point that is read, and of the one that is reconstructed.

        Source: SAELens 6.54, sae.py, ``fold_activation_norm_scaling_factor``, for an output factor of its own.
        """
        into, out = factors[0], factors[-1]
        with torch.no_grad():
            if isinstance(getattr(self, "W_enc", None), nn.Parameter):
                self.W_enc.mul_(into)
            self.W_dec.div_(out)
            self.b_dec.div_(out)
            if self.options.skip:
                self.W_skip.mul_(into / out)


def squared_error(out: Float[Tensor, "token out"], y: Float[Tensor, "token out"]) -> Float[Tensor, ""]:
    """The squared distance, summed over the width, mean over tokens."""
    return (out - y).square().sum() / len(y)
