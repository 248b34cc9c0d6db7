"""Latent attention: queries, keys and values made of low-rank latents, and rotary dims that all keys share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.errors import MemoryMismatch
from mi_core.protocols import Batch, Memory, Site, Tap
from mi_core.vocabulary import site
from mi_decoder.attention import Attention, AttentionModule
from mi_decoder.latent_memory import Latents
from mi_decoder.memory import KeyValues, ends
from mi_decoder.norms import RMSNorm
from mi_decoder.rotary import Rotary

__all__ = ["LatentAttention", "LatentAttentionModule", "TailRotary"]

BEHIND_LATENTS = tuple(f"attn.hook_{name}" for name in ("k", "v", "rot_k", "k_per_head", "v_per_head"))
"""Where keys and values can be written once they are made of latents."""


@dataclass(frozen=True)
class TailRotary(Rotary):
    """Turns the last ``n_dims`` of each head."""

    @classmethod
    def of(cls, rotary: Rotary) -> TailRotary:
        """The same positions, for the other end of heads."""
        return cls(**{field.name: getattr(rotary, field.name) for field in fields(rotary)})

    def rotate(
        self, x: Float[Tensor, "batch pos head d_head"], table: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The first dimensions as they are, the others turned."""
        still, turning = torch.split(x, [x.shape[-1] - self.n_dims, self.n_dims], -1)
        return torch.cat((still, super().rotate(turning, table)), -1)


@dataclass(frozen=True, kw_only=True)
class LatentAttention(Attention):
    """Attention whose keys and values come from one latent, and whose queries may come from another.

    Of the ``d_head`` dims of queries and keys the last ``d_shared`` are rotary; keys have them from the input, the
    same for all heads. ``bias`` is that of the products that make latents.

    Source: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1; transformers 5.24, DeepseekV3Attention.
    """

    d_shared: int
    d_value: int
    kv_rank: int
    q_rank: int | None = None
    """The width of the queries' latent; None where they come from the input."""
    latent_norm: RMSNorm

    def build(self, d_model: int) -> LatentAttentionModule:
        """The module."""
        return LatentAttentionModule(self, d_model)


