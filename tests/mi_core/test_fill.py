from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_family import CONFIG, Toy, mi_family, tensors_of

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BrokenPlugin, MissingTensors, NotLoaded, TensorMismatch, UnusedTensors
from mi_core.fill import check_loaded, fill, folded, slots
from mi_core.tensors import TensorIndex

CPU = torch.device("cpu")


def filled(
    tensors: Mapping[str, torch.Tensor],
    blueprint: Blueprint | None = None,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Toy:
    blueprint = blueprint or mi_family(Config(CONFIG), None)
    backend: Any = blueprint.backend()
    fill(backend, blueprint, TensorIndex.of(tensors), family="toy", dtype=dtype, device=CPU, **more)
    return backend  # type: ignore[no-any-return]


def test_parameters_are_the_tensors_themselves_and_frozen() -> None:
    tensors = tensors_of()
    backend = filled(tensors)
    assert backend.layers[2].weight.data_ptr() == tensors["h.2.weight"].data_ptr()
    assert not any(parameter.requires_grad for parameter in backend.parameters())


def test_another_dtype_converts_and_leaves_the_originals_alone() -> None:
    tensors = tensors_of()
    backend = filled(tensors, dtype=torch.bfloat16)
    assert torch.equal(backend.embedding, tensors["wte.weight"].bfloat16())
    assert tensors["wte.weight"].dtype == torch.float32


def test_a_wide_parameter_stays_float32_in_a_narrow_model() -> None:
    blueprint = mi_family(Config(CONFIG), None)
    weights = {name: replace(weight, wide=name == "embedding") for name, weight in blueprint.weights.items()}
    backend = filled(tensors_of(), replace(blueprint, weights=weights), torch.bfloat16)
    assert torch.equal(backend.embedding, tensors_of()["wte.weight"])
    assert backend.layers[2].weight.dtype is torch.bfloat16
    assert filled(tensors_of(), replace(blueprint, weights=weights), torch.float64).embedding.dtype is torch.float64


def test_tied_parameters_are_one_object() -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    backend = filled(tensors_of(config), mi_family(Config(config), None))
    assert backend.head is backend.embedding


@given(st.sets(st.sampled_from(sorted(tensors_of())), min_size=1))
def test_every_missing_tensor_is_named(names: set[str]) -> None:
    tensors = {name: tensor for name, tensor in tensors_of().items() if name not in names}
    with pytest.raises(MissingTensors) as caught:
        filled(tensors)
    assert set(caught.value.names) == names
    assert all(line in str(caught.value) for line in folded(names))


@given(st.sets(st.text("abc.012", min_size=1).map("extra.".__add__), min_size=1, max_size=4))
def test_every_tensor_that_goes_nowhere_is_named_and_can_be_accepted(names: set[str]) -> None:
    tensors = tensors_of() | {name: torch.zeros(1) for name in names}
    with pytest.raises(UnusedTensors, match="ignore_tensors") as caught:
        filled(tensors)
    assert set(caught.value.names) == names
    filled(tensors, ignore=sorted(names))
    filled(tensors, ignore=["extra.*"])


def test_the_message_folds_layers_and_counts() -> None:
    extra = {f"h.{i}.q_norm.weight": torch.zeros(1) for i in range(4)}
    with pytest.raises(UnusedTensors, match=r"4 tensors .* not used: h\.\{0\.\.3\}\.q_norm\.weight\. The family 'toy'"):
        filled(tensors_of() | extra)


def test_tensors_that_the_family_drops_on_purpose_are_no_error() -> None:
    filled(tensors_of() | {"h.0.rotary_emb.inv_freq": torch.zeros(1)})


def test_accepting_a_tensor_that_is_not_left_over_is_an_error() -> None:
    with pytest.raises(UnusedTensors, match=r"'wte\.weight'.*the family uses it"):
        filled(tensors_of(), ignore=["wte.weight"])
    with pytest.raises(UnusedTensors, match="typo"):
        filled(tensors_of(), ignore=["typo.*"])


def test_every_wrong_shape_is_listed_with_both_shapes() -> None:
    tensors = tensors_of() | {"h.0.weight": torch.zeros(4, 5), "wte.weight": torch.zeros(28)}
    with pytest.raises(TensorMismatch, match=r"2 tensors") as caught:
        filled(tensors)
    assert "h.0.weight is [4, 5], the config implies [4, 4]" in str(caught.value)
    assert caught.value.shapes == {"h.0.weight": ((4, 5), (4, 4)), "wte.weight": ((28,), (7, 4))}


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_never_converted_silently(kind: torch.dtype) -> None:
    with pytest.raises(TensorMismatch, match=str(kind)):
        filled(tensors_of() | {"wte.weight": torch.zeros(7, 4, dtype=kind)})


def test_views_split_and_stack_tensors() -> None:
    blueprint = mi_family(Config(CONFIG), None)
    weights = dict(blueprint.weights)
    weights["layers.0.weight"] = Weight.of("fused", view=lambda fused: fused[:4])
    weights["layers.1.weight"] = Weight.of("fused", view=lambda fused: fused[4:].T)
    weights["layers.2.weight"] = Weight.of("top", "bottom", view=lambda top, bottom: torch.cat([top, bottom]))
    tensors = {
        name: tensor for name, tensor in tensors_of().items() if not name.endswith(".weight") or "h." not in name
    }
    tensors |= {"fused": torch.randn(8, 4), "top": torch.randn(1, 4), "bottom": torch.randn(3, 4)}
    backend = filled(tensors, replace(blueprint, weights=weights))
    assert torch.equal(backend.layers[1].weight, tensors["fused"][4:].T)
    assert backend.layers[1].weight.untyped_storage().data_ptr() == tensors["fused"].untyped_storage().data_ptr()
    assert torch.equal(backend.layers[2].weight[0], tensors["top"][0])
    with pytest.raises(TensorMismatch, match=r"layers\.0\.weight needs \[4, 4\] and gets \[3, 4\] from fused \[3, 4\]"):
        filled(tensors | {"fused": torch.randn(3, 4)}, replace(blueprint, weights=weights))
    with pytest.raises(TensorMismatch, match=r"layers\.2\.weight cannot be taken from top \[1, 9\], bottom \[3, 4\]"):
        filled(tensors | {"top": torch.randn(1, 9)}, replace(blueprint, weights=weights))


def broken(blueprint: Blueprint, kind: str) -> Blueprint:
    weights = dict(blueprint.weights)
    if kind == "leaves out":
        del weights["head"]
        return replace(blueprint, weights=weights)
    if kind == "backend lacks":
        return replace(blueprint, weights=weights | {"tail": Weight.of("wte.weight")})
    if kind == "both ties and maps":
        return replace(blueprint, tie={"head": "embedding"})
    del weights["head"]
    return replace(blueprint, weights=weights, tie={"head": "nowhere"})


@pytest.mark.parametrize("kind", ["leaves out", "backend lacks", "both ties and maps", "does not map"])
def test_a_blueprint_that_does_not_fit_its_backend_is_the_familys_fault(kind: str) -> None:
    with pytest.raises(BrokenPlugin, match=kind):
        filled(tensors_of(), broken(mi_family(Config(CONFIG), None), kind))


def test_a_module_with_an_empty_place_is_refused_by_name() -> None:
    backend = filled(tensors_of())
    check_loaded(backend, "toy")
    backend.layers[1].register_buffer("table", torch.empty(3, device="meta"))
    with pytest.raises(NotLoaded, match=r"layers\.1\.table"):
        check_loaded(backend, "toy")


def test_a_view_that_loses_the_numbers_is_not_loaded() -> None:
    blueprint = mi_family(Config(CONFIG), None)
    lost = Weight.of("head.weight", view=lambda tensor: torch.empty_like(tensor, device="meta"))
    with pytest.raises(NotLoaded, match="head"):
        filled(tensors_of(), replace(blueprint, weights=blueprint.weights | {"head": lost}))


def test_tied_parameters_are_listed_under_each_name() -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    backend = filled(tensors_of(config), mi_family(Config(config), None))
    assert {"head", "embedding"} <= slots(backend).keys()


def unfolded(line: str) -> set[str]:
    before, brace, rest = line.partition("{")
    if not brace:
        return {line}
    inside, _, after = rest.partition("}")
    numbers: list[int] = []
    for part in inside.split(","):
        first, _, last = part.partition("..")
        numbers += range(int(first), int(last or first) + 1)
    return {whole for n in numbers for whole in unfolded(f"{before}{n}{after}")}


parts = st.sampled_from(["h", "w", "b2"]) | st.integers(0, 12).map(str)


@given(st.sets(st.lists(parts, min_size=1, max_size=4).map(".".join), max_size=12))
def test_folded_names_unfold_to_the_same_names(names: set[str]) -> None:
    lines = folded(names)
    assert len(lines) <= len(names)
    assert set().union(*map(unfolded, lines)) == names
