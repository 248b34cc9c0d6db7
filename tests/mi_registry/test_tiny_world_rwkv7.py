"""The recurrent model of the world does what its page says, and solves what the transformer solves."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pytest
import torch

import mi_core as mi
from mi_registry.tiny_world.evaluate import BARS, INDUCTION_LOSS, scores

HERE = files("mi_registry")
FOLDER = HERE / "tiny_world_rwkv7"
PAGE: Mapping[str, Any] = tomllib.loads((HERE / "tiny-world-rwkv7.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> mi.Model:
    return mi.load("tiny-world-rwkv7", device="cpu")


def test_the_page_has_the_scores_of_the_shipped_weights_and_the_bars_are_reached(model: mi.Model) -> None:
    found = scores(model)
    for skill, figures in found.items():
        for name, figure in figures.items():
            assert PAGE["scores"][skill][name] == pytest.approx(figure, rel=1e-2, abs=5e-3), (skill, name)
    for skill, bars in BARS.items():
        for name, bar in bars.items():
            if name != "best_head":  # attention's
                assert found[skill][name] >= bar, (skill, name)
    assert found["induction"]["loss"] < INDUCTION_LOSS


def test_the_page_has_the_transformer_s_scores_beside_its_own() -> None:
    transformer = tomllib.loads((HERE / "tiny-world.toml").read_text(encoding="utf-8"))["scores"]
    for skill, figures in transformer.items():
        for name in figures.keys() & {"top1", "logit_difference", "loss"}:
            assert PAGE["scores"][skill][f"tiny_world_{name}"] == figures[name]


def test_the_page_says_what_is_shipped(model: mi.Model) -> None:
    assert isinstance(model.backend, torch.nn.Module)
    assert sum(p.numel() for p in model.backend.parameters()) == PAGE["model"]["parameters"] <= 1_500_000
    assert len((FOLDER / "model.safetensors").read_bytes()) == PAGE["model"]["weights_bytes"] <= 6_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("rwkv7", PAGE["model"]["layers"])


def test_it_reads_the_tokens_of_tiny_world(model: mi.Model) -> None:
    assert (FOLDER / "tokenizer.json").read_bytes() == (HERE / "tiny_world" / "tokenizer.json").read_bytes()
    assert model.tokenizer is not None
    run = model.run("The capital of France is", logits="last")
    assert int(run.logits[0, -1].argmax()) == model.tokenizer.single(" Paris")
