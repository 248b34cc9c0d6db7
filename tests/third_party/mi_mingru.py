"""minGRU: a gated linear recurrence instead of attention, and an MLP, around a residual stream.

    gate_t = sigmoid(x_t W_Z + b_Z)      candidate_t = x_t W_H
    state_t = (1 - gate_t) * state_{t-1} + gate_t * candidate_t

Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.1. Ours adds W_O, norms and an MLP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, rms_norm

from mi_core.blueprint import Blueprint, Weight, empty
from mi_core.config import Config
from mi_core.errors import MemoryMismatch, NotRecorded
from mi_core.hookspecs import hookimpl
from mi_core.protocols import Batch, ModelShape, Site, Stream, Tap
from mi_core.vocabulary import site

VECTOR = ("batch", "pos", "d_model")


@dataclass(frozen=True, eq=False)
class States:
    """What a layer remembers: the state after ``start``, ``start + 1``, ... positions of each row."""

    states: Float[Tensor, "batch kept d_model"]
    start: Int[Tensor, "batch"]

    def cut(self, length: Tensor) -> States:
        """The one state after ``length[r]`` positions."""
        column = length.to(self.start.device) - self.start
        if bool((column < 0).any()) or bool((column >= self.states.shape[1]).any()):
            raise NotRecorded(f"no state was kept after {length.tolist()} positions", length=length.tolist())
        return States(self.states[torch.arange(len(column)), column][:, None], length)

    def rows(self, index: Tensor) -> States:
        """Row r becomes row ``index[r]``."""
        return States(self.states[index], self.start[index])

    def to(self, device: Any) -> States:
        """The same states on another device."""
        return States(self.states.to(device), self.start.to(device))

    def tensors(self) -> Mapping[str, Tensor]:
        """For saving, and for the memory budget."""
        return {"states": self.states, "start": self.start}

    def restored(self, tensors: Mapping[str, Tensor]) -> States:
        """States that were on disk."""
        width = {name: tensor.shape[2:] for name, tensor in tensors.items()}
        if width != {name: tensor.shape[2:] for name, tensor in self.tensors().items()}:
            raise MemoryMismatch(f"these are no states of {self.states.shape[-1]} channels: {sorted(tensors)}")
        return States(**tensors)


class Layer(nn.Module):
    """The recurrence, then the MLP; each reads the stream through a norm and adds to it."""

    def __init__(self, d_model: int, d_mlp: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.ln1, self.ln2 = empty(d_model), empty(d_model)
        self.gate, self.candidate, self.out = (empty(d_model, d_model) for _ in range(3))
        self.gate_bias = empty(d_model) if bias else None
        self.mlp_in, self.mlp_out = empty(d_mlp, d_model), empty(d_model, d_mlp)

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Any) -> tuple[Stream, States | None]:
        """One layer: `tap` at every site of `sites`, in that order, and what the tap returns is used."""
        resid = stream.resid  # the core taps hook_resid_pre and hook_resid_post
        mixed, memory = self.mix(tap("mixer.hook_in", self.norm(resid, self.ln1)), batch, tap, memory)
        resid = tap("hook_resid_mid", resid + tap("hook_attn_out", mixed))
        x = tap("mlp.hook_in", self.norm(resid, self.ln2))
        neurons = tap("mlp.hook_post", gelu(tap("mlp.hook_pre", linear(x, self.mlp_in))))
        out = tap("hook_mlp_out", tap("mlp.hook_out", linear(neurons, self.mlp_out)))
        return Stream(resid + out, stream.side), memory

    def norm(self, x: Tensor, gain: Tensor) -> Tensor:
        """RMS norm."""
        return rms_norm(x, (x.shape[-1],), gain, self.eps)

    def mix(self, x: Tensor, batch: Batch, tap: Tap, memory: Any) -> tuple[Tensor, States | None]:
        """The recurrence, position by position, from the state after the prefix."""
        gate = tap("mixer.hook_gate", torch.sigmoid(linear(x, self.gate, self.gate_bias)))
        candidate = tap("mixer.hook_candidate", linear(x, self.candidate))
        before = torch.zeros_like(x[:, :1]) if memory is None else memory.cut(batch.start).states
        states = [before[:, 0]]
        for pos in range(x.shape[1]):
            states.append(torch.lerp(states[-1], candidate[:, pos], gate[:, pos]))
        all_states = torch.stack(states, dim=1)
        z = tap("mixer.hook_z", tap("mixer.hook_state", all_states[:, 1:]))
        kept = States(all_states, batch.start) if batch.record is not None else None
        if batch.record == "end" and kept is not None:
            kept = kept.cut(batch.start + batch.length)
        return tap("mixer.hook_out", linear(z, self.out)), kept


class MinGRU(nn.Module):
    """The backend: embedding, layers and unembedding, and what they offer."""

    def __init__(self, d_model: int, d_mlp: int, n_layers: int, d_vocab: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.shape = ModelShape(n_layers, d_model, d_vocab, n_ctx=None)
        self.d_mlp, self.eps = d_mlp, eps
        self.embedding, self.unembedding = empty(d_vocab, d_model), empty(d_vocab, d_model)
        self.ln_final = empty(d_model)
        self.layers = nn.ModuleList(Layer(d_model, d_mlp, eps, bias) for _ in range(n_layers))

    @property
    def blocks(self) -> Sequence[Any]:
        """What the core loops over."""
        return tuple(self.layers)

    def sites(self) -> Sequence[Site]:
        """In firing order: standard names from the vocabulary, our own with their dims and meaning."""
        d_model, layers = self.shape.d_model, tuple(range(self.shape.n_layers))

        def own(name: str, meaning: str, read_only: str = "") -> Site:
            return Site(f"mixer.{name}", VECTOR, {"d_model": d_model}, layers, meaning, read_only)

        return (
            site("hook_embed", d_model=d_model),
            site("hook_resid_pre", layers, d_model=d_model),
            own("hook_in", "what the recurrence reads: after its norm"),
            own("hook_gate", "how much of the state the candidate replaces, 0 to 1"),
            own("hook_candidate", "what the state moves towards"),
            own("hook_state", "the state after the position", "write hook_gate, hook_candidate or hook_z instead"),
            own("hook_z", "exactly what W_O multiplies"),
            own("hook_out", "the recurrence's own output"),
            *(site(name, layers, d_model=d_model) for name in ("hook_attn_out", "hook_resid_mid", "mlp.hook_in")),
            *(site(name, layers, d_mlp=self.d_mlp) for name in ("mlp.hook_pre", "mlp.hook_post")),
            *(site(name, layers, d_model=d_model) for name in ("mlp.hook_out", "hook_mlp_out", "hook_resid_post")),
            site("unembed.hook_in", d_model=d_model),
            site("unembed.hook_out", d_vocab=self.shape.d_vocab),
            site("hook_logits", d_vocab=self.shape.d_vocab),
        )

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """The stream before the first layer."""
        return Stream(tap("hook_embed", torch.embedding(self.embedding, batch.inputs)))

    def unembed(self, resid: Tensor, tap: Tap) -> Tensor:
        """Logits, for any leading dims."""
        x = tap("unembed.hook_in", rms_norm(resid, (resid.shape[-1],), self.ln_final, self.eps))
        return tap("hook_logits", tap("unembed.hook_out", linear(x, self.unembedding)))

    def weight(self, name: str) -> Tensor:
        """Views in the field's layout, ``[in out]``."""
        views = {"embed.W_E": self.embedding, "unembed.W_U": self.unembedding.T}
        for index, layer in enumerate(self.blocks):
            views |= {
                f"blocks.{index}.mixer.W_Z": layer.gate.T,
                f"blocks.{index}.mixer.W_H": layer.candidate.T,
                f"blocks.{index}.mixer.W_O": layer.out.T,
                f"blocks.{index}.mlp.W_in": layer.mlp_in.T,
                f"blocks.{index}.mlp.W_out": layer.mlp_out.T,
            }
        if name not in views:
            raise KeyError(f"no weight {name!r}; there are {', '.join(views)}")
        return views[name]


