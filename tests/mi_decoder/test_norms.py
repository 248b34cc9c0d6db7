"""The norm rounds where the reference rounds, whoever looks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mi_core.taps import IDLE, IdleTap
from mi_decoder import RMSNorm
from mi_decoder.norms import RMSNormModule


class Seeing(IdleTap):
    """A tap at both sites of the norm: reads, or writes one of them."""

    def __init__(self, site: str = "", write: float = 1.0) -> None:
        self.site, self.write = site, write
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        value = value * self.write if name == self.site else value
        self.seen[name] = value
        return value

    def wants(self, *names: str) -> bool:
        return True

    def edits(self, *names: str) -> bool:
        return self.site in names


def norm_of(size: int, dtype: torch.dtype, seed: int = 0, eps: float = 1e-5) -> RMSNormModule:
    module = RMSNorm(eps).build(size, "ln1")
    gain = 1 + 0.5 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    module.weight = nn.Parameter(gain.to(dtype), requires_grad=False)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(seed=st.integers(0, 999), size=st.integers(1, 65), eps=st.sampled_from([1e-6, 1e-3]))
def test_it_is_the_reference_bit_for_bit(dtype: torch.dtype, seed: int, size: int, eps: float) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    module = norm_of(size, dtype, seed, eps)
    theirs = LlamaRMSNorm(size, eps)
    theirs.weight = module.weight
    x = 4 * torch.randn(2, 3, size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert torch.equal(module.normalise(x, IDLE), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_changes_no_bit_and_the_sites_fit_together(dtype: torch.dtype) -> None:
    module, x = norm_of(32, dtype), torch.randn(2, 3, 32).to(dtype)
    tap = Seeing()
    assert torch.equal(module.normalise(x, tap), module.normalise(x, IDLE))
    scale, normalized = tap.seen["ln1.hook_scale"], tap.seen["ln1.hook_normalized"]
    assert scale.dtype == normalized.dtype == torch.float32
    assert scale.shape == (2, 3, 1)
    torch.testing.assert_close(scale * normalized, x.float(), atol=1e-5, rtol=1e-5)


def test_a_written_scale_is_what_divides() -> None:
    module, x = norm_of(32, torch.float32), torch.randn(2, 3, 32)
    tap = Seeing("ln1.hook_scale", 2.0)
    torch.testing.assert_close(module.normalise(x, tap), module.normalise(x, IDLE) / 2)
    torch.testing.assert_close(tap.seen["ln1.hook_normalized"] * tap.seen["ln1.hook_scale"], x)


def test_a_written_output_is_what_the_gain_multiplies() -> None:
    module, x = norm_of(32, torch.float32), torch.randn(2, 3, 32)
    tap = Seeing("ln1.hook_normalized", 3.0)
    torch.testing.assert_close(module.normalise(x, tap), module.normalise(x, IDLE) * 3)


def test_double_precision_is_kept() -> None:
    module, x = norm_of(16, torch.float64), torch.randn(2, 16, dtype=torch.float64)
    exact = module.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(module.normalise(x, IDLE), exact, atol=1e-14, rtol=0)
    torch.testing.assert_close(module.normalise(x, Seeing("ln1.hook_scale")), exact, atol=1e-14, rtol=0)
