"""A backend costs nothing to make, lists what it has, and answers for what it has not."""

from __future__ import annotations

import pytest
import torch

from mi_core.protocols import Backend
from mi_core.taps import IDLE
from mi_decoder import Attention, Decoder, GatedMLP, Layer, ParallelLayer, RMSNorm, Rotary

NORM = RMSNorm()


def layer(n_heads: int = 4, **changes: object) -> Layer:
    return Layer(Attention(n_heads, 2, 8, Rotary(8), **changes), GatedMLP(20), ln1=NORM, ln2=NORM)


def test_making_one_allocates_nothing_and_computes_nothing() -> None:
    backend = Decoder(10**6, 10**5, (layer(),) * 3, ln_final=NORM).build()
    assert isinstance(backend, Backend)
    assert all(parameter.is_meta and not parameter.requires_grad for parameter in backend.parameters())
    assert not list(backend.buffers())
    assert isinstance(backend.blocks, tuple)


def test_layers_that_differ_share_the_sites_that_they_share() -> None:
    parallel = ParallelLayer(Attention(8, 2, 8), GatedMLP(20), ln1=NORM)
    backend = Decoder(61, 32, (layer(), parallel, layer()), ln_final=NORM).build()
    sites = backend.sites()
    by_key = {(site.name, site.sizes.get("head")): site.layers for site in sites}
    assert by_key["hook_resid_pre", None] == (0, 1, 2)
    assert by_key["hook_resid_mid", None] == by_key["ln2.hook_scale", None] == (0, 2)
    assert by_key["attn.hook_q", 4] == (0, 2)
    assert by_key["attn.hook_q", 8] == (1,)
    assert by_key["attn.hook_rot_q", 4] == (0, 2)
    order = [site.name for site in sites]
    for layer_index, block in enumerate(backend.blocks):
        own = [(site.name, site.sizes) for site in sites if layer_index in (site.layers or ())]
        assert own == [(site.name, site.sizes) for site in block.sites()]
    assert order[-3:] == ["unembed.hook_in", "unembed.hook_out", "hook_logits"]


def test_an_absent_weight_is_answered_with_those_that_are_there() -> None:
    backend = Decoder(61, 32, (layer(),), ln_final=NORM).build()
    with pytest.raises(KeyError, match=r"blocks\.0\.attn\.b_Q.*attn\.W_Q.*mlp\.W_gate"):
        backend.weight("blocks.0.attn.b_Q")
    for name in ("blocks.1.attn.W_Q", "blocks.x.attn.W_Q", "embed.W"):
        with pytest.raises(KeyError, match=r"embed\.W_E"):
            backend.weight(name)


def test_weights_are_views_in_the_field_s_layouts() -> None:
    backend = Decoder(61, 32, (layer(bias=True, out_bias=True),), ln_final=NORM).build()
    shapes = {name.removeprefix("blocks.0."): tuple(tensor.shape) for name, tensor in backend.weights().items()}
    assert shapes == {
        "embed.W_E": (61, 32),
        "unembed.W_U": (32, 61),
        "ln_final.w": (32,),
        "ln1.w": (32,),
        "ln2.w": (32,),
        "attn.W_Q": (4, 32, 8),
        "attn.W_K": (2, 32, 8),
        "attn.W_V": (2, 32, 8),
        "attn.W_O": (4, 8, 32),
        "attn.b_Q": (4, 8),
        "attn.b_K": (2, 8),
        "attn.b_V": (2, 8),
        "attn.b_O": (32,),
        "mlp.W_gate": (32, 20),
        "mlp.W_in": (32, 20),
        "mlp.W_out": (20, 32),
    }
    for name, tensor in backend.weights().items():
        assert tensor._is_view() or isinstance(tensor, torch.nn.Parameter)
        assert backend.weight(name).shape == tensor.shape


def test_unembedding_takes_any_leading_dims() -> None:
    backend = Decoder(61, 32, (layer(),), ln_final=NORM).build()
    for shape in ((32,), (5, 32), (2, 3, 4, 32)):
        assert backend.unembed(torch.empty(shape, device="meta"), IDLE).shape == (*shape[:-1], 61)
