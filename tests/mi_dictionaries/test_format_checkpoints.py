"""The other formats with one dictionary in a folder or file, against formulas written apart."""

from __future__ import annotations

import gzip
import pickle
import sys
import types

import numpy as np
import pytest
import torch
import yaml
from dictionary_checkpoints import (
    OUT,
    D,
    F,
    activations,
    best,
    check,
    jump,
    numbers,
    parts,
    relu,
    tensors,
    write_json,
    write_safetensors,
)

import mi_dictionaries
from mi_core.errors import BadConfig, MissingTensors, TensorMismatch, UnknownFormat, UnusedTensors


def write_npz(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})


def write_torch(path, arrays, dtype=torch.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        tensors(arrays, dtype) | {"k": torch.tensor(int(arrays["k"]))} if "k" in arrays else tensors(arrays, dtype),
        path,
    )


def linear(p):
    return {
        "encoder.weight": p["W_enc"].T,
        "encoder.bias": p["b_enc"],
        "decoder.weight": p["W_dec"].T,
        "decoder.bias": p["b_dec"],
    }


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    ("kind", "reads", "writes"),
    [
        ("res", "blocks.7.hook_resid_post", "blocks.7.hook_resid_post"),
        ("mlp", "blocks.7.hook_mlp_out", "blocks.7.hook_mlp_out"),
        ("transcoders", "blocks.7.ln2.hook_normalized", "blocks.7.hook_mlp_out"),
    ],
)
def test_gemma_scope_says_by_its_folders_what_it_reads(tmp_path, kind, reads, writes, lower):
    p, x = parts(1), activations(1)
    threshold = np.abs(numbers(np.random.default_rng(1), F))
    folder = tmp_path / f"google/gemma-scope-9b-it-{kind}" / "layer_7/width_16k/average_l0_30"
    arrays = {**p, "threshold": threshold}
    write_npz(folder / "params.npz", {name.lower() if lower else name: array for name, array in arrays.items()})
    acts = jump(x @ p["W_enc"] + p["b_enc"], threshold)
    for ref in (folder, folder / "params.npz", tmp_path):  # a folder that holds nothing but one other is that one
        found = mi_dictionaries.load(ref)
        assert (found.site_in, found.site_out, found.about.model) == (reads, writes, "google/gemma-2-9b-it")
        check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


def test_gemma_scope_at_heads_and_at_the_embedding(tmp_path):
    p, threshold = parts(2), np.abs(numbers(np.random.default_rng(2), F))
    att = tmp_path / "gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_30"
    write_npz(att / "params.npz", {**p, "threshold": threshold})
    x = activations(2, 3, 2, D // 2)
    acts = jump(x.reshape(3, D) @ p["W_enc"] + p["b_enc"], threshold)
    check(mi_dictionaries.load(att), x, acts, (acts @ p["W_dec"] + p["b_dec"]).reshape(x.shape))
    embedding = tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_30"
    write_npz(embedding / "params.npz", {**p, "threshold": threshold})
    x = activations(2)
    acts = jump(x @ (p["W_enc"] / D**0.5) + p["b_enc"], threshold)
    found = mi_dictionaries.load(embedding)
    assert found.reads == ("hook_embed",)
    check(found, x, acts, acts @ (p["W_dec"] * D**0.5) + p["b_dec"])


def test_gemma_scope_without_its_folders_is_refused_as_nothing_else_says_what_it_reads(tmp_path):
    write_npz(tmp_path / "a/params.npz", {**parts(3), "threshold": np.ones(F)})
    with pytest.raises(BadConfig, match="no folder above it is called 'layer_N'"):
        mi_dictionaries.load(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "layer_2")
    with pytest.raises(BadConfig, match="'gemma-scope-"):
        mi_dictionaries.load(tmp_path / "layer_2")


AROUND_THE_MLP = ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output")


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("kind", "reads", "writes", "modules", "affine"),
    [
        ("resid_post", "hook_resid_post", "hook_resid_post", ("output", None), False),
        ("mlp_out_all", "hook_mlp_out", "hook_mlp_out", ("post_feedforward_layernorm.output", None), False),
        # not hook_mlp_in, to which SAELens binds transcoders: the file says behind the norm
        ("transcoder_all", "mlp.hook_in", "hook_mlp_out", AROUND_THE_MLP, False),
        ("transcoder", "mlp.hook_in", "hook_mlp_out", AROUND_THE_MLP, True),
    ],
)
def test_gemma_scope_2_trusts_the_modules_of_its_config_or_its_folders(
    tmp_path, kind, reads, writes, modules, affine, with_config
):
    transcodes = reads != writes
    p, x, rng = parts(4, out=OUT if transcodes else None), activations(4), np.random.default_rng(4)
    arrays = {"threshold": np.abs(numbers(rng, F)), **{name.lower(): array for name, array in p.items()}}
    name = f"layer_11_width_16k_l0_small{'_affine' if affine else ''}"
    folder = tmp_path / "google/gemma-scope-2-270m-pt" / kind / name
    acts = jump(x @ p["W_enc"] + p["b_enc"], arrays["threshold"])
    recon = acts @ p["W_dec"] + p["b_dec"]
    if affine:
        arrays["affine_skip_connection"] = numbers(rng, D, OUT)
        recon = recon + x @ arrays["affine_skip_connection"]
    write_safetensors(folder / "params.safetensors", arrays)
    if with_config:
        config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "affine_connection": affine}
        sides = zip(("in", "out"), modules, strict=True)
        config |= {f"hf_hook_point_{side}": f"model.layers.11.{module}" for side, module in sides if module}
        write_json(folder / "config.json", config)
    found = mi_dictionaries.load(folder)
    assert (found.site_in, found.site_out) == (f"blocks.11.{reads}", f"blocks.11.{writes}")
    assert found.about.model == "google/gemma-3-270m"
    check(found, x, acts, recon)


