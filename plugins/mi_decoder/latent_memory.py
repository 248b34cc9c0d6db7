"""What latent attention remembers: latents, from which keys and values can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mi_core.protocols import Batch
from mi_decoder.memory import KeyValues, Prefixes, append

__all__ = ["Latents"]


@dataclass(frozen=True, eq=False)
class Latents(Prefixes):
    """The latents of keys and values (after their norm), and behind them the dims that all keys share, turned.

    Source: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.3 (what has to be kept for generation).
    """

    latents: Float[Tensor, "batch 1 key_pos channel"]
    length: Int[Tensor, "batch"]
    regime: Shaped[Tensor, "batch"] | None = None

    def restored(self, tensors: Mapping[str, Tensor]) -> Latents | KeyValues:  # type: ignore[override]
        """The same kind of memory with other tensors, or the keys and values that a run with writes to them left."""
        return KeyValues(**tensors) if "keys" in tensors else super().restored(tensors)

    def extend(
        self, batch: Batch, latents: Float[Tensor, "batch 1 pos channel"]
    ) -> Float[Tensor, "batch 1 key_pos channel"]:
        """The prefix's latents, and the new ones right behind each row's own prefix.

        Raises:
            MemoryMismatch: other rows than those of the memory, or a row that goes on behind what it has seen.
        """
        self.check_follows(batch)
        return append(self.latents, latents, batch)
