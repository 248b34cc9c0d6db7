"""What goes onto the stream and what is made of its end: scales, positions, biases, caps; and the plain MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder import MLP, Attention, Decoder, DecoderBackend, Layer, LearnedPositions, Rotary
from mi_decoder.activations import ACTIVATIONS

LAYER = Layer(Attention(2, 2, 4), MLP(12))


class Seeing(IdleTap):
    """A tap that reads everything."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen[name] = value
        return value

    def wants(self, *names: str) -> bool:
        return True


def filled(module: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                numbers = torch.randn(parameter.shape, generator=generator).to(dtype)
                part._parameters[name] = nn.Parameter(numbers, requires_grad=False)
    return module


def made(**values: Any) -> DecoderBackend:
    backend: DecoderBackend = filled(Decoder(11, 8, (LAYER,), **values).build())
    return backend


def batch_of(ids: Tensor, starts: list[int], lengths: list[int]) -> Batch:
    start, length = torch.tensor(starts), torch.tensor(lengths)
    return Batch(ids, start, length, start + length, start[:, None] + torch.arange(ids.shape[1]))


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedding_s_scale_is_rounded_as_the_weights_are(dtype: torch.dtype) -> None:
    backend: Any = filled(Decoder(11, 8, (LAYER,), embed_scale=3584**0.5).build(), dtype)
    tap = Seeing()
    stream = backend.embed(batch_of(IDS, [0, 0], [3, 3]), tap).resid
    scale = 59.75 if dtype is torch.bfloat16 else torch.tensor(3584**0.5).item()
    assert torch.equal(stream, backend.embed_weight[IDS] * scale)
    assert torch.equal(tap.seen["hook_embed"], stream)
    assert "hook_pos_embed" not in tap.seen


def test_positions_are_added_from_the_row_that_is_theirs() -> None:
    backend, tap = made(n_ctx=4, positions=LearnedPositions(4, offset=2)), Seeing()
    # the padding of the first row lies behind the table's end
    stream = backend.embed(batch_of(IDS, [3, 1], [1, 3]), tap).resid
    table = backend.weight("pos_embed.W_pos")
    assert table.shape == (4, 8)
    assert torch.equal(tap.seen["hook_pos_embed"][1], table[1:4])
    assert torch.equal(stream[0, 0], backend.embed_weight[1] + table[3])
    assert torch.equal(stream, tap.seen["hook_embed"] + tap.seen["hook_pos_embed"])
    assert [site.name for site in backend.sites()][:2] == ["hook_embed", "hook_pos_embed"]


def test_logits_are_biased_scaled_and_capped_in_this_order() -> None:
    backend, tap = made(unembed_bias=True, logit_scale=0.5, logit_softcap=2.0), Seeing()
    resid = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    logits = backend.unembed(resid, tap)
    before = resid @ backend.weight("unembed.W_U") + backend.weight("unembed.b_U")
    torch.testing.assert_close(tap.seen["unembed.hook_out"], before)
    torch.testing.assert_close(logits, 2.0 * torch.tanh(0.5 * before / 2.0))
    assert torch.equal(tap.seen["hook_logits"], logits)


@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_mlp_is_two_products_around_an_activation(bias: bool) -> None:
    module, tap = filled(MLP(12, ACTIVATIONS["relu2"], bias=bias).build(8)), Seeing()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    out, weights = (
        module.transform(x, batch_of(torch.zeros(2, 3, dtype=torch.long), [0, 0], [3, 3]), tap),
        module.weights(),
    )
    assert set(weights) == {"mlp.W_in", "mlp.W_out"} | ({"mlp.b_in", "mlp.b_out"} if bias else set())
    pre = x @ weights["mlp.W_in"] + weights.get("mlp.b_in", 0.0)
    torch.testing.assert_close(tap.seen["mlp.hook_pre"], pre)
    torch.testing.assert_close(tap.seen["mlp.hook_post"], pre.clamp(min=0) ** 2)
    torch.testing.assert_close(out, tap.seen["mlp.hook_post"] @ weights["mlp.W_out"] + weights.get("mlp.b_out", 0.0))
    assert [site.name for site in module.sites()] == list(tap.seen)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_reference_s(name: str) -> None:
    from transformers.activations import ACT2FN

    for dtype in (torch.float32, torch.bfloat16):
        x = torch.linspace(-4, 4, 101).to(dtype)
        assert torch.equal(ACTIVATIONS[name](x), ACT2FN[name](x))


def test_a_wide_rotation_rounds_once() -> None:
    x = torch.randn(1, 3, 2, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    batch = batch_of(IDS[:1], [40], [3])
    for interleaved in (True, False):
        rotary = Rotary(4, interleaved=interleaved, wide=True)
        turned = rotary.rotate(x, rotary.table(batch, x.dtype))
        exact = rotary.rotate(x.float(), rotary.table(batch, torch.float32))
        assert torch.equal(turned, exact.bfloat16())
        assert torch.equal(turned[..., 4:], x[..., 4:])


def test_nothing_is_scaled_or_capped_by_default() -> None:
    backend = made()
    resid = torch.randn(2, 8)
    torch.testing.assert_close(backend.unembed(resid, IDLE), resid @ backend.weight("unembed.W_U"))
    assert torch.equal(backend.embed(batch_of(IDS, [0, 0], [3, 3]), IDLE).resid, backend.embed_weight[IDS])
