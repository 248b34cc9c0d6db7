"""Losses, gradients and twelve steps of every architecture, against SAELens and against plain dense arithmetic."""

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

from mi_dictionaries.training import reading
from mi_dictionaries.training.making import trainee_of
from mi_dictionaries.training.options import options_of
from mi_dictionaries.training.trainee import Moment, Trainee

RECORDED = Path(__file__).parent.parent / "data" / "sae_lens_training.safetensors"
LOSS, GRADIENT, AFTER = 1e-6, 1e-5, 1e-5


def recorded() -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(RECORDED, framework="pt") as file:
        return json.loads(file.metadata()["cases"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


CASES, TENSORS = recorded()


def trainee(name: str) -> Trainee[Any]:
    options = {key: value for key, value in CASES[name]["options"].items() if key != "normalize_activations"}
    if options["architecture"] == "matching_pursuit":
        options["apply_b_dec_to_input"] = True
    made = trainee_of(options_of({"d_sae": 24, **options}), 8, 8, transcodes=False)
    fill(made, {key: TENSORS[f"start.{key}"] for key, _ in made.named_parameters()})
    return made


def fill(made: Trainee[Any], tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(tensors[name].T if name == "W_enc" else tensors[name])


def moment(made: Trainee[Any], dead: Tensor | None) -> Moment:
    return Moment(dead, {name: value for name, (value, _) in made.coefficients().items()})


def close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    worst = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)
    assert worst <= tolerance, f"{what}: {worst:.2e} of the largest, {tolerance:.0e} allowed"


def check(made: Trainee[Any], x: Tensor, dead: Tensor, wanted: dict[str, Tensor], losses: dict[str, float]) -> None:
    """Losses, reconstruction and gradients of one batch."""
    step = made([x], moment(made, dead))
    assert step.losses.keys() == losses.keys()
    for name, loss in step.losses.items():
        close(loss.detach(), torch.tensor(losses[name]), LOSS, name)
    close(step.outs[0].detach(), wanted["out"], LOSS, "out")
    step.loss.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad.T if name == "W_enc" else parameter.grad
        close(gradient, wanted[f"grad.{name}"], GRADIENT, f"gradient of {name}")


@pytest.mark.parametrize(
    ("dense_from", "cells"),
    [(1.0, 1 << 17), (-1.0, 1 << 17), (-1.0, 3 * 24)],
    ids=["sparse", "dense", "dense, three tokens at a time"],
)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_sae_lens(
    name: str, dense_from: float, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "DENSE_FROM", dense_from)
    monkeypatch.setattr(reading, "CELLS", cells)
    wanted = {key.partition("/")[2]: value for key, value in TENSORS.items() if key.startswith(f"{name}/")}
    made = trainee(name)
    check(made, TENSORS["batches"][0], torch.arange(24) % 3 == 0, wanted, CASES[name]["losses"])
    fired = made([TENSORS["batches"][0]], moment(made, None)).fired
    assert torch.equal(fired, wanted["fired"])


@pytest.mark.parametrize("name", ["standard", "topk", "jumprelu_step"])
def test_more_losses_and_gradients_are_those_of_sae_lens(name: str) -> None:
    folder = reference_folder("training", name)
    described = json.loads((folder / "meta.json").read_text())
    wanted = load_file(folder / "reference.safetensors")
    config = described["cfg"]
    left_out = ("d_in", "dtype", "device", "metadata", "normalize_activations", "reshape_activations")
    options = {key: value for key, value in config.items() if key not in (*left_out, "use_sparse_activations")}
    made = trainee_of(options_of(options), config["d_in"], config["d_in"], transcodes=False)
    fill(made, load_file(folder / "init.safetensors"))
    wanted = {key.replace("grad_", "grad."): value for key, value in wanted.items()} | {"out": wanted["sae_out"]}
    check(made, wanted["x"], wanted["dead_neuron_mask"], wanted, described["losses"])
