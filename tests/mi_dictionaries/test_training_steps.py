"""Twelve steps of every architecture as SAELens' trainer takes them, and what it saves then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_data import reference_folder
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mi_dictionaries.training.config import TrainingConfig
from mi_dictionaries.training.making import trainee_of
from mi_dictionaries.training.options import options_of
from mi_dictionaries.training.scaling import Scale
from mi_dictionaries.training.trainer import Trainer

RECORDED = Path(__file__).parent.parent / "data" / "sae_lens_training.safetensors"


def recorded() -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    with safe_open(RECORDED, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return json.loads(file.metadata()["cases"]), json.loads(file.metadata()["trainer"]), tensors


CASES, TRAINER, TENSORS = recorded()


def trained(name: str) -> Trainer:
    options = dict(CASES[name]["options"])
    scaled = options.pop("normalize_activations", None) is not None
    made = trainee_of(options_of({"d_sae": 24, **options}), 8, 8, transcodes=False)
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            start = TENSORS[f"start.{key}"]
            parameter.copy_(start.T if key == "W_enc" else start)
    batches = TENSORS["batches"]
    scale = Scale.estimated(batches.flatten(0, 1), (8,), factors=True) if scaled else None
    config = TrainingConfig(tokens=batches[..., 0].numel(), batch=batches.shape[1], mix_tokens=64, **TRAINER)
    trainer = Trainer(made, config, (8,), scale)
    for batch in batches:
        trainer.advance(batch)
    made.fold(trainer.scale.factors)
    return trainer


@pytest.mark.parametrize("name", CASES)
def test_twelve_steps_and_what_is_saved_are_those_of_sae_lens(name: str) -> None:
    trainer = trained(name)
    for key, found in trainer.learner.tensors().items():
        wanted = TENSORS[f"{name}/saved.{key}"].to(found.dtype)
        worst = (found - wanted).abs().max() / wanted.abs().max()
        assert worst <= 2e-5, f"{key}: {worst:.2e}"
    assert torch.equal(trainer.since_fired, TENSORS[f"{name}/since_fired"])


@pytest.mark.parametrize("name", ["standard", "topk", "jumprelu_step"])
def test_twelve_more_steps_are_those_of_sae_lens(name: str) -> None:
    folder = reference_folder("training", name)
    described = json.loads((folder / "meta.json").read_text())
    wanted, start = load_file(folder / "reference.safetensors"), load_file(folder / "init.safetensors")
    left_out = ("d_in", "dtype", "device", "metadata", "normalize_activations", "reshape_activations")
    config = {key: value for key, value in described["cfg"].items() if key not in left_out}
    config.pop("use_sparse_activations", None)
    made = trainee_of(options_of(config), 16, 16, transcodes=False)
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            parameter.copy_(start[key].T if key == "W_enc" else start[key])
    batches, window = wanted["batches"], described["dead_feature_window"]
    trainer = Trainer(
        made, TrainingConfig(tokens=12 * 64, batch=64, mix_tokens=128, lr=1e-3, dead_feature_window=window), (16,)
    )
    for batch in batches:
        trainer.advance(batch)
    for key, parameter in made.named_parameters():
        found = parameter.T if key == "W_enc" else parameter
        assert (found - wanted[f"after_{key}"]).abs().max() <= 1e-5 * wanted[f"after_{key}"].abs().max()