@hookimpl
def mi_family(config: Config) -> Blueprint:
    """From config.json and the checkpoint's names to the model: every key that matters is read here."""
    d_model, n_layers = config.size("hidden_size"), config.size("num_hidden_layers")
    d_mlp, d_vocab = config.size("intermediate_size"), config.size("vocab_size")
    eps, bias = config.number("rms_norm_eps", default=1e-6), config.flag("gate_bias", default=True)
    names = {"ln1": "norm1", "ln2": "norm2", "gate": "gate", "candidate": "candidate", "out": "out"}
    names |= {"mlp_in": "mlp.up", "mlp_out": "mlp.down"}
    weights = {"embedding": Weight.of("embed.weight"), "unembedding": Weight.of("lm_head.weight")}
    weights["ln_final"] = Weight.of("norm.weight")
    for i in range(n_layers):
        weights |= {f"layers.{i}.{ours}": Weight.of(f"layers.{i}.{theirs}.weight") for ours, theirs in names.items()}
        if bias:
            weights[f"layers.{i}.gate_bias"] = Weight.of(f"layers.{i}.gate.bias")
    return Blueprint(backend=lambda: MinGRU(d_model, d_mlp, n_layers, d_vocab, eps, bias), weights=weights)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs that turn on every option."""
    tiny = {"model_type": "mingru", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return tiny | {"vocab_size": 31}, tiny | {"vocab_size": 17, "gate_bias": False, "num_hidden_layers": 3}
