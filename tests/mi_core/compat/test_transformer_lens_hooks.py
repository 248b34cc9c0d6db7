"""Hook functions are interventions: what they return, or do to their copy, is what the model goes on with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import close, small
from torch import Tensor

import mi_core as mi
from mi_core.compat.transformer_lens import HookedTransformer, HookPoint
from mi_core.errors import ReadOnlyPoint, SpecError, UnknownPoint, ValueMismatch

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def hooked() -> HookedTransformer:
    return HookedTransformer(small())


def zeros(activation: Tensor, hook: HookPoint) -> Tensor:
    return torch.zeros_like(activation)


def test_what_a_function_returns_is_an_intervention() -> None:
    model = hooked()
    wanted = small().run(IDS, mi.intervene("blocks.1.hook_mlp_out", mi.Zero())).logits
    close(model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_mlp_out", zeros)]), wanted)
    close(model.run_with_hooks(IDS, fwd_hooks=[(lambda name: name == "blocks.1.hook_mlp_out", zeros)]), wanted)


def test_what_is_done_in_place_counts_and_leaves_nothing_behind() -> None:
    model = hooked()

    def in_place(activation: Tensor, hook: HookPoint) -> None:
        activation[:] = 0

    before = model(IDS)
    wanted = small().run(IDS, mi.intervene("blocks.1.hook_mlp_out", mi.Zero())).logits
    close(model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_mlp_out", in_place)]), wanted)
    assert torch.equal(model(IDS), before)


def test_hooks_at_one_place_run_in_their_order() -> None:
    seen: list[str] = []

    def note(word: str) -> Any:
        return lambda activation, hook: seen.append(word)

    hooked().run_with_hooks(IDS, fwd_hooks=[("hook_embed", note("first")), ("hook_embed", note("second"))])
    assert seen == ["first", "second"]


def test_a_function_is_told_its_place() -> None:
    seen: list[tuple[str, int]] = []

    def note(activation: Tensor, hook: HookPoint) -> None:
        seen.append((hook.name, hook.layer()))

    hooked().run_with_hooks(IDS, fwd_hooks=[(lambda name: name.endswith("hook_z"), note)])
    assert seen == [(f"blocks.{layer}.attn.hook_z", layer) for layer in range(3)]


def test_the_context_of_a_place_stays_until_it_is_cleared() -> None:
    model = hooked()

    def count(activation: Tensor, hook: HookPoint) -> None:
        hook.ctx["calls"] = hook.ctx.get("calls", 0) + 1

    for _ in range(2):
        model.run_with_hooks(IDS, fwd_hooks=[("hook_embed", count)])
    assert model.hook_dict["hook_embed"].ctx == {"calls": 2}
    model.reset_hooks(clear_contexts=True)
    assert model.hook_dict["hook_embed"].ctx == {}


def test_hooks_stand_within_their_block_only_and_caches_see_what_they_wrote() -> None:
    model = hooked()
    before = model(IDS)
    with model.hooks([("blocks.0.hook_mlp_out", zeros)]):
        logits, cache = model.run_with_cache(IDS)
        assert not cache["mlp_out", 0].any()
        assert not torch.equal(logits, before)
    assert torch.equal(model(IDS), before)
    with pytest.raises(RuntimeError), model.hooks([("blocks.0.hook_mlp_out", zeros)]):
        raise RuntimeError
    assert torch.equal(model(IDS), before)


def test_added_hooks_stand_until_they_are_reset() -> None:
    model = hooked()
    before = model(IDS)
    model.add_hook("blocks.0.hook_mlp_out", zeros)
    assert not torch.equal(model(IDS), before)
    model.reset_hooks()
    assert torch.equal(model(IDS), before)


def test_what_would_do_nothing_is_refused() -> None:
    model = hooked()
    with pytest.raises(UnknownPoint, match=r"Did you mean 'blocks\.0\.attn\.hook_pattern'"):
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.0.attn.hook_patern", zeros)])
    with pytest.raises(UnknownPoint, match="true for none"):
        model.add_hook(lambda name: "nothing" in name, zeros)
    with pytest.raises(UnknownPoint, match="set_use_attn_result"):
        model.run_with_cache(IDS, names_filter=lambda name: name.endswith("hook_result"))
    with pytest.raises(SpecError, match="is no hook"):
        model.run_with_hooks(IDS, fwd_hooks=[("hook_embed", zeros, "fwd")])
    with pytest.raises(ValueMismatch, match="same shape"):
        model.run_with_hooks(IDS, fwd_hooks=[("hook_embed", lambda activation, hook: activation[0])])
    with pytest.raises(UnknownPoint, match="no layer number"):
        HookPoint("hook_embed").layer()
    assert model._standing == {"fwd": [], "bwd": []}


def test_on_demand_places_are_offered_to_filters_when_asked_for() -> None:
    model = hooked()
    close(
        model.run_with_cache(IDS, names_filter="blocks.0.attn.hook_result")[1]["result", 0].sum(-2)
        + model.blocks[0].attn.b_O,
        model.run_with_cache(IDS)[1]["attn_out", 0],
    )
    model.set_use_attn_result(True)
    _, cache = model.run_with_cache(IDS, names_filter=lambda name: name.endswith("hook_result"))
    assert list(cache) == [f"blocks.{layer}.attn.hook_result" for layer in range(3)]
    with pytest.raises(UnknownPoint):
        model.set_use_attn_in(True)  # keys are shared between heads
    assert issubclass(ReadOnlyPoint, SpecError)
