"""dictionary_learning and sparsify: what is centred and what chooses features depends on class and config."""

from __future__ import annotations

import numpy as np
import pytest
from dictionary_checkpoints import (
    D,
    F,
    activations,
    best,
    check,
    jump,
    linear,
    numbers,
    parts,
    relu,
    write_json,
    write_safetensors,
    write_torch,
)

import mi_dictionaries
from mi_core.errors import BadConfig, TensorMismatch, UnknownFormat


def dictionary_learning(seed, name):
    p, rng = parts(seed), np.random.default_rng(seed)
    pair = {key: array for key, array in linear(p).items() if key != "decoder.bias"}
    own = {"W_enc": p["W_enc"], "W_dec": p["W_dec"], "b_enc": p["b_enc"], "b_dec": p["b_dec"]}
    gate = {key: numbers(rng, F, scale=0.3) for key in ("gate_bias", "mag_bias", "r_mag")}
    bound = np.abs(numbers(rng, F, scale=0.5))

    def z(x, centred=True):
        return (x - p["b_dec"] if centred else x) @ p["W_enc"] + p["b_enc"]

    def gated(x):
        u = (x - p["b_dec"]) @ p["W_enc"]
        return np.where(u + gate["gate_bias"] > 0, relu(np.exp(gate["r_mag"]) * u + gate["mag_bias"]), 0)

    no_bias = {key: array for key, array in pair.items() if key != "encoder.bias"}
    stored, formula = {
        "AutoEncoder": ({**pair, "bias": p["b_dec"]}, lambda x: relu(z(x))),
        "AutoEncoderNew": ({**pair, "decoder.bias": p["b_dec"]}, lambda x: relu(z(x, False))),
        "GatedAutoEncoder": ({**no_bias, "decoder_bias": p["b_dec"], **gate}, gated),
        "JumpReluAutoEncoder": ({**own, "threshold": bound}, lambda x: jump(z(x, False), bound)),
        "AutoEncoderTopK": (
            {**pair, "b_dec": p["b_dec"], "k": np.array(4), "threshold": np.array(9.0)},
            lambda x: best(z(x), 4),
        ),
        "BatchTopKSAE": (
            {**pair, "b_dec": p["b_dec"], "k": np.array(4), "threshold": np.array(0.7)},
            lambda x: jump(z(x), 0.7),
        ),
        "MatryoshkaBatchTopKSAE": (
            {**own, "k": np.array(4), "threshold": np.array(0.7), "group_sizes": np.array([8.0, 16.0])},
            lambda x: jump(z(x), 0.7),
        ),
    }[name]
    return stored, formula, p


CLASSES = [
    "AutoEncoder",
    pytest.param("AutoEncoderNew", id="AutoEncoderNew-which-SAELens-cannot-load"),
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
]


@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_is_computed_by_its_class_with_the_stored_numbers(tmp_path, name):
    stored, formula, p = dictionary_learning(6, name)
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "layer": 4, "lm_name": "EleutherAI/pythia-70m"}
    trainer |= {"submodule_name": "resid_post_layer_4", "lr": 1e-3}
    write_json(tmp_path / "trainer_0/config.json", {"trainer": trainer, "buffer": {"ctx_len": 128, "io": "out"}})
    write_torch(tmp_path / "trainer_0/ae.pt", stored)
    write_torch(tmp_path / "trainer_0/checkpoints/ae_100.pt", stored)
    x = activations(6)
    for ref in (tmp_path / "trainer_0", tmp_path / "trainer_0/checkpoints/ae_100.pt"):
        found = mi_dictionaries.load(ref)
        assert found.reads == ("blocks.4.hook_resid_post",)
        check(found, x, formula(x), formula(x) @ p["W_dec"] + p["b_dec"], 1e-4 if name == "GatedAutoEncoder" else 1e-5)


@pytest.mark.parametrize(
    ("module", "io", "site"),
    [
        ("mlp_layer_2", "out", "mlp.hook_out"),
        ("attn_layer_2", "out", "attn.hook_out"),
        ("resid_pre_layer_2", "out", "hook_resid_pre"),
        (None, "out", "hook_resid_post"),
    ],
)
def test_dictionary_learning_reads_the_submodule_that_its_config_names(tmp_path, module, io, site):
    stored, _, _ = dictionary_learning(7, "AutoEncoder")
    trainer = {"dict_class": "AutoEncoder", "layer": 2, "submodule_name": module}
    write_json(tmp_path / "config.json", {"trainer": trainer, "buffer": {"io": io}})
    write_torch(tmp_path / "ae.pt", stored)
    assert mi_dictionaries.load(tmp_path).reads == (f"blocks.2.{site}",)
    write_json(tmp_path / "config.json", {"trainer": {**trainer, "submodule_name": "mlp_layer_3"}})
    with pytest.raises(BadConfig, match=r"the layer is 'mlp_layer_3' by submodule_name and 2 by layer"):
        mi_dictionaries.load(tmp_path)


