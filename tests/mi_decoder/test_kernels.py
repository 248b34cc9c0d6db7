"""Both attention kernels mix the same values, and a query without keys is zero with zero gradient."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder.kernels import explicit, fused, masked, open_edges


class Cutting(IdleTap):
    """A tap at which some edges are cut."""

    def __init__(self, cut: Tensor) -> None:
        self.cut = cut

    def cut_edges(self) -> Tensor:
        return self.cut


def batch_of(rows: int, columns: int) -> Batch:
    zeros = torch.zeros(rows, dtype=torch.long)
    return Batch(
        inputs=torch.zeros(rows, columns, dtype=torch.long),
        start=zeros,
        length=zeros + columns,
        total=zeros + columns,
        positions=torch.arange(columns).expand(rows, columns),
    )


def values(seed: int, columns: int, groups: int, n_kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, n_kv_heads * groups, columns, 4), (2, n_kv_heads, columns, 4), (2, n_kv_heads, columns, 4)]
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return q, k, v


@given(seed=st.integers(0, 99), columns=st.integers(1, 9), groups=st.integers(1, 3))
def test_the_kernels_agree(seed: int, columns: int, groups: int) -> None:
    q, k, v = values(seed, columns, groups)
    edges = open_edges(batch_of(2, columns), False, None)
    plain = fused(q, k, v, 0.5)
    torch.testing.assert_close(explicit(q, k, v, 0.5, edges, IDLE), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked(q, k, v, 0.5, edges), plain, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 99), columns=st.integers(1, 7), groups=st.integers(1, 2), share=st.floats(0.3, 1.0))
def test_queries_without_keys_are_zero_with_zero_gradient(seed: int, columns: int, groups: int, share: float) -> None:
    heads = 2 * groups
    cut = torch.rand(2, heads, columns, columns, generator=torch.Generator().manual_seed(seed)) < share
    edges = open_edges(batch_of(2, columns), False, cut)
    blocked = ~edges.any(-1)
    found = []
    for kernel in ("explicit", "masked"):
        q, k, v = values(seed, columns, groups)
        z = explicit(q, k, v, 0.5, edges, Cutting(cut)) if kernel == "explicit" else masked(q, k, v, 0.5, edges)
        assert not z.detach()[blocked].any()
        (z * torch.arange(1.0, 5.0)).sum().backward()
        assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in (q, k, v))
        assert q.grad is not None
        assert not q.grad[blocked].any()
        found.append((z.detach(), q.grad, k.grad, v.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 99), columns=st.integers(1, 9), groups=st.integers(1, 3))
def test_one_query_of_each_head_sees_its_own_keys(seed: int, columns: int, groups: int) -> None:
    q, k, v = values(seed, columns, groups)
    edges = torch.rand(2, 1, 1, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    edges[..., 0] = True
    wanted = explicit(q[:, :, :1], k, v, 0.5, edges, IDLE)
    torch.testing.assert_close(masked(q[:, :, :1], k, v, 0.5, edges), wanted, atol=1e-5, rtol=0)


def test_a_query_without_keys_passes_no_gradient_to_any_value() -> None:
    cut = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    edges = open_edges(batch_of(2, 3), False, cut)
    for kernel in ("explicit", "masked"):
        q, k, v = values(0, 3, 1)
        z = explicit(q, k, v, 0.5, edges, Cutting(cut)) if kernel == "explicit" else masked(q, k, v, 0.5, edges)
        z.sum().backward()
        assert all(x.grad is not None and not x.grad.any() for x in (q, k, v))


def test_scores_arrive_masked_and_patterns_in_the_model_s_dtype() -> None:
    seen: dict[str, Tensor] = {}

    class Looking(IdleTap):
        def __call__(self, name: str, value: Tensor) -> Tensor:
            seen[name] = value
            return value

    q, k, v = (x.detach().bfloat16() for x in values(0, 5, 2))
    z = explicit(q, k, v, 0.5, open_edges(batch_of(2, 5), False, None), Looking())
    scores, pattern = seen["attn.hook_attn_scores"], seen["attn.hook_pattern"]
    assert scores.dtype == pattern.dtype == z.dtype == torch.bfloat16
    behind = torch.ones(5, 5, dtype=torch.bool).triu(1).expand_as(scores)
    assert bool((scores[behind] == -math.inf).all())
    assert bool(scores[~behind].isfinite().all())
    assert not pattern[behind].any()


def test_the_mask_is_made_once_for_each_call() -> None:
    batch = batch_of(2, 5)
    assert open_edges(batch, False, None) is open_edges(batch, False, None)
