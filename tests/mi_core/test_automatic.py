"""A model_type that nobody claims is read as the one model that it can mean, or refused with what stands in the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import family_example

import mi_core as mi
from mi_core import plugins, registry
from mi_core.blueprint import Blueprint, Weight
from mi_core.building import initialise_randomly
from mi_core.cli.main import main
from mi_core.config import Config
from mi_core.errors import UnknownFamily
from mi_core.families import GROUP, blueprint_of
from mi_core.gain_signs import check_gains
from mi_core.readings import differences, same
from mi_decoder.fused import side_by_side

CHEAP = ("gpt_neox", "granitemoe", "iquestcoder", "llama", "olmo2", "qwen3", "seed_oss")
RIVALS = (*CHEAP, "gemma", "granitemoeshared", "helium", "internlm3", "mistral", "stablelm")
"""The families that are asked: all of them take a second for each checkpoint."""


def example(family: str, index: int = 0) -> dict[str, Any]:
    """One of the family's own configs, with everything written out that the family takes by default."""
    plugin = plugins.plugin(GROUP, family)
    values = dict(plugin.call("mi_family_examples")[index])
    config = Config(values)
    blueprint_of(plugin, config, None)
    return values | {k: v for k, (v, _) in config.assumed().items() if v is not None and "." not in k}


@cache
def model(family: str) -> mi.Model:
    made = mi.build(example(family), trainable=False, device="cpu")
    initialise_randomly(made, 0)
    return made


def written(folder: Path, family: str, **changes: Any) -> Path:
    """A checkpoint of that family whose config calls it otherwise; null removes a key."""
    mi.save_model(model(family), folder)
    return changed(folder, model_type="nobodys", **changes)