def test_dictionary_learning_with_a_k_or_width_that_is_not_the_file_s_is_refused(tmp_path):
    stored, _, _ = dictionary_learning(8, "AutoEncoderTopK")
    trainer = {"dict_class": "AutoEncoderTopK", "layer": 1, "k": 7}
    write_json(tmp_path / "config.json", {"trainer": trainer})
    write_torch(tmp_path / "ae.pt", stored)
    with pytest.raises(BadConfig, match=r"k is 4 by the tensor 'k' and 7 by config.json"):
        mi_dictionaries.load(tmp_path)
    write_json(tmp_path / "config.json", {"trainer": {**trainer, "k": 4, "dict_size": 12}})
    with pytest.raises(TensorMismatch, match=r"24 by .* and 12 by config.json's dict_size"):
        mi_dictionaries.load(tmp_path)
    write_json(tmp_path / "config.json", {"trainer": {**trainer, "dict_class": "Other"}})
    with pytest.raises(BadConfig, match="'Other'"):
        mi_dictionaries.load(tmp_path)


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("transcodes", [True, False])
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("normalizes", [True, False])
def test_sparsify_centres_unless_it_transcodes_whatever_else_its_config_says(
    tmp_path, groups, transcodes, skips, normalizes
):
    p, x, rng = parts(9), activations(9), np.random.default_rng(9)
    z = relu((x if transcodes else x - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    if groups:  # six groups of four, the largest of each
        acts = np.zeros_like(z)
        for place in np.ndindex(*z.shape[:-1]):
            for group in range(6):
                chosen = group * 4 + int(np.argmax(z[place][group * 4 : group * 4 + 4]))
                acts[place][chosen] = z[place][chosen]
    else:
        acts = best(z, 6)
    skip = numbers(rng, D, D)
    config = {
        "activation": "groupmax" if groups else "topk",
        "expansion_factor": 3,
        "num_latents": 0,
        "k": 6,
        "d_in": D,
    }
    config |= {"normalize_decoder": normalizes, "multi_topk": False, "skip_connection": skips, "transcode": transcodes}
    arrays = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    write_json(tmp_path / "config.json", {"model": "EleutherAI/pythia-70m"})
    write_json(tmp_path / "layers.3.mlp/cfg.json", config)
    write_safetensors(tmp_path / "layers.3.mlp/sae.safetensors", arrays | ({"W_skip": skip} if skips else {}))
    for ref in (tmp_path, tmp_path / "layers.3.mlp"):
        found = mi_dictionaries.load(ref)
        assert found.site_in == ("blocks.3.mlp.hook_in" if transcodes else "blocks.3.mlp.hook_out")
        assert (found.site_out, found.about.model) == ("blocks.3.mlp.hook_out", "EleutherAI/pythia-70m")
        check(found, x, acts, acts @ p["W_dec"] + p["b_dec"] + (x @ skip.T if skips else 0))


def test_sparsify_s_root_folder_is_a_set_of_its_layers(tmp_path):
    for layer in (0, 1, 10):
        p = parts(layer)
        arrays = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
        write_json(tmp_path / f"layers.{layer}/cfg.json", {"k": 4, "d_in": D, "num_latents": F})
        write_safetensors(tmp_path / f"layers.{layer}/sae.safetensors", arrays)
    found = mi_dictionaries.load(tmp_path)
    assert list(found) == [0, 1, 10]
    assert mi_dictionaries.load(tmp_path, layer=10).reads == ("blocks.10.hook_resid_post",)
    (tmp_path / "layers.10").rename(tmp_path / "layers.1.mlp")
    with pytest.raises(UnknownFormat, match=r"layers.1.mlp.*Give the folder of one"):
        mi_dictionaries.load(tmp_path)
    arrays |= {"post_enc": np.ones(F), "W_decs.1": np.ones((F, D))}
    write_safetensors(tmp_path / "layers.1.mlp/sae.safetensors", arrays)
    with pytest.raises(BadConfig, match=r"W_decs.1, post_enc: sparsify's fork"):
        mi_dictionaries.load(tmp_path / "layers.1.mlp")
    write_json(tmp_path / "layers.0/cfg.json", {"k": 4, "d_in": D, "skip_connection": True})
    with pytest.raises(BadConfig, match=r"a skip connection is True by cfg.json and False by the tensors"):
        mi_dictionaries.load(tmp_path / "layers.0")
