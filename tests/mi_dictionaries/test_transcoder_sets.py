"""Sets of transcoders, per layer and cross-layer, in circuit-tracer's, Gemma Scope 2's and OpenMOSS' layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from dictionary_checkpoints import (
    D,
    F,
    activations,
    best,
    close,
    jump,
    numbers,
    parts,
    relu,
    write_json,
    write_safetensors,
)

import mi_dictionaries
from mi_core.errors import BadConfig, CorruptCheckpoint, ModelNotFound, TensorMismatch, UnusedConfig

N = 3
CONFIG = {
    "model_kind": "transcoder_set",
    "model_name": "Qwen/Qwen3-4B",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "hook_mlp_out",
    "scan": "qwen3-4b",
}


def write_yaml(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def layer_arrays(seed, **extra):
    p = parts(seed)
    return {"W_enc": p["W_enc"].T, "W_dec": p["W_dec"], "b_enc": p["b_enc"], "b_dec": p["b_dec"], **extra}


def thresholds(seed):
    """Below zero in part: there circuit-tracer's JumpReLU lets negative features through."""
    return numbers(np.random.default_rng(seed), F, scale=0.4)


def check_set(found, x, acts, recon):
    given = torch.tensor(x).float()
    for got, wanted in zip(found.encode(given), acts, strict=True):
        assert close(got.dense(), wanted)
    assert close(found.forward(given), recon)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk-in-config", "topk-in-files"])
def test_per_layer_sets_have_every_activation_also_in_a_local_folder_where_circuit_tracer_forgets_it(
    tmp_path, kind, skips
):
    x, acts, recon = activations(1, N, 4, D), [], []
    for layer in range(N):
        extra = {"W_skip": numbers(np.random.default_rng(layer), D, D)} if skips else {}
        if kind == "jumprelu":
            extra["activation_function.threshold"] = thresholds(layer)
        if kind == "topk-in-files":
            extra["k"] = np.array(20.0)
        a = layer_arrays(layer, **extra)
        write_safetensors(tmp_path / f"layer_{layer}.safetensors", a)
        z = x[layer] @ a["W_enc"].T + a["b_enc"]
        acts.append(
            {"relu": relu(z), "jumprelu": jump(z, thresholds(layer), floor=False)}.get(kind, best(z, 20, floor=False))
        )
        recon.append(acts[-1] @ a["W_dec"] + a["b_dec"] + (x[layer] @ extra["W_skip"].T if skips else 0))
    write_yaml(tmp_path, **CONFIG, **({"activation": "topk", "k": 20} if kind == "topk-in-config" else {}))
    found = mi_dictionaries.load(tmp_path)
    assert found.reads == tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(N))
    assert found.writes == tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(N))
    assert found.about.model == "Qwen/Qwen3-4B"
    check_set(found, x, np.stack(acts), np.stack(recon))
    one = torch.tensor(x[1]).float()
    for single in (
        mi_dictionaries.load(tmp_path, layer=1),
        mi_dictionaries.load(tmp_path / "layer_1.safetensors"),
        mi_dictionaries.load(str(tmp_path / "layer_1")),
    ):
        assert close(single.forward(one), recon[1])


