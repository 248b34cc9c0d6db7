"""Checkpoints that other libraries wrote, against what those libraries compute (the folder is MI_FIXTURES)."""

from __future__ import annotations

import json

import pytest
import torch
from reference_data import reference_folder
from safetensors.torch import load_file
from torch import Tensor

import mi_dictionaries

SAES = {
    "dictlearn_AutoEncoder": "",
    "dictlearn_AutoEncoderTopK": "",
    "dictlearn_BatchTopKSAE": "",
    "gemma_scope2_res": "",
    "gemma_scope_res": "",
    "gemma_scope_transcoder": "",
    "goodfire": "",
    "llama_scope": "",
    "qwen_scope": "",
    "sparsify_sae": "which SAELens and sparsify's own export cannot load",
    "sparsify_skip_transcoder": "which SAELens and sparsify's own export cannot load",
    "train_batchtopk": "",
    "v3_hook_point_keys": "",
    "v5_standard": "",
    "v5_tanh_relu": "which SAELens 6 computes without the tanh",
    "v5_topk": "",
    "v6_gated_bdec1": "",
    "v6_jumprelu_bdec0": "",
    "v6_skip_transcoder": "whose skip connection SAELens leaves out when it splices",
    "v6_standard_bdec1": "",
    "v6_standard_bf16": "",
    "v6_standard_hook_z": "",
    "v6_standard_layer_norm": "",
    "v6_topk_rescale1": "",
    "v6_transcoder": "",
}
SETS = {
    "clt_bf16": "",
    "clt_relu": "",
    "gemma_scope_npz_list": "which circuit-tracer loads from no local folder",
    "plt_relu": "",
    "plt_relu_skip": "",
}


def named(cases: dict[str, str]) -> list[object]:
    return [pytest.param(case, id=f"{case} {why}".strip().replace(" ", "-")) for case, why in cases.items()]


def close(got: Tensor, wanted: Tensor, relative: float = 1e-5) -> bool:
    assert got.shape == wanted.shape
    return float((got.float() - wanted.float()).abs().max()) <= relative * float(wanted.float().abs().max())


@pytest.mark.parametrize("case", named(SAES))
def test_features_and_reconstructions_are_those_of_the_format_s_own_library(case):
    folder = reference_folder("dictionaries", "sae", case)
    meta, wanted = json.loads((folder / "meta.json").read_text()), load_file(folder / "reference.safetensors")
    place = folder / "model" / meta.get("repo_id", "") / meta.get("folder", "")
    options = {"k": 6} if case == "qwen_scope" else {}  # its repository's name says 50, of 48 features
    dictionary = mi_dictionaries.load(place, **options)
    x = wanted["x"]
    relative = 1e-4 if case in ("v6_standard_layer_norm", "v6_gated_bdec1") else 1e-5
    features = dictionary.encode(x)
    assert close(features.dense(), wanted["feature_acts"], relative)
    assert close(dictionary.encode(x, sparse=True).dense(), wanted["feature_acts"], relative)
    assert close(dictionary.forward(x), wanted["recon"], relative)
    assert close(dictionary.decode(features), wanted.get("decode_only", wanted["recon"]), relative) or (
        dictionary.W_skip is not None and "decode_only" not in wanted
    )


@pytest.mark.parametrize("case", named(SETS))
def test_sets_of_transcoders_are_what_circuit_tracer_makes_of_them(case):
    folder = reference_folder("dictionaries", "clt", case)
    wanted = load_file(folder / "reference.safetensors")
    transcoders = mi_dictionaries.load(folder / "model")
    features = transcoders.encode(wanted["x"])
    for own, theirs in zip(features, wanted["acts"], strict=True):
        assert close(own.dense(), theirs)
    # half precision: layers are added in another order than there
    relative = 1e-2 if wanted["x"].dtype == torch.bfloat16 else 1e-5
    assert close(transcoders.forward(wanted["x"]), wanted["recon"], relative)
    if (rows := wanted.get("decoder_rows_layer1_feats_3_17_5")) is not None:
        assert torch.equal(transcoders[1].decoder_rows(torch.tensor([3, 17, 5])), rows)
    for layer in transcoders:
        one = mi_dictionaries.load(folder / "model", layer=layer)
        assert torch.equal(one.encode(wanted["x"][layer]).dense(), features[layer].dense())


def test_a_layer_of_gemma_scope_2_s_transcoder_writes_to_each_later_layer_which_saelens_adds_up():
    folder = reference_folder("dictionaries", "sae", "gemma_scope2_clt_layer")
    meta, wanted = json.loads((folder / "meta.json").read_text()), load_file(folder / "reference.safetensors")
    place = folder / "model" / meta["repo_id"] / meta["folder"]
    dictionary = mi_dictionaries.load(str(place))
    assert dictionary.reads == ("blocks.2.mlp.hook_in",)  # SAELens: hook_mlp_in, which is the stream before the norm
    assert dictionary.writes == tuple(f"blocks.{layer}.hook_mlp_out" for layer in (2, 3, 4))
    features = dictionary.encode(wanted["x"])
    assert close(features.dense(), wanted["feature_acts"])
    unused = load_file(place.with_suffix(".safetensors"))["w_dec"][:, :2].sum(1)
    assert close(dictionary.decode(features).sum(-2) + features.dense() @ unused, wanted["recon"])


def test_a_training_checkpoint_is_what_its_export_is():
    folder = reference_folder("dictionaries", "sae", "train_batchtopk")
    wanted = load_file(folder / "reference.safetensors")
    dictionary = mi_dictionaries.load(folder / "model" / "training_checkpoint")
    features = dictionary.encode(wanted["x"])
    assert close(features.dense(), wanted["feature_acts"])
    assert close(dictionary.decode(features), wanted["recon"])
