"""Softmax attention over keys of earlier positions, heads grouped onto fewer keys and values if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.errors import MemoryMismatch
from mi_core.protocols import Batch, Memory, Site, Tap
from mi_decoder.alibi import Alibi
from mi_decoder.attention_sites import attention_sites
from mi_decoder.head_norms import HeadNorm, head_normed
from mi_decoder.in_parts import in_parts
from mi_decoder.kernels import Window, causal_is_enough, explicit, fused, masked, open_edges
from mi_decoder.memory import KeyValues, Prefixes, ends, per_head
from mi_decoder.output_gate import OutputGate
from mi_decoder.rotary import Rotary
from mi_decoder.split_inputs import OwnInput
from mi_decoder.temperature import Temperature
from mi_decoder.values import NormedValues, ValueChange

__all__ = ["Attention", "AttentionModule"]


@dataclass(frozen=True)
class Attention:
    """``n_heads`` query heads of ``d_head`` dims, reading ``n_kv_heads`` keys and values.

    Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245 (grouped queries).
    """

    n_heads: int
    n_kv_heads: int
    d_head: int
    positions: Rotary | Alibi | None = None
    bias: bool = False
    """Whether queries, keys and values have biases."""
    out_bias: bool = False
    scale: float | None = None
    """What scores are multiplied by; ``d_head ** -0.5`` if None."""
    window: Window = None
    """How many positions a query sees, its own included; all earlier ones if None."""
    softcap: float | None = None
    """What scores are squeezed below; a kernel with explicit scores then always runs."""
    qk_norm: HeadNorm | None = None
    """The norm of queries and keys, before they are turned unless it says otherwise."""
    clip: float | None = None
    """The largest absolute value that queries, keys and values keep. Source: transformers 5.24, OlmoAttention."""
    clip_normed: bool = False
    """Whether queries and keys are cut off behind their norm. Source: transformers 5.24, OlmoeAttention."""
    z_norm: HeadNorm | None = None
    """The norm between the mixed values and W_O. Source: transformers 5.24, BitNetAttention (attn_sub_norm)."""
    sinks: bool = False
    """Whether each head has a score that takes part in the softmax and has no value."""
    temperature: Temperature | None = None
    """What queries are multiplied by, depending on their position, once they are turned."""
    d_value: int | None = None
    """The width of a head's values; that of its queries and keys if None."""
    values: ValueChange | None = None
    """What happens to values before they are mixed."""
    gate: OutputGate | None = None
    """What mixed values are multiplied by before W_O."""

    def build(self, d_model: int) -> AttentionModule:
        """The module."""
        return AttentionModule(self, d_model)


