"""Matching pursuit: one feature after the other, each the one that says most of what is left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import BadConfig
from mi_dictionaries.training.options import MatchingPursuit
from mi_dictionaries.training.trainee import Moment, Step, Trainee, squared_error

__all__ = ["MatchingPursuitTrainee"]


class MatchingPursuitTrainee(Trainee[MatchingPursuit]):
    """Encoder and decoder are one: features are read off the rest with the rows that then leave it.

    Source: SAELens 6.54, matching_pursuit_sae.py.
    """

    residual_threshold: float

    def make_encoder(self, generator: torch.Generator) -> None:
        """There is none."""
        self.residual_threshold = self.options.residual_threshold
        if self.options.skip:
            raise BadConfig("matching pursuit reads with its decoder: a skip connection is for transcoders.")

    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """The rest is followed with gradients, the choices are not."""
        centred = x - self.b_dec if self.centres else x
        rest, fired = self.pursued(centred)
        written = centred - rest
        out = written + self.b_dec if self.centres else written
        return Step({"mse_loss": squared_error(out, y)}, (out,), fired)

    def pursued(self, rest: Float[Tensor, "token d"]) -> tuple[Float[Tensor, "token d"], Float[Tensor, "feature"]]:
        """What is left of each token, and how often each feature was taken."""
        options = self.options
        tokens = len(rest)
        done = torch.zeros(tokens, dtype=torch.bool, device=rest.device)
        taken = torch.zeros(tokens, options.d_sae, dtype=torch.bool, device=rest.device)
        row = torch.arange(tokens, device=rest.device)
        for _ in range(options.max_iterations or self.d_in):
            with torch.no_grad():
                best = (rest @ self.W_dec.T).relu().max(dim=1).indices
            directions = self.W_dec[best]
            values = (rest * directions).sum(-1).relu() * ~done
            rest = rest - values[:, None] * directions
            with torch.no_grad():
                # the support stays as it was: nothing was added, or to a feature that was there
                same = (values == 0) | taken[row, best]
                taken[row, best] |= values != 0
                if options.stop_on_duplicate_support:
                    done = done | same
                if self.residual_threshold > 0:
                    done = done | (rest.norm(dim=-1) < self.residual_threshold)
                if done.all():
                    break
        return rest, taken.float().sum(0)

    def fold(self, factors: Sequence[float]) -> None:
        """Of the bias and of what is little; the rows stay as they are, for they read as well as they write.

        SAELens 6.54 divides the rows too, which changes what they read: its folded dictionary is another one.
        """
        with torch.no_grad():
            self.b_dec.div_(factors[0])
        self.residual_threshold /= factors[0]
