"""Dictionaries of this model, of another, and of one that nobody named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_models import random, small

import mi_core as mi
import mi_dictionaries as md
from mi_core.errors import ValueMismatch
from mi_core.provenance import Provenance
from mi_dictionaries.belonging import check_model

D, F, POINT = 16, 8, "blocks.1.hook_resid_post"
ACTS = f"{POINT}.hook_sae_acts_post"
PROMPT = [[5, 17, 30, 2]]


def of(name: str | None) -> md.SparseDictionary:
    weights = {"W_enc": random(D, F), "W_dec": random(F, D, seed=1)}
    return md.SparseDictionary(reads=(POINT,), about=md.About(model=name), **weights)


def called(ref: str) -> mi.Model:
    """A small model under a name."""
    made = small()
    return mi.Model(made.backend, name=made.name, config=made.config, provenance=Provenance(ref=ref, family=made.name))


def said(name: str | None, ref: str) -> list[str]:
    return list(check_model(of(name), Provenance(ref=ref, family="x")))


SAME = [
    ("gpt2", "openai-community/gpt2"),
    ("google/gemma-2-2b", "gemma-2-2b"),
    ("meta-llama/Meta-Llama-3.1-8B", "llama3.1-8b"),
    ("tiny-world", "/home/somebody/tiny-world"),
    ("gpt2", "gpt2@abc123"),
]
VARIANTS = [("gemma-2-2b", "google/gemma-2-2b-it"), ("gpt2-small", "gpt2"), ("pythia-70m-deduped", "pythia-70m")]
UNKNOWN = [("gpt2", "/models/mine"), ("./mine", "gpt2"), ("gpt2", "build")]
OTHERS = [("gpt2", "EleutherAI/pythia-160m"), ("gemma-2-2b", "google/gemma-2-27b"), ("qwen3-1.7b", "qwen3-17b")]


@pytest.mark.parametrize(("name", "ref"), SAME)
def test_one_model_under_two_spellings_is_one_model(name: str, ref: str) -> None:
    assert said(name, ref) == said(ref, name) == []


@pytest.mark.parametrize(("name", "ref"), VARIANTS)
def test_a_variant_is_a_sentence(name: str, ref: str) -> None:
    for one, other in ((name, ref), (ref, name)):
        [sentence] = said(one, other)
        assert f"is of {one!r}; {other!r} is a variant of it, or another name" in sentence


@pytest.mark.parametrize(("name", "ref"), UNKNOWN)
def test_a_folder_or_a_built_model_is_a_sentence(name: str, ref: str) -> None:
    [sentence] = said(name, ref)
    assert f"is of {name!r}; whether that is {ref!r} its name does not say" in sentence


@pytest.mark.parametrize(("name", "ref"), OTHERS)
def test_another_model_is_refused(name: str, ref: str) -> None:
    with pytest.raises(ValueMismatch, match=f"is of '{name}', and this model is '{ref}': .*accepted_for"):
        said(name, ref)


def test_runs_generations_and_measures_refuse_the_dictionary_of_another_model() -> None:
    model, other = called("google/gemma-2-2b"), of("gpt2")
    acts = mi.intervene(ACTS, mi.Zero())
    runs = [
        lambda: model.run(PROMPT, md.splice(other)),
        lambda: model.run(PROMPT, md.splice(md.DictionarySet((other,)))),
        lambda: model.generate(PROMPT, md.splice(other), max_new_tokens=2),
        lambda: model.sweep(PROMPT, md.splice(other) + mi.grid(lambda i: acts, i=[0]), mi.kl(model.run(PROMPT))),
        lambda: md.precomputed_splice(model, PROMPT, other),
        lambda: md.evaluate(model, other, [PROMPT]),
        lambda: md.logit_effects(model, other, torch.arange(2)),
    ]
    for run in runs:
        with pytest.raises(ValueMismatch, match="is of 'gpt2', and this model is 'google/gemma-2-2b'"):
            run()


def test_what_is_not_certain_is_in_the_receipt_and_what_is_accepted_too() -> None:
    model = called("google/gemma-2-2b-it")
    cases = {
        "is a variant of it": of("google/gemma-2-2b"),
        "does not say which model it is of": of(None),
        "is of 'gpt2' and was accepted for 'google/gemma-2-2b-it'": md.accepted_for(of("gpt2"), model),
    }
    for sentence, held in cases.items():
        spec = md.splice(held)
        assert [note for note in model.run(PROMPT, spec).receipt.notes if sentence in note]
        assert [note for note in model.generate(PROMPT, spec, max_new_tokens=2).receipt.notes if sentence in note]
    assert model.run(PROMPT, md.splice(of("gemma-2-2b-it"))).receipt.notes == ()
    with pytest.raises(ValueMismatch):
        called("pythia-70m").run(PROMPT, md.splice(cases["is of 'gpt2' and was accepted for 'google/gemma-2-2b-it'"]))


def test_a_set_is_accepted_whole() -> None:
    held = md.DictionarySet(
        (of("gpt2"), dataclasses.replace(of("gpt2"), reads=("blocks.2.hook_resid_post",), writes=()))
    )
    model = called("mine")
    with pytest.raises(ValueMismatch, match="is of 'gpt2'"):
        model.run(PROMPT, md.splice(held))
    receipt = model.run(PROMPT, md.splice(md.accepted_for(held, model))).receipt
    assert len(receipt.notes) == 2
