"""A query sees its window and nothing else: in every kernel, with memory, in ragged rows, and for kept columns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.protocols import Batch
from mi_core.taps import IDLE
from mi_decoder.kernels import causal_is_enough, explicit, fused, masked, open_edges
from mi_decoder.windows import alternating_windows, layer_windows, upper_windows


def batch_of(starts: list[int], columns: int, keep: Tensor | None = None) -> Batch:
    start = torch.tensor(starts)
    length = torch.full_like(start, columns)
    ids = torch.zeros(len(starts), columns, dtype=torch.long)
    positions = start[:, None] + torch.arange(columns)
    return Batch(ids, start, length, start + length, positions, keep=keep)


@given(
    starts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    columns=st.integers(1, 6),
    window=st.one_of(st.none(), st.integers(1, 8)),
    kept=st.booleans(),
)
def test_a_query_sees_the_positions_that_end_at_its_own(
    starts: list[int], columns: int, window: int | None, kept: bool
) -> None:
    keep = torch.full((len(starts), 1), columns - 1) if kept else None
    edges = open_edges(batch_of(starts, columns, keep), True, None, window)
    for row, start in enumerate(starts):
        for index, column in enumerate([columns - 1] if kept else range(columns)):
            query = start + column
            seen = edges[row, 0, index].nonzero().flatten().tolist()
            assert seen == list(range(max(0, query + 1 - (window or query + 1)), query + 1))


@given(columns=st.integers(1, 9), window=st.one_of(st.none(), st.integers(1, 9)))
def test_a_row_from_its_start_sees_the_same(columns: int, window: int | None) -> None:
    fresh = open_edges(batch_of([0], columns), False, None, window)
    assert torch.equal(fresh, open_edges(batch_of([0], columns), True, None, window))


@given(starts=st.lists(st.integers(0, 6), min_size=1, max_size=3), columns=st.integers(1, 4), window=st.integers(1, 8))
def test_the_mask_is_spared_only_where_it_says_nothing(starts: list[int], columns: int, window: int) -> None:
    batch = batch_of(starts, columns)
    if causal_is_enough(batch, True, window):
        edges = open_edges(batch, True, None, window)
        assert columns == 1
        assert bool(edges.all())
    batch = batch_of([0], columns)
    assert causal_is_enough(batch, False, window) == (columns <= window)


@given(seed=st.integers(0, 99), columns=st.integers(1, 9), window=st.integers(1, 9))
def test_the_kernels_agree_within_a_window(seed: int, columns: int, window: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, heads, columns, 4, generator=generator) for heads in (4, 2, 2))
    edges = open_edges(batch_of([0, 0], columns), False, None, window)
    explained = explicit(q, k, v, 0.5, edges, IDLE)
    torch.testing.assert_close(masked(q, k, v, 0.5, edges), explained, atol=1e-5, rtol=0)
    if causal_is_enough(batch_of([0, 0], columns), False, window):
        torch.testing.assert_close(fused(q, k, v, 0.5), explained, atol=1e-5, rtol=0)


def test_layers_with_one_window_share_a_mask_and_others_do_not() -> None:
    batch = batch_of([0], 5)
    assert open_edges(batch, False, None, 2) is open_edges(batch, False, None, 2)
    assert not torch.equal(open_edges(batch, False, None, 2), open_edges(batch, False, None, 3))


@pytest.mark.parametrize("cap", [0.1, 2.0])
def test_a_cap_bounds_scores_before_they_are_masked(cap: float) -> None:
    seen: dict[str, Tensor] = {}

    class Looking(type(IDLE)):  # type: ignore[misc]
        def __call__(self, name: str, value: Tensor) -> Tensor:
            seen[name] = value
            return value

    q, k, v = (3 * torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    explicit(q, k, v, 1.0, open_edges(batch_of([0], 5), False, None), Looking(), cap)
    scores = seen["attn.hook_attn_scores"]
    behind = torch.ones(5, 5, dtype=torch.bool).triu(1).expand_as(scores)
    assert bool((scores[behind] == -math.inf).all())
    wanted = cap * torch.tanh(q @ k.mT / cap)
    torch.testing.assert_close(scores[~behind], wanted[~behind])


FULL, SLIDING = "full_attention", "sliding_attention"


def test_lists_win_over_rules() -> None:
    config = Config({"num_hidden_layers": 3, "layer_types": [SLIDING, FULL, SLIDING]})
    assert layer_windows(config, 5, lambda index: False) == [5, None, 5]
    assert layer_windows(Config({"num_hidden_layers": 2}), 5, lambda index: index == 1) == [None, 5]


def test_the_rules_of_the_older_files() -> None:
    sizes = {"num_hidden_layers": 4, "sliding_window": 7}
    assert alternating_windows(Config(sizes), 2) == [7, None, 7, None]
    assert alternating_windows(Config(sizes | {"sliding_window_pattern": 3}), 2) == [7, 7, None, 7]
    assert upper_windows(Config(sizes | {"max_window_layers": 1})) == [None] * 4
    assert upper_windows(Config(sizes | {"max_window_layers": 1, "use_sliding_window": True})) == [None, 7, 7, 7]


@pytest.mark.parametrize("kinds", [[FULL], [FULL, "chunked_attention"], FULL, [SLIDING, FULL]])
def test_impossible_lists_are_refused(kinds: object) -> None:
    with pytest.raises(BadConfig, match="layer_types"):
        layer_windows(Config({"num_hidden_layers": 2, "layer_types": kinds}), None, lambda index: False)
