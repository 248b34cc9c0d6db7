from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_family
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from toy_family import CONFIG, toy_installed

from mi_core.blueprint import Weight
from mi_core.building import build, initialise_randomly, save_model
from mi_core.errors import BadConfig, NotSerialisable, UnknownFamily, UnusedConfig
from mi_core.hookspecs import hookimpl
from mi_core.loading import load

TIED = CONFIG | {"tie_word_embeddings": True}


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with toy_installed(tmp_path_factory.mktemp("installed")):
        yield


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.backend.named_parameters())


@given(st.integers(0, 2**31), st.sampled_from([CONFIG, TIED]))
def test_a_seed_decides_every_number(seed: int, config: dict[str, Any]) -> None:
    first, again, other = (parameters(build(config, seed=s, device="cpu")) for s in (seed, seed, seed + 1))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])


def test_gains_are_one_biases_zero_and_matrices_normal() -> None:
    config = CONFIG | {"width": 64, "vocab_size": 500, "initializer_range": 0.5}
    found = parameters(build(config))
    assert torch.equal(found["layers.0.gain"], torch.ones(64))
    assert torch.equal(found["layers.0.bias"], torch.zeros(64))
    assert abs(found["embedding"].std() - 0.5) < 0.02
    plain = parameters(build({key: value for key, value in config.items() if key != "initializer_range"}))
    assert abs(plain["embedding"].std() - 0.02) < 0.001


def test_a_family_may_initialise_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    original = toy_family.mi_family

    @hookimpl
    def mi_family(config: Any, tensors: Any) -> Any:
        return replace(original(config, tensors), initialise=lambda backend, generator: backend.head.fill_(3.0))

    monkeypatch.setattr(toy_family, "mi_family", mi_family)
    toy_family.forget()
    assert torch.equal(parameters(build(CONFIG))["head"], torch.full((7, 4), 3.0))


def test_a_built_model_can_be_trained_unless_it_is_frozen() -> None:
    assert all(parameter.requires_grad for parameter in parameters(build(CONFIG)).values())
    assert not any(parameter.requires_grad for parameter in parameters(build(CONFIG, trainable=False)).values())


def test_tied_parameters_stay_one_in_every_dtype() -> None:
    model = build(TIED, dtype="bfloat16")
    assert model.backend.head is model.backend.embedding  # type: ignore[attr-defined]
    assert model.backend.head.dtype == torch.bfloat16  # type: ignore[attr-defined]


def test_where_a_built_model_comes_from_is_recorded() -> None:
    provenance = build(CONFIG, seed=5).provenance
    assert (provenance.ref, provenance.seed, provenance.family) == ("build", 5, "toy")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "absent"}, UnknownFamily),
        ({"twist": 1}, UnusedConfig),
        ({"width": 0}, BadConfig),
        ({"width": 2**24, "vocab_size": 2**24}, BadConfig),
        ({"width": 2**26, "num_layers": 4}, BadConfig),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_before_anything_is_allocated(
    change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        build(CONFIG | change)


@given(st.integers(0, 100), st.sampled_from([CONFIG, TIED]), st.sampled_from(["float32", "bfloat16"]))
def test_what_was_saved_loads_equal(
    tmp_path_factory: pytest.TempPathFactory, seed: int, config: dict[str, Any], dtype: str
) -> None:
    model = build(config, seed=seed, dtype=dtype)
    folder = tmp_path_factory.mktemp("saved")
    save_model(model, folder)
    loaded = load(folder)
    wanted, found = parameters(model), parameters(loaded)
    assert wanted.keys() == found.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        assert torch.equal(found[name], wanted[name])
    assert json.loads((folder / "config.json").read_text())["model_type"] == "toy"
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == toy_family.tensors_of(config).keys()


def test_a_family_that_computes_parameters_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = toy_family.mi_family

    @hookimpl
    def mi_family(config: Any, tensors: Any) -> Any:
        blueprint = original(config, tensors)
        weights = blueprint.weights | {"head": Weight.of("head.weight", view=lambda tensor: tensor + 1)}
        return replace(blueprint, weights=weights)

    model = build(CONFIG)
    monkeypatch.setattr(toy_family, "mi_family", mi_family)
    toy_family.forget()
    with pytest.raises(NotSerialisable, match=r"head comes from head\.weight"):
        save_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_random_numbers_leave_no_gain_at_one_and_no_bias_at_zero() -> None:
    model = build(TIED)
    pointers = {name: tensor.data_ptr() for name, tensor in parameters(model).items()}
    initialise_randomly(model, seed=1)
    found = parameters(model)
    assert pointers == {name: tensor.data_ptr() for name, tensor in found.items()}
    for name, tensor in found.items():
        assert tensor.unique().numel() == tensor.numel(), name
        if name.endswith("gain"):
            assert 0.5 <= tensor.min() <= tensor.max() <= 1.5
    before = {name: tensor.clone() for name, tensor in found.items()}
    initialise_randomly(model, seed=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in found.items())
    initialise_randomly(model, seed=2)
    assert not torch.equal(before["embedding"], found["embedding"])