def test_gemma_scope_2_with_two_layers_or_an_affine_connection_that_is_not_there_is_refused(tmp_path):
    folder = tmp_path / "gemma-scope-2-1b-pt/resid_post/layer_3_width_16k_l0_big"
    arrays = {"threshold": np.ones(F), **{name.lower(): array for name, array in parts(5).items()}}
    write_safetensors(folder / "params.safetensors", arrays)
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": "model.layers.4.output"}
    write_json(folder / "config.json", config)
    with pytest.raises(BadConfig, match="the layer is 3 by the folder's name and 4 by hf_hook_point_in"):
        mi_dictionaries.load(folder)
    config |= {"hf_hook_point_in": "model.layers.3.output", "affine_connection": True}
    write_json(folder / "config.json", config)
    with pytest.raises(
        BadConfig, match="an affine connection is True by the config or folder and False by the tensors"
    ):
        mi_dictionaries.load(folder)


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
    write_json(tmp_path / "layers.0/cfg.json", {"k": 4, "d_in": D, "skip_connection": True})
    with pytest.raises(BadConfig, match=r"a skip connection is True by cfg.json and False by the tensors"):
        mi_dictionaries.load(tmp_path / "layers.0")


HYPERPARAMS = {
    "d_model": D,
    "d_sae": F,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.6,
    "use_decoder_bias": True,
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "expansion_factor": 3,
    "top_k": 5,
}


@pytest.mark.parametrize("transcodes", [True, False])
@pytest.mark.parametrize("kind", ["jumprelu", "topk", "relu"])
def test_llama_scope_gives_features_in_either_unit_and_one_reconstruction(tmp_path, transcodes, kind):
    p, x = parts(10, out=OUT if transcodes else None), activations(10)
    norm_in, norm_out = 3.7, 2.9 if transcodes else 3.7
    scale_in, scale_out = D**0.5 / norm_in, (OUT if transcodes else D) ** 0.5 / norm_out
    place = "blocks.5.mlp.hook_in" if transcodes else "blocks.5.hook_resid_post"
    out = "blocks.5.hook_mlp_out" if transcodes else place
    config = {**HYPERPARAMS, "hook_point_in": place, "hook_point_out": out, "act_fn": kind}
    config["dataset_average_activation_norm"] = {"in": norm_in, "out": norm_out}
    write_json(tmp_path / "L5/hyperparams.json", config)
    write_safetensors(tmp_path / "L5/checkpoints/final.safetensors", linear(p))
    z = x @ p["W_enc"] * scale_in + p["b_enc"]  # SAELens': on scaled activations
    acts = {"jumprelu": jump(z, 0.6 * scale_in), "topk": best(z, 5), "relu": relu(z)}[kind]
    recon = (acts @ p["W_dec"] + p["b_dec"]) / scale_out
    check(mi_dictionaries.load(tmp_path / "L5"), x, acts, recon)
    check(mi_dictionaries.load(tmp_path / "L5", feature_units="native"), x, acts / scale_in, recon)
    with pytest.raises(BadConfig, match="feature_units='other'"):
        mi_dictionaries.load(tmp_path / "L5", feature_units="other")


