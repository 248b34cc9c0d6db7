"""Standard and gated autoencoders: a ReLU and a penalty."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mi_dictionaries.training.options import Gated, Standard
from mi_dictionaries.training.reading import Codes
from mi_dictionaries.training.trainee import Moment, Step, Trainee, squared_error

__all__ = ["GatedTrainee", "StandardTrainee"]


class StandardTrainee(Trainee[Standard]):
    """ReLU, and ``lambda x mean over tokens of the p-norm of f times its decoder row's norm``.

    Source: SAELens 6.54, standard_sae.py.
    """

    def coefficients(self) -> dict[str, tuple[float, int]]:
        """One."""
        return {"l1": (self.options.l1_coefficient, self.options.l1_warm_up_steps)}

    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """Only what is positive has a value or a gradient."""
        pre = self.pre_activations(x)
        codes = pre.where(pre.values > 0)
        codes = codes.with_values(codes.values.relu())
        out = self.decoded(codes, x)
        losses = {
            "mse_loss": squared_error(out, y),
            "l1_loss": moment.coefficients["l1"] * self.penalty(codes),
        }
        return Step(losses, (out,), codes.fired())

    def penalty(self, codes: Codes) -> Tensor:
        """The mean p-norm of what the features write."""
        weighted = codes.values * codes.of_feature(self.decoder_norms())
        if self.options.lp_norm == 1:
            return codes.mean(weighted)
        p = self.options.lp_norm
        powers = codes.by_token(weighted.clamp(min=0) ** p)
        # a token without features: zero, whose root has no gradient
        return torch.where(powers > 0, powers, 1).pow(1 / p).mul(powers > 0).mean()


class GatedTrainee(Trainee[Gated]):
    """A gate, a magnitude that shares its directions, and a second reconstruction by the gate alone.

    Both paths read the same product: the magnitude's pre-activation is the gate's, rescaled and shifted.
    Source: SAELens 6.54, gated_sae.py.
    """

    def make_encoder(self, generator: torch.Generator) -> None:
        """Two biases and a scale instead of one bias."""
        super().make_encoder(generator)
        del self.b_enc
        for name in ("b_gate", "b_mag", "r_mag"):
            self.register_parameter(name, nn.Parameter(torch.zeros(self.options.d_sae)))

    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    def coefficients(self) -> dict[str, tuple[float, int]]:
        """One."""
        return {"l1": (self.options.l1_coefficient, self.options.l1_warm_up_steps)}

    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """Where the gate is shut nothing has a value or a gradient."""
        pre = self.pre_activations(x, self.b_gate)
        gate = pre.where(pre.values > 0)
        open_ = gate.values > 0
        read = gate.values - gate.of_feature(self.b_gate)
        magnitude = read * gate.of_feature(self.r_mag.exp()) + gate.of_feature(self.b_mag)
        codes = gate.with_values(magnitude.relu() * open_)
        gate = gate.with_values(gate.values.relu())
        out = self.decoded(codes, x)
        losses = {
            "mse_loss": squared_error(out, y),
            "l1_loss": moment.coefficients["l1"] * gate.mean(gate.values * gate.of_feature(self.decoder_norms())),
            "auxiliary_reconstruction_loss": squared_error(self.decoded(gate, x), y),
        }
        return Step(losses, (out,), codes.fired())
