"""A model with quantised weights is the model of the numbers that they stand for, and refuses what needs plain ones."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import family_example, small
from torch import Tensor, nn
from torch.nn.functional import linear

import mi_core as mi
from mi_core import plugins
from mi_core.cli.main import command, main
from mi_core.config import Config
from mi_core.errors import InputError, LoadError, MiError, NotCompiled, NotSerialisable, UnsupportedAnalysis
from mi_core.families import blueprint_of
from mi_core.fill import assign, slots
from mi_core.quantised_weight import QuantisedWeight
from mi_core.quantising import Quantiser
from mi_core.testing import Subject, checks

SCHEMES = ("int8", "float8")
FAMILIES = ("llama", "gpt2", "qwen2_moe", "deepseek_v3", "rwkv7", "qwen3_next", "mamba2")
IDS = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
MATRICES = re.compile(
    r"layers\.\d+\.(mixer\.(q|k|v|gate|o|q_down|q_up|kv_down|kv_up|receptance|key|value|qkv|inner|output_gate|output)"
    r"|channel\.(experts\.\d+\.|shared\.)?(gate|in|out|key|value))_weight"
)


@cache
def saved(family: str) -> str:
    folder = mkdtemp()
    mi.save_model(family_example(family), folder)
    return folder


@cache
def quantised(family: str, scheme: str = "int8") -> mi.Model:
    return mi.load(saved(family), quantise=scheme, device="cpu")


@cache
def dequantised(family: str, scheme: str = "int8") -> mi.Model:
    """The same model, loaded plainly, with the numbers that quantised weights stand for."""
    plain = mi.load(saved(family), device="cpu")
    for name, tensor in slots(quantised(family, scheme).module).items():
        if isinstance(tensor, QuantisedWeight):
            assign(plain.module, name, tensor.dequantize())
    return plain


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    one, other = (each.detach().nan_to_num(neginf=0.0) for each in (one, other))
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_is_that_of_the_dequantised_model(family: str, scheme: str) -> None:
    model, plain = quantised(family, scheme), dequantised(family, scheme)
    everything = mi.capture([point.name for point in model.hook_points()])
    run, expected = model.run(IDS, everything), plain.run(IDS, everything)
    assert apart(run.logits, expected.logits) < 1e-5
    for point in expected:
        assert apart(run[point].float(), expected[point].float()) < 1e-5, point


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_that_layers_multiply_by_are_quantised_and_nothing_else(family: str) -> None:
    for name, tensor in slots(quantised(family).module).items():
        assert isinstance(tensor, QuantisedWeight) == (MATRICES.fullmatch(name) is not None), name


def test_decoders_of_every_family_say_what_most_of_their_layers_multiply_by() -> None:
    for family, owner in plugins.names("mi_core.families").items():
        plugin = plugins.plugin("mi_core.families", family)
        if owner.startswith("mi-core") and not family.startswith("algzoo"):
            config = Config(plugin.call("mi_family_examples")[0])
            backend: Any = blueprint_of(plugin, config, None).backend()
            places = slots(backend)
            layers = sum(place.numel() for name, place in places.items() if name.startswith("layers."))
            # in tiny models, what steers a recurrence is not small
            assert sum(places[name].numel() for name in backend.matrices()) > 0.4 * layers, family


@pytest.mark.parametrize("at_once", [1, 100, 10_000])
def test_what_is_quantised_is_what_torchao_makes_of_a_linear_layer(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mi_core.quantising.AT_ONCE", at_once)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    for scheme, config in (("int8", Int8WeightOnlyConfig()), ("float8", Float8WeightOnlyConfig())):
        layer = nn.Linear(48, 20)
        ours = Quantiser(scheme, frozenset({"w"}))("w", layer.weight.detach())
        config.set_inductor_config = False
        quantize_(layer, config)
        x = torch.randn(3, 48)
        assert torch.equal(ours.dequantize(), layer.weight.dequantize())
        assert torch.equal(linear(x, ours, layer.bias), layer(x))


@given(rows=st.integers(1, 9), columns=st.integers(2, 33), seed=st.integers(0, 9))
def test_int8_is_half_a_step_from_the_matrix_at_most(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    made = Quantiser("int8", frozenset({"w"}))("w", matrix).dequantize()
    step = matrix.abs().amax(1, keepdim=True) / 127.5
    assert bool(((made - matrix).abs() <= step * 1.01 / 2 + step * (matrix > 126.9 * step)).all())


def test_edits_sweeps_generations_and_gradients_are_those_of_the_dequantised_model() -> None:
    model, plain = quantised("llama"), dequantised("llama")
    edit = mi.intervene("blocks.0.attn.hook_z", mi.Zero().at(head=1)) + mi.capture("blocks.*.hook_resid_post")
    grid = mi.ablation_grid("blocks.*.hook_attn_out", each=("layer", "pos"))

    def measured(of: mi.Model) -> list[Tensor]:
        run = of.run(IDS, edit, grad=True)
        gradient = run.grad(lambda logits: logits[:, 7].sum(), ["blocks.0.hook_resid_post"])
        swept = of.sweep([IDS[0]], grid, metric=mi.metric(lambda logits: logits[:, 7], name="seven"))
        going_on = of.run([[5]], memory=of.run([IDS[0]], resumable=True).memory(pos=-1))
        split = of.run(IDS, mi.intervene("blocks.1.hook_q_input", mi.Scale(0.5).at(head=0)))
        return [run.logits, gradient["blocks.0.hook_resid_post"], swept.values, going_on.logits, split.logits]

    for one, other in zip(measured(model), measured(plain), strict=True):
        assert apart(one, other) < 1e-5
    assert model.generate(IDS, max_new_tokens=6).new_tokens == plain.generate(IDS, max_new_tokens=6).new_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_by_name_are_the_dequantised_ones(family: str) -> None:
    model, plain = quantised(family), dequantised(family)
    for name, weight in plain.backend.weights().items():
        assert type(model.weights[name]) in (Tensor, nn.Parameter)
        assert torch.equal(model.weights[name], weight), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_costs_as_many_operations(family: str) -> None:
    points = [point.name for point in quantised(family).hook_points() if point.site.on_demand]
    plans = [model.plan(IDS, mi.capture(points)) for model in (quantised(family), dequantised(family))]
    assert plans[0].rehearsal.missed == plans[1].rehearsal.missed
    assert plans[0].operations == plans[1].operations


def test_a_plan_is_rehearsed_without_numbers() -> None:
    module = copy.deepcopy(quantised("llama").module)
    for weight in slots(module).values():
        if isinstance(weight, QuantisedWeight):
            weight.held = None
    assert mi.Model(module, name="llama", config={}).plan(IDS).rehearsal.missed == ""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_model_goes_to_another_dtype_with_its_bits(dtype: str, scheme: str) -> None:
    origin = quantised("llama", scheme)
    module = copy.deepcopy(origin.module).to(getattr(torch, dtype))
    for name, weight in slots(origin.module).items():
        if isinstance(weight, QuantisedWeight):
            made = slots(module)[name]
            assert (made.dtype, made.nbytes) == (getattr(torch, dtype), weight.nbytes)
            assert apart(made.dequantize().double(), weight.dequantize().double()) < 5e-3
    model = mi.Model(module, name="llama", config={})
    assert apart(model.run(IDS).logits.float(), origin.run(IDS).logits) < 3e-2


def test_every_property_of_the_kit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_CHECK_EXAMPLES", "1")
    folder = mkdtemp()
    mi.save_model(small(5, num_hidden_layers=1), folder)
    model = mi.load(folder, quantise="int8", device="cpu")
    for _, check in checks(Subject(model, model.config)):
        check()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_size_that_headers_give_is_the_size_in_memory(scheme: str, dtype: str) -> None:
    model = mi.load(saved("deepseek_v3"), quantise=scheme, dtype=dtype, device="cpu")
    held = {id(tensor): tensor.nbytes for tensor in slots(model.module).values()}
    found = mi.inspect(saved("deepseek_v3"), quantise=scheme)  # some of its biases are float32 in any dtype
    assert found.quantised[dtype] == sum(held.values())
    assert sum(held.values()) < 0.8 * found.memory[dtype]
    for tensor in slots(model.module).values():  # no view of the file, whose pages it would keep
        assert isinstance(tensor, QuantisedWeight) or tensor.untyped_storage().nbytes() == tensor.nbytes


def test_provenance_and_receipts_say_what_was_quantised() -> None:
    words = r"weights  \d+ matrices in int8 with a scale for each row \(torchao 0\.\d+\.\d+\)"
    receipt = quantised("llama").run(IDS).receipt

    assert re.search(words, str(receipt))
    assert type(receipt).from_json(receipt.to_json()) == receipt
    assert repr(quantised("llama")).endswith("on cpu, quantised)")
    assert quantised("llama").provenance.quantised != quantised("llama", "float8").provenance.quantised
    assert dequantised("llama").provenance.quantised == ""


WRITES: dict[str, Callable[[Tensor], object]] = {
    "a copy": lambda weight: weight.copy_(torch.zeros(2, 3)),
    "a sum": lambda weight: weight.add_(1.0),
    "an entry": lambda weight: weight.__setitem__(0, 1.0),
    "random numbers": lambda weight: nn.init.normal_(weight),
    "a result": lambda weight: torch.add(torch.zeros(2, 3), 1.0, out=weight),
    "other data": lambda weight: setattr(weight, "data", torch.zeros(2, 3)),
    "a gradient": lambda weight: weight.requires_grad_(),
    "a gradient's mark": lambda weight: setattr(weight, "requires_grad", True),
}


@pytest.mark.parametrize("what", WRITES)
def test_nothing_is_written_into_a_quantised_weight(what: str) -> None:
    weight = nn.Parameter(Quantiser("int8", frozenset({"w"}))("w", torch.randn(2, 3)), requires_grad=False)
    before = weight.dequantize()
    with pytest.raises(InputError, match=r"quantised weights cannot be (written|trained).*without quantise"):
        WRITES[what](weight)
    assert torch.equal(weight.dequantize(), before)


REFUSED: dict[str, tuple[type[MiError], str, Callable[[Path], object]]] = {
    "folding": (UnsupportedAnalysis, "without quantise", lambda _: mi.folded(quantised("llama"))),
    "saving": (NotSerialisable, "without quantise", lambda path: mi.save_model(quantised("llama"), path)),
    "compiling": (NotCompiled, "quantised", lambda _: quantised("llama").compile(strict=True)(IDS)),
    "training": (InputError, "trained", lambda _: quantised("llama").module.requires_grad_()),
    "a device map": (LoadError, "one device", lambda _: mi.load(saved("llama"), quantise="int8", device_map="auto")),
    "int4": (LoadError, "accelerator", lambda _: mi.load(saved("llama"), quantise="int4")),
    "another scheme": (LoadError, "one of int8, float8", lambda _: mi.inspect(saved("llama"), quantise="nf4")),
    "float64": (LoadError, "float64", lambda _: mi.load(saved("llama"), quantise="int8", dtype="float64")),
    "no matrices": (LoadError, r"matrices\(\)", lambda _: mi.load("second-argmax-4-3", quantise="int8")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_plain_weights_is_refused_by_a_sentence(what: str, tmp_path: Path) -> None:
    error, words, attempt = REFUSED[what]
    with pytest.raises(error, match=words):
        attempt(tmp_path)


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(LoadError, match=r"mi-core\[quantised\]"):
        mi.load(saved("llama"), quantise="int8")


def test_every_command_that_takes_a_dtype_takes_a_quantisation() -> None:
    for name in plugins.names("mi_core.commands"):
        options = inspect.signature(command(name)).parameters
        assert ("dtype" in options) == ("quantise" in options), name


def test_commands_run_and_measure_quantised_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tiny-world", "--quantise", "int8"]) == 0
    assert "in int8    1.1 MB in float32, 874.8 kB in bfloat16" in capsys.readouterr().out
    assert main(["generate", "tiny-world", "The capital of France is", "-n", "1", "--quantise", "int8"]) == 0
    assert "The capital of France is Paris" in capsys.readouterr().out
