"""Parts of fused checkpoint matrices, as views: of a weight ``[out, in]`` and of its bias ``[out]`` alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor

__all__ = ["EachExpert", "View", "of_each_head", "side_by_side", "transposed"]

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EachExpert:
    """A tensor that holds all experts behind each other, and the view of one expert's part that is meant.

    Source: transformers 5.24, GptOssExperts, GraniteMoeParallelExperts.
    """

    view: View = lambda tensor: tensor
    stored: View = lambda tensor: tensor
    """From the tensor to ``[expert ...]``. Source: transformers 5.24, DbrxExperts."""

    def of(self, expert: int) -> View:
        """The view for one expert."""
        return lambda tensor: self.view(self.stored(tensor)[expert])


def transposed(tensor: Tensor) -> Tensor:
    """A matrix that is stored ``[in, out]``. Source: transformers 5.24, pytorch_utils.Conv1D."""
    return tensor.T if tensor.ndim == 2 else tensor


def side_by_side(sizes: Sequence[int], *, stored: View = lambda tensor: tensor) -> list[View]:
    """One view for each of the parts that lie behind each other along the outputs.

    Source: transformers 5.24, Phi3Attention (qkv_proj), Phi3MLP (gate_up_proj), GPT2Attention (c_attn).
    """

    def part(start: int, stop: int) -> View:
        return lambda tensor: stored(tensor)[start:stop]

    return [part(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]


def of_each_head(n_heads: int, d_head: int, parts: int = 3) -> list[View]:
    """One view for each of the parts that lie behind each other within each head.

    Source: transformers 5.24, GPTNeoXAttention: ``[head, 3, d_head]``.
    """

    def part(index: int) -> View:
        return lambda tensor: tensor.view(n_heads, parts, d_head, *tensor.shape[1:])[:, index].reshape(
            -1, *tensor.shape[1:]
        )

    return [part(index) for index in range(parts)]


def of_each_group(n_kv_heads: int, n_heads: int, d_head: int) -> list[View]:
    """Queries, keys and values, where each key head follows the query heads that read it, and its values follow it.

    Source: transformers 5.24, FalconAttention: ``[kv_head, queries + 2, d_head]``.
    """

    def part(where: slice) -> View:
        def view(tensor: Tensor) -> Tensor:
            groups = tensor.view(n_kv_heads, n_heads // n_kv_heads + 2, d_head, *tensor.shape[1:])
            return groups[:, where].reshape(-1, *tensor.shape[1:])

        return view

    return [part(where) for where in (slice(None, -2), slice(-2, -1), slice(-1, None))]
