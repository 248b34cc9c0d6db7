"""The embedded dictionaries are what the page says, and reach what was asked of them."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest

import mi_core as mi
import mi_dictionaries
from mi_registry.tiny_world.dictionaries import HELD_OUT, RECIPES, with_dictionaries, world_rows

TEXT = (files("mi_registry") / "tiny-world.toml").read_text(encoding="utf-8")
PAGE = tomllib.loads(TEXT)["dictionaries"]


def test_every_dictionary_that_is_made_is_on_the_page() -> None:
    assert list(PAGE) == [recipe.folder for recipe in RECIPES]
    assert with_dictionaries(TEXT, {}).count("[dictionaries.") == 0
    assert tomllib.loads(with_dictionaries(TEXT, PAGE))["dictionaries"] == PAGE


@pytest.mark.parametrize("name", PAGE)
def test_the_page_reaches_the_bars(name: str) -> None:
    bar = {"sae": 0.97, "transcoders": 0.95, "clt": 0.93}[name.partition("/")[0]]
    assert PAGE[name]["ce_recovered"] >= bar
    assert name == "clt" or PAGE[name]["l0"] <= 24


@pytest.mark.parametrize("name", ["sae/blocks.3.hook_resid_post", "transcoders", "clt"])
def test_what_is_embedded_does_what_the_page_says(name: str) -> None:
    model, rows = mi.load("tiny-world"), world_rows(HELD_OUT)
    found = mi_dictionaries.load(f"tiny-world/{name}")
    one = found[3] if name == "transcoders" else found
    said = PAGE["transcoders/layer_3" if name == "transcoders" else name]
    measured = mi_dictionaries.evaluate(model, one, [rows(1)[::4]])
    assert measured.l0 == pytest.approx(said["l0"], rel=0.15)
    assert measured.explained_variance == pytest.approx(said["explained_variance"], abs=0.03)
    assert measured.ce_recovered == pytest.approx(said["ce_recovered"], abs=0.03)