class AttentionModule(nn.Module):
    """Causal self-attention; matrices lie as in checkpoints, ``[out, in]``."""

    takes_parts = True
    multiplies: tuple[str, ...] = ("q", "k", "v", "gate", "o")
    writes = ("o",)

    def __init__(self, spec: Attention, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.d_model = d_model
        self.n_heads, self.d_head, self.d_value = spec.n_heads, spec.d_head, spec.d_value or spec.d_head
        self.scale = spec.d_head**-0.5 if spec.scale is None else spec.scale
        self.rotary = spec.positions if isinstance(spec.positions, Rotary) else None
        self.alibi = spec.positions if isinstance(spec.positions, Alibi) else None
        self.normed_late = self.rotary is not None and spec.qk_norm is not None and spec.qk_norm.late
        # equal values share one table; a string is hashed faster than nested dataclasses
        self.table_key = repr(spec.positions)
        rows = {"q": spec.n_heads * spec.d_head, "k": spec.n_kv_heads * spec.d_head}
        rows["v"] = spec.n_kv_heads * self.d_value
        for name, count in rows.items():
            self.register_parameter(f"{name}_weight", empty(count, d_model))
            self.register_parameter(f"{name}_bias", empty(count) if spec.bias else None)
        for name, heads in (("q_norm", spec.n_heads), ("k_norm", spec.n_kv_heads)):
            norm = None if spec.qk_norm is None else spec.qk_norm.build(heads, spec.d_head, f"attn.{name}")
            self.add_module(name, norm)
        z_norm = None if spec.z_norm is None else spec.z_norm.build(spec.n_heads, self.d_value, "attn.z_norm")
        self.add_module("z_norm", z_norm)
        self.register_parameter("sink_bias", empty(spec.n_heads) if spec.sinks else None)
        factors = 0 if spec.gate is None else spec.n_heads * spec.gate.width(self.d_value)
        self.register_parameter("gate_weight", empty(factors, d_model) if factors else None)
        biased = spec.gate is not None and spec.gate.bias
        self.register_parameter("gate_bias", empty(factors) if biased else None)
        self.register_parameter("o_weight", empty(d_model, spec.n_heads * self.d_value))
        self.register_parameter("o_bias", empty(d_model) if spec.out_bias else None)

    @property
    def reads(self) -> tuple[str, ...]:
        """The matrices that multiply the input."""
        return ("q", "k", "v") if self.spec.gate is None else ("q", "k", "v", "gate")

    @property
    def loses_scale(self) -> bool:
        """Whether a factor of what it reads is lost, since queries, keys and values are all normed."""
        spec = self.spec
        normed = spec.qk_norm is not None and isinstance(spec.values, NormedValues)
        return normed and not spec.bias and spec.clip is None and spec.gate is None

    @property
    def reads_positions(self) -> bool:
        """Whether `Batch.positions` change anything: linear biases count columns."""
        temperature = self.spec.temperature
        return self.rotary is not None or (temperature is not None and temperature.counted == "positions")

    @property
    def heads_that_read(self) -> Mapping[str, int]:
        """How many queries, keys and values read the stream on their own."""
        return {"q": self.spec.n_heads, "k": self.spec.n_kv_heads, "v": self.spec.n_kv_heads}

    def mix(
        self,
        x: Float[Tensor, "batch pos d_model"],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
        inputs: Mapping[str, OwnInput] | None = None,
    ) -> tuple[Float[Tensor, "batch query_pos d_model"], Memory | None]:
        """The output of W_O with its bias, and the keys and values if ``batch.record`` asks for them.

        Queries, keys or values that have ``inputs`` of their own read those instead. Where only some columns are
        needed, only their queries are asked; keys and values are made for all.
        """
        own: Mapping[str, Any] = self._parameters  # spares a Python call for each parameter
        before, x = x, tap("attn.hook_in", x)
        asking = x if batch.keep is None else batch.kept(x)
        q, k, v, *sources = self.projected(x, asking, tap)
        if inputs:
            # what is written to the input that all share is added to each head's own
            change = (x - before).unsqueeze(2) if tap.edits("attn.hook_in") else None
            q, k, v = self.read_apart({"q": q, "k": k, "v": v}, inputs, change)
        q, k, v = tap("attn.hook_q", q), tap("attn.hook_k", k), tap("attn.hook_v", v)
        q, k, v = *self.placed(q, k, batch, tap), self.valued(v, tap)
        if tap.wants("attn.hook_k_per_head", "attn.hook_v_per_head"):
            k, v = self.told_apart(k, v, tap)
        heads = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        z, remembered = self.attend(*heads, batch, tap, memory, *sources)
        z, z_norm = z.transpose(1, 2), self._modules["z_norm"]
        if z_norm is not None:
            z = head_normed(z_norm, tap("attn.hook_z_ungated", z))
        if self.spec.gate is not None:
            z = self.gated(self.spec.gate, z, asking, tap)
        z = tap("attn.hook_z", z)
        if tap.wants("attn.hook_result"):
            result = tap("attn.hook_result", torch.einsum("bphd,mhd->bphm", z, self.heads_of_o()))
            if tap.edits("attn.hook_result"):
                out = result.sum(2) if own["o_bias"] is None else result.sum(2) + own["o_bias"]
                return tap("attn.hook_out", out), remembered
        out = linear(z.flatten(2), own["o_weight"], own["o_bias"])
        return tap("attn.hook_out", out), remembered

    def projected(
        self, x: Float[Tensor, "batch pos d_model"], asking: Float[Tensor, "batch query_pos d_model"], tap: Tap
    ) -> tuple[Tensor, ...]:
        """Queries of the columns that ask, keys and values of all, split into heads; then what `attend` takes beside.

        What is beside is what keys and values were made of, where that is remembered in their place.
        """
        own: Mapping[str, Any] = self._parameters  # spares a Python call for each parameter
        rows, columns, _ = x.shape
        heads = (rows, columns, -1, self.d_head)
        q = linear(asking, own["q_weight"], own["q_bias"]).view(rows, -1, self.n_heads, self.d_head)
        k = linear(x, own["k_weight"], own["k_bias"]).view(heads)
        return q, k, linear(x, own["v_weight"], own["v_bias"]).view(rows, columns, -1, self.d_value)

    def placed(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch pos kv_head d_head"],
        batch: Batch,
        tap: Tap,
    ) -> tuple[Float[Tensor, "batch query_pos head d_head"], Float[Tensor, "batch pos kv_head d_head"]]:
        """Queries and keys as the dot product sees them: normed and turned, in the order that the model has."""
        rotary, late, cut_late = self.rotary, self.normed_late, self.spec.clip_normed
        q, k = (q, k) if cut_late else self.cut_off(tap, q=q, k=k)
        if self.spec.qk_norm is not None and not late:
            q, k = self.normed(q, k, tap)
        q, k = self.cut_off(tap, q=q, k=k) if cut_late else (q, k)
        if rotary is not None:
            table = batch.once((self.table_key, k.dtype, k.device), lambda: rotary.table(batch, k.dtype))
            own_turn = table if batch.keep is None else (batch.kept(table[0]), batch.kept(table[1]))
            q, k = rotary.rotate(q, own_turn), rotary.rotate(k, table)
            q, k = self.normed(q, k, tap) if late else (q, k)
        temperature = self.spec.temperature
        if temperature is not None:
            q = temperature.apply(q, batch)
        if rotary is not None or temperature is not None:
            q, k = tap("attn.hook_rot_q", q), tap("attn.hook_rot_k", k)
        return q, k

    def valued(
        self, v: Float[Tensor, "batch pos kv_head d_value"], tap: Tap
    ) -> Float[Tensor, "batch pos kv_head d_value"]:
        """Values as they are mixed."""
        (v,) = self.cut_off(tap, v=v)
        change = self.spec.values
        return v if change is None else tap(change.site, change(v))

    def cut_off(self, tap: Tap, **parts: Float[Tensor, "..."]) -> tuple[Tensor, ...]:
        """Queries, keys or values within the largest absolute value, where there is one."""
        clip = self.spec.clip
        if clip is None:
            return tuple(parts.values())
        return tuple(tap(f"attn.hook_{name}_clipped", part.clamp(-clip, clip)) for name, part in parts.items())

    def gated(
        self,
        gate: OutputGate,
        z: Float[Tensor, "batch query_pos head d_value"],
        asking: Float[Tensor, "batch query_pos d_model"],
        tap: Tap,
    ) -> Float[Tensor, "batch query_pos head d_value"]:
        """Mixed values behind the gate."""
        own: Mapping[str, Any] = self._parameters
        z, pre = tap("attn.hook_z_ungated", z), linear(asking, own["gate_weight"], own["gate_bias"])
        return z * tap("attn.hook_z_gate", gate.opened(pre, self.n_heads))

    def normed(
        self, q: Float[Tensor, "batch query_pos head d_head"], k: Float[Tensor, "batch pos kv_head d_head"], tap: Tap
    ) -> tuple[Float[Tensor, "batch query_pos head d_head"], Float[Tensor, "batch pos kv_head d_head"]]:
        """Queries and keys after their norm."""
        q = tap("attn.hook_q_normed", head_normed(self._modules["q_norm"], q))
        return q, tap("attn.hook_k_normed", head_normed(self._modules["k_norm"], k))

    def read_apart(
        self,
        shared: dict[str, Float[Tensor, "batch pos _ d_head"]],
        inputs: Mapping[str, OwnInput],
        change: Float[Tensor, "batch pos 1 d_model"] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, those with an input of their own made of that."""
        for part, own in inputs.items():
            if part in shared:
                x = own.x if change is None else own.x + change
                weight = self.get_parameter(f"{part}_weight").view(x.shape[2], -1, self.d_model)
                bias = self._parameters[f"{part}_bias"]
                made = torch.einsum("bphm,hdm->bphd", x, weight)
                made = made if bias is None else made + bias.view(x.shape[2], -1)
                shared[part] = own.instead_of(shared[part], made)
        return shared["q"], shared["k"], shared["v"]

    def attend(
        self,
        q: Float[Tensor, "batch head query_pos d_head"],
        k: Float[Tensor, "batch _ pos d_head"],
        v: Float[Tensor, "batch _ pos d_value"],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "batch head query_pos d_value"], Memory | None]:
        """The mixed values, and what is remembered."""
        if batch.parts:
            return in_parts(self.attend, q, k, v, batch, tap), None
        if memory is not None:
            k, v = self.recall(memory, batch).extend(batch, k, v)
        z = self.weighed(q, k, v, batch, tap, memory is not None)
        return z, None if batch.record is None else KeyValues(k, v, ends(batch), self.regime(batch))

    def regime(self, batch: Batch) -> Tensor | None:
        """What the rows' lengths mean for the rotary frequencies; None where they mean nothing."""
        return None if self.rotary is None else self.rotary.scaling.regime(batch.total)

    def weighed(
        self,
        q: Float[Tensor, "batch head query_pos d_key"],
        k: Float[Tensor, "batch _ key_pos d_key"],
        v: Float[Tensor, "batch _ key_pos d_value"],
        batch: Batch,
        tap: Tap,
        continued: bool,
    ) -> Float[Tensor, "batch head query_pos d_value"]:
        """The mixed values of all keys, those of the prefix included where the call is ``continued``."""
        cut, window, softcap = tap.cut_edges(), self.spec.window, self.spec.softcap
        bias = None if self.alibi is None else self.biases(self.alibi, batch, k)
        sinks = self._parameters["sink_bias"]
        if softcap is not None or sinks is not None or tap.wants("attn.hook_attn_scores", "attn.hook_pattern"):
            return explicit(q, k, v, self.scale, open_edges(batch, continued, cut, window), tap, softcap, bias, sinks)
        if cut is None and bias is None and causal_is_enough(batch, continued, window):
            return fused(q, k, v, self.scale)
        return masked(q, k, v, self.scale, open_edges(batch, continued, cut, window), bias)

    def biases(
        self, alibi: Alibi, batch: Batch, k: Float[Tensor, "batch _ key_pos d_head"]
    ) -> Float[Tensor, "_ head _ key_pos"]:
        """What positions add to scores; made once for all layers that add the same."""
        key = (self.table_key, k.shape[2], k.dtype, k.device, batch.keep is None)
        made: Tensor = batch.once(key, lambda: alibi.bias(batch, k.shape[2], k.dtype))
        return made

    def recall(self, memory: Memory, batch: Batch) -> KeyValues:
        """The memory of this layer, if its keys were turned by the frequencies that hold now."""
        if not isinstance(memory, KeyValues):
            raise MemoryMismatch(f"attention goes on from keys and values, got {type(memory).__name__}", memory=memory)
        self.check_regime(memory, batch)
        return memory

    def check_regime(self, memory: Prefixes, batch: Batch) -> None:
        """Refuse keys that were turned by other frequencies than hold now."""
        if batch.room is not None and (self.rotary is None or self.rotary.scaling.alike(batch.room)):
            return
        regime = self.regime(batch)
        if regime is not None and (memory.regime is None or not torch.equal(memory.regime, regime)):
            raise MemoryMismatch(
                f"the rotary scaling {self.rotary!r} depends on the length of the whole row, and this row is in "
                "another regime than its memory: run it from its first token",
                memory=memory,
            )

    def told_apart(
        self, k: Float[Tensor, "batch pos kv_head d_head"], v: Float[Tensor, "batch pos kv_head d_value"], tap: Tap
    ) -> tuple[Float[Tensor, "batch pos _ d_head"], Float[Tensor, "batch pos _ d_value"]]:
        """Keys and values as each query head receives them; on the path only if a write may tell heads apart."""
        k_each = tap("attn.hook_k_per_head", per_head(k.transpose(1, 2), self.n_heads).transpose(1, 2))
        v_each = tap("attn.hook_v_per_head", per_head(v.transpose(1, 2), self.n_heads).transpose(1, 2))
        return (k_each, v_each) if tap.edits("attn.hook_k_per_head", "attn.hook_v_per_head") else (k, v)

    def heads_of_o(self) -> Float[Tensor, "d_model head d_head"]:
        """W_O by heads."""
        return self.get_parameter("o_weight").view(self.d_model, self.n_heads, -1)

    def sites(self) -> Sequence[Site]:
        """Everything from the input to the output, in firing order."""
        return attention_sites(self.spec, self.d_model, turned=self.rotary is not None)

    def weights(self) -> Mapping[str, Tensor]:
        """``W_Q``, ``W_K``, ``W_V`` as ``[head d_model d_head]``, ``W_O`` as ``[head d_head d_model]``, and biases.

        Keys and values have as many heads as there are. Source: TransformerLens 2, components/abstract_attention.py.
        """
        weights: dict[str, Tensor] = {}
        for name, width in (("q", self.d_head), ("k", self.d_head), ("v", self.d_value)):
            matrix = self.get_parameter(f"{name}_weight")
            weights[f"attn.W_{name.upper()}"] = matrix.view(-1, width, self.d_model).transpose(1, 2)
            bias = getattr(self, f"{name}_bias")
            if bias is not None:
                weights[f"attn.b_{name.upper()}"] = bias.view(-1, width)
        weights["attn.W_O"] = self.heads_of_o().permute(1, 2, 0)
        if isinstance(self.o_bias, Tensor):
            weights["attn.b_O"] = self.o_bias
        if isinstance(self.sink_bias, Tensor):
            weights["attn.sinks"] = self.sink_bias
        if isinstance(self.gate_weight, Tensor):
            weights["attn.W_gate"] = self.gate_weight.view(self.n_heads, -1, self.d_model).transpose(1, 2)
        if isinstance(self.gate_bias, Tensor):
            weights["attn.b_gate"] = self.gate_bias.view(self.n_heads, -1)
        norms: list[Any] = [norm for norm in (self.q_norm, self.k_norm, self.z_norm) if norm is not None]
        return weights | {name: tensor for norm in norms for name, tensor in norm.weights().items()}
