"""Llama Scope and OpenMOSS: scaled activations, units of features, decoder norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dictionary_checkpoints import (
    OUT,
    D,
    F,
    activations,
    best,
    check,
    close,
    jump,
    linear,
    numbers,
    parts,
    relu,
    write_json,
    write_safetensors,
)

import mi_dictionaries
from mi_core.errors import BadConfig

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
    found = mi_dictionaries.load(tmp_path / "L5")
    check(found, x, acts, recon)
    some = torch.tensor([3, 11])  # rows in the units of the features
    assert close(found.encoder_rows(some), p["W_enc"].T[some] * scale_in, 1e-6)
    assert close(found.decoder_rows(some), p["W_dec"][some] / scale_out, 1e-6)
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
