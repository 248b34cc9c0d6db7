"""Caches: what their filters let through, under which keys, and what is made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, family_example, small
from torch import Tensor

from mi_core.compat.transformer_lens import ActivationCache, HookedTransformer
from mi_core.compat.transformer_lens.norms import norm_kind
from mi_core.errors import InputError, MissingActivation, SelectorError, SpecError, UnknownPoint, UnsupportedAnalysis

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
SEQUENTIAL = ["gpt2", "llama", "qwen2", "gemma"]


def hooked() -> HookedTransformer:
    return HookedTransformer(small())


def cached(family: str) -> tuple[HookedTransformer, Tensor, ActivationCache]:
    model = HookedTransformer(family_example(family))
    logits, cache = model.run_with_cache(IDS)
    return model, logits, cache


def test_keys_are_names_short_names_and_tuples() -> None:
    _, cache = hooked().run_with_cache(IDS)
    for key in ("pattern2", ("pattern", 2), ("pattern", -1), ("attn", 2), ("pattern", 2, "attn")):
        assert cache[key] is cache["blocks.2.attn.hook_pattern"]
    assert cache["scale"] is cache["ln_final.hook_scale"]
    assert ("normalized", 0, "ln2") in cache


def test_what_a_cache_does_not_hold_is_told() -> None:
    _, cache = hooked().run_with_cache(IDS, names_filter="hook_embed")
    with pytest.raises(MissingActivation, match=r"names_filter='blocks\.0\.attn\.hook_pattern'"):
        cache["pattern", 0]
    with pytest.raises(UnknownPoint, match="layers 0 to 2"):
        cache["pattern", 3]
    with pytest.raises(UnknownPoint, match="names no activation"):
        cache[3]
    with pytest.raises(UnknownPoint):
        cache["patern", 0]
    assert ("pattern", 0) not in cache
    assert "no such thing" not in cache


def test_filters_are_names_lists_and_functions() -> None:
    model = hooked()
    filters: list[tuple[Any, list[str]]] = [
        ("pattern1", ["blocks.1.attn.hook_pattern"]),
        (["blocks.1.hook_resid_post", "hook_embed"], ["hook_embed", "blocks.1.hook_resid_post"]),
        (lambda name: name.endswith("hook_z") and ".1." in name, ["blocks.1.attn.hook_z"]),
        ([], []),
    ]
    for names_filter, wanted in filters:
        assert list(model.run_with_cache(IDS, None, names_filter=names_filter)[1]) == wanted


@pytest.mark.parametrize("stop", [0, 1, -1, 3])
def test_stopping_returns_the_stream_and_caches_what_came_before(stop: int) -> None:
    model = hooked()
    _, everything = model.run_with_cache(IDS)
    resid, cache = model.run_with_cache(IDS, stop_at_layer=stop)
    end = stop % 3 if stop < 0 else stop
    close(resid, everything["resid_post", -1] if end == 3 else everything["resid_pre", end])
    layers = {name.split(".")[1] for name in cache if name.startswith("blocks.")}
    assert layers == {str(layer) for layer in range(end)}
    assert "hook_embed" in cache.cache_dict
    assert "hook_logits" not in cache.cache_dict


def test_what_is_asked_for_behind_the_stop_is_refused() -> None:
    with pytest.raises(SpecError, match="not computed before layer 1"):
        hooked().run_with_cache(IDS, names_filter="blocks.1.hook_resid_post", stop_at_layer=1)
    with pytest.raises(SpecError, match="3 layers"):
        hooked()(IDS, stop_at_layer=4)


def test_a_dim_of_one_row_can_go() -> None:
    _, cache = hooked().run_with_cache(IDS[:1], remove_batch_dim=True)
    assert cache["resid_post", 0].shape == (4, 16)
    assert cache.decompose_resid(apply_ln=True).shape == (7, 4, 16)
    _, several = hooked().run_with_cache(IDS)
    with pytest.raises(SelectorError, match="2 rows"):
        several.remove_batch_dim()
    close(several.apply_slice_to_batch_dim(0)["resid_post", 0], cache["resid_post", 0])
    assert several.to("cpu") is not several


@pytest.mark.parametrize("family", [*SEQUENTIAL, "gpt_neox"])
@given(data=st.data())
def test_parts_add_up_to_the_stream(family: str, data: st.DataObject) -> None:
    model, _, cache = cached(family)
    layer = data.draw(st.integers(0, model.cfg.n_layers))
    whole = cache["resid_post", -1] if layer == model.cfg.n_layers else cache["resid_pre", layer]
    close(cache.decompose_resid(layer).sum(0), whole)
    heads, labels = cache.stack_head_results(layer, return_labels=True, incl_remainder=True)
    close(heads.sum(0), whole)
    assert len(labels) == len(heads) == layer * (model.cfg.n_heads or 0) + 1


@pytest.mark.parametrize("family", [*SEQUENTIAL, "gpt_neox"])
def test_attributions_add_up_to_the_logits_less_biases(family: str) -> None:
    model, logits, cache = cached(family)
    bias = model.ln_final.b @ model.W_U if hasattr(model.ln_final, "b") else torch.zeros(model.cfg.d_vocab)
    bias = bias + model.b_U
    attributions = cache.logit_attrs(cache.decompose_resid(), torch.tensor([3, 4]), torch.tensor([5, 6]))
    wanted = torch.stack([logits[0, :, 3] - logits[0, :, 5], logits[1, :, 4] - logits[1, :, 6]])
    offset = torch.stack([bias[3] - bias[5], bias[4] - bias[6]])[:, None]
    close(attributions.sum(0), wanted - offset, atol=1e-4)


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_a_layers_norm_is_applied_at_its_scale(family: str) -> None:
    model, _, cache = cached(family)
    for mlp_input, part in ((False, "attn"), (True, "mlp")):
        norm = model.blocks[1].ln2 if mlp_input else model.blocks[1].ln1
        stack = cache.decompose_resid(1, mlp_input=mlp_input, apply_ln=True)
        bias = norm.b if hasattr(norm, "b") else 0.0
        close(stack.sum(0) + bias, cache[f"blocks.1.{part}.hook_in"], atol=1e-4)


def test_accumulated_streams_are_a_logit_lens() -> None:
    model, logits, cache = cached("gpt2")
    stack, labels = cache.accumulated_resid(apply_ln=True, return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    close(model.unembed(stack[-1]), logits)
    close(model.unembed(model.ln_final(cache["resid_pre", 1])), model.unembed(stack[1]))


def test_heads_behind_a_norm_are_refused() -> None:
    _, _, cache = cached("gemma2")
    with pytest.raises(UnsupportedAnalysis, match="norm or a factor"):
        cache.stack_head_results()


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "LN"), ("llama", "RMS"), ("gemma", "RMS"), ("gpt_neox", "LN")])
def test_the_kind_of_norm_is_seen(family: str, kind: str) -> None:
    assert norm_kind(family_example(family)) == kind


def test_bad_stacks_are_refused() -> None:
    _, _, cache = cached("gpt2")
    with pytest.raises(SelectorError, match="'all', 'mlp' or 'attn'"):
        cache.decompose_resid(mode="heads")  # type: ignore[arg-type]
    with pytest.raises(SelectorError, match="0 to 3"):
        cache.accumulated_resid(4)
    with pytest.raises(SelectorError, match="incl_remainder"):
        cache.stack_head_results(0)
    with pytest.raises(InputError, match="return_type"):
        hooked()(IDS, return_type="probs")
