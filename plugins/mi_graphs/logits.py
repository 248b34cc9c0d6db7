"""Which logits a graph explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.errors import NoTokenizer, SelectorError

__all__ = ["Logits", "salient"]


@dataclass(frozen=True, eq=False)
class Logits:
    """Tokens with their probabilities, and the directions in which they are read."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    probability: Float[Tensor, "logit"]
    directions: Float[Tensor, "logit d"]
    """Columns of W_U, less their mean over the vocabulary: what all logits have in common, softmax ignores."""

    def __len__(self) -> int:
        return len(self.tokens)


def salient(model: mi.Model, run: mi.Run, targets: Sequence[str | int] | None, most: int, probability: float) -> Logits:
    """The given tokens; else the likeliest next ones, as many as have a probability together, but at most ``most``.

    Source: circuit-tracer 0.4.1, attribution/targets.py, ``compute_salient_logits``.
    """
    if not 0 < probability <= 1:
        raise SelectorError(f"probability={probability}: above 0 and at most 1.", probability=probability)
    shares = run.last_logits[0].float().softmax(-1)
    if targets is None:
        values, tokens = shares.topk(min(most, len(shares)))
        enough = int(torch.searchsorted(values.cumsum(0), probability)) + 1
        values, tokens = values[:enough], tokens[:enough]
    else:
        tokens = torch.tensor(ids_of(model, targets), device=shares.device)
        values = shares[tokens]
    W_U = model.weights["unembed.W_U"]  # noqa: N806 - the name of the weight
    directions = (W_U[:, tokens].float() - W_U.mean(1, keepdim=True, dtype=torch.float32)).T
    ids = tuple(tokens.tolist())
    return Logits(ids, tuple(run.text_of(token) for token in ids), values.cpu(), directions)


def ids_of(model: mi.Model, targets: Sequence[str | int]) -> list[int]:
    """Tokens by their texts or ids, each once."""
    found = []
    for target in targets:
        if isinstance(target, str):
            if model.tokenizer is None:
                raise NoTokenizer(f"targets={target!r} needs a tokenizer, which {model.name} has not: give ids.")
            target = model.tokenizer.single(target)
        if not 0 <= target < model.shape.d_vocab:
            raise SelectorError(f"targets: {target} is no token of {model.shape.d_vocab}.", token=target)
        found.append(target)
    if not found or len(set(found)) != len(found):
        raise SelectorError(f"targets={list(targets)!r}: give at least one token, and each once.", targets=targets)
    return found
