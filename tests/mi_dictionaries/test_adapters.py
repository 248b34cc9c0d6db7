"""Dictionaries of processed models, on the model as it was published."""

from __future__ import annotations

import pytest
import torch

import mi_core as mi
import mi_dictionaries as md
from mi_core.building import initialise_randomly
from mi_core.errors import BadConfig
from mi_dictionaries.adapters import CENTRED, FOLDED, folded_value_bias, transforms_for

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 31,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "n_inner": 24,
}


@pytest.fixture(scope="module")
def model():
    made = mi.build(GPT2, device="cpu")
    initialise_randomly(made, 5)
    return made


def dictionary(point, d=16, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(d, 40, generator=draw)
    fields = {
        "W_enc": weights,
        "b_enc": torch.zeros(40),
        "W_dec": torch.randn(40, d, generator=draw),
        "b_dec": weights[:, 0],
    }
    return md.SparseDictionary(reads=(point,), **{**fields, **changes})


def test_the_constant_of_folded_value_biases_is_what_values_without_them_lack(model):
    ids = torch.arange(12)[None] % 31
    points = ("blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "blocks.1.ln1.hook_normalized")
    run = model.run(ids, mi.capture(list(points)))
    z, pattern, normalized = (run[point] for point in points)
    # values of the model with the norm folded into the weights and the value biases into the output's bias
    folded = model.weights["blocks.1.ln1.w"][None, :, None] * model.weights["blocks.1.attn.W_V"]
    values = torch.einsum("bkd,hde->bkhe", normalized, folded)
    processed = torch.einsum("bhqk,bkhe->bqhe", pattern, values)
    offset = folded_value_bias(model, points[0])
    torch.testing.assert_close(z.flatten(-2) - offset, processed.flatten(-2), rtol=1e-5, atol=1e-5)
    plain = dictionary(points[0], heads=True)
    found = md.adapted(plain, model)
    torch.testing.assert_close(found.encode(z).dense(), plain.encode(processed).dense(), rtol=1e-4, atol=1e-4)
    back = plain.decode(plain.encode(processed)).flatten(-2) + offset
    torch.testing.assert_close(found.forward(z).flatten(-2), back, rtol=1e-4, atol=1e-4)
    assert "folded value biases" in found.about.conventions[-1]


def test_the_stream_of_a_model_with_centred_writing_weights_is_the_stream_without_its_mean(model):
    plain = dictionary("blocks.1.hook_resid_pre")
    found, x = md.adapted(plain, model), torch.randn(3, 16) + 2
    centred = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(found.encode(x).dense(), plain.encode(centred).dense())
    torch.testing.assert_close(found.forward(x), plain.forward(centred) + x.mean(-1, keepdim=True))
    with pytest.raises(BadConfig, match="adapted already"):
        md.adapted(found, model)
    with pytest.raises(BadConfig, match=r"'fold_ln'.* has no adapter"):
        md.adapted(plain, model, ["fold_ln"])


def test_an_adapter_is_written_with_the_dictionary(model, tmp_path):
    found = md.adapted(dictionary("blocks.1.attn.hook_z", heads=True), model)
    md.save(found, tmp_path)
    x = torch.randn(3, 4, 4)
    assert torch.equal(md.load(tmp_path).forward(x), found.forward(x))


@pytest.mark.parametrize(
    ("reads", "writes", "kinds", "said"),
    [
        ("blocks.0.hook_resid_mid", "blocks.0.hook_resid_mid", ["Centred"], "centred writing weights: the mean"),
        ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out", [], "what it writes has no mean over the width"),
        ("blocks.0.attn.hook_z", "blocks.0.attn.hook_z", [], "mi_dictionaries.adapted(dictionary, model)"),
        ("blocks.0.mlp.hook_post", "blocks.0.mlp.hook_post", [], ""),
    ],
)
def test_each_place_gets_the_adapter_that_it_needs_or_a_sentence(reads, writes, kinds, said):
    found, sentences = transforms_for((CENTRED, FOLDED), reads, writes)
    assert [type(transform).__name__ for transform in found] == kinds
    assert said in " ".join(sentences)
    assert bool(sentences) == bool(said)
