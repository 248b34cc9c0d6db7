"""How often an analysis brings in the weights of a layer that does not stay: no more than its runs need."""

import pytest

import mi_core as mi

CLEAN, CORRUPT = "The capital of France is", "The capital of Italy is"
METRIC = mi.logit_diff(" Paris", " Rome")
PASSES = {
    "logit_lens": (1, lambda run, model: run(model, CLEAN)),
    "direct_logit_attribution": (3, lambda run, model: run(model, CLEAN, " Paris")),
    "activation_patching": (2, lambda run, model: run(model, CLEAN, CORRUPT, METRIC)),
    "attribution_patching": (3, lambda run, model: run(model, CLEAN, CORRUPT, METRIC)),
    "ablation": (1, lambda run, model: run(model, CLEAN, METRIC)),
    "attention_knockout": (4, lambda run, model: run(model, CLEAN, " Paris")),
    "attention_patterns": (1, lambda run, model: run(model, CLEAN)),
    "activation_pca": (1, lambda run, model: run(model, [CLEAN, CORRUPT], n_components=1)),
    "head_circuits": (1, lambda run, model: run(model)),
    "path_patching": (5, lambda run, model: run(model, CLEAN, CORRUPT, METRIC)),
    "edge_attribution": (5, lambda run, model: run(model, CLEAN, CORRUPT, METRIC)),
}


@pytest.mark.parametrize("name", PASSES)
def test_an_analysis_brings_each_layer_as_often_as_it_needs(name):
    most, call = PASSES[name]
    model = mi.load("tiny-world", device_map={"": "cpu", "blocks": "disk"})
    call(mi.analysis(name), model)
    assert max(brought(model).values()) == most


def brought(model):
    return {unit: lent.brought for unit, lent in model.backend.offloaded.items()}


def test_writes_in_each_layer_and_in_all_of_them_are_removed_in_one_sweep():
    model = mi.load("tiny-world-rwkv7", device_map={"": "cpu", "blocks": "disk"})
    mi.analysis("recurrent_state")(model, CLEAN)
    assert set(brought(model).values()) == {2}