def test_llama_scope_r1_has_a_threshold_for_each_feature_that_is_not_scaled(tmp_path):
    p, x = parts(11), activations(11)
    log = numbers(np.random.default_rng(11), F, scale=0.3)
    config = {**HYPERPARAMS, "hook_point_in": "blocks.5.hook_resid_post", "hook_point_out": "blocks.5.hook_resid_post"}
    del config["jump_relu_threshold"], config["d_sae"]
    config["dataset_average_activation_norm"] = {"in": 3.7, "out": 3.7}
    write_json(tmp_path / "config.json", config)
    write_safetensors(tmp_path / "sae_weights.safetensors", {**linear(p), "log_jumprelu_threshold": log})
    scale = D**0.5 / 3.7
    z = x @ p["W_enc"] * scale + p["b_enc"]
    acts = jump(z, np.exp(log))
    check(mi_dictionaries.load(tmp_path), x, acts, (acts @ p["W_dec"] + p["b_dec"]) / scale)
    acts = jump(z / scale, np.exp(log))
    recon = acts @ p["W_dec"] + p["b_dec"] / scale
    check(mi_dictionaries.load(tmp_path, feature_units="native"), x, acts, recon)


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("by_norms", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_openmoss_chooses_features_by_what_they_add(tmp_path, kind, by_norms, scaled):
    p, x = parts(12, out=OUT), activations(12)
    log = numbers(np.random.default_rng(12), F, scale=0.3)
    scale_in, scale_out = (D**0.5 / 2.5, OUT**0.5 / 3.5) if scaled else (1.0, 1.0)
    reads, writes = "blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": 3, "act_fn": kind, "top_k": 5}
    config |= {"hook_point_in": reads, "hook_point_out": writes, "sparsity_include_decoder_norm": by_norms}
    config["norm_activation"] = "dataset-wise" if scaled else "inference"
    config["dataset_average_activation_norm"] = {reads: 2.5, writes: 3.5}
    arrays = {"W_E": p["W_enc"], "b_E": p["b_enc"], "W_D": p["W_dec"], "b_D": p["b_dec"]}
    extra = {"activation_function.log_jumprelu_threshold": log} if kind == "jumprelu" else {}
    write_json(tmp_path / "config.json", config)
    write_safetensors(tmp_path / "sae_weights.safetensors", arrays | extra)
    norms = np.linalg.norm(p["W_dec"], axis=-1) if by_norms else np.ones(F)
    z = x @ p["W_enc"] + p["b_enc"] / scale_in
    judged = z * norms
    chosen = {"relu": relu(judged), "jumprelu": jump(judged, np.exp(log)), "topk": best(judged, 5)}[kind]
    acts = chosen / norms
    recon = (acts * scale_in) @ p["W_dec"] / scale_out + p["b_dec"] / scale_out
    check(mi_dictionaries.load(tmp_path), x, chosen if kind == "topk" else acts, recon)


def test_openmoss_kinds_that_are_not_known_are_refused(tmp_path):
    write_safetensors(tmp_path / "sae_weights.safetensors", {"W_E": parts(13)["W_enc"], "W_D": parts(13)["W_dec"]})
    config = {"sae_type": "lorsa", "hook_point_in": "blocks.0.hook_resid_pre"}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(BadConfig, match="'lorsa'"):
        mi_dictionaries.load(tmp_path)
    write_json(tmp_path / "config.json", {**config, "sae_type": "sae", "act_fn": "jumprelu"})
    with pytest.raises(BadConfig, match="the weights lack"):
        mi_dictionaries.load(tmp_path)
    write_json(tmp_path / "config.json", {**config, "sae_type": "sae", "act_fn": "batchtopk"})
    with pytest.raises(BadConfig, match="Export it first"):
        mi_dictionaries.load(tmp_path)


