"""The model: a tuple of layers between an embedding and an unembedding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.protocols import Batch, ModelShape, Site, Stream, Tap
from mi_core.vocabulary import site
from mi_decoder.folding import fold_obstacles, folded_copy
from mi_decoder.learned_positions import LearnedPositions
from mi_decoder.multiplying import matrices
from mi_decoder.parts import LayerLike, Norm
from mi_decoder.sinusoids import Sinusoids

__all__ = ["Decoder", "DecoderBackend"]

COUNTED = "what comes before a token is counted, or not told apart"


@dataclass(frozen=True)
class Decoder:
    """What a decoder is made of; `build` makes the backend, with empty parameters."""

    d_vocab: int
    d_model: int
    layers: tuple[LayerLike, ...]
    ln_final: Norm | None = None
    n_ctx: int | None = None
    """Positions that the model has; None where there is no limit."""
    embed_norm: Norm | None = None
    """What the token embedding goes through before it is put on the stream."""
    embed_scale: float = 1.0
    """What token embeddings are multiplied by, rounded to their dtype first as the reference does."""
    d_embed: int | None = None
    """The width of token embeddings where projections lead from them to the stream, and from its end to logits."""
    positions: LearnedPositions | Sinusoids | None = None
    """The position embedding that is added to the token embedding."""
    unembed_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    """What logits are squeezed below, after their scale."""
    wide_stream: bool = False
    """Whether the stream is float32 whatever the model's dtype. Source: transformers 5.24, ``residual_in_fp32``."""

    def build(self) -> DecoderBackend:
        """The backend."""
        return DecoderBackend(self)


