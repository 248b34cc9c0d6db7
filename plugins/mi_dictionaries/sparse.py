"""Dictionaries with an encoder and a decoder: autoencoders, transcoders, crosscoders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import BadConfig
from mi_dictionaries.activations import Activation, ReLU
from mi_dictionaries.decoding import decoded
from mi_dictionaries.encoding import Encoder
from mi_dictionaries.features import Features
from mi_dictionaries.framing import Framed
from mi_dictionaries.on_disk import OnDisk
from mi_dictionaries.rows import Rows, Stacked, rows_of

__all__ = ["SparseDictionary"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SparseDictionary(Framed):
    """``f = activation(h W_enc + b_enc)`` and ``y = f W_dec + b_dec``, where ``h`` is what is read, transformed.

    Weights are tensors in any layout in memory: views of mapped files are read where they are used, and only the rows
    of the decoder that active features need. Numbers are computed in the finer type of activations and weights.

    With several reads the encoder is ``[reads d_in feature]``, with several writes the decoder is ``[feature writes
    d_out]`` and its bias ``[writes d_out]``.

    >>> W = torch.eye(3)
    >>> sae = SparseDictionary(reads=("blocks.0.hook_resid_post",), W_enc=W, b_enc=torch.zeros(3), W_dec=W)
    >>> sae.forward(torch.tensor([[1.0, -2.0, 3.0]])).tolist()
    [[1.0, 0.0, 3.0]]
    """

    # "_" and "...": whether shapes fit each other is checked, and said, below
    W_enc: Float[Tensor, "*shape_in feature"]
    b_enc: Float[Tensor, "_"] | None = None
    W_dec: Float[Tensor, "_ ..."] | Stacked | OnDisk
    b_dec: Float[Tensor, "..."] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    """Applied to the activations as they come, and added at the first write."""
    activation: Activation = field(default_factory=ReLU)
    pre_scale: Float[Tensor, "_"] | None = None
    """What pre-activations are multiplied by before features are chosen."""
    feature_scale: Float[Tensor, "_"] | None = None
    """What features are multiplied by on their way into the decoder: a finetuned scale, or one over those norms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        n_features = self.W_enc.shape[-1]
        for name in ("b_enc", "W_dec", "pre_scale", "feature_scale"):
            held = getattr(self, name)
            if held is not None and held.shape[0] != n_features:
                raise BadConfig(
                    f"the dictionary at {self.site_in!r}: W_enc {list(self.W_enc.shape)} has {n_features} features, "
                    f"{name} {list(held.shape)} has {held.shape[0]}.",
                    name=name,
                )
        if self.b_dec is not None and tuple(self.b_dec.shape) != self.shape_out:
            raise BadConfig(
                f"the dictionary at {self.site_in!r}: W_dec {list(self.W_dec.shape)} and b_dec "
                f"{list(self.b_dec.shape)} do not fit each other.",
                name="b_dec",
            )

    @property
    def shape_in(self) -> tuple[int, ...]:
        """The dims behind those of the tokens, of what is encoded."""
        return tuple(self.W_enc.shape[:-1])

    @property
    def shape_out(self) -> tuple[int, ...]:
        """The dims behind those of the tokens, of what is decoded."""
        return tuple(self.W_dec.shape[1:])

    @property
    def d_sae(self) -> int:
        """How many features it has."""
        return self.W_enc.shape[-1]

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, with its reads side by side."""
        return Encoder(self.W_enc.reshape(-1, self.d_sae), self.b_enc, self.pre_scale, self.activation)

    def encode(self, x: Float[Tensor, "..."], *, sparse: bool = False) -> Features:
        """The features of activations as they are at its reads; sparse: no dense row of all features is ever made."""
        entered = self.enter(x)
        if sparse:
            token, index, values = self.encoder.active(entered.h)
            return Features(entered.shape, self.d_sae, values, token, index, entered.state, entered.heads)
        values = self.encoder.dense(entered.h).reshape(*entered.shape, self.d_sae)
        return Features(entered.shape, self.d_sae, values, state=entered.state, heads=entered.heads)

    def pre_activations(self, x: Float[Tensor, "..."]) -> Features:
        """What the activation function receives, before features are chosen; of every feature."""
        entered = self.enter(x)
        z = self.encoder.pre(entered.h).reshape(*entered.shape, self.d_sae)
        return Features(entered.shape, self.d_sae, z, state=entered.state, heads=entered.heads)

    def activate(self, pre: Features) -> Features:
        """The features that pre-activations stand for."""
        z = pre.dense()
        flat = self.encoder.scaled(z.reshape(pre.n_tokens, self.d_sae))
        return pre.with_dense(self.activation(flat).reshape(z.shape))

    def decode(self, features: Any) -> Float[Tensor, "..."]:
        """What the features say that stands at its writes; without the skip connection."""
        y = decoded(features, self.W_dec, self.feature_scale)
        if self.b_dec is not None:
            y = y + self.b_dec.reshape(-1).to(y.dtype)
        return self.leave(y, features)

    def decode_change(self, features: Features) -> Float[Tensor, "..."]:
        """How the reconstruction changes by a change of features: without biases."""
        return self.leave(decoded(features, self.W_dec, self.feature_scale), features, change=True)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What it makes of activations: decoded features, and the skip connection where it has one."""
        y = self.decode(self.encode(x, sparse=not torch.is_grad_enabled()))
        skip = self.skip(x)
        return y if skip is None else y + skip

    def skip(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."] | None:
        """What goes past the features; with several writes, zeros but at the first."""
        if self.W_skip is None:
            return None
        skipped = x @ self.W_skip.T.to(x.dtype)
        if len(self.shape_out) == 1:
            return skipped
        y = skipped.new_zeros(*skipped.shape[:-1], *self.shape_out)
        y[..., 0, :] = skipped
        return y

    def encoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n *shape_in"]:
        """The directions in which some features read, scaled as their pre-activations are before they are chosen."""
        found = rows_of(self.encoder.W.T, indices)
        if self.pre_scale is not None:
            found = found * self.pre_scale[indices].to(found.dtype)[:, None]
        return found.reshape(-1, *self.shape_in)

    def decoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n *shape_out"]:
        """The directions in which some features write, scaled as their values are on the way into the decoder."""
        found = rows_of(self.W_dec, indices)
        if self.feature_scale is None:
            return found
        scale = self.feature_scale[indices].to(found.dtype)
        return found * scale.reshape(-1, *(1 for _ in self.shape_out))

    def decoder_norms(self) -> Float[Tensor, "feature"]:
        """The norm of each row of the decoder, over all its writes."""
        return decoder_norms(self.W_dec)

    def with_decoder_norms(self) -> SparseDictionary:
        """The same, with features that compete by what they add: pre-activations times the norms of their rows.

        Source: SAELens 6.54, ``rescale_acts_by_decoder_norm``.
        """
        norms = self.decoder_norms()
        scale = 1 / norms if self.feature_scale is None else self.feature_scale / norms
        pre = norms if self.pre_scale is None else self.pre_scale * norms
        return replace(self, pre_scale=pre, feature_scale=scale)


def decoder_norms(weight: Rows, chunk: int = 4096) -> Float[Tensor, "feature"]:
    """The norms of rows, a part of them at a time."""
    n = weight.shape[0]
    spans = (torch.arange(first, min(first + chunk, n)) for first in range(0, n, chunk))
    return torch.cat([rows_of(weight, span).flatten(1).norm(dim=-1) for span in spans])
