"""JumpReLU: a threshold that is learned through a rectangle around it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mi_dictionaries.training.entries import Entries
from mi_dictionaries.training.options import JumpReLU
from mi_dictionaries.training.reading import Codes, PreActivations, told
from mi_dictionaries.training.trainee import Moment, Step, Trainee, squared_error

__all__ = ["JumpReLUTrainee", "jump", "pre_activation_loss"]


class Gate(torch.autograd.Function):
    """``z`` above the threshold and zero below, and how many of each token are above; both with estimated gradients."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, threshold: Tensor, at: Entries | None, tokens: int, bandwidth: float, to_input: bool
    ) -> tuple[Tensor, Tensor]:
        """Strictly above."""
        ctx.save_for_backward(z, threshold)
        ctx.at, ctx.bandwidth, ctx.to_input = at, bandwidth, to_input
        values, counts = torch.empty_like(z), z.new_empty(tokens)
        for rows, part in Codes(z, at, tokens).parts():
            above = told(torch.gt, part.values, part.of_feature(threshold))
            counts[rows] = part.by_token(above)
            torch.mul(part.values, above, out=values[rows])
        return values, counts

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The heights of both jumps times a rectangle of area one, to the threshold and, where asked, to the input."""
        z, threshold = ctx.saved_tensors
        to_values, to_counts = gradients
        d_z, d_threshold = torch.empty_like(z), torch.zeros_like(threshold)
        for rows, part in Codes(z, ctx.at, len(to_counts)).parts():
            edge, gradient = part.of_feature(threshold), to_values[rows]
            estimate = (gradient * edge).add_(part.of_token(to_counts[rows])).div_(ctx.bandwidth)
            estimate *= (part.values - edge).abs_().lt_(ctx.bandwidth / 2)
            d_threshold -= part.by_feature(estimate)
            torch.mul(gradient, told(torch.gt, part.values, edge), out=d_z[rows])
            if ctx.to_input:
                d_z[rows] += estimate
        return d_z, d_threshold, None, None, None, None


def jump(
    codes: Codes, threshold: Float[Tensor, "feature"], bandwidth: float, to_input: bool
) -> tuple[Codes, Float[Tensor, "token"]]:
    """The features' values, pre-activations above their thresholds, and how many each token has."""
    values, counts = Gate.apply(codes.values, threshold, codes.at, codes.tokens, bandwidth, to_input)  # type: ignore[no-untyped-call]
    return codes.with_values(values), counts


def pre_activation_loss(
    pre: PreActivations, threshold: Tensor, norms: Tensor, dead: Bool[Tensor, "feature"]
) -> Float[Tensor, ""]:
    """How far dead features are below their thresholds, times the norm of what they write.

    Source: SAELens 6.54, jumprelu_sae.py, ``calculate_pre_act_loss``.
    """
    features = dead.nonzero().flatten()
    some = PreActivations(pre.weight[features], pre.bias[features], pre.centre, pre.x, pre.values[:, features])
    below = (threshold[features] - some.read(None).values).relu() * norms[features]
    return below.sum() / len(pre.x)


class JumpReLUTrainee(Trainee[JumpReLU]):
    """A threshold for each feature, with one of three penalties.

    Source: SAELens 6.54, jumprelu_sae.py: the threshold itself is the parameter, kept from falling below zero.
    """

    threshold: nn.Parameter

    def make_encoder(self, generator: torch.Generator) -> None:
        """And thresholds."""
        super().make_encoder(generator)
        self.threshold = nn.Parameter(torch.full((self.options.d_sae,), self.options.jumprelu_init_threshold))

    def coefficients(self) -> dict[str, tuple[float, int]]:
        """One."""
        return {"l0": (self.options.l0_coefficient, self.options.l0_warm_up_steps)}

    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """Below half a bandwidth under the threshold nothing has a value or a gradient."""
        options = self.options
        with torch.no_grad():
            self.threshold.clamp_(min=0)
        pre = self.pre_activations(x)
        read = pre.where(pre.values > self.threshold.detach() - options.jumprelu_bandwidth / 2)
        codes, counts = jump(read, self.threshold, options.jumprelu_bandwidth, options.jumprelu_ste_to_input)
        out = self.decoded(codes, x)
        norms = self.decoder_norms()
        losses = {
            "mse_loss": squared_error(out, y),
            "l0_loss": moment.coefficients["l0"] * self.penalty(codes, counts, norms),
        }
        if options.pre_act_loss_coefficient is not None:
            loss = out.new_zeros(())
            if moment.dead is not None:
                loss = pre_activation_loss(pre, self.threshold, norms, moment.dead)
            losses["pre_act_loss"] = options.pre_act_loss_coefficient * loss
        return Step(losses, (out,), codes.fired())

    def penalty(self, codes: Codes, counts: Tensor, norms: Tensor) -> Tensor:
        """The mean over tokens of one of the three."""
        options = self.options
        if options.jumprelu_sparsity_loss_mode == "tanh":
            weighted = options.jumprelu_tanh_scale * codes.values * codes.of_feature(norms)
            return codes.mean(weighted.tanh())
        target = options.target_l0
        if options.jumprelu_sparsity_loss_mode == "step" or target is None:
            return counts.mean()
        return (2 / target * (counts - target).square()).mean()
