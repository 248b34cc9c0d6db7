"""Layers whose stream is no plain sum follow the formula that they give, and what needs the sum refuses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mi_core as mi
from mi_analyses import direct_logit_attribution
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.errors import ReadOnlyPoint, UnsupportedAnalysis

IDS = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]


def made(family: str, number: int, **changes: Any) -> mi.Model:
    config = {**plugins.plugin("mi_core.families", family).call("mi_family_examples")[number], **changes}
    model = mi.build(config, trainable=False, device="cpu")
    initialise_randomly(model, 0)
    return model


def inside(model: mi.Model) -> dict[str, Tensor]:
    run = model.run(IDS, mi.capture("*"))
    return {name.removeprefix("blocks.1."): run[name] for name in run if name.startswith("blocks.1.")}


def test_a_scaled_layer_multiplies_its_whole_stream() -> None:
    model = made("gemma4_text", 0)
    here = inside(model)
    scale = model.weights["blocks.1.scale"]
    assert scale.shape == (1,)
    assert abs(scale.item() - 1.0) > 1e-3
    total = here["hook_resid_pre"] + here["hook_attn_out"] + here["hook_mlp_out"]
    torch.testing.assert_close(here["hook_resid_post"], scale * total)


def test_a_scaled_layer_that_is_to_be_trained_begins_as_a_plain_sum() -> None:
    model = mi.build(plugins.plugin("mi_core.families", "gemma4_text").call("mi_family_examples")[0], device="cpu")
    assert all(rule.kind == "own" for rule in model.shape.residual)
    assert model.weights["blocks.1.scale"].item() == 1.0


def test_keys_that_are_values_are_one_tensor_until_weights_are_folded() -> None:
    model = made("gemma4_text", 0)
    assert torch.equal(model.weights["blocks.1.attn.W_K"], model.weights["blocks.1.attn.W_V"])
    assert not torch.equal(model.weights["blocks.0.attn.W_K"], model.weights["blocks.0.attn.W_V"])
    folded = mi.folded(model, norms=True, center_unembed=False)
    torch.testing.assert_close(folded.run(IDS).logits, model.run(IDS).logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(folded.weights["blocks.1.ln1.w"], torch.ones(32))


def test_a_write_to_values_leaves_the_keys_that_they_are_made_of() -> None:
    model = made("gemma4_text", 0)
    edit = mi.intervene("blocks.1.attn.hook_v", mi.Scale(-2.0))
    run = model.run(IDS, edit + mi.capture("blocks.1.attn.hook_k"))
    base = model.run(IDS, mi.capture("blocks.1.attn.hook_k"))
    assert torch.equal(run["blocks.1.attn.hook_k"], base["blocks.1.attn.hook_k"])
    assert not torch.allclose(run.logits, base.logits)


def test_where_a_factor_is_lost_the_denominator_is_read_only() -> None:
    with pytest.raises(ReadOnlyPoint, match="are normed once more"):
        made("gemma4_text", 1).run(IDS, mi.intervene("blocks.0.ln1.hook_scale", mi.Scale(2.0)))
    made("gemma4_text", 0).run(IDS, mi.intervene("blocks.0.ln1.hook_scale", mi.Scale(2.0)))  # biases are not scaled


def test_a_stream_through_norms_goes_on_from_what_parts_read() -> None:
    here = inside(made("bloom", 2))
    torch.testing.assert_close(here["hook_resid_mid"], here["attn.hook_in"] + here["hook_attn_out"])
    torch.testing.assert_close(here["hook_resid_post"], here["mlp.hook_in"] + here["hook_mlp_out"])
    assert "hook_mlp_in" not in here


def test_norms_that_the_stream_goes_through_are_not_folded() -> None:
    model = made("bloom", 2)
    with pytest.raises(UnsupportedAnalysis, match="the stream itself goes on through the norms"):
        mi.folded(model, norms=True)
    folded = mi.folded(model).run(IDS).logits.log_softmax(-1)
    torch.testing.assert_close(folded, model.run(IDS).logits.log_softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "number", "words"), [("gemma4_text", 0, "by a number"), ("bloom", 2, "its normed")])
def test_attributions_refuse_a_stream_that_is_no_sum(family: str, number: int, words: str) -> None:
    with pytest.raises(UnsupportedAnalysis, match=words):
        direct_logit_attribution(made(family, number), torch.tensor(IDS), 3)
