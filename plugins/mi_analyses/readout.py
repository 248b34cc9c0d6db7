"""Distributions read off the residual stream, as metrics in float32, a few rows at a time.

No tensor of all points, positions and the vocabulary exists: a chunk of rows goes through the unembedding for one
point after the other, beside the final distribution of the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Readout", "read_out"]

CHUNK = 2**23
"""Logits of one distribution that exist at once: 32 MiB in float32, and some five such tensors."""


@dataclass(frozen=True)
class Readout:
    """What the points say, for each of the ``cell``s (a row and a position of it) that were read."""

    top_id: Int[Tensor, "point cell top"]
    top_probability: Float[Tensor, "point cell top"]
    entropy: Float[Tensor, "point cell"]
    kl: Float[Tensor, "point cell"]
    answer_id: Int[Tensor, "cell"]
    answer_probability: Float[Tensor, "point cell"]
    answer_rank: Int[Tensor, "point cell"]
    token_probability: Float[Tensor, "point cell token"]
    token_rank: Int[Tensor, "point cell token"]


@torch.no_grad()
def read_out(
    unembed: Callable[[Tensor], Tensor],
    streams: Mapping[str, Float[Tensor, "cell d_model"]],
    names: Sequence[str],
    last: str,
    top: int,
    tokens: Sequence[int],
) -> Readout:
    """What does the unembedding make of each stream in ``names``, compared with the stream ``last``?"""
    cells = streams[last].shape[0]
    made = room(len(names), cells, top, len(tokens))
    size = unembed(streams[last][:1]).shape[-1]
    for rows in chunks(cells, max(1, CHUNK // size)):
        final = log_probabilities(unembed(streams[last][rows]))
        answer = final.argmax(-1)
        made.answer_id[rows] = answer.to(made.answer_id)
        wanted = torch.cat([answer[:, None], answer.new_tensor(list(tokens)).expand(len(answer), -1)], dim=1)
        for number, name in enumerate(names):
            at_point = final if name == last else log_probabilities(unembed(streams[name][rows]))
            for field, values in metrics(at_point, final, wanted, top).items():
                target: Tensor = getattr(made, field)
                target[number, rows] = values.to(target)
    return made


def metrics(
    log_p: Float[Tensor, "cell d_vocab"],
    final: Float[Tensor, "cell d_vocab"],
    wanted: Int[Tensor, "cell wanted"],
    top: int,
) -> dict[str, Tensor]:
    """The numbers of one point; the first of ``wanted`` is the answer."""
    best = log_p.topk(top)
    # 0 log 0 = 0, where a logit is -inf; what is no number stays none
    surprise = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p)
    gap = torch.where(final == -torch.inf, 0.0, final.exp() * (final - log_p))
    log_wanted = log_p.gather(-1, wanted)
    rank = torch.stack([1 + (log_p > one[:, None]).sum(-1) for one in log_wanted.unbind(-1)], dim=-1)
    return {
        "top_id": best.indices,
        "top_probability": best.values.exp(),
        "entropy": 0.0 - surprise.sum(-1),
        # rounding may leave -1e-8
        "kl": gap.sum(-1).clamp_min(0.0),
        "answer_probability": log_wanted[:, 0].exp(),
        "answer_rank": rank[:, 0],
        "token_probability": log_wanted[:, 1:].exp(),
        "token_rank": rank[:, 1:],
    }


def log_probabilities(logits: Float[Tensor, "cell d_vocab"]) -> Float[Tensor, "cell d_vocab"]:
    """Natural logarithms of the softmax, in float32 whatever the model's dtype."""
    return logits.float().log_softmax(-1)


def room(points: int, cells: int, top: int, tokens: int) -> Readout:
    """Where the numbers go: on the CPU, whatever the model's device."""
    return Readout(
        top_id=torch.zeros(points, cells, top, dtype=torch.long),
        top_probability=torch.zeros(points, cells, top),
        entropy=torch.zeros(points, cells),
        kl=torch.zeros(points, cells),
        answer_id=torch.zeros(cells, dtype=torch.long),
        answer_probability=torch.zeros(points, cells),
        answer_rank=torch.zeros(points, cells, dtype=torch.long),
        token_probability=torch.zeros(points, cells, tokens),
        token_rank=torch.zeros(points, cells, tokens, dtype=torch.long),
    )


def chunks(count: int, size: int) -> Iterator[slice]:
    """``count`` rows in pieces of at most ``size``.

    >>> list(chunks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
