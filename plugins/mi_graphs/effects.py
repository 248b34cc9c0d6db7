"""Direct effects, row by row: what each source contributes to a target in the replacement model.

A target is a direction at a point: a feature's encoder row at what its transcoder reads, or a token's column of W_U.
Pulled back through the frozen model it is the gradient with respect to everything that writes; as the model is linear,
gradient times what is written is the contribution. One forward pass in as many rows as a batch has serves all.

Source: Ameisen et al. 2025, "Circuit Tracing", section 3; circuit-tracer 0.4.1, ``AttributionContext.compute_batch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_core.errors import UnsupportedAnalysis
from mi_graphs.replacement import EMBED, OUT, LocalReplacement
from mi_graphs.sources import Sources

__all__ = ["DirectEffects", "Target"]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far a frozen model may be from linear, relative to what changes; coarser numbers get ``COARSE``."""
COARSE = 0.1


@dataclass(frozen=True, eq=False)
class Target:
    """A direction at a point and position: what contributes to it is asked."""

    point: str
    pos: int
    direction: Float[Tensor, "d"]


@dataclass(frozen=True, eq=False)
class DirectEffects:
    """The contributions of all sources to targets, ``batch`` targets at a time."""

    replacement: LocalReplacement
    sources: Sources
    batch: int

    @cached_property
    def run(self) -> mi.Run:
        """The replacement model, with its graph."""
        return self.replacement.run(self.batch, grad=True)

    def of(self, targets: Sequence[Target]) -> Float[Tensor, "target source"]:
        """The contribution of each source to each target."""
        parts = [
            self.sources.contributions(*self.pulled(targets[first : first + self.batch]))
            for first in range(0, len(targets), self.batch)
        ]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, len(self.sources))

    def pulled(
        self, targets: Sequence[Target]
    ) -> tuple[Float[Tensor, "target pos layer d"], Float[Tensor, "target pos d"]]:
        """The gradients of at most a batch of targets at each MLP's output, and at the embedding."""
        cotangents: dict[str, Tensor] = {}
        for row, target in enumerate(targets):
            held = cotangents.setdefault(target.point, torch.zeros_like(self.run[target.point]))
            held[row, target.pos] = target.direction.to(held)
        outputs = self.replacement.transcoders.outputs.values()
        found = self.run.vjp(cotangents, [EMBED, *outputs])
        stacked = torch.stack([found[point][: len(targets)].float() for point in outputs], 2)
        return stacked, found[EMBED][: len(targets)].float()

    def features(self, chosen: Int[Tensor, "n"]) -> list[Target]:
        """Some of the active features, as targets: their pre-activations, but for the encoder's bias."""
        held, found = self.replacement.transcoders, []
        rows = {
            layer: iter(member.encoder_rows(self.sources.feature[chosen[self.sources.layer[chosen] == layer]]))
            for layer, member in held.by_layer.items()
        }
        for at in chosen.tolist():
            layer = int(self.sources.layer[at])
            found.append(Target(held.reads[layer], int(self.sources.pos[at]), next(rows[layer])))
        return found

    def values(self, targets: Sequence[Target], run: mi.Run | None = None) -> Float[Tensor, "row target"]:
        """What the targets are in a run: in the clean one without another."""
        seen = self.replacement.clean if run is None else run
        found = [seen[one.point].detach()[:, one.pos].float().cpu() @ one.direction.float().cpu() for one in targets]
        return torch.stack(found, 1)

    def check_linear(self) -> None:
        """Refuse a model in which more than a sum is left once patterns, norms and MLPs are held.

        Half of the embeddings must take away what their gradients say, in a random direction at every point that is
        read; once of all positions, and once of all but the last, so that what comes by way of attention is seen alone.

        Raises:
            UnsupportedAnalysis: it does not; the message names the point and says by how much.
        """
        draw = torch.Generator().manual_seed(0)
        held = self.replacement
        points = [*dict.fromkeys(held.transcoders.reads.values()), OUT]
        targets = [Target(point, -1, torch.randn(held.clean[point].shape[-1], generator=draw)) for point in points]
        embed = torch.cat([self.pulled(targets[at : at + self.batch])[1] for at in range(0, len(targets), self.batch)])
        said = torch.einsum("bpd,pd->bp", embed, self.sources.tokens.to(embed)).cpu()
        for end in (None, -1):
            moved = held.run(1, mi.intervene(EMBED, mi.Scale(0.5).at(pos=slice(0, end))))
            for target, share in zip(targets, said, strict=True):
                change = (moved[target.point] - held.clean[target.point])[0, -1].float().cpu()
                self.check_one(target, float(change @ target.direction), -0.5 * float(share[:end].sum()), change)

    def check_one(self, target: Target, seen: float, expected: float, change: Float[Tensor, "d"]) -> None:
        """Refuse a change that is another than the gradient says."""
        tolerance = TOLERANCE.get(self.replacement.model.dtype, COARSE)
        if abs(seen - expected) > tolerance * float(change.norm() * target.direction.norm()) + 1e-6:
            raise UnsupportedAnalysis(
                f"{self.replacement.model.name} is not linear in its embeddings once attention patterns, the "
                f"denominators of norms and the outputs of MLPs are held: at {target.point!r} a change of {seen:.4g} "
                f"is {expected:.4g} by its gradients. A gate, a clip or an inner norm that cannot be held makes direct "
                "effects meaningless.",
                point=target.point,
            )
