"""JumpReLU: a threshold that is learned through a rectangle around it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mi_dictionaries.training.options import JumpReLU
from mi_dictionaries.training.reading import Codes, PreActivations
from mi_dictionaries.training.trainee import Moment, Step, Trainee, squared_error

__all__ = ["JumpReLUTrainee", "jump", "pre_activation_loss", "step_count"]


class Jump(torch.autograd.Function):
    """``z`` above the threshold, zero below."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float, to_input: bool) -> Tensor:
        """Strictly above."""
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The jump's height times a rectangle, to the threshold and, where asked for, to the input."""
        z, threshold = ctx.saved_tensors
        estimate = threshold / ctx.bandwidth * rectangle(z, threshold, ctx.bandwidth) * gradients[0]
        d_z = (z > threshold) * gradients[0]
        return d_z + estimate if ctx.to_input else d_z, -estimate, None, None


class Count(torch.autograd.Function):
    """One above the threshold, zero below."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float, to_input: bool) -> Tensor:
        """Strictly above."""
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """A rectangle of area one."""
        z, threshold = ctx.saved_tensors
        estimate = rectangle(z, threshold, ctx.bandwidth) / ctx.bandwidth * gradients[0]
        return estimate if ctx.to_input else None, -estimate, None, None


def rectangle(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Whether a value lies within half a bandwidth of its threshold."""
    return ((z - threshold) / bandwidth).abs() < 0.5


def jump(codes: Codes, threshold: Float[Tensor, "feature"], bandwidth: float, to_input: bool) -> Codes:
    """The features' values: pre-activations above their thresholds."""
    values: Tensor = Jump.apply(codes.values, wide(codes, threshold), bandwidth, to_input)  # type: ignore[no-untyped-call]
    return codes.with_values(values)


def step_count(
    codes: Codes, threshold: Float[Tensor, "feature"], bandwidth: float, to_input: bool
) -> Float[Tensor, "token"]:
    """How many features of each token are above their thresholds, with an estimated gradient."""
    above: Tensor = Count.apply(codes.values, wide(codes, threshold), bandwidth, to_input)  # type: ignore[no-untyped-call]
    return codes.by_token(above)


def wide(codes: Codes, vector: Float[Tensor, "feature"]) -> Tensor:
    """A number of each feature in the shape of the values, so that autograd sums its gradient."""
    return codes.of_feature(vector).expand_as(codes.values)


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
        codes = jump(read, self.threshold, options.jumprelu_bandwidth, options.jumprelu_ste_to_input)
        out = self.decoded(codes, x)
        norms = self.decoder_norms()
        losses = {
            "mse_loss": squared_error(out, y),
            "l0_loss": moment.coefficients["l0"] * self.penalty(read, codes, norms),
        }
        if options.pre_act_loss_coefficient is not None:
            loss = out.new_zeros(())
            if moment.dead is not None:
                loss = pre_activation_loss(pre, self.threshold, norms, moment.dead)
            losses["pre_act_loss"] = options.pre_act_loss_coefficient * loss
        return Step(losses, (out,), codes.fired())

    def penalty(self, read: Codes, codes: Codes, norms: Tensor) -> Tensor:
        """The mean over tokens of one of the three."""
        options = self.options
        if options.jumprelu_sparsity_loss_mode == "tanh":
            weighted = options.jumprelu_tanh_scale * codes.values * codes.of_feature(norms)
            return codes.mean(weighted.tanh())
        count = step_count(read, self.threshold, options.jumprelu_bandwidth, options.jumprelu_ste_to_input)
        target = options.target_l0
        if options.jumprelu_sparsity_loss_mode == "step" or target is None:
            return count.mean()
        return (2 / target * (count - target).square()).mean()
