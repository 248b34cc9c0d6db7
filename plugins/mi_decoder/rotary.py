"""Rotary positions: pairs of query and key dimensions turned by an angle that grows with the position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mi_core.protocols import Batch
from mi_decoder.rope_scalings import Unscaled

__all__ = ["Rotary", "Scaling"]


@runtime_checkable
class Scaling(Protocol):
    """How frequencies change for long contexts; see `mi_decoder.rope_scalings`."""

    @property
    def attention_factor(self) -> float:
        """What cosine and sine are multiplied by."""
        ...

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions; one row for each row if its length matters."""
        ...

    def regime(self, total: Int[Tensor, "batch"]) -> Shaped[Tensor, "batch"] | None:
        """What the rows' lengths amount to: rows of one regime are turned alike. None if lengths do not matter."""
        ...

    def alike(self, positions: int) -> bool:
        """Whether rows of at most so many positions are all of one regime."""
        ...

    def reach(self, n_ctx: int) -> int | None:
        """Positions that the model can use, where ``n_ctx`` is its ``max_position_embeddings``."""
        ...


@dataclass(frozen=True)
class Rotary:
    """Turns the first ``n_dims`` of each head, in pairs ``(i, i + n/2)``, or ``(2i, 2i + 1)`` if interleaved.

    Source: Su et al. 2021, arXiv:2104.09864; transformers 5.24, modeling_llama.py: apply_rotary_pos_emb (halves).
    """

    n_dims: int
    theta: float = 10000.0
    scaling: Scaling = field(default_factory=Unscaled)
    interleaved: bool = False
    wide: bool = False
    """Whether queries and keys are turned in float32 and rounded afterwards."""
    backwards: bool = False
    """Whether the angle is taken off, not added. Source: transformers 5.24, modeling_nanochat.py (rotate_half)."""

    def table(
        self, batch: Batch, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "batch pos 1 n_dims"], Float[Tensor, "batch pos 1 n_dims"]]:
        """Cosine, and sine with the sign of its pair's partner; made in float32, then rounded to the model's dtype."""
        if batch.parts and self.scaling.regime(batch.parts[0].batch.total) is not None:
            tables = [self.table(part.batch, dtype) for part in batch.parts]
            cosines, sines = ([one.flatten(0, 1) for one in kind] for kind in zip(*tables, strict=True))
            return torch.cat(cosines)[None], torch.cat(sines)[None]
        frequencies = self.scaling.frequencies(self.theta, self.n_dims, batch.total)
        angles = batch.positions[..., None].float() * (frequencies if frequencies.ndim == 1 else frequencies[:, None])
        cos, sin = angles.cos() * self.scaling.attention_factor, angles.sin() * self.scaling.attention_factor
        if self.backwards:
            sin = -sin
        if self.interleaved:
            cos, sin = cos.repeat_interleave(2, -1), torch.stack((-sin, sin), -1).flatten(-2)
        else:
            cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        if self.wide:
            dtype = torch.promote_types(dtype, torch.float32)
        return cos[:, :, None].to(dtype), sin[:, :, None].to(dtype)

    def rotate(
        self, x: Float[Tensor, "batch pos head d_head"], table: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """``x cos + partner(x) sin``, the other dimensions as they are."""
        cos, sin = table
        n_dims = self.n_dims
        turning = x if x.shape[-1] == n_dims else x[..., :n_dims]
        if turning.dtype != cos.dtype:
            turning = turning.to(cos.dtype)
        if self.interleaved:
            partner = turning.view(*turning.shape[:-1], n_dims // 2, 2).flip(-1).flatten(-2)
        else:
            partner = turning.roll(n_dims // 2, -1)
        # in place on tensors that are fresh here; the products are rounded one by one, as in the reference
        turned = (turning * cos).add_(partner.mul_(sin))
        if turned.dtype != x.dtype:
            turned = turned.to(x.dtype)
        return turned if x.shape[-1] == n_dims else torch.cat((turned, x[..., n_dims:]), -1)