def test_qwen_scope_takes_k_and_the_model_from_its_repository_s_name(tmp_path):
    p, x = parts(14), activations(14)
    arrays = {**p, "W_enc": p["W_enc"].T, "W_dec": p["W_dec"].T}
    folder = tmp_path / "SAE-Res-Qwen3-8B-Base-W32K-L0_5"
    for layer in (2, 11):
        write_torch(folder / f"layer{layer}.sae.pt", arrays)
    acts = best(x @ p["W_enc"] + p["b_enc"], 5)
    for found in (mi_dictionaries.load(folder / "layer11.sae.pt"), mi_dictionaries.load(folder, layer=11)):
        assert (found.reads, found.about.model) == (("blocks.11.hook_resid_post",), "Qwen/Qwen3-8B-Base")
        assert found.about.warnings == ("the repository's name says 32K features, the tensors have 24",)
        check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])
    write_torch(tmp_path / "elsewhere/layer2.sae.pt", arrays)
    with pytest.raises(BadConfig, match=r"Pass k= \(1 to 24\)"):
        mi_dictionaries.load(tmp_path / "elsewhere")
    assert mi_dictionaries.load(tmp_path / "elsewhere", k=3).activation.k == 3


@pytest.mark.parametrize(
    ("name", "keys", "dtype", "model"),
    [
        ("Llama-3.3-70B-Instruct-SAE-l50.pt", ("encoder_linear", "decoder_linear"), torch.float32, "meta-llama/"),
        ("Llama-3.1-8B-Instruct-SAE-l19.pth", ("encoder_linear", "decoder_linear"), torch.float32, "meta-llama/"),
        ("DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", ("encoder", "decoder"), torch.bfloat16, "deepseek-ai/"),
    ],
)
def test_pairs_of_linear_layers_are_found_by_their_file_s_name(tmp_path, name, keys, dtype, model):
    p, x = parts(15), activations(15)
    p = {key: torch.tensor(array).to(dtype).double().numpy() for key, array in p.items()}
    renamed = {key.replace("encoder", keys[0]).replace("decoder", keys[1]): array for key, array in linear(p).items()}
    write_torch(tmp_path / name, renamed, dtype)
    acts = relu(x @ p["W_enc"] + p["b_enc"])
    for ref in (tmp_path / name, tmp_path):
        found = mi_dictionaries.load(ref)
        assert found.reads == (f"blocks.{name.rpartition('l')[2].partition('.')[0]}.hook_resid_post",)
        assert found.about.model.startswith(model)
        check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


