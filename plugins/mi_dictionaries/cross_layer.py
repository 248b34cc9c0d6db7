"""One layer of a cross-layer transcoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import BadConfig
from mi_dictionaries.on_disk import OnDisk
from mi_dictionaries.rows import Rows, Stacked
from mi_dictionaries.sparse import SparseDictionary

__all__ = ["cross_layer_transcoder_layer"]


def cross_layer_transcoder_layer(
    *, reads: str, writes: Sequence[str], W_dec: Rows, b_dec: Float[Tensor, "d_out"], **rest: Any
) -> SparseDictionary:
    """A layer of a cross-layer transcoder: one read, a write at its own layer and at every later one.

    ``W_dec`` is ``[feature writes d_out]``; ``b_dec`` is the bias of its own layer's output, which is the first write:
    what is decoded at layer ``l`` is ``b_dec[l] + sum over i <= l of f[i] W_dec[i][:, l - i]``. ``rest`` is what
    `SparseDictionary` takes.

    Source: Ameisen et al. 2025, "Circuit Tracing", methods; circuit-tracer 0.4, ``CrossLayerTranscoder``.
    """
    if W_dec.shape[1:] != (len(writes), b_dec.shape[-1]):
        raise BadConfig(
            f"the layer that reads {reads!r} writes to {len(writes)} points of width {b_dec.shape[-1]}; its decoder is "
            f"{list(W_dec.shape)}.",
            shape=tuple(W_dec.shape),
        )
    if len(writes) == 1:  # the last layer is an ordinary transcoder
        last = W_dec.parts[0] if isinstance(W_dec, Stacked) else first_write(W_dec)
        return SparseDictionary(reads=(reads,), writes=tuple(writes), W_dec=last, b_dec=b_dec, **rest)
    biases = torch.cat([b_dec[None], b_dec.new_zeros(len(writes) - 1, b_dec.shape[-1])])
    return SparseDictionary(reads=(reads,), writes=tuple(writes), W_dec=W_dec, b_dec=biases, **rest)


def first_write(weight: Float[Tensor, "feature writes d_out"] | OnDisk) -> Float[Tensor, "feature d_out"] | OnDisk:
    """The rows of the first write alone."""
    return weight.write(0) if isinstance(weight, OnDisk) else weight[:, 0]