class DecoderBackend(nn.Module):
    """A decoder as the core sees it."""

    def __init__(self, spec: Decoder) -> None:
        super().__init__()
        self.spec = spec
        d_embed = spec.d_embed or spec.d_model
        self.embed_weight = empty(spec.d_vocab, d_embed)
        self.register_parameter("embed_proj_weight", empty(spec.d_model, d_embed) if spec.d_embed else None)
        self.embed_norm = None if spec.embed_norm is None else spec.embed_norm.build(spec.d_model, "embed_norm")
        self.layers = nn.ModuleList(layer.build(spec.d_model) for layer in spec.layers)
        self.ln_final = None if spec.ln_final is None else spec.ln_final.build(spec.d_model, "ln_final")
        rows = 0 if spec.positions is None else spec.positions.rows
        self.register_parameter("pos_embed_weight", empty(rows, spec.d_model) if rows else None)
        self.register_parameter("unembed_proj_weight", empty(d_embed, spec.d_model) if spec.d_embed else None)
        self.unembed_weight = empty(spec.d_vocab, d_embed)
        self.register_parameter("unembed_bias", empty(spec.d_vocab) if spec.unembed_bias else None)
        layers: list[Any] = list(self.layers)
        self.shape = ModelShape(
            n_layers=len(layers),
            d_model=spec.d_model,
            d_vocab=spec.d_vocab,
            n_ctx=spec.n_ctx,
            residual=tuple(layer.residual for layer in layers),
            no_positions="" if spec.positions is not None or any(map(reads_positions, layers)) else COUNTED,
            parts=all(getattr(layer, "takes_parts", False) for layer in layers),
            wide_stream=spec.wide_stream,
        )

    @property
    def blocks(self) -> tuple[Any, ...]:
        """The layers."""
        return tuple(self.layers)

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """The token embeddings, and those of positions where they are learned."""
        embedded, scale = torch.embedding(self.embed_weight, batch.inputs), self.spec.embed_scale
        if scale != 1.0:
            embedded = embedded * torch.tensor(scale, dtype=embedded.dtype)
        projection, positions = self._parameters["embed_proj_weight"], self.spec.positions
        embedded = embedded if projection is None else linear(embedded, projection)
        embedded = tap("hook_embed", self.normed(embedded, tap))
        embedded = wide(embedded) if self.spec.wide_stream else embedded
        if positions is None:
            return Stream(embedded)
        added: Tensor = positions.embedding(self._parameters["pos_embed_weight"], batch, embedded)
        return Stream(embedded + tap("hook_pos_embed", added))

    def normed(self, embedded: Float[Tensor, "batch pos d_model"], tap: Tap) -> Float[Tensor, "batch pos d_model"]:
        """Through the embedding's own norm, where there is one."""
        norm: Any = self.embed_norm
        return embedded if norm is None else norm.normalise(tap("embed_norm.hook_in", embedded), tap)

    def unembed(self, resid: Float[Tensor, "*batch d_model"], tap: Tap) -> Float[Tensor, "*batch d_vocab"]:
        """Final norm, unembedding, then scale and soft-cap."""
        norm: Any = self.ln_final
        normed = resid if norm is None else norm.normalise(resid, tap)
        normed = tap("unembed.hook_in", normed.to(self.unembed_weight.dtype) if self.spec.wide_stream else normed)
        spec, projection = self.spec, self._parameters["unembed_proj_weight"]
        normed = normed if projection is None else linear(normed, projection)
        logits = tap("unembed.hook_out", linear(normed, self.unembed_weight, self._parameters["unembed_bias"]))
        logits = logits if spec.logit_scale == 1.0 else logits * spec.logit_scale
        if spec.logit_softcap is not None:
            logits = torch.tanh(logits / spec.logit_softcap) * spec.logit_softcap
        return tap("hook_logits", logits)

    def sites(self) -> Sequence[Site]:
        """All sites in firing order; those of layers once, with the layers that have them."""
        d_model, d_vocab = self.spec.d_model, self.spec.d_vocab
        norm: Any = self.ln_final
        embed_norm: Any = self.embed_norm
        return (
            *(() if embed_norm is None else (site("embed_norm.hook_in", d_model=d_model), *embed_norm.sites())),
            site("hook_embed", d_model=d_model),
            *(() if self.spec.positions is None else (site("hook_pos_embed", d_model=d_model),)),
            *merged([layer.sites() for layer in self.blocks]),
            *(() if norm is None else norm.sites()),
            site("unembed.hook_in", d_model=d_model),
            site("unembed.hook_out", d_vocab=d_vocab),
            site("hook_logits", d_vocab=d_vocab),
        )

    def weights(self) -> Mapping[str, Tensor]:
        """All weights in the field's names and layouts: views, but for projected embeddings."""
        norm: Any = self.ln_final
        weights = {"embed.W_E": self.embed_weight, "unembed.W_U": self.unembed_weight.T}
        if isinstance(self.embed_proj_weight, Tensor) and isinstance(self.unembed_proj_weight, Tensor):
            # what leads to the stream and from it: the projections taken in
            weights["embed.W_E"] = self.embed_weight @ self.embed_proj_weight.T
            weights["unembed.W_U"] = (self.unembed_weight @ self.unembed_proj_weight).T
        if isinstance(self.unembed_bias, Tensor):
            weights["unembed.b_U"] = self.unembed_bias
        if isinstance(self.pos_embed_weight, Tensor) and self.spec.positions is not None:
            weights["pos_embed.W_pos"] = self.pos_embed_weight[self.spec.positions.offset :]
        for index, layer in enumerate(self.blocks):
            weights.update({f"blocks.{index}.{name}": tensor for name, tensor in layer.weights().items()})
        for outside in (self.embed_norm, norm):
            weights.update({} if outside is None else outside.weights())  # type: ignore[operator]
        return weights

    def weight(self, name: str) -> Tensor:
        """The weight ``name`` in the field's layout, a view.

        Raises:
            KeyError: there is no such weight; the message names those of the same layer.
        """
        start, _, rest = name.partition(".")
        index, _, inner = rest.partition(".")
        if start == "blocks" and index.isdecimal() and int(index) < len(self.blocks):
            weights, wanted = self.blocks[int(index)].weights(), inner
        else:
            weights, wanted = self.weights(), name
        if wanted not in weights:
            raise KeyError(f"no weight {name!r}; there are {', '.join(weights)}")
        found: Tensor = weights[wanted]
        return found

    def matrices(self) -> Sequence[str]:
        """The parameters that layers multiply activations by: what can be quantised."""
        return matrices(self.layers, "layers")

    def fold_obstacles(self) -> Mapping[str, str]:
        """Transformation of weights -> why it would change probabilities here."""
        return fold_obstacles(self)

    def folded(self, transformations: Collection[str]) -> DecoderBackend:
        """A copy with these transformations done."""
        return folded_copy(self, transformations)


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return x if x.dtype is torch.float64 else x.float()


def reads_positions(layer: Any) -> bool:
    """Whether a layer's mixer reads `Batch.positions`, as one that does not say may."""
    return bool(getattr(getattr(layer, "mixer", None), "reads_positions", True))


def merged(layers: Sequence[Sequence[Site]]) -> Sequence[Site]:
    """Sites of all layers, each once with its layers; a site that a later layer adds goes behind its predecessor.

    Where layers fire the same sites in another order, each order has its own.
    """
    order: list[tuple[Any, Site, list[int]]] = []
    for index, sites in enumerate(layers):
        place = 0
        for offered in sites:
            key = (offered.name, tuple(sorted(offered.sizes.items())), offered.read_only)
            known = next((at for at in range(place, len(order)) if order[at][0] == key), None)
            if known is None:
                order.insert(place, (key, offered, []))
            place = place if known is None else known
            order[place][2].append(index)
            place += 1
    return [replace(offered, layers=tuple(members)) for _, offered, members in order]
