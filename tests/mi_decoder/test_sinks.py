"""Sinks take the share of one more score and leave a query without keys nothing; queries grow with their place."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder.kernels import beside_sinks
from mi_decoder.temperature import Temperature


class Share(IdleTap):
    """A tap that may write the share of sinks."""

    def __init__(self, written: float | None = None) -> None:
        self.written = written
        self.seen: Tensor | None = None

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen = value
        return value if self.written is None else torch.full_like(value, self.written)

    def edits(self, *names: str) -> bool:
        return self.written is not None


def scores(seed: int, heads: int = 3, columns: int = 5) -> Tensor:
    drawn = torch.randn(2, heads, columns, columns, generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(torch.ones(columns, columns, dtype=torch.bool).triu(1), -math.inf)


@given(st.integers(0, 9999))
def test_a_sink_is_one_more_score_without_a_value(seed: int) -> None:
    sinks, tap = torch.tensor([-1.0, 0.5, 3.0]), Share()
    pattern = beside_sinks(scores(seed), sinks, tap)
    column = sinks[:, None, None].expand(2, 3, 5, 1)
    wanted = torch.softmax(torch.cat((scores(seed), column), -1), -1)
    torch.testing.assert_close(pattern, wanted[..., :-1])
    assert tap.seen is not None
    torch.testing.assert_close(pattern.sum(-1) + tap.seen, torch.ones(2, 3, 5))
    torch.testing.assert_close(tap.seen, torch.sigmoid(sinks[:, None] - torch.logsumexp(scores(seed), -1)))


def test_a_written_share_leaves_the_rest_in_the_same_proportions() -> None:
    pattern = beside_sinks(scores(0), torch.zeros(3), Share(0.25))
    torch.testing.assert_close(pattern, 0.75 * torch.softmax(scores(0), -1))


def test_a_query_without_keys_gives_everything_to_the_sink() -> None:
    given = scores(0).requires_grad_()
    cut = torch.zeros(5, 5, dtype=torch.bool)
    cut[2] = True
    for tap in (IDLE, Share(0.25)):
        pattern = beside_sinks(given.masked_fill(cut, -math.inf), torch.zeros(3), tap)
        assert not pattern[:, :, 2].any()
        assert bool(torch.autograd.grad(pattern.square().sum(), given)[0].isfinite().all())


def test_queries_grow_with_the_logarithm_of_their_place() -> None:
    length = torch.tensor([4, 4])
    positions = torch.tensor([[0, 1, 2, 3], [8, 9, 10, 11]])
    batch = Batch(torch.zeros(2, 4, dtype=torch.long), length * 0, length, length, positions)
    q = torch.ones(2, 4, 1, 1)
    grown = Temperature(0.5, 2.0).apply(q, batch)[..., 0, 0]
    wanted = [[1 + 0.5 * math.log(1 + place // 2) for place in row] for row in positions.tolist()]
    torch.testing.assert_close(grown, torch.tensor(wanted))
    counted = Temperature(0.5, 2.0, "columns").apply(q, batch)[..., 0, 0]
    torch.testing.assert_close(
        counted, torch.tensor([1 + 0.5 * math.log(1 + place // 2) for place in (1, 2, 3, 4)]).expand(2, 4)
    )
