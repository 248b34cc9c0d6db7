"""The gated MLP reuses a tensor only where nobody else holds it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, silu
from transformers.activations import ACT2FN

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder import GatedMLP
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.mlp import GatedMLPModule

BATCH = Batch(*(torch.zeros(shape, dtype=torch.long) for shape in ((2, 3), (2,), (2,), (2,), (2, 3))))


def module_of(activation: Callable[[Tensor], Tensor]) -> GatedMLPModule:
    module = GatedMLP(6, activation, bias=True).build(4)
    for name, parameter in list(module.named_parameters()):
        module.register_parameter(name, nn.Parameter(torch.randn(parameter.shape)))
    return module


class Keeping(IdleTap):
    def __init__(self) -> None:
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.kept[name] = (value, value.clone())
        return value


@pytest.mark.parametrize("activation", [silu, gelu, lambda x: x], ids=["silu", "gelu", "its own input"])
@pytest.mark.parametrize("grad", [False, True])
def test_no_offered_tensor_is_changed_and_gradients_flow(activation: Callable[[Tensor], Tensor], grad: bool) -> None:
    module, tap = module_of(activation), Keeping()
    x = torch.randn(2, 3, 4, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        out = module.transform(x, BATCH, tap)
    assert all(torch.equal(value, before) for value, before in tap.kept.values())
    gate = activation(linear(x, module.gate_weight, module.gate_bias))
    wanted = linear(gate * linear(x, module.in_weight, module.in_bias), module.out_weight, module.out_bias)
    assert torch.equal(out, wanted)
    if grad:
        ours = torch.autograd.grad(out.sum(), [x, *module.parameters()])
        theirs = torch.autograd.grad(wanted.sum(), [x, *module.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_reference_s(name: str) -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), atol=1e-6, rtol=0)
    assert module_of(ACTIVATIONS[name]).transform(x[:4].expand(1, 2, 4), BATCH, IDLE).shape == (1, 2, 4)
