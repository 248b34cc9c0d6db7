"""The page is TOML whatever it is made of, and says how far seeds lie apart."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_registry.tiny_world import page


@given(
    st.dictionaries(st.sampled_from(["top1", "loss"]), st.floats(0, 1), min_size=1),
    st.dictionaries(st.sampled_from(["command", "device"]), st.text(st.characters(codec="utf-8"), max_size=9)),
)
def test_a_rendered_page_is_read_back(score: dict[str, float], training: dict[str, str]) -> None:
    read = tomllib.loads(page.render([{"model": {}, "training": training, "scores": {"facts": score}}]))
    assert read["training"] == training
    assert {name: read["scores"]["facts"][name] for name in score} == pytest.approx(score, abs=1e-4)


def test_the_spread_is_the_largest_distance_from_the_first_run() -> None:
    def run(top1: float, seed: int) -> dict[str, Any]:
        return {
            "model": {},
            "training": {"seed": seed, "device": "cpu"},
            "scores": {"facts": {"prompts": 330, "top1": top1}},
        }

    read = tomllib.loads(page.render([run(0.9, 0), run(0.95, 1), run(0.8, 2)]))
    assert read["spread"] == {"seed": [1, 2], "device": ["cpu", "cpu"], "facts": {"top1": pytest.approx(0.1)}}