def changed(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}), encoding="utf-8")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets which families are installed."""
    installed = plugins.installed()

    def only(*names: str) -> None:
        kept = tuple(claim for claim in installed if claim.group != GROUP or claim.name in names)
        monkeypatch.setattr(plugins, "installed", lambda: kept)

    only(*RIVALS)
    return only


@pytest.mark.parametrize("hidden", [False, True], ids=["installed", "hidden"])
@pytest.mark.parametrize("family", CHEAP)
def test_what_is_claimed_is_what_the_own_family_makes(hidden: bool, family: str, asked: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, family)
    true = mi.load(folder, backend=family, device="cpu")
    asked(*(name for name in RIVALS if not (hidden and name == family)))
    try:
        found = mi.load(folder, device="cpu")
    except UnknownFamily:
        return
    assert found.backend.spec == true.backend.spec
    tokens = torch.arange(1, 9)[None]
    assert torch.equal(found.run(tokens).logits, true.run(tokens).logits)


@pytest.mark.parametrize("family", ["gpt_neox", "mistral"])
def test_one_reading_is_loaded_and_the_receipt_says_so(family: str, asked: Any, tmp_path: Path) -> None:
    folder = written(tmp_path / "first", family)
    found = mi.load(folder, device="cpu")
    assert found.provenance.family == family
    assert f"'nobodys' is nobody's; read as '{family}'" in found.provenance.read_as
    receipt = found.run([1, 2, 3]).receipt
    assert found.provenance.read_as in str(receipt)
    assert type(receipt).from_json(receipt.to_json()) == receipt
    assert mi.inspect(folder).read_as == found.provenance.read_as
    mi.save_model(found, tmp_path / "second")
    again = mi.load(tmp_path / "second", device="cpu")
    assert torch.equal(again.run([1, 2, 3]).logits, found.run([1, 2, 3]).logits)


def test_families_that_agree_are_all_named(asked: Any, tmp_path: Path) -> None:
    read_as = mi.inspect(written(tmp_path, "iquestcoder")).read_as
    assert all(repr(name) in read_as for name in ("iquestcoder", "internlm3", "llama"))


@pytest.mark.parametrize(
    ("family", "rival", "what"),
    [("gemma", "llama", r"ln1\.gain.*Gain or OnePlusGain"), ("seed_oss", "helium", "interleaved")],
)
def test_what_neither_tensors_nor_keys_show_is_left_to_the_caller(
    family: str, rival: str, what: str, asked: Any, tmp_path: Path
) -> None:
    folder = written(tmp_path, family)
    with pytest.raises(UnknownFamily, match=f"fit several that differ.*{what}.*backend=") as caught:
        mi.load(folder)
    assert {family, rival} <= set(caught.value.candidates)
    assert mi.load(folder, backend=family).provenance.read_as == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rms_norm_eps": None}, r"leaves open what that family takes by default: rms_norm_eps = 1e-05"),
        ({"depth_of_thought": 3}, r"Closest: 'olmo2', but it does not know depth_of_thought = 3\. Installed"),
        ({"num_hidden_layers": 4}, r"Closest: 'olmo2', but the checkpoint lacks model\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"Closest: 'olmo2', but there is no place for model\.layers\.2\."),
        ({"intermediate_size": 8}, r"Closest: 'olmo2', but the config implies other shapes for model"),
    ],
)
def test_what_stands_in_the_way_is_said(
    changes: Mapping[str, Any], words: str, asked: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, "olmo2", **changes)
    with pytest.raises(UnknownFamily, match=words):
        mi.load(folder)
    assert isinstance(mi.inspect(folder).problem, UnknownFamily)
    assert main(["inspect", str(folder)]) == 1
    assert "would not load" in capsys.readouterr().out


def test_what_the_caller_ignores_does_not_stand_in_the_way(asked: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, "olmo2", depth_of_thought=3)
    found = mi.load(folder, ignore_config=["depth_of_thought"])
    assert (found.provenance.family, found.provenance.ignored_config) == ("olmo2", ("depth_of_thought",))


def test_a_family_that_excuses_a_key_for_itself_does_not_excuse_it_for_a_stranger(asked: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, "llama", rope_interleaved=True)
    with pytest.raises(UnknownFamily, match="does not know rope_interleaved = True"):
        mi.load(folder)
    assert mi.load(changed(folder, model_type="llama")).provenance.family == "llama"


def test_a_class_name_is_no_evidence(asked: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, "gemma", architectures=["GemmaForCausalLM"])
    with pytest.raises(UnknownFamily, match="fit several that differ"):
        mi.load(folder)


def test_nothing_is_inferred_of_what_the_registry_knows(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, "olmo2")
    asked("llama", "olmo2")
    listed = registry.Page("list", {"not_read": {"kolibri9": "not written yet"}}, "mi-core", tmp_path)
    every = registry.pages()
    monkeypatch.setattr(registry, "pages", lambda: {**every, "list": listed})
    known = {"gemma": "the registry knows it.*its family has to read it", "kolibri9": "not read .not written yet"}
    for model_type, words in known.items():
        changed(folder, model_type=model_type)
        for call in (mi.load, lambda ref: raised(mi.inspect(ref).problem)):
            with pytest.raises(UnknownFamily, match=words):
                call(folder)
    assert mi.load(folder, backend="olmo2").provenance.family == "olmo2"


def raised(problem: Exception | None) -> None:
    assert problem is not None
    raise problem


def test_nothing_is_inferred_where_some_families_may_not_be_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = written(tmp_path, "olmo2")
    monkeypatch.setenv("MI_PLUGINS", "llama,olmo2")
    with pytest.raises(UnknownFamily, match=r"not inferred: MI_PLUGINS leaves out .*which might read it otherwise"):
        mi.load(folder)


@settings(max_examples=3)
@given(seed=st.integers(0, 999))
def test_gains_around_zero_are_not_read_as_what_multiplies(seed: int) -> None:
    with TemporaryDirectory() as where:
        folder = Path(where)
        made = mi.build(example("olmo2"), trainable=False, device="cpu")
        initialise_randomly(made, seed)
        mi.save_model(made, folder)
        changed(folder, model_type="nobodys")
        with pytest.MonkeyPatch.context() as patch:
            kept = tuple(c for c in plugins.installed() if c.group != GROUP or c.name in ("olmo2", "llama"))
            patch.setattr(plugins, "installed", lambda: kept)
            assert mi.load(folder).provenance.family == "olmo2"
            for name, parameter in made.module.named_parameters():
                if parameter.ndim == 1 and not name.endswith("bias"):
                    parameter.copy_(parameter - 1)  # as Gemma stores them
            mi.save_model(made, folder)
            changed(folder, model_type="nobodys")
            with pytest.raises(UnknownFamily, match=r"\d+% of the norms' gains are below zero, as of offsets from one"):
                mi.load(folder)
            assert mi.load(folder, backend="olmo2").provenance.read_as == ""


def test_gains_above_zero_are_not_read_as_offsets() -> None:
    gemma = family_example("gemma")  # all its stored offsets are above a half
    with pytest.raises(UnknownFamily, match="0% of the norms' gains are below zero, as of what multiplies"):
        check_gains(gemma.backend, gemma.module, "gemma", "here")
    llama = family_example("llama")
    check_gains(llama.backend, llama.module, "llama", "here")


def test_blueprints_are_the_same_only_where_spec_names_and_views_are() -> None:
    def made(spec: object = 1, name: str = "w", sizes: tuple[int, ...] = (2, 2), part: int = 0) -> Blueprint:
        weights = {"p": Weight.of(name, view=side_by_side(sizes)[part])}
        return Blueprint(backend=pytest.fail, weights=weights, spec=spec)

    assert same(made(), made())
    for other in (made(spec=2), made(name="v"), made(sizes=(1, 2)), made(part=1)):
        assert not same(made(), other)
    assert not same(made(spec=None), made(spec=None))


def test_differences_are_found_inside_tuples_and_parts() -> None:
    one, other = (Weight(("a", "b")), 1), (Weight(("a", "c")), 2)
    assert list(differences(one, other)) == [("0.names.1", "'b' or 'c'"), ("1", "1 or 2")]
    assert list(differences(one, one)) == []
