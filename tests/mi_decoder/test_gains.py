"""Every kind of norm is the reference's, and its weights are what really multiplies and is added."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mi_core.taps import IDLE, IdleTap
from mi_decoder import HeadNorm, LayerNorm, NoGain, OnePlusGain, RMSNorm, WideGain
from mi_decoder.head_norms import head_normed


class Looking(IdleTap):
    """A tap that reads a norm, and perhaps writes what it read."""

    def __init__(self, writing: bool = False) -> None:
        self.writing = writing
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen[name] = value
        return value.clone() if self.writing else value

    def wants(self, *names: str) -> bool:
        return True

    def edits(self, *names: str) -> bool:
        return self.writing


def filled(module: nn.Module, dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            numbers = torch.randn(parameter.shape, generator=generator).to(dtype)
            module._parameters[name] = nn.Parameter(numbers, requires_grad=False)
    return module


def reference(spec: RMSNorm | LayerNorm, module: Any) -> Any:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
    from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    size = module.dims[0]
    if isinstance(spec, RMSNorm):
        kinds = {WideGain: Olmo2RMSNorm, OnePlusGain: Gemma2RMSNorm}
        theirs = kinds.get(type(spec.gain), LlamaRMSNorm)(size, spec.eps)
    elif isinstance(spec.gain, NoGain):
        return OlmoLayerNorm(size)
    else:
        kind = NemotronLayerNorm1P if isinstance(spec.gain, OnePlusGain) else nn.LayerNorm
        theirs = kind(size, eps=spec.eps, bias=spec.bias)
        theirs.bias = module.bias
    theirs.weight = module.weight
    return theirs


NORMS = {
    "llama": RMSNorm(1e-5),
    "olmo2": RMSNorm(1e-5, WideGain()),
    "gemma": RMSNorm(1e-5, OnePlusGain()),
    "layer norm": LayerNorm(1e-5),
    "no bias": LayerNorm(1e-4, bias=False),
    "nemotron": LayerNorm(1e-5, OnePlusGain()),
    "olmo": LayerNorm(1e-5, NoGain(), bias=False),
}
DTYPES = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float64: 1e-14}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_the_reference_s(name: str, dtype: torch.dtype) -> None:
    spec = NORMS[name]
    module = filled(spec.build(24, "ln1"), dtype)
    x = 3 + 2 * torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = reference(spec, module)(x)
    ours = module.normalise(x, IDLE)
    assert ours.dtype == dtype
    # where the reference rounds more often than float32 norms do, a last digit may differ
    tolerance = 0.0 if dtype is torch.bfloat16 and isinstance(spec, RMSNorm) else DTYPES[dtype]
    torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORMS)
def test_sites_and_weights_give_the_output(name: str, dtype: torch.dtype) -> None:
    module = filled(NORMS[name].build(24, "ln1"), dtype)
    x = 3 + torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    reading, writing = Looking(), Looking(writing=True)
    out = module.normalise(x, reading)
    assert torch.equal(out, module.normalise(x, IDLE))
    weights = module.weights()
    product = reading.seen["ln1.hook_normalized"] * weights.get("ln1.w", 1.0) + weights.get("ln1.b", 0.0)
    tolerance = 10 * DTYPES[dtype]
    torch.testing.assert_close(product.to(dtype), out, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(module.normalise(x, writing), out, atol=tolerance, rtol=tolerance)
    assert set(weights) == {f"ln1.{kind[0]}" for kind in ("weight", "bias") if module._parameters[kind] is not None}


@pytest.mark.parametrize("over", ["shared", "own", "together"])
@pytest.mark.parametrize("norm", [RMSNorm(1e-5), LayerNorm(1e-5)], ids=["rms", "layer norm"])
def test_heads_are_normed_alone_or_together(norm: RMSNorm | LayerNorm, over: Any) -> None:
    module = filled(HeadNorm(norm, over).build(4, 6, "attn.q_norm"), torch.float32)
    x = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(2))
    ours = head_normed(module, x)
    flat = x.flatten(2) if over == "together" else x
    centred = flat - flat.mean(-1, keepdim=True) if isinstance(norm, LayerNorm) else flat
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.weight
    wanted = wanted if module.bias is None else wanted + module.bias
    torch.testing.assert_close(ours, wanted.view_as(x), atol=1e-5, rtol=1e-5)
    assert module.weight.shape == {"shared": (6,), "own": (4, 6), "together": (24,)}[over]
    assert module.weights()["attn.q_norm.w"] is module.weight
