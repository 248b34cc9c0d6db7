"""Layers keep the equations of the residual stream, wherever their norms stand."""

from __future__ import annotations

import pytest
import torch
from checkpoints import reference, reference_run, scramble
from torch import Tensor, nn

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder import (
    Attention,
    Decoder,
    DecoderBackend,
    GatedMLP,
    Layer,
    ParallelLayer,
    PostNormLayer,
    RMSNorm,
    Rotary,
)
from mi_decoder.parts import ChannelModule, LayerModule, MixerModule, NormModule

ATTENTION = Attention(4, 2, 8, Rotary(8))
MLP = GatedMLP(20)
NORM = RMSNorm(1e-5)
LAYERS = {
    "pre": Layer(ATTENTION, MLP, ln1=NORM, ln2=NORM),
    "post-branch": Layer(ATTENTION, MLP, ln1_post=NORM, ln2_post=NORM),
    "sandwich": Layer(ATTENTION, MLP, NORM, NORM, NORM, NORM),
    "bare": Layer(ATTENTION, MLP),
    "multiplied": Layer(ATTENTION, MLP, ln1=NORM, ln2=NORM, multiplier=0.3),
    "parallel, one norm": ParallelLayer(ATTENTION, MLP, ln1=NORM),
    "parallel, two norms": ParallelLayer(ATTENTION, MLP, ln1=NORM, ln2=NORM),
    "norms on the stream": PostNormLayer(ATTENTION, MLP, NORM, NORM),
}


