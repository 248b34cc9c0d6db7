"""What happens to queries, keys, values and their mixture on the way: clips, norms, factors, gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mi_core.protocols import Batch
from mi_core.taps import IdleTap
from mi_decoder import Attention, GatedMLP, HeadNorm, NoGain, RMSNorm, Rotary
from mi_decoder.head_norms import head_normed
from mi_decoder.output_gate import OutputGate
from mi_decoder.values import NormedValues, ScaledValues

ZEROS = torch.zeros(2, dtype=torch.long)
BATCH = Batch(torch.zeros(2, 5, dtype=torch.long), ZEROS, ZEROS + 5, ZEROS + 5, torch.arange(5).expand(2, 5))


class Seeing(IdleTap):
    """A tap that reads everything, and adds to one site."""

    def __init__(self, site: str = "", amount: float = 0.0) -> None:
        self.site, self.amount = site, amount
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen[name] = value + self.amount if name == self.site else value
        return self.seen[name]

    def wants(self, *names: str) -> bool:
        return True


def made(**values: Any) -> tuple[Any, Tensor]:
    """An attention module with random weights, and an input."""
    module, generator = Attention(4, 2, 6, **values).build(8), torch.Generator().manual_seed(0)
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(torch.randn(parameter.shape, generator=generator))
    return module, torch.randn(2, 5, 8, generator=generator)


@torch.no_grad()
def seen(module: Any, x: Tensor, tap: Seeing | None = None) -> dict[str, Tensor]:
    tap = tap or Seeing()
    module.mix(x, BATCH, tap, None)
    return {name.removeprefix("attn.hook_"): value for name, value in tap.seen.items()}


def test_heads_are_cut_off_behind_their_projection_and_writes_come_first() -> None:
    module, x = made(clip=0.5)
    found = seen(module, x)
    for name in "qkv":
        assert found[name].abs().max() > 0.5
        assert torch.equal(found[f"{name}_clipped"], found[name].clamp(-0.5, 0.5))
    values = found["v_clipped"].repeat_interleave(2, 2)
    torch.testing.assert_close(found["z"], torch.einsum("bhqk,bkhd->bqhd", found["pattern"], values))
    written = seen(module, x, Seeing("attn.hook_v", 100.0))
    assert torch.equal(written["v_clipped"], torch.full_like(written["v"], 0.5))


@pytest.mark.parametrize("late", [False, True])
def test_norms_stand_before_or_behind_the_rotation(late: bool) -> None:
    rotary = Rotary(6)
    module, x = made(positions=rotary, qk_norm=HeadNorm(RMSNorm(1e-5), late=late))
    found, table = seen(module, x), rotary.table(BATCH, x.dtype)
    for name, norm in (("q", module.q_norm), ("k", module.k_norm)):
        turned = rotary.rotate(found[name], table)
        normed = head_normed(norm, turned if late else found[name])
        torch.testing.assert_close(found[f"{name}_normed"], normed)
        torch.testing.assert_close(found[f"rot_{name}"], normed if late else rotary.rotate(normed, table))
    assert list(found).index("q_normed") < list(found).index("rot_q")


def test_turning_backwards_takes_the_angle_off() -> None:
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(1))
    there, back = Rotary(8), Rotary(8, backwards=True)
    turned = there.rotate(x, there.table(BATCH, x.dtype))
    torch.testing.assert_close(back.rotate(turned, back.table(BATCH, x.dtype)), x)


def test_the_mixture_is_normed_over_all_heads_before_w_o() -> None:
    module, x = made(z_norm=HeadNorm(RMSNorm(1e-5, NoGain()), "together"))
    found = seen(module, x)
    together = found["z_ungated"].flatten(2)
    wanted = together / (together.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found["z"].flatten(2), wanted)
    torch.testing.assert_close(found["out"], wanted @ module.o_weight.T)


@torch.no_grad()
def test_neurons_are_normed_before_w_out() -> None:
    module: Any = GatedMLP(12, norm=RMSNorm(1e-5)).build(8)
    generator, tap = torch.Generator().manual_seed(0), Seeing()
    for part in (module, module.norm):
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(torch.randn(parameter.shape, generator=generator))
    module.transform(torch.randn(2, 5, 8, generator=generator), BATCH, tap)
    plain = torch.nn.functional.silu(tap.seen["mlp.hook_pre"]) * tap.seen["mlp.hook_pre_linear"]
    normed = plain / (plain.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * module.weights()["mlp.norm.w"]
    torch.testing.assert_close(tap.seen["mlp.hook_post"], normed)
    torch.testing.assert_close(tap.seen["mlp.hook_out"], normed @ module.weights()["mlp.W_out"])


def test_queries_and_keys_may_be_cut_off_behind_their_norm() -> None:
    module, x = made(clip=0.5, clip_normed=True, qk_norm=HeadNorm(RMSNorm(1e-5)))
    found = seen(module, x)
    for name in "qk":
        assert found[f"{name}_normed"].abs().max() > 0.5
        assert torch.equal(found[f"{name}_clipped"], found[f"{name}_normed"].clamp(-0.5, 0.5))
    assert torch.equal(found["v_clipped"], found["v"].clamp(-0.5, 0.5))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (ScaledValues(0.5), lambda v: 0.5 * v),
        (NormedValues(1e-3), lambda v: torch.rms_norm(v, (4,), None, 1e-3)),
    ],
)
def test_values_are_changed_behind_their_projection_and_may_be_narrower(change: Any, wanted: Any) -> None:
    module, x = made(d_value=4, values=change)
    found = seen(module, x)
    changed = found[change.site.removeprefix("attn.hook_")]
    assert found["v"].shape == (2, 5, 2, 4)
    torch.testing.assert_close(changed, wanted(found["v"]))
    mixed = torch.einsum("bhqk,bkhd->bqhd", found["pattern"], changed.repeat_interleave(2, 2))
    torch.testing.assert_close(found["z"], mixed)
    assert module.weights()["attn.W_V"].shape == (2, 8, 4)
    assert module.weights()["attn.W_O"].shape == (4, 4, 8)


@pytest.mark.parametrize(
    "gate", [OutputGate(), OutputGate(softplus, by_head=True), OutputGate(softplus, by_head=True, wide=True)]
)
def test_gates_multiply_mixed_values_by_what_attention_reads(gate: OutputGate) -> None:
    module, x = made(gate=gate)
    found, weights = seen(module, x), module.weights()
    pre = torch.einsum("bpm,hmd->bphd", x, weights["attn.W_gate"])
    torch.testing.assert_close(found["z_gate"], gate.activation(pre))
    assert found["z_gate"].shape[-1] == (1 if gate.by_head else 6)
    assert torch.equal(found["z"], found["z_ungated"] * found["z_gate"])
    more = seen(module, x, Seeing("attn.hook_z_gate", 1.0))
    torch.testing.assert_close(more["z"], found["z"] + found["z_ungated"])


def test_a_wide_gate_is_computed_in_float32() -> None:
    pre = torch.linspace(-4, 4, 8).bfloat16().view(1, 1, 8)
    wide, narrow = (OutputGate(softplus, wide=wide).opened(pre, 2) for wide in (True, False))
    assert wide.dtype == narrow.dtype == torch.bfloat16
    assert torch.equal(wide, softplus(pre.float()).bfloat16().view(1, 1, 2, 4))
