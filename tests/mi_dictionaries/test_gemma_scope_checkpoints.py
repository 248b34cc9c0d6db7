"""Gemma Scope 1 and 2: what is read is in folders, in configs, or in both."""

from __future__ import annotations

import numpy as np
import pytest
from dictionary_checkpoints import (
    OUT,
    D,
    F,
    activations,
    check,
    jump,
    numbers,
    parts,
    write_json,
    write_npz,
    write_safetensors,
)

import mi_dictionaries
from mi_core.errors import BadConfig, MissingTensors, UnusedTensors


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
