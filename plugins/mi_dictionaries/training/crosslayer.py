"""Cross-layer transcoders: each layer's features write to their own MLP's output and to all behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_dictionaries.training.auxiliary import auxiliary_loss
from mi_dictionaries.training.counted import SAFE, largest_of_batch
from mi_dictionaries.training.entries import Entries
from mi_dictionaries.training.jumprelu import jump, pre_activation_loss
from mi_dictionaries.training.options import CrossLayer
from mi_dictionaries.training.reading import Codes, PreActivations
from mi_dictionaries.training.trainee import Learner, Moment, Step, squared_error

__all__ = ["CrossLayerTrainee"]


class CrossLayerTrainee(Learner[CrossLayer]):
    """``f_i = act(x_i W_enc_i + b_i)`` and ``y_l = b_l + sum over i <= l of f_i W_dec_i->l``.

    The decoder of layer i is stored as rows [feature, outputs of layers i and behind]: one product writes them all.
    Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Cross-Layer Transcoder Implementation Details".
    """

    topk_threshold: Tensor

    def __init__(self, options: CrossLayer, layers: int, d_in: int, d_out: int, generator: torch.Generator) -> None:
        super().__init__(options)
        self.layers, self.d_in, self.d_out = layers, d_in, d_out
        norm = options.decoder_init_norm or 1.0
        shape = (options.d_sae, d_in)
        self.W_enc = nn.ParameterList([rows_of(*shape, norm, generator) for _ in range(layers)])
        self.W_dec = nn.ParameterList(
            [rows_of(options.d_sae, (layers - i) * d_out, norm, generator) for i in range(layers)]
        )
        self.b_enc = nn.ParameterList([torch.zeros(options.d_sae) for _ in range(layers)])
        self.b_dec = nn.ParameterList([torch.zeros(d_out) for _ in range(layers)])
        if options.activation == "jumprelu":
            start = torch.full((options.d_sae,), options.jumprelu_init_threshold)
            self.threshold = nn.ParameterList([start.clone() for _ in range(layers)])
        self.register_buffer("topk_threshold", torch.zeros((), dtype=torch.float64))

    @property
    def features(self) -> int:
        """Of all layers."""
        return self.layers * self.options.d_sae

    def coefficients(self) -> dict[str, tuple[float, int]]:
        """One, where features are not counted."""
        counted = self.options.activation != "jumprelu"
        return {} if counted else {"l0": (self.options.l0_coefficient, self.options.l0_warm_up_steps)}

    def targets(self, parts: Sequence[Any]) -> Sequence[Any]:
        """The second half: the first are read."""
        return parts[self.layers :]

    def losses(self, parts: Sequence[Tensor], moment: Moment) -> Step:
        """Squared errors of all layers, and what keeps features few."""
        pre = [
            PreActivations.of(x, weight, bias, None)
            for x, weight, bias in zip(parts[: self.layers], self.W_enc, self.b_enc, strict=True)
        ]
        norms = [torch.linalg.vector_norm(weight, dim=1) for weight in self.W_dec]
        codes = self.jumped(pre) if self.options.activation == "jumprelu" else self.counted(pre, norms)
        outs = self.decoded(codes)
        targets = self.targets(parts)
        losses = {"mse_loss": torch.stack([squared_error(o, y) for o, y in zip(outs, targets, strict=True)]).sum()}
        dead = None if moment.dead is None else torch.split(moment.dead, self.options.d_sae)
        if self.options.activation == "jumprelu":
            losses |= self.penalties(pre, codes, norms, dead, moment.coefficients["l0"])
        else:
            left = [(y - out).detach() for y, out in zip(targets, outs, strict=True)]
            losses["auxiliary_reconstruction_loss"] = self.auxiliary(pre, norms, left, dead)
        return Step(losses, tuple(outs), torch.cat([code.fired() for code in codes]))

    def jumped(self, pre: Sequence[PreActivations]) -> list[Codes]:
        """What exceeds its threshold."""
        found = []
        for one, threshold in zip(pre, self.threshold, strict=True):
            with torch.no_grad():
                threshold.clamp_(min=0)
            read = one.where(one.values > threshold.detach() - self.options.jumprelu_bandwidth / 2)
            found.append(jump(read, threshold, self.options.jumprelu_bandwidth, to_input=True)[0])
        return found

    def counted(self, pre: Sequence[PreActivations], norms: Sequence[Tensor]) -> list[Codes]:
        """The largest of the batch over all layers, by what they write."""
        assert self.options.k is not None
        with torch.no_grad():
            ranked = torch.cat([one.values * norm for one, norm in zip(pre, norms, strict=True)], dim=1)
            tokens, features = ranked.shape
            count = int(self.options.k * tokens)
            chosen = largest_of_batch(ranked, count, SAFE * float(self.topk_threshold))
            at = Entries.flat(chosen, tokens, features)
            if len(at):
                rate = self.options.topk_threshold_lr
                self.topk_threshold.mul_(1 - rate).add_(at.gather(ranked).min().double(), alpha=rate)
        found = []
        for layer, one in enumerate(pre):
            mine = at.only(at.columns // self.options.d_sae == layer)
            columns = mine.columns - layer * self.options.d_sae
            codes = one.read(Entries(mine.rows, columns, tokens, self.options.d_sae))
            found.append(codes.with_values(codes.values.relu()))
        return found

    def decoded(self, codes: Sequence[Codes]) -> list[Float[Tensor, "token out"]]:
        """What all features write at each layer."""
        tokens = codes[0].tokens
        outs = [bias.expand(tokens, -1) for bias in self.b_dec]
        for layer, (code, weight) in enumerate(zip(codes, self.W_dec, strict=True)):
            written = torch.split(code.times(weight), self.d_out, dim=1)
            outs[layer:] = [out + part for out, part in zip(outs[layer:], written, strict=True)]
        return outs

    def penalties(
        self,
        pre: Sequence[PreActivations],
        codes: Sequence[Codes],
        norms: Sequence[Tensor],
        dead: Sequence[Tensor] | None,
        coefficient: float,
    ) -> dict[str, Tensor]:
        """``tanh`` of what features write, and how far dead ones are from firing."""
        scale = self.options.jumprelu_tanh_scale
        parts = [c.mean((scale * c.values * c.of_feature(n)).tanh()) for c, n in zip(codes, norms, strict=True)]
        losses = {"l0_loss": coefficient * torch.stack(parts).sum()}
        if self.options.pre_act_loss_coefficient is not None:
            below = [] if dead is None else list(zip(pre, self.threshold, norms, dead, strict=True))
            parts = [pre_activation_loss(*one) for one in below]
            loss = torch.stack(parts).sum() if parts else norms[0].new_zeros(())
            losses["pre_act_loss"] = self.options.pre_act_loss_coefficient * loss
        return losses

    def auxiliary(
        self,
        pre: Sequence[PreActivations],
        norms: Sequence[Tensor],
        left: Sequence[Tensor],
        dead: Sequence[Tensor] | None,
    ) -> Tensor:
        """Each layer's dead features learn what is left over where they can write."""
        losses = [norms[0].new_zeros(())]
        for layer, one in enumerate(pre):
            if dead is not None and bool(dead[layer].any()):
                rest = torch.cat(list(left[layer:]), dim=1)
                ranked = one.values * norms[layer].detach()
                losses.append(auxiliary_loss(one, ranked, self.W_dec[layer], rest, dead[layer], signed=False))
        return self.options.aux_loss_coefficient * torch.stack(losses).sum()

    def start_at(self, means: Sequence[Tensor]) -> None:
        """The mean of each output."""
        with torch.no_grad():
            for bias, mean in zip(self.b_dec, self.targets(means), strict=True):
                bias.copy_(mean)

    def fold(self, factors: Sequence[float]) -> None:
        """Each input's and each output's; thresholds become numbers of their own, in units of pre-activations."""
        outs = torch.tensor(self.targets(factors))
        with torch.no_grad():
            self.settled = self.thresholds()
            for layer in range(self.layers):
                self.W_enc[layer].mul_(factors[layer])
                self.W_dec[layer].view(-1, self.layers - layer, self.d_out).div_(outs[layer:, None])
                self.b_dec[layer].div_(outs[layer])

    settled: list[Tensor] | None = None
    """Thresholds from before scales were folded."""

    def thresholds(self) -> list[Float[Tensor, "feature"]]:
        """What each feature's pre-activation must exceed."""
        if self.settled is not None:
            return self.settled
        if self.options.activation == "jumprelu":
            return [threshold.detach().clamp(min=0).clone() for threshold in self.threshold]
        return [float(self.topk_threshold) / weight.detach().norm(dim=1) for weight in self.W_dec]


def rows_of(count: int, width: int, norm: float, generator: torch.Generator) -> Tensor:
    """Random rows of one norm."""
    rows = torch.randn(count, width, generator=generator)
    scaled: Tensor = rows * (norm / rows.norm(dim=1, keepdim=True))
    return scaled
