"""Standard and gated autoencoders: a ReLU and a penalty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mi_dictionaries.training.entries import Entries
from mi_dictionaries.training.options import Gated, Standard
from mi_dictionaries.training.reading import Codes, told
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
        p, norms = self.options.lp_norm, self.decoder_norms()
        if p == 1:
            return codes.weighted_mean(norms)
        weighted = codes.values * codes.of_feature(norms)
        powers = codes.by_token(weighted.clamp(min=0) ** p)
        # a token without features: zero, whose root has no gradient
        return torch.where(powers > 0, powers, 1).pow(1 / p).mul(powers > 0).mean()


class Opened(torch.autograd.Function):
    """From what a gate reads, ``z``: how far it is open, ``relu(z)``, and the magnitude where it is open at all.

    The magnitude is ``relu((z - b_gate) exp(r_mag) + b_mag)``.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, at: Entries | None, tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Both at the same places."""
        ctx.save_for_backward(z, b_gate, r_mag, b_mag)
        ctx.at, ctx.tokens = at, tokens
        opened, magnitudes = torch.empty_like(z), torch.empty_like(z)
        for rows, part in Codes(z, at, tokens).parts():
            torch.clamp(part.values, min=0, out=opened[rows])
            size = (part.values - part.of_feature(b_gate)).mul_(part.of_feature(r_mag.exp()))
            size = size.add_(part.of_feature(b_mag)).clamp_(min=0)
            torch.mul(size, told(torch.gt, part.values, 0), out=magnitudes[rows])
        return opened, magnitudes

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Nothing where the gate is shut."""
        z, b_gate, r_mag, b_mag = ctx.saved_tensors
        d_z, factors = torch.empty_like(z), r_mag.exp()
        sums = torch.zeros_like(b_gate), torch.zeros_like(b_gate)
        for rows, part in Codes(z, ctx.at, ctx.tokens).parts():
            factor, open_ = part.of_feature(factors), told(torch.gt, part.values, 0)
            read = part.values - part.of_feature(b_gate)
            positive = (read * factor).add_(part.of_feature(b_mag)).gt_(0)
            d_size = positive.mul_(open_).mul_(gradients[1][rows])
            for total, of in zip(sums, (d_size, read.mul_(d_size)), strict=True):
                total += part.by_feature(of)
            torch.addcmul(open_.mul_(gradients[0][rows]), d_size, factor, out=d_z[rows])
        d_b_mag, d_factor = sums
        return d_z, -d_b_mag * factors, d_factor * factors, d_b_mag, None, None


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
        read = pre.where(pre.values > 0)
        opened, magnitudes = Opened.apply(read.values, self.b_gate, self.r_mag, self.b_mag, read.at, read.tokens)  # type: ignore[no-untyped-call]
        gate, codes = read.with_values(opened), read.with_values(magnitudes)
        out = self.decoded(codes, x)
        losses = {
            "mse_loss": squared_error(out, y),
            "l1_loss": moment.coefficients["l1"] * gate.weighted_mean(self.decoder_norms()),
            "auxiliary_reconstruction_loss": squared_error(self.decoded(gate, x), y),
        }
        return Step(losses, (out,), codes.fired())
