"""Measures of dictionaries: SAELens' numbers, and what they must be where the answer is known."""

from __future__ import annotations

import json

import pytest
import torch
from reference_data import reference_folder
from safetensors.torch import load_file
from torch import Tensor

import mi_core as mi
from mi_core.errors import EmptyInput
from mi_dictionaries.cross_layer import cross_layer_transcoder_layer
from mi_dictionaries.evaluation import evaluate
from mi_dictionaries.loading import load
from mi_dictionaries.measures import Reconstruction
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary

IDS = torch.tensor([[0, 17, 5, 9, 200, 41], [0, 3, 77, 12, 8, 300]])


def exact(reads: str, writes: str | None = None, d: int = 128) -> SparseDictionary:
    """A dictionary that gives back what it reads: each direction and its opposite."""
    rows = torch.cat([torch.eye(d), -torch.eye(d)])
    return SparseDictionary(
        reads=(reads,),
        writes=(writes or reads,),
        W_enc=rows.T,
        b_enc=torch.zeros(2 * d),
        W_dec=rows,
        b_dec=torch.zeros(d),
    )


def test_the_measures_are_those_of_sae_lens() -> None:
    folder = reference_folder("splice", "llama_standard_resid_post")
    described = json.loads((folder / "meta.json").read_text())
    wanted, tensors = described["metrics"]["all_tokens"], load_file(folder / "reference.safetensors")
    model = mi.load(str(reference_folder(*described["hf_model"].split("/"))))
    tokens = tensors["tokens"]
    found = evaluate(model, load(folder / "sae"), [tokens[:2], tokens[2:]])
    for name, value in {
        "l0": wanted["sparsity"]["l0"],
        "l1": wanted["sparsity"]["l1"],
        "explained_variance": wanted["reconstruction_quality"]["explained_variance"],
        "mse": wanted["reconstruction_quality"]["mse"],
        "cosine": wanted["reconstruction_quality"]["cossim"],
        "l2_ratio": wanted["shrinkage"]["l2_ratio"],
        "relative_reconstruction_bias": wanted["shrinkage"]["relative_reconstruction_bias"],
        "ce_recovered": wanted["model_performance_preservation"]["ce_loss_score"],
        "ce_clean": wanted["model_performance_preservation"]["ce_loss_without_sae"],
        "ce_spliced": wanted["model_performance_preservation"]["ce_loss_with_sae"],
        "ce_ablated": wanted["model_performance_preservation"]["ce_loss_with_ablation"],
        "kl_recovered": wanted["model_behavior_preservation"]["kl_div_score"],
        "kl_spliced": wanted["model_behavior_preservation"]["kl_div_with_sae"],
        "kl_ablated": wanted["model_behavior_preservation"]["kl_div_with_ablation"],
    }.items():
        assert getattr(found, name) == pytest.approx(value, rel=2e-5), name
    density = torch.tensor(described["metrics"]["all_tokens_feature_metrics"]["feature_density"])
    assert torch.allclose(found.density.values[0].float(), density, atol=1e-6)


def test_an_exact_dictionary_recovers_everything() -> None:
    found = evaluate(mi.load("tiny-world"), exact("blocks.1.hook_resid_post"), [IDS])
    assert found.ce_recovered == pytest.approx(1, abs=1e-5)
    assert found.kl_recovered == pytest.approx(1, abs=1e-5)
    assert found.explained_variance == pytest.approx(1, abs=1e-9)
    assert found.l0 == 128


def test_a_transcoder_is_judged_where_it_writes() -> None:
    """SAELens replaces what a transcoder reads; there is nothing wrong with this one, and it would say so."""
    model = mi.load("tiny-world")
    write = "blocks.1.hook_mlp_out"
    silent = SparseDictionary(
        reads=("blocks.1.mlp.hook_in",),
        writes=(write,),
        W_enc=torch.zeros(128, 4),
        b_enc=torch.zeros(4),
        W_dec=torch.zeros(4, 128),
        b_dec=torch.zeros(128),
    )
    found = evaluate(model, silent, [IDS])
    assert found.ce_recovered == pytest.approx(0, abs=1e-6)
    assert found.ce_spliced == found.ce_ablated
    assert found.dead == 4
    assert list(found.reconstruction.coords["write"]) == [write]


def test_of_a_set_one_and_then_more_layers_are_replaced() -> None:
    model = mi.load("tiny-world")
    reads = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    layers = []
    for layer, point in enumerate(reads):  # each writes itself at its own layer, nothing behind it
        one = exact(point)
        assert isinstance(one.W_dec, Tensor)
        weight = torch.zeros(one.d_sae, 3 - layer, 128)
        weight[:, 0] = one.W_dec
        layers.append(
            cross_layer_transcoder_layer(
                reads=point, writes=reads[layer:], W_dec=weight, b_dec=one.b_dec, W_enc=one.W_enc, b_enc=one.b_enc
            )
        )
    found = evaluate(model, DictionarySet(tuple(layers)), [IDS])
    assert found.behaviour.coords["replaced"] == (1, 2, 3)
    assert torch.allclose(found.behaviour.sel(measure="ce_recovered").values, torch.ones(3, dtype=torch.float64))
    ablated = [float(found.behaviour.sel(measure="ce_ablated", replaced=n).values) for n in (1, 3)]
    zeros = sum((mi.intervene(point, mi.Zero()) for point in reads), mi.HookSpec())
    assert ablated[1] == pytest.approx(float(model.run(IDS, zeros).loss), rel=1e-6)
    assert ablated[0] != ablated[1]


def test_tokens_that_are_skipped_change_nothing() -> None:
    model = mi.load("tiny-world")
    broken = exact("blocks.0.hook_resid_post")
    broken = SparseDictionary(reads=broken.reads, W_enc=broken.W_enc, b_enc=broken.b_enc, W_dec=broken.W_dec * 0.0)
    all_but_first = evaluate(model, broken, [IDS], skip=(0,))
    assert all_but_first.tokens == 10
    assert all_but_first.ce_recovered == pytest.approx(0, abs=1e-6)
    with pytest.raises(EmptyInput, match="no tokens"):
        evaluate(model, broken, [IDS], skip=tuple(IDS.flatten().tolist()))


def test_batches_make_no_difference() -> None:
    gauge, parts = Reconstruction(), Reconstruction()
    x, y = torch.randn(7, 5), torch.randn(7, 5)
    gauge.add(x, y)
    parts.add(x[:3], y[:3])
    parts.add(x[3:], y[3:])
    assert gauge.measures() == pytest.approx(parts.measures(), rel=1e-12)
