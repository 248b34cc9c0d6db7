from __future__ import annotations

import pytest
import torch
from small_models import close, small

import mi_core as mi
from mi_core.errors import UnknownPoint
from mi_core.weights import Weights


def test_weights_are_views_in_the_fields_layouts() -> None:
    weights = small().weights
    assert weights["blocks.1.attn.W_Q"].shape == (4, 16, 4)
    assert weights["blocks.1.attn.W_K"].shape == (2, 16, 4)
    assert weights.stack("attn.W_O").shape == (3, 4, 4, 16)
    named = {id(p.untyped_storage()) and p.data_ptr() for p in small().module.parameters()}
    assert weights["blocks.1.attn.W_Q"].data_ptr() in named
    run = small().run([[1, 2]], mi.capture(["blocks.1.mlp.hook_post", "blocks.1.mlp.hook_out"]))
    post = run["blocks.1.mlp.hook_post"]
    close(post @ weights["blocks.1.mlp.W_out"] + weights["blocks.1.mlp.b_out"], run["blocks.1.mlp.hook_out"])


def test_several_weights_come_together_in_the_order_that_is_asked_for() -> None:
    names = ["blocks.1.attn.W_O", "embed.W_E", "blocks.0.mlp.W_in", "blocks.1.attn.W_Q", "ln_final.w"]
    split, whole = (mi.load("tiny-world", device_map=places) for places in ({"": "disk"}, None))
    assert all(name in split.weights for name in names)
    assert "blocks.1.attn.W_X" not in split.weights
    assert {unit.brought for unit in split.backend.offloaded.values()} == {0}  # type: ignore[attr-defined]
    found = split.weights.several(names)
    assert list(found) == names
    assert all(torch.equal(value, whole.weights[name]) for name, value in found.items())
    brought = {name: unit.brought for name, unit in split.backend.offloaded.items()}  # type: ignore[attr-defined]
    assert brought == {"outside": 1, "blocks.0": 1, "blocks.1": 1, "blocks.2": 0, "blocks.3": 0}
    assert all(torch.equal(value, found[name]) for name, value in whole.weights.several(names).items())
    with pytest.raises(UnknownPoint, match=r"no weight 'blocks.1.attn.W_X'"):
        split.weights.several(["blocks.1.attn.W_X"])


def test_an_unknown_weight_is_answered_with_the_closest() -> None:
    assert "blocks.0.attn.W_Q" in small().weights
    assert "blocks.0.attn.W_X" not in small().weights
    with pytest.raises(UnknownPoint, match=r"no weight 'blocks.9.attn.W_Q'"):
        small().weights["blocks.9.attn.W_Q"]
    with pytest.raises(UnknownPoint, match=r"Did you mean 'embed\.W_E'"):
        small().weights["embed.WE"]


def test_a_backend_without_names_for_weights_says_so() -> None:
    class Bare:
        pass

    with pytest.raises(UnknownPoint, match=r"has no weight\(name\)"):
        Weights(Bare(), "toy")["embed.W_E"]  # type: ignore[arg-type]
