"""Formats of one file each, and the temporal layout."""

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
    linear,
    numbers,
    parts,
    relu,
    tensors,
    write_json,
    write_safetensors,
    write_torch,
)

import mi_dictionaries
from mi_core.errors import BadConfig


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