def test_attention_autoencoders_are_named_by_the_config_beside_them(tmp_path):
    p, x = parts(16), activations(16, 3, 2, D // 2)
    name = "gpt2-small_L3_Hcat_z_lr1.20e-03_l11.00e+00_ds24"
    write_torch(tmp_path / f"{name}.pt", p)
    write_json(tmp_path / f"{name}_cfg.json", {"act_size": D, "dict_size": F, "act_name": "blocks.3.attn.hook_z"})
    acts = relu((x.reshape(3, D) - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    found = mi_dictionaries.load(tmp_path / f"{name}.pt")
    assert found.reads == ("blocks.3.attn.hook_z",)
    check(found, x, acts, (acts @ p["W_dec"] + p["b_dec"]).reshape(x.shape))


def cfg_object(values):
    """An object of the training library's class, which is not installed here."""
    module = types.ModuleType("sae_training.config")
    kind = type("LanguageModelSAERunnerConfig", (), {"__module__": "sae_training.config"})
    module.LanguageModelSAERunnerConfig = kind
    made = kind()
    vars(made).update(values)
    return module, made


@pytest.mark.parametrize("ending", ["pt", "pkl.gz"])
@pytest.mark.parametrize("as_object", [True, False])
def test_dunefsky_s_transcoders_subtract_one_bias_and_add_another(tmp_path, monkeypatch, ending, as_object):
    p, x, rng = parts(17, out=OUT), activations(17), np.random.default_rng(17)
    bias = numbers(rng, D)
    values = {"hook_point": "blocks.8.ln2.hook_normalized", "out_hook_point": "blocks.8.hook_mlp_out", "d_in": D}
    values |= {"model_name": "gpt2-small", "is_transcoder": True, "dtype": torch.float32, "device": torch.device("cpu")}
    module, made = cfg_object(values)
    monkeypatch.setitem(sys.modules, "sae_training", types.ModuleType("sae_training"))
    monkeypatch.setitem(sys.modules, "sae_training.config", module)
    state = tensors({**p, "b_dec_out": p["b_dec"], "b_dec": bias})
    whole = {"cfg": made if as_object else values, "state_dict": state}
    path = tmp_path / f"gpt2-small_blocks.8_final.{ending}"
    if ending == "pt":
        torch.save(whole, path)
    else:
        path.write_bytes(gzip.compress(pickle.dumps(whole)))
    monkeypatch.delitem(sys.modules, "sae_training.config")
    acts = relu((x - bias) @ p["W_enc"] + p["b_enc"])
    found = mi_dictionaries.load(path)
    assert (found.site_in, found.site_out) == ("blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out")
    check(found, x, acts, acts @ p["W_dec"] + p["b_dec"])


@pytest.mark.parametrize("tied", [True, False])
def test_temporal_autoencoders_are_read_from_their_own_layout(tmp_path, tied):
    from mi_dictionaries.formats import temporal

    assert temporal.CONFIG == "conf.yaml"
    rng = np.random.default_rng(18)
    p = parts(18)
    layer = {}
    for name, out in (("k_ctx", 4), ("q_target", 4), ("v_ctx", F), ("c_proj", F)):
        layer[f"{name}.weight"], layer[f"{name}.bias"] = numbers(rng, out, F), numbers(rng, out, scale=0.1)
    folder = tmp_path / "layer_12/temporal"
    arrays = {"D": p["W_dec"], "b": p["b_dec"], **({} if tied else {"E": p["W_enc"]})}
    write_safetensors(
        folder / "latest_ckpt.safetensors",
        arrays | {f"attn_layers.0.{name}": array for name, array in layer.items()},
    )
    sae = {"bottleneck_factor": 6, "exp_factor": 3, "kval_topk": 3, "n_attn_layers": 1, "n_heads": 2}
    sae |= {"sae_diff_type": "topk", "scaling_factor": 0.5, "tied_weights": tied}
    whole = {"llm": {"dimin": D, "name": "google/gemma-2-2b"}, "sae": sae, "data": {"dtype": "float32"}}
    (folder / "conf.yaml").write_text(yaml.safe_dump(whole))
    found = mi_dictionaries.load(folder)
    config = {"n_heads": 2, "n_attn_layers": 1, "bottleneck_factor": 6, "sae_diff_type": "topk", "kval_topk": 3}
    config |= {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0.5}
    config |= {"tied_weights": tied, "architecture": "temporal", "apply_b_dec_to_input": True}
    write_json(tmp_path / "same/cfg.json", {**config, "metadata": {"hook_name": "blocks.12.hook_resid_post"}})
    names = {"D": "W_dec", "b": "b_dec", "E": "W_enc"}
    write_safetensors(
        tmp_path / "same/sae_weights.safetensors",
        {names[key]: array for key, array in arrays.items()}
        | {f"attn_layers.0.{name}": array for name, array in layer.items()},
    )
    same = mi_dictionaries.load(tmp_path / "same")  # SAELens' layout, which has formulas of its own in another file
    x = torch.tensor(activations(18, 2, 5, D)).float()
    assert found.reads == same.reads == ("blocks.12.hook_resid_post",)
    assert torch.equal(found.encode(x).dense(), same.encode(x).dense())
    assert torch.equal(found.forward(x), same.forward(x))


def test_files_that_lack_a_tensor_or_have_one_too_many_are_refused_by_name(tmp_path):
    p = {**parts(19), "threshold": np.ones(F)}
    folder = tmp_path / "gemma-scope-2-1b-pt/resid_post/layer_3_width_16k_l0_big"
    arrays = {name.lower(): array for name, array in p.items()}
    write_safetensors(folder / "params.safetensors", arrays | {"w_extra": np.ones(3)})
    with pytest.raises(UnusedTensors, match=r"w_extra \[3\]"):
        mi_dictionaries.load(folder)
    del arrays["b_enc"]
    write_safetensors(folder / "params.safetensors", arrays)
    with pytest.raises(MissingTensors, match="no tensor 'b_enc'"):
        mi_dictionaries.load(folder)
