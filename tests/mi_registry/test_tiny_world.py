"""The shipped model does what its page says, and the page says what the generator does."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_core as mi
from mi_registry import mi_registry
from mi_registry.tiny_world import page, tokenizer
from mi_registry.tiny_world.evaluate import BARS, INDUCTION_LOSS, scores
from mi_registry.tiny_world.prompts import held_out
from mi_registry.tiny_world.train import Recipe, shipped_config

FOLDER = files("mi_registry") / "tiny_world"
PAGE = tomllib.loads((files("mi_registry") / "tiny-world.toml").read_text(encoding="utf-8"))
HELD_OUT_SCORES: Mapping[str, Mapping[str, Any]] = PAGE["scores"]


@pytest.fixture(scope="module")
def model() -> mi.Model:
    return mi.load("tiny-world", device="cpu")


@pytest.fixture(scope="module")
def found(model: mi.Model) -> dict[str, dict[str, float | int]]:
    return scores(model)


def test_every_bar_is_reached(found: dict[str, dict[str, float | int]]) -> None:
    for skill, bars in BARS.items():
        for name, bar in bars.items():
            assert found[skill][name] >= bar, f"{skill}: {name} is {found[skill][name]}, at least {bar} wanted"
    assert found["induction"]["loss"] < INDUCTION_LOSS
    assert min(figures["prompts"] for figures in found.values()) >= 200


def test_the_page_has_the_scores_of_the_shipped_weights(found: dict[str, dict[str, float | int]]) -> None:
    assert found.keys() == HELD_OUT_SCORES.keys()
    for skill, figures in found.items():
        for name, figure in figures.items():
            # another processor's rounding may move a prompt that is on the edge
            assert HELD_OUT_SCORES[skill][name] == pytest.approx(figure, rel=1e-2, abs=5e-3), (skill, name)


def test_the_page_has_the_generator_s_statistics_and_the_default_recipe() -> None:
    assert PAGE["data"] == page.statistics()
    recipe = Recipe()
    assert {name: PAGE["training"][name] for name in ("seed", "steps", "rows", "columns", "learning_rate")} == {
        "seed": recipe.seed,
        "steps": recipe.steps,
        "rows": recipe.rows,
        "columns": recipe.columns,
        "learning_rate": recipe.learning_rate,
    }


def test_the_weights_are_small(model: mi.Model) -> None:
    assert isinstance(model.backend, torch.nn.Module)
    parameters = sum(p.numel() for p in model.backend.parameters())
    assert parameters == PAGE["model"]["parameters"] <= 1_500_000
    assert len((FOLDER / "model.safetensors").read_bytes()) == PAGE["model"]["weights_bytes"] <= 6_000_000
    assert model.dtype == torch.float32


def test_the_capital_of_france_emerges_over_the_layers(model: mi.Model) -> None:
    assert held_out("facts")[0].text == "The capital of France is"  # never said in training
    assert model.tokenizer is not None
    paris = model.tokenizer.single(" Paris")
    run = model.run("The capital of France is", mi.capture("blocks.*.hook_resid_post"))
    last = run.stack("hook_resid_post")[:, 0, -1]  # [layer d_model]
    probabilities = model.unembed(last).softmax(-1)[:, paris]
    assert run.logits[0, -1].argmax() == paris
    assert probabilities[-1] > 0.9
    assert probabilities[0] < 0.5 * probabilities[-1]


@pytest.mark.parametrize(
    ("country", "capital"), [("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Germany", "Berlin")]
)
def test_the_capitals_of_the_examples_are_known(model: mi.Model, country: str, capital: str) -> None:
    run = model.run(f"The capital of {country} is", logits="last")
    assert model.tokenizer is not None
    assert run.logits[0, -1].argmax() == model.tokenizer.single(f" {capital}")


def test_transformers_reads_the_same_model_and_the_same_tokenizer(model: mi.Model) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    texts = ["The capital of France is", "The keys near the cabinet", "naïve café"]
    with as_file(FOLDER) as folder:
        theirs = LlamaForCausalLM.from_pretrained(folder)
        words = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        run = model.run(text)
        assert words(text).input_ids == run.tokens[0].tolist()
        assert words.decode(words(text).input_ids, skip_special_tokens=True) == text
        with torch.no_grad():
            wanted = theirs(run.tokens).logits
        assert (run.logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_shipped_config_has_the_tokenizer_s_sizes() -> None:
    config = shipped_config()
    assert (config["vocab_size"], config["max_position_embeddings"]) == (tokenizer.SIZE, PAGE["model"]["n_ctx"])


def test_every_page_is_named_like_its_file() -> None:
    folder = mi_registry()
    pages = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    assert {"llama.toml", "tiny-world.toml"} <= {entry.name for entry in pages}
    for entry in pages:
        assert tomllib.loads(entry.read_text(encoding="utf-8"))["name"] == Path(entry.name).stem
