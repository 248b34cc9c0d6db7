"""Linear biases are the reference's, from either origin, in both kernels and behind a prefix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_core.protocols import Batch
from mi_core.taps import IDLE
from mi_decoder import Alibi, Attention
from mi_decoder.alibi import geometric_slopes
from mi_decoder.attention import AttentionModule
from mi_decoder.kernels import explicit, masked, open_edges


def batch_of(starts: list[int], columns: int, record: str | None = None) -> Batch:
    start = torch.tensor(starts)
    length = torch.full_like(start, columns)
    inputs = torch.zeros(len(starts), columns, dtype=torch.long)
    positions = start[:, None] + torch.arange(columns)
    return Batch(inputs, start, length, start + length, positions, record=record)


@given(n_heads=st.integers(1, 130))
def test_slopes_are_the_reference_s(n_heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    wanted = build_alibi_tensor(torch.ones(1, 5, dtype=torch.long), n_heads, torch.float32).view(1, n_heads, 1, 5)
    found = Alibi(geometric_slopes(n_heads)).bias(batch_of([0], 5), 5, torch.float32)
    torch.testing.assert_close(found, wanted, atol=0, rtol=1e-5)


@given(n_heads=st.integers(1, 20), n_keys=st.integers(1, 3000))
def test_rounded_biases_are_the_reference_s_bit_for_bit(n_heads: int, n_keys: int) -> None:
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    mask = torch.ones(1, n_keys, dtype=torch.long)
    wanted = build_alibi_tensor(mask, n_heads, torch.float32).view(1, n_heads, 1, n_keys)
    found = Alibi(geometric_slopes(n_heads), rounded=True, scale=0.5).bias(batch_of([0], 1), n_keys, torch.float32)
    assert torch.equal(found, 0.5 * wanted)


def values(seed: int, columns: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, heads, columns, 4, generator=generator) for heads in (4, 2, 2)]


@given(seed=st.integers(0, 99), columns=st.integers(1, 9))
def test_the_kernels_agree_from_either_origin(seed: int, columns: int) -> None:
    batch, (q, k, v) = batch_of([0, 0], columns), values(seed, columns)
    edges = open_edges(batch, False, None)
    found = []
    for origin in ("start", "query"):
        bias = Alibi((1.0, 0.3, 0.1, 0.03), origin).bias(batch, columns, torch.float32)
        found += [explicit(q, k, v, 0.5, edges, IDLE, bias=bias), masked(q, k, v, 0.5, edges, bias)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)
    if columns > 2:
        assert not torch.allclose(found[0], explicit(q, k, v, 0.5, edges, IDLE), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("origin", ["start", "query"])
def test_keys_of_a_prefix_count_as_if_it_were_run_again(origin: str) -> None:
    module = AttentionModule(Attention(2, 2, 4, Alibi((1.0, 0.25), origin)), 8)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in list(module.named_parameters()):
        module._parameters[name] = torch.nn.Parameter(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 9, 8, generator=generator)
    whole, _ = module.mix(x, batch_of([0, 0], 9), IDLE, None)
    _, memory = module.mix(x[:, :5], batch_of([0, 0], 5, record="end"), IDLE, None)
    # the second row goes on from an earlier position than the first
    rest = torch.stack((x[0, 5:8], x[1, 3:6]))
    after, _ = module.mix(rest, batch_of([5, 3], 3), IDLE, memory)
    torch.testing.assert_close(after, torch.stack((whole[0, 5:8], whole[1, 3:6])), atol=1e-5, rtol=0)
    assert "attn.hook_rot_q" not in [site.name for site in module.sites()]


def test_only_the_queries_that_are_kept_are_biased() -> None:
    batch = batch_of([0, 0], 5)
    kept = Batch(batch.inputs, batch.start, batch.length, batch.total, batch.positions, torch.tensor([[4], [2]]))
    whole, part = (Alibi((1.0,), "query").bias(b, 5, torch.float32) for b in (batch, kept))
    assert torch.equal(part[0, :, 0], whole[0, :, 4])
    assert torch.equal(part[1, :, 0], whole[1, :, 2])
