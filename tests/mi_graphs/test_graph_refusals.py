"""What a graph cannot be made of is refused, before anything is attributed, with what to use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from random_transcoders import transcoders
from small_models import random, small

import mi_dictionaries as md
from mi_core.errors import (
    InputError,
    NoTokenizer,
    SelectorError,
    SpecError,
    UnknownPoint,
    UnsupportedAnalysis,
    ValueMismatch,
)
from mi_graphs import attribution_graph, sources

IDS = [0, 3, 1, 4]


def one(**changes: Any) -> md.SparseDictionary:
    return replace(transcoders(small(7)).dictionaries[1], **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reads": ("blocks.1.hook_mlp_out",)}, "it is an autoencoder.* load per-layer transcoders"),
        ({"writes": ("blocks.1.hook_attn_out",)}, "what a graph replaces is the output of MLPs"),
        ({"reads": ("unembed.hook_in",)}, "reads one point of one layer"),
        ({"transforms": (md.LayerNorm(undo=False),)}, r"transforms its input \(LayerNorm\)"),
        (
            {"activation": md.Gated(*random(3, 9)), "b_enc": None},
            "two pre-activations, a gate's and a magnitude's",
        ),
    ],
)
def test_dictionaries_that_are_no_transcoders_are_refused(changes, said):
    with pytest.raises(UnsupportedAnalysis, match=said):
        attribution_graph(small(7), IDS, one(**changes))


def test_transcoders_of_another_model_are_refused():
    with pytest.raises(ValueMismatch, match="takes 20 numbers and gives 16; this model has 16"):
        attribution_graph(small(7), IDS, one(W_enc=random(20, 9)))
    with pytest.raises(ValueMismatch, match="takes 16 numbers and gives 20"):
        attribution_graph(small(7), IDS, one(W_dec=random(9, 20), b_dec=None))
    with pytest.raises(UnknownPoint, match=r"blocks\.7\.mlp\.hook_in"):
        attribution_graph(small(7), IDS, one(reads=("blocks.7.mlp.hook_in",)))


def test_an_mlp_has_one_output():
    first = transcoders(small(7)).dictionaries[0]
    both = replace(first, writes=("blocks.0.hook_mlp_out", "blocks.1.mlp.hook_out"), W_dec=random(9, 2, 16), b_dec=None)
    with pytest.raises(SpecError, match="layer 1 is written at"):
        attribution_graph(small(7), IDS, md.DictionarySet((both, one())))
    with pytest.raises(SpecError, match="the set holds no transcoder"):
        attribution_graph(small(7), IDS, md.DictionarySet(()))


@pytest.mark.parametrize("prompt", [[5], [[1, 2], [3, 4]]])
def test_one_prompt_of_several_tokens_is_taken(prompt):
    with pytest.raises(InputError, match=r"is one token|is of one prompt; these are 2"):
        attribution_graph(small(7), prompt, one())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_features": 0}, "max_features=0: at least 1"),
        ({"logits": 0}, "logits=0: at least 1"),
        ({"batch": 0}, "batch=0: at least 1"),
        ({"refresh": -1}, "refresh=-1: at least 1"),
        ({"probability": 0.0}, "above 0 and at most 1"),
        ({"skip_positions": [4]}, r"skip_positions=\[4\]: the prompt has 4 tokens"),
        ({"targets": [61]}, "61 is no token of 61"),
        ({"targets": []}, "give at least one token"),
        ({"targets": [3, 3]}, "and each once"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(SelectorError, match=said):
        attribution_graph(small(7), IDS, one(), **options)


def test_texts_need_a_tokenizer():
    with pytest.raises(NoTokenizer, match="give ids"):
        attribution_graph(small(7), IDS, one(), targets=[" Paris"])


def test_more_than_the_memory_has_room_for_is_refused_before_it_is_made(monkeypatch):
    import mi_graphs.attribution as attribution

    held = transcoders(small(7))
    monkeypatch.setattr(attribution, "free_bytes", lambda device: 20_000)
    with pytest.raises(InputError, match=r"features are active, .* Give max_features=\d+ or fewer"):
        attribution_graph(small(7), IDS, held)
    monkeypatch.setattr(sources, "free_bytes", lambda device: 200)
    with pytest.raises(InputError, match="Give a shorter prompt or sparser transcoders"):
        attribution_graph(small(7), IDS, held)


def test_where_nothing_is_active_all_is_error():
    silent = md.DictionarySet(
        tuple(replace(each, b_enc=torch.full((9,), -1e4)) for each in transcoders(small(7)).dictionaries)
    )
    graph = attribution_graph(small(7), IDS, silent, logits=2)
    assert (graph.active, int(graph.of_kind("feature").sum())) == (0, 0)
    assert 0 < graph.replacement < 1
    assert all(path.nodes[0].kind == "token" for path in graph.prune().paths(3))


def test_layers_without_a_transcoder_are_all_error():
    model = small(7)
    graph = attribution_graph(model, IDS, one(), logits=2)
    assert {node.layer for node in graph.nodes if node.kind == "feature"} == {1}
    assert {node.layer for node in graph.nodes if node.kind == "error"} == {0, 1, 2}


def test_the_first_token_is_skipped_where_it_begins_the_text():
    import mi_core as mi

    model, held = mi.load("tiny-world"), md.load("tiny-world/clt")
    graph = attribution_graph(model, "The capital", held, tokens=0)
    assert 0 not in {node.pos for node in graph.nodes if node.kind == "feature"}
    ids = model.tokenizer.encode("The capital", special=False).ids
    assert 0 in {
        node.pos for node in attribution_graph(model, list(ids), held, tokens=0).nodes if node.kind == "feature"
    }