@pytest.mark.parametrize("jumps", [True, False])
def test_a_cross_layer_set_adds_what_every_earlier_layer_writes(tmp_path, jumps):
    x, acts = activations(2, N, 4, D), []
    recon = np.zeros((N, 4, D))
    for layer in range(N):
        p, rng = parts(layer), np.random.default_rng(layer + 50)
        arrays = {f"W_enc_{layer}": p["W_enc"].T, f"b_enc_{layer}": p["b_enc"], f"b_dec_{layer}": p["b_dec"]}
        decoder, skip = numbers(rng, F, N - layer, D), numbers(rng, D, D)
        arrays |= {f"W_skip_{layer}": skip} | ({f"threshold_{layer}": thresholds(layer)} if jumps else {})
        write_safetensors(tmp_path / f"W_enc_{layer}.safetensors", arrays)
        write_safetensors(tmp_path / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": decoder})
        z = x[layer] @ p["W_enc"] + p["b_enc"]
        acts.append(jump(z, thresholds(layer), floor=False) if jumps else relu(z))
        recon[layer] += p["b_dec"] + x[layer] @ skip  # untransposed
        for later in range(layer, N):
            recon[later] += acts[-1] @ decoder[:, later - layer]
    config = {**CONFIG, "model_kind": "cross_layer_transcoder", "feature_input_hook": "hook_resid_mid"}
    write_yaml(tmp_path, **config)
    found = mi_dictionaries.load(tmp_path)
    assert found.cross_layer
    assert found[1].writes == ("blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")
    check_set(found, x, np.stack(acts), recon)
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"W_dec_1.safetensors"):
        mi_dictionaries.load(tmp_path)
    write_safetensors(tmp_path / "W_dec_1.safetensors", {"W_dec_1": np.zeros((F, 3, D))})
    with pytest.raises(TensorMismatch, match=r"writes is 3 by .*\[24, 3, 8\] and 2 by the 3 encoders of the set"):
        mi_dictionaries.load(tmp_path)
    (tmp_path / "W_enc_1.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"the files of the layers \[1\] are missing"):
        mi_dictionaries.load(tmp_path)


@pytest.mark.parametrize("affine", [True, False])
def test_gemma_scope_2_s_cross_layer_transcoder_is_indexed_by_the_layer_it_writes_to(tmp_path, affine):
    folder = tmp_path / "google/gemma-scope-2-1b-pt/clt/width_262k_l0_medium"
    x, acts = activations(3, N, 4, D), []
    recon = np.zeros((N, 4, D))
    for layer in range(N):
        p, rng = parts(layer), np.random.default_rng(layer + 70)
        decoder = numbers(rng, F, N, D)  # slices of layers before its own hold numbers too, and are not used
        bound = np.abs(thresholds(layer))
        arrays = {"w_enc": p["W_enc"], "b_enc": p["b_enc"], "b_dec": p["b_dec"], "w_dec": decoder, "threshold": bound}
        acts.append(jump(x[layer] @ p["W_enc"] + p["b_enc"], bound))
        recon[layer] += p["b_dec"]
        if affine:
            arrays["affine_skip_connection"] = numbers(rng, D, D)
            recon[layer] += x[layer] @ arrays["affine_skip_connection"]
        for later in range(layer, N):
            recon[later] += acts[-1] @ decoder[:, later]
        write_safetensors(folder / f"params_layer_{layer}.safetensors", arrays)
    found = mi_dictionaries.load(folder)
    assert found.reads == tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(N))
    assert found.about.model == "google/gemma-3-1b-pt"
    check_set(found, x, np.stack(acts), recon)
    assert mi_dictionaries.load(folder, layer=2).writes == ("blocks.2.hook_mlp_out",)
    assert mi_dictionaries.load(folder / "params_layer_1").reads == ("blocks.1.mlp.hook_in",)
    (folder / "params_layer_1.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"the files of \[1\] are missing"):
        mi_dictionaries.load(folder)


@pytest.mark.parametrize("by_norms", [True, False])
def test_openmoss_stores_a_cross_layer_decoder_by_the_layer_that_it_writes_to(tmp_path, by_norms):
    x, rng = activations(4, N, 4, D), np.random.default_rng(4)
    encoder, bias = numbers(rng, N, D, F, scale=0.5), numbers(rng, N, F, scale=0.3)
    decoders = [numbers(rng, output + 1, F, D, scale=0.4) for output in range(N)]
    biases, log = numbers(rng, N, D), numbers(rng, N, F, scale=0.3)
    arrays = {"W_E": encoder, "b_E": bias, "activation_function.log_jumprelu_threshold": log}
    for output in range(N):
        arrays |= {f"W_D.{output}": decoders[output], f"b_D.{output}": biases[output]}
    config = {"sae_type": "clt", "d_model": D, "expansion_factor": 3, "act_fn": "jumprelu"}
    config |= {"norm_activation": "inference", "sparsity_include_decoder_norm": by_norms}
    config["hook_points_in"] = [f"blocks.{layer}.hook_resid_mid" for layer in range(N)]
    config["hook_points_out"] = [f"blocks.{layer}.hook_mlp_out" for layer in range(N)]
    write_json(tmp_path / "config.json", config)
    write_safetensors(tmp_path / "sae_weights.safetensors", arrays)
    recon, acts = biases[:, None].repeat(4, 1), []
    for layer in range(N):
        norm = np.sqrt(sum((decoders[output][layer] ** 2).sum(-1) for output in range(layer, N)))
        z = x[layer] @ encoder[layer] + bias[layer]
        judged = z * norm if by_norms else z
        acts.append(jump(judged, np.exp(log[layer])) / (norm if by_norms else 1))
        for output in range(layer, N):
            recon[output] += acts[-1] @ decoders[output][layer]
    check_set(mi_dictionaries.load(tmp_path), x, np.stack(acts), recon)
    rows = mi_dictionaries.load(tmp_path, layer=1).decoder_rows(torch.tensor([5, 2]))
    assert close(rows, np.stack([decoders[output][1][[5, 2]] for output in (1, 2)], axis=1), 1e-6)


@pytest.mark.parametrize("name", ["wandb-config.yaml", "wanb-config.yaml"])
def test_a_set_without_config_takes_the_model_from_its_repository_s_name(tmp_path, name):
    folder = tmp_path / "mwhanna/qwen3-14b-transcoders-lowl0"
    write_safetensors(folder / "layer_0.safetensors", layer_arrays(0))
    (folder / name).write_text(yaml.safe_dump({"d_model": {"value": D}}))
    found = mi_dictionaries.load(folder)
    assert (found.about.model, found.reads) == ("Qwen/Qwen3-14B", ("blocks.0.mlp.hook_in",))


@pytest.mark.parametrize("old", [True, False])
def test_a_config_may_list_its_files(tmp_path, old):
    x, acts, recon = activations(5, 2, 4, D), [], []
    names = []
    for layer in range(2):
        p = {**parts(layer), "threshold": np.abs(thresholds(layer))}
        name = f"layer_{layer}/width_16k/average_l0_7/params.npz"
        names.append(name)
        (tmp_path / name).parent.mkdir(parents=True)
        np.savez(tmp_path / name, **{key: array.astype(np.float32) for key, array in p.items()})
        acts.append(jump(x[layer] @ p["W_enc"] + p["b_enc"], p["threshold"]))
        recon.append(acts[-1] @ p["W_dec"] + p["b_dec"])
    entries = [{"id": f"x-{i}", "layer": 1 - i, "filepath": names[1 - i]} for i in range(2)] if old else names
    write_yaml(tmp_path, **{**CONFIG, "feature_input_hook": "ln2.hook_normalized", "transcoders": entries})
    found = mi_dictionaries.load(tmp_path)
    assert found.reads == ("blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized")
    check_set(found, x, np.stack(acts), np.stack(recon))
    assert mi_dictionaries.load(tmp_path, layer=1).reads == ("blocks.1.ln2.hook_normalized",)


@pytest.mark.parametrize(
    "place",
    ["../secret/params.npz", "/etc/passwd", "layer_0/../../secret/params.npz", "..\\secret\\params.npz"],
)
def test_a_config_s_list_reads_nothing_outside_its_folder(tmp_path, place):
    (tmp_path / "secret").mkdir()
    np.savez(tmp_path / "secret/params.npz", **{**parts(0), "threshold": np.ones(F)})
    write_yaml(tmp_path / "set", **{**CONFIG, "transcoders": [place]})
    (tmp_path / "set" / "layer_0").mkdir()
    with pytest.raises(CorruptCheckpoint, match="points outside the folder"):
        mi_dictionaries.load(tmp_path / "set")


@pytest.mark.parametrize(
    "place",
    ["file:///etc/passwd", "https://example.org/x.npz", "hf://../../etc", "hf://owner/../other/x.npz", "hf://owner"],
)
def test_a_config_s_list_follows_no_uri_but_the_hub_s(tmp_path, place):
    write_yaml(tmp_path, **{**CONFIG, "transcoders": [place]})
    with pytest.raises(CorruptCheckpoint, match="only hf://owner/name/path"):
        mi_dictionaries.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("!!python/object/apply:os.system ['touch ran']", "not read as YAML"),
        ("- a\n- b\n", "must hold a mapping"),
        ("model_kind: [", "not read as YAML"),
        ("x: " + "a" * (2**20), "a config has fewer than"),
    ],
)
def test_a_config_that_is_no_plain_mapping_is_refused(tmp_path, text, error):
    write_safetensors(tmp_path / "layer_0.safetensors", layer_arrays(0))
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(BadConfig, match=error):
        mi_dictionaries.load(tmp_path)