class LatentAttentionModule(AttentionModule):
    """Latent attention; matrices lie as in checkpoints, ``[out, in]``.

    It remembers latents, unless keys or values were written behind them: then those, as they were written.
    """

    multiplies = ("q", "q_down", "q_up", "kv_down", "kv_up", "gate", "o")

    def __init__(self, spec: LatentAttention, d_model: int) -> None:
        super().__init__(spec, d_model)
        for name in ("q_weight", "q_bias", "k_weight", "k_bias", "v_weight", "v_bias", "o_weight"):
            self.register_parameter(name, None)
        self.latent, heads = spec, spec.n_heads
        down: list[tuple[str, int]] = [("kv", spec.kv_rank)]
        if spec.q_rank is None:
            self.register_parameter("q_weight", empty(heads * spec.d_head, d_model))
        else:
            down.append(("q", spec.q_rank))
            self.register_parameter("q_up_weight", empty(heads * spec.d_head, spec.q_rank))
        for name, rank in down:
            rows = rank + (spec.d_shared if name == "kv" else 0)
            self.register_parameter(f"{name}_down_weight", empty(rows, d_model))
            self.register_parameter(f"{name}_down_bias", empty(rows) if spec.bias else None)
            self.add_module(f"{name}_latent_norm", spec.latent_norm.build(rank, f"attn.{name}_latent_norm"))
        self.register_parameter("kv_up_weight", empty(heads * (self.d_own + spec.d_value), spec.kv_rank))
        self.register_parameter("o_weight", empty(d_model, heads * spec.d_value))

    @property
    def reads(self) -> tuple[str, ...]:
        """The matrices that multiply the input."""
        return ("kv_down", "q" if self.latent.q_rank is None else "q_down")

    @property
    def d_own(self) -> int:
        """Dims of a key that are its head's own."""
        return self.d_head - self.latent.d_shared

    @property
    def heads_that_read(self) -> Mapping[str, int]:
        """None: all heads read the same latents."""
        return {}

    def projected(
        self, x: Float[Tensor, "batch pos d_model"], asking: Float[Tensor, "batch query_pos d_model"], tap: Tap
    ) -> tuple[Tensor, ...]:
        """Queries of the columns that ask, keys and values of all, split into heads; and the latents of those."""
        spec, own = self.latent, self._parameters
        q = self.queries(asking, tap).view(len(x), -1, self.n_heads, self.d_head)
        down = linear(x, self.get_parameter("kv_down_weight"), own["kv_down_bias"])
        latent, shared = torch.split(down, [spec.kv_rank, spec.d_shared], -1)
        norm: Any = self._modules["kv_latent_norm"]
        latent = tap("attn.hook_kv_latent", norm.plain(latent))
        k, v = self.made_of(latent, shared)
        return q, k, v, latent

    def made_of(
        self, latent: Float[Tensor, "batch pos kv_rank"], shared: Float[Tensor, "batch pos d_shared"]
    ) -> tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "batch pos head d_value"]]:
        """Each head's keys and values."""
        up = linear(latent, self.get_parameter("kv_up_weight")).view(*latent.shape[:2], self.n_heads, -1)
        k, v = torch.split(up, [self.d_own, self.latent.d_value], -1)
        return torch.cat((k, shared[:, :, None].expand(-1, -1, self.n_heads, -1)), -1), v

    def attend(
        self,
        q: Float[Tensor, "batch head query_pos d_head"],
        k: Float[Tensor, "batch head pos d_head"],
        v: Float[Tensor, "batch head pos d_value"],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
        latent: Float[Tensor, "batch pos kv_rank"] | None = None,
    ) -> tuple[Float[Tensor, "batch head query_pos d_value"], Memory | None]:
        """The mixed values, and what is remembered: latents if they still say all of keys and values."""
        spec = self.latent
        changed = any(part is not None for part in (spec.clip, spec.values, spec.qk_norm)) or tap.edits(*BEHIND_LATENTS)
        lost = changed or isinstance(memory, KeyValues)
        if latent is None or batch.parts or lost or (memory is None and batch.record is None):
            return super().attend(q, k, v, batch, tap, memory)
        held = torch.cat((latent, k[:, 0, :, self.d_own :]), -1).unsqueeze(1)
        if isinstance(memory, Latents):
            self.check_regime(memory, batch)
            held = memory.extend(batch, held)
        if memory is None or not self.few(q.shape[2]):
            z, _ = super().attend(q, k, v, batch, tap, memory)
        else:
            z = self.absorbed(q, held, batch, tap)
        return z, None if batch.record is None else Latents(held, ends(batch), self.regime(batch))

    def recall(self, memory: Memory, batch: Batch) -> KeyValues:
        """The memory of this layer as keys and values, made again where latents were remembered."""
        spec = self.latent
        if isinstance(memory, Latents):
            k, v = self.made_of(*torch.split(memory.latents.squeeze(1), [spec.kv_rank, spec.d_shared], -1))
            memory = KeyValues(k.transpose(1, 2), v.transpose(1, 2), memory.length, memory.regime)
        found = super().recall(memory, batch)
        seen, wanted = (found.keys.shape[1], found.keys.shape[3]), (self.n_heads, self.d_head)
        if seen != wanted:
            raise MemoryMismatch(f"keys are remembered of {seen} heads and dims, the layer has {wanted}", seen=seen)
        return found

    def few(self, queries: int) -> bool:
        """Whether so few queries cost less among latents than the prefix's keys and values cost to make again.

        Both sides are products for each head and key.
        """
        spec = self.latent
        longer = 2 * spec.kv_rank + spec.d_shared - self.d_head - spec.d_value
        return queries * longer < spec.kv_rank * (self.d_own + spec.d_value)

    def absorbed(
        self,
        q: Float[Tensor, "batch head query_pos d_head"],
        held: Float[Tensor, "batch 1 key_pos channel"],
        batch: Batch,
        tap: Tap,
    ) -> Float[Tensor, "batch head query_pos d_value"]:
        """The mixed values by products with latents alone: what makes keys is taken into the queries.

        Source: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.2 (matrices absorbed).
        """
        spec = self.latent
        up = self.get_parameter("kv_up_weight").view(self.n_heads, -1, spec.kv_rank)
        of_keys, of_values = up[:, : self.d_own], up[:, self.d_own :]
        own, shared = torch.split(q, [self.d_own, spec.d_shared], -1)
        asking = torch.cat((torch.einsum("bhpd,hdr->bhpr", own, of_keys), shared), -1)
        mixed = self.weighed(asking, held, held[..., : spec.kv_rank], batch, tap, True)
        return torch.einsum("bhpr,hdr->bhpd", mixed, of_values)

    def queries(
        self, asking: Float[Tensor, "batch query_pos d_model"], tap: Tap
    ) -> Float[Tensor, "batch query_pos d_heads"]:
        """The queries of all heads, through their latent if they have one."""
        if self.latent.q_rank is None:
            return linear(asking, self.get_parameter("q_weight"), self._parameters["q_bias"])
        norm: Any = self._modules["q_latent_norm"]
        down = linear(asking, self.get_parameter("q_down_weight"), self._parameters["q_down_bias"])
        return linear(tap("attn.hook_q_latent", norm.plain(down)), self.get_parameter("q_up_weight"))

    def sites(self) -> Sequence[Site]:
        """Those of attention, and the latents before queries, keys and values."""
        spec, found = self.latent, []
        for offered in super().sites():
            if offered.name == "attn.hook_q":
                found += [] if spec.q_rank is None else [site("attn.hook_q_latent", q_rank=spec.q_rank)]
                found += [site("attn.hook_kv_latent", kv_rank=spec.kv_rank)]
            found.append(offered)
        return found

    def weights(self) -> Mapping[str, Tensor]:
        """``W_DQ``, ``W_DKV``, ``W_KR`` as ``[d_model rank]``, ``W_UQ``, ``W_UK``, ``W_UV`` as ``[head rank d_head]``.

        ``W_Q`` where queries have no latent; ``W_O`` as ``[head d_head d_model]``. Source: the paper's names.
        """
        spec, parameter = self.latent, self.get_parameter
        down_kv, up_kv = parameter("kv_down_weight"), parameter("kv_up_weight").view(self.n_heads, -1, spec.kv_rank)
        weights = {
            "attn.W_DKV": down_kv[: spec.kv_rank].T,
            "attn.W_KR": down_kv[spec.kv_rank :].T,
            "attn.W_UK": up_kv[:, : self.d_own].transpose(1, 2),
            "attn.W_UV": up_kv[:, self.d_own :].transpose(1, 2),
            "attn.W_O": self.heads_of_o().permute(1, 2, 0),
        }
        if spec.q_rank is None:
            weights["attn.W_Q"] = parameter("q_weight").view(self.n_heads, -1, self.d_model).transpose(1, 2)
        else:
            weights["attn.W_DQ"] = parameter("q_down_weight").T
            weights["attn.W_UQ"] = parameter("q_up_weight").view(self.n_heads, -1, spec.q_rank).transpose(1, 2)
        biases = {"b_DQ": self._parameters.get("q_down_bias"), "b_O": self._parameters["o_bias"]}
        weights |= {f"attn.{name}": bias for name, bias in biases.items() if bias is not None}
        if spec.bias:
            bias = parameter("kv_down_bias")
            weights |= {"attn.b_DKV": bias[: spec.kv_rank], "attn.b_KR": bias[spec.kv_rank :]}
        norms: list[Any] = [self._modules.get(f"{name}_latent_norm") for name in ("q", "kv")]
        return weights | {name: tensor for norm in norms if norm is not None for name, tensor in norm.weights().items()}
