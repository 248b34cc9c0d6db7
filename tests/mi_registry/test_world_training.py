"""A training that was stopped goes on to the same weights, and a checkpoint of another recipe is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

import mi_core as mi
from mi_core.errors import BadConfig
from mi_registry.tiny_world.rows import Rows
from mi_registry.tiny_world.train import Interrupt, Recipe, loss_of, module_of, shipped_config, train

RECIPE = Recipe(steps=6, rows=4, columns=24, warmup=2, long_every=3)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.from_str((files("mi_registry") / "tiny_world" / "tokenizer.json").read_text(encoding="utf-8"))


def small() -> mi.Model:
    config: dict[str, Any] = shipped_config() | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return mi.build(config | {"head_dim": 8}, seed=0, trainable=True, device="cpu")


def weights(model: mi.Model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module_of(model).parameters()])


def after(calls: int) -> Callable[[], bool]:
    """False so many times, then True."""
    counter = count()
    return lambda: next(counter) >= calls


def test_a_stopped_training_reaches_the_same_weights(words: Tokenizer, tmp_path: Path) -> None:
    whole = small()
    assert train(whole, words, RECIPE, tmp_path / "whole", every=100) is not None
    assert train(small(), words, RECIPE, tmp_path / "parts", after(3), every=100) is None
    with safe_open(tmp_path / "parts" / "checkpoint.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "4"
    resumed = small()
    assert train(resumed, words, RECIPE, tmp_path / "parts", every=100) is not None
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(whole), weights(small()))


def test_a_checkpoint_of_another_recipe_is_refused(words: Tokenizer, tmp_path: Path) -> None:
    train(small(), words, RECIPE, tmp_path)
    train(small(), words, replace(RECIPE, threads=2), tmp_path)
    with pytest.raises(BadConfig, match="belongs to a training") as raised:
        train(small(), words, replace(RECIPE, seed=1), tmp_path)
    assert raised.value.path == str(tmp_path / "checkpoint.safetensors")


def test_progress_has_the_rate_and_the_time_left(
    words: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small(), words, replace(RECIPE, steps=1), tmp_path)
    assert "tokens/s  0.0 min left" in capsys.readouterr().err


def test_the_loss_leaves_out_what_has_no_weight() -> None:
    ids = torch.tensor([[0, 5, 6, 7]])
    model = small()
    first = loss_of(model, Rows(ids, torch.tensor([[1.0, 0.0, 0.0]])))
    changed = loss_of(model, Rows(torch.tensor([[0, 5, 9, 9]]), torch.tensor([[1.0, 0.0, 0.0]])))
    assert torch.equal(first, changed)
    log_probabilities = model.run(ids).logits.log_softmax(-1)
    torch.testing.assert_close(first, -log_probabilities[0, 0, 5])


def test_the_rate_warms_up_and_ends_low() -> None:
    recipe = Recipe()
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert max(rates) <= recipe.learning_rate
    assert rates[0] < 0.02 * recipe.learning_rate
    assert rates[-1] < 0.03 * recipe.learning_rate
    assert json.loads(json.dumps(asdict(recipe)))["steps"] == recipe.steps


def test_the_first_interrupt_is_noted_and_the_second_is_python_s() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    try:
        interrupt = Interrupt()
        assert not interrupt()
        signal.raise_signal(signal.SIGINT)
        assert interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