def test_contradictions_of_a_set_are_refused_with_both_values(tmp_path):
    write_safetensors(tmp_path / "layer_0.safetensors", layer_arrays(0, k=np.array(4.0)))
    write_yaml(tmp_path, **CONFIG, k=5)
    with pytest.raises(BadConfig, match=r"k is 4 by the tensor 'k' and 5 by config.yaml"):
        mi_dictionaries.load(tmp_path)
    write_yaml(tmp_path, **CONFIG, activation="relu")
    with pytest.raises(BadConfig, match="'activation' is 'relu', k is 4"):
        mi_dictionaries.load(tmp_path)
    write_yaml(tmp_path, **CONFIG, surprise=1)
    with pytest.raises(UnusedConfig, match="surprise = 1"):
        mi_dictionaries.load(tmp_path)
    write_yaml(tmp_path, **{**CONFIG, "transcoders": "layer_0"})
    with pytest.raises(BadConfig, match="a list with one entry per layer"):
        mi_dictionaries.load(tmp_path)
    write_yaml(tmp_path, **{**CONFIG, "transcoders": [{"layer": 0, "filepath": "a"}, {"layer": 0, "filepath": "b"}]})
    with pytest.raises(BadConfig, match="lists layer 0 twice"):
        mi_dictionaries.load(tmp_path)
    write_yaml(tmp_path, **CONFIG)
    with pytest.raises(ModelNotFound, match=r"no layer 7; it has \[0\]"):
        mi_dictionaries.load(tmp_path, layer=7)
