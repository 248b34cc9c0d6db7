"""The same weights, the same activations: against what TransformerLens computed (tests/record_transformer_lens.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_models import close
from torch import Tensor

import mi_core as mi
from mi_core.compat.transformer_lens import HookedTransformer, patching

REFERENCE = Path(__file__).parents[2] / "data" / "transformer_lens.safetensors"
CORRECT, WRONG = 3, 5


@cache
def reference(name: str) -> Mapping[str, Tensor]:
    with safe_open(REFERENCE, "pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118 - it is no mapping
        return {key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys}


@cache
def same_weights(name: str) -> HookedTransformer:
    """Our model with the recorded weights, put in by the names that both libraries give them."""
    with safe_open(REFERENCE, "pt") as file:
        config = json.loads(file.metadata()["configs"])[name]
    model = mi.build(config, trainable=False, device="cpu")
    filled = set[int]()
    for key, value in part(name, "weights/").items():
        if key != "unembed.b_U":  # zeros: neither family has one
            model.weights[key].copy_(value)
            filled.add(model.weights[key].untyped_storage().data_ptr())
    left = [each for each in model.module.parameters() if each.untyped_storage().data_ptr() not in filled]
    assert not any(each.any() for each in left)  # biases of gates, which theirs have not
    return HookedTransformer(model)


def part(name: str, start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in reference(name).items() if key.startswith(start)}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_activation_of_theirs_is_ours(name: str) -> None:
    model, theirs = same_weights(name), part(name, "cache/")
    model.set_use_attn_result(True)
    logits, ours = model.run_with_cache(reference(name)["tokens"])
    close(logits, reference(name)["logits"])
    assert len(theirs) > 40
    for key, value in theirs.items():
        close(ours[key], value)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_stacks_are_theirs(name: str) -> None:
    model, recorded = same_weights(name), reference(name)
    _, cache = model.run_with_cache(recorded["tokens"])
    close(cache.accumulated_resid(incl_mid=True, apply_ln=True), recorded["stacks/accumulated"])
    close(cache.decompose_resid(), recorded["stacks/decomposed"])
    close(cache.stack_head_results(incl_remainder=True, pos_slice=-1), recorded["stacks/heads"])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_attributions_are_those_of_their_folded_weights(name: str) -> None:
    model, recorded = same_weights(name), reference(name)
    _, cache = model.run_with_cache(recorded["tokens"])
    parts = cache.decompose_resid(pos_slice=-1)
    tokens = torch.full((2,), CORRECT), torch.full((2,), WRONG)
    close(cache.logit_attrs(parts, *tokens, pos_slice=-1), recorded["folded/attributions"])
    close(cache["normalized"], recorded["folded/normalized"])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_runs_losses_and_hooks_are_theirs(name: str) -> None:
    model, recorded = same_weights(name), reference(name)
    tokens = recorded["tokens"]

    def zero_first_head(pattern: Tensor, hook: Any) -> Tensor:
        return torch.where(torch.arange(2)[:, None, None] == 0, 0.0, pattern)

    def double_last(resid: Tensor, hook: Any) -> None:
        resid[:, -1] *= 2

    hooks = [("blocks.0.attn.hook_pattern", zero_first_head), ("blocks.1.hook_resid_pre", double_last)]
    close(model.run_with_hooks(tokens, fwd_hooks=hooks), recorded["hooked_logits"])
    close(model(tokens, return_type="loss"), recorded["loss"])
    close(model(tokens, stop_at_layer=1), recorded["stopped"])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_stacked_weights_have_their_shapes_and_values(name: str) -> None:
    model, recorded = same_weights(name), reference(name)
    close(model.OV.AB, recorded["OV"])
    close(model.QK.AB, recorded["QK"])
    close(model.accumulated_bias(2), recorded["accumulated_bias"])
    weights = part(name, "weights/")
    for own, place in {"W_in": "mlp", "b_out": "mlp", "W_O": "attn", "b_Q": "attn"}.items():
        close(getattr(model, own), torch.stack([weights[f"blocks.{layer}.{place}.{own}"] for layer in (0, 1)]))
    close(model.W_U, weights["unembed.W_U"])
    close(model.b_U, weights["unembed.b_U"])
    assert model.W_K.shape == model.W_Q.shape


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_folded_weights_are_their_folded_weights(name: str) -> None:
    centred = name == "gpt2"
    ours = mi.folded(
        same_weights(name).model, norms=True, center_writing=centred, center_unembed=True, value_biases=True
    )
    theirs = part(name, "folded/weights/")
    assert len(theirs) > 20
    for key, value in theirs.items():
        if key in ours.weights:
            close(ours.weights[key], value)
        else:
            assert not value.any()  # a bias that ours need not have


@pytest.mark.parametrize(("name", "kinds"), [("gpt2", 5), ("llama", 4)])
def test_own_inputs_of_theirs_are_ours(name: str, kinds: int) -> None:
    model, theirs = same_weights(name), part(name, "inputs/")
    _, ours = model.run_with_cache(reference(name)["tokens"], names_filter=list(theirs))
    assert len(theirs) == 2 * kinds
    for key, value in theirs.items():
        close(ours[key], value)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_name_of_theirs_is_compared(name: str) -> None:
    compared = {*part(name, "cache/"), *part(name, "inputs/")}
    ours = set(same_weights(name).hook_dict)
    assert compared <= ours
    left = {key.rpartition("blocks.0.")[2] for key in ours - compared if "blocks.1." not in key}
    # what theirs has not: points behind gains, parts' own outputs, each head's copy of a key
    only_ours = {"attn.hook_in", "mlp.hook_in", "attn.hook_out", "mlp.hook_out", "hook_logits"}
    only_ours |= {"attn.hook_k_per_head", "attn.hook_v_per_head"}
    assert left == only_ours


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_maps_of_patches_are_theirs(name: str) -> None:
    model, theirs = same_weights(name), part(name, "patching/")
    tokens = reference(name)["tokens"]
    _, clean = model.run_with_cache(tokens)

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1, CORRECT] - logits[:, -1, WRONG]).mean()

    ask = (model, tokens.flip(1), clean, metric)
    assert len(theirs) == 5
    for key, value in theirs.items():
        function = "attn_head_pattern_dest_src_pos" if key == "dest_src" else key
        close(getattr(patching, f"get_act_patch_{function}")(*ask), value)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_are_theirs(name: str) -> None:
    model, theirs = same_weights(name), part(name, "gradients/")
    model.set_use_attn_result(True)
    _, ours = model.run_with_cache(reference(name)["tokens"], return_type="loss", incl_bwd=True)
    assert len(theirs) > 40
    for key, value in theirs.items():
        if ".ln1." not in key:  # theirs calls this norm for q, k and v each, and keeps one call's gradient (their #335)
            close(ours[key], value)
