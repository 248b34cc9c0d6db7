"""Latent attention is attention whose queries, keys and values are products of latents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder import RMSNorm, Rotary
from mi_decoder.latent_attention import LatentAttention, LatentAttentionModule, TailRotary


class Seeing(IdleTap):
    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen[name] = value
        return value

    def wants(self, *names: str) -> bool:
        return True


def filled(q_rank: int | None, bias: bool) -> LatentAttentionModule:
    own = {"d_shared": 4, "d_value": 5, "kv_rank": 6, "q_rank": q_rank, "latent_norm": RMSNorm()}
    spec = LatentAttention(3, 3, 7, TailRotary(4), bias=bias, out_bias=bias, **own)
    module, draw = spec.build(8), torch.Generator().manual_seed(0)
    for path, parameter in list(module.named_parameters()):
        owner, _, name = path.rpartition(".")
        module.get_submodule(owner).register_parameter(name, nn.Parameter(torch.randn(parameter.shape, generator=draw)))
    return module


BATCH = Batch(
    *(torch.zeros(shape, dtype=torch.long) for shape in ((2, 4), (2,))),
    *[torch.tensor([4, 4])] * 2,
    torch.arange(4).expand(2, 4),
)


@pytest.mark.parametrize("q_rank", [None, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_by_name_lead_from_the_input_to_heads(q_rank: int | None, bias: bool) -> None:
    module, tap = filled(q_rank, bias), Seeing()
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    out, _ = module.mix(x, BATCH, tap, None)
    w, seen = module.weights(), tap.seen
    assert [site.name for site in module.sites()] == list(seen)
    assert {seen[f"attn.hook_{name}"].shape[-1] for name in ("q", "k", "rot_q", "rot_k")} == {7}

    def normed(x: Tensor, gain: Tensor) -> Tensor:
        return gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    latent = normed(x @ w["attn.W_DKV"] + w.get("attn.b_DKV", 0.0), w["attn.kv_latent_norm.w"])
    torch.testing.assert_close(seen["attn.hook_kv_latent"], latent)
    shared = (x @ w["attn.W_KR"] + w.get("attn.b_KR", 0.0))[:, :, None].expand(-1, -1, 3, -1)
    keys = torch.cat((torch.einsum("bpr,hrd->bphd", latent, w["attn.W_UK"]), shared), -1)
    torch.testing.assert_close(seen["attn.hook_k"], keys)
    torch.testing.assert_close(seen["attn.hook_v"], torch.einsum("bpr,hrd->bphd", latent, w["attn.W_UV"]))
    asked = x
    if q_rank is not None:
        asked = normed(x @ w["attn.W_DQ"] + w.get("attn.b_DQ", 0.0), w["attn.q_latent_norm.w"])
        torch.testing.assert_close(seen["attn.hook_q_latent"], asked)
    up = w["attn.W_Q" if q_rank is None else "attn.W_UQ"]
    torch.testing.assert_close(seen["attn.hook_q"], torch.einsum("bpr,hrd->bphd", asked, up))
    mixed = torch.einsum("bphd,hdm->bpm", seen["attn.hook_z"], w["attn.W_O"]) + w.get("attn.b_O", 0.0)
    torch.testing.assert_close(out, mixed)
    torch.testing.assert_close(module.mix(x, BATCH, IDLE, None)[0], out, atol=1e-5, rtol=1e-5)


def test_only_the_last_dims_turn() -> None:
    module, tap = filled(None, False), Seeing()
    module.mix(torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)), BATCH, tap, None)
    for before, behind in (("attn.hook_q", "attn.hook_rot_q"), ("attn.hook_k", "attn.hook_rot_k")):
        one, other = tap.seen[before], tap.seen[behind]
        assert torch.equal(one[..., :3], other[..., :3])
        assert not torch.equal(one[:, 1:, :, 3:], other[:, 1:, :, 3:])
        torch.testing.assert_close(one[..., 3:].norm(dim=-1), other[..., 3:].norm(dim=-1))


def test_a_tail_keeps_every_setting_of_its_positions() -> None:
    rotary = Rotary(4, 50.0, interleaved=True, wide=True)
    tail = TailRotary.of(rotary)
    assert (tail.n_dims, tail.theta, tail.interleaved, tail.wide) == (4, 50.0, True, True)