class Seeing(IdleTap):
    """A tap that reads everything."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        assert name not in self.seen
        self.seen[name] = value
        return value

    def wants(self, *names: str) -> bool:
        return True


def filled(*layers: Layer | ParallelLayer | PostNormLayer) -> DecoderBackend:
    backend = Decoder(61, 32, layers, ln_final=NORM).build()
    for module in backend.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
    scramble(backend, 0)
    return backend


def batch_of(ids: Tensor) -> Batch:
    rows, columns = ids.shape
    zeros = torch.zeros(rows, dtype=torch.long)
    return Batch(ids, zeros, zeros + columns, zeros + columns, torch.arange(columns).expand(rows, columns))


@torch.no_grad()
def logits_of(backend: DecoderBackend, ids: Tensor) -> Tensor:
    batch = batch_of(ids)
    stream = backend.embed(batch, IDLE)
    for block in backend.blocks:
        stream, _ = block(stream, batch, IDLE, None)
    return backend.unembed(stream.resid, IDLE)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_the_residual_equations_hold(name: str) -> None:
    backend = filled(LAYERS[name])
    batch = batch_of(torch.arange(10).view(2, 5))
    before, tap = backend.embed(batch, IDLE), Seeing()
    after, _ = backend.blocks[0](before, batch, tap, None)
    seen, pre = tap.seen, before.resid
    if name.startswith("parallel"):
        assert "hook_resid_mid" not in seen
        assert torch.equal(after.resid, pre + seen["hook_attn_out"] + seen["hook_mlp_out"])
    elif name == "norms on the stream":
        ln1_post, ln2_post = (backend.weight(f"blocks.0.ln{part}_post.w") for part in (1, 2))
        middle, end = seen["hook_resid_mid"], after.resid
        for result, total, gain in (
            (middle, pre + seen["hook_attn_out"], ln1_post),
            (end, middle + seen["hook_mlp_out"], ln2_post),
        ):
            torch.testing.assert_close(result, total / (total.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * gain)
        assert torch.equal(seen["attn.hook_in"], pre)
        assert torch.equal(seen["mlp.hook_in"], middle)
        assert "no plain sum" in backend.shape.residual[0].reason
    else:
        assert torch.equal(seen["hook_resid_mid"], pre + seen["hook_attn_out"])
        assert torch.equal(after.resid, seen["hook_resid_mid"] + seen["hook_mlp_out"])
        if LAYERS[name].ln2 is None:
            assert torch.equal(seen["mlp.hook_in"], seen["hook_resid_mid"])
    stream, _ = backend.blocks[0](before, batch, IDLE, None)
    torch.testing.assert_close(stream.resid, after.resid, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_sites_fire_in_the_order_in_which_they_are_listed(name: str) -> None:
    backend, tap = filled(LAYERS[name]), Seeing()
    batch = batch_of(torch.arange(10).view(2, 5))
    stream = backend.embed(batch, tap)
    inside = Seeing()
    stream, _ = backend.blocks[0](stream, batch, inside, None)
    backend.unembed(stream.resid, tap)
    sites = backend.sites()
    stream_sites = ("hook_resid_pre", "hook_resid_post")  # the core's own
    listed = [site.name for site in sites if site.layers == (0,)]
    assert [listed[0], listed[-1]] == list(stream_sites)
    assert [site for site in listed if site not in stream_sites] == list(inside.seen)
    assert [site.name for site in sites if site.layers is None] == list(tap.seen)
    for site in sites:
        value = {**inside.seen, **tap.seen}.get(site.name)
        if value is not None:
            assert value.ndim == len(site.dims)
            assert all(site.sizes.get(dim, size) == size for dim, size in zip(site.dims, value.shape, strict=True))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_weights_times_activations_are_the_next_activations(name: str) -> None:
    backend, tap = filled(LAYERS[name]), Seeing()
    batch = batch_of(torch.arange(10).view(2, 5))
    stream, _ = backend.blocks[0](backend.embed(batch, IDLE), batch, tap, None)
    seen, weights = tap.seen, backend.weights()
    x, post = seen["attn.hook_in"], seen["mlp.hook_post"]
    for part in "QKV":
        product = torch.einsum("bpm,hmd->bphd", x, weights[f"blocks.0.attn.W_{part}"])
        torch.testing.assert_close(product, seen[f"attn.hook_{part.lower()}"], atol=1e-5, rtol=0)
    result = torch.einsum("bphd,hdm->bphm", seen["attn.hook_z"], weights["blocks.0.attn.W_O"])
    torch.testing.assert_close(result, seen["attn.hook_result"], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.sum(2), seen["attn.hook_out"], atol=1e-5, rtol=0)
    pre, linear = (seen["mlp.hook_in"] @ weights[f"blocks.0.mlp.W_{part}"] for part in ("gate", "in"))
    torch.testing.assert_close(pre, seen["mlp.hook_pre"], atol=1e-5, rtol=0)
    torch.testing.assert_close(linear, seen["mlp.hook_pre_linear"], atol=1e-5, rtol=0)
    torch.testing.assert_close(post @ weights["blocks.0.mlp.W_out"], seen["mlp.hook_out"], atol=1e-5, rtol=0)
    if "blocks.0.ln1.w" in weights:
        normed = seen["ln1.hook_normalized"] * weights["blocks.0.ln1.w"]
        torch.testing.assert_close(normed, x, atol=1e-5, rtol=0)
    final = Seeing()
    logits = backend.unembed(stream.resid, final)
    torch.testing.assert_close(final.seen["unembed.hook_in"] @ weights["unembed.W_U"], logits, atol=1e-5, rtol=0)


def test_parts_fit_their_protocols() -> None:
    block = filled(LAYERS["sandwich"]).blocks[0]
    assert isinstance(block, LayerModule)
    assert isinstance(block.mixer, MixerModule)
    assert isinstance(block.channel, ChannelModule)
    assert isinstance(block.ln1, NormModule)


def test_a_sandwich_with_neighbours_turned_in_part_is_glm4() -> None:
    config = {"model_type": "glm4", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 20, "head_dim": 8}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}
    theirs = reference({**config, "rms_norm_eps": 1e-5, "pad_token_id": 0, "eos_token_id": 1})
    attention = Attention(4, 2, 8, Rotary(4, interleaved=True), bias=True)
    backend = filled(*2 * (Layer(attention, MLP, NORM, NORM, NORM, NORM),))
    norms = {"ln1": "input", "ln2": "post_attention", "ln1_post": "post_self_attn", "ln2_post": "post_mlp"}
    with torch.no_grad():
        for block, layer in zip(backend.blocks, theirs.model.layers, strict=True):
            for slot, name in norms.items():
                getattr(block, slot).weight.copy_(getattr(layer, f"{name}_layernorm").weight)
            for part in "qkv":
                projection = getattr(layer.self_attn, f"{part}_proj")
                getattr(block.mixer, f"{part}_weight").copy_(projection.weight)
                getattr(block.mixer, f"{part}_bias").copy_(projection.bias)
            block.mixer.o_weight.copy_(layer.self_attn.o_proj.weight)
            gate, up = layer.mlp.gate_up_proj.weight.chunk(2)
            for part, matrix in (("gate", gate), ("in", up), ("out", layer.mlp.down_proj.weight)):
                getattr(block.channel, f"{part}_weight").copy_(matrix)
        backend.embed_weight.copy_(theirs.model.embed_tokens.weight)
        backend.ln_final.weight.copy_(theirs.model.norm.weight)
        backend.unembed_weight.copy_(theirs.lm_head.weight)
    ids = torch.arange(24).view(2, 12)
    torch.testing.assert_close(logits_of(backend, ids), reference_run(theirs, ids).logits, atol=1e-5, rtol=0)
