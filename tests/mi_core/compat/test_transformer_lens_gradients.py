"""Hooks on the way back are told gradients, and toy models made of a config are trained."""

from __future__ import annotations

import pytest
import torch
from small_models import close, family_example, small
from torch import Tensor

import mi_core as mi
from mi_core.compat.transformer_lens import HookedTransformer, HookedTransformerConfig, HookPoint
from mi_core.errors import (
    BadConfig,
    InputError,
    MissingTensors,
    SpecError,
    UnknownPoint,
    UnusedTensors,
    ValueMismatch,
)

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
Z, PRE = "blocks.1.attn.hook_z", "blocks.0.hook_resid_pre"


def wanted(*points: str) -> dict[str, Tensor]:
    run = small().run(IDS, mi.capture(list(points)), grad=True)
    gradients = torch.autograd.grad(run.loss, [run[point] for point in points])
    return dict(zip(points, gradients, strict=True))


def noted() -> tuple[dict[str, Tensor], object]:
    seen: dict[str, Tensor] = {}

    def note(gradient: Tensor, hook: HookPoint) -> None:
        seen[hook.name] = gradient.clone()

    return seen, note


def test_a_backward_hook_is_told_the_gradient() -> None:
    model, (seen, note) = HookedTransformer(small()), noted()
    loss = model.run_with_hooks(IDS, return_type="loss", bwd_hooks=[(lambda name: name in (Z, PRE), note)])
    assert not seen
    loss.backward()
    assert set(seen) == {Z, PRE}
    for name, gradient in wanted(Z, PRE).items():
        close(seen[name], gradient)


def test_what_a_backward_hook_returns_goes_on() -> None:
    model, (seen, note) = HookedTransformer(small()), noted()
    model.add_hook(PRE, note, "bwd")
    model.add_hook(Z, lambda gradient, hook: (gradient * 0,), "bwd")
    model.add_hook("blocks.1.hook_attn_out", lambda gradient, hook: None, "bwd")
    model(IDS, return_type="loss").backward()
    run = small().run(IDS, mi.capture([PRE, Z]) + mi.intervene(Z, mi.Detach()), grad=True)
    close(seen[PRE], torch.autograd.grad(run.loss, run[PRE])[0])
    model.reset_hooks()
    seen.clear()
    assert not model(IDS, return_type="loss").requires_grad
    assert not seen


def test_a_cache_may_have_gradients() -> None:
    model = HookedTransformer(small())
    loss, cache = model.run_with_cache(IDS, return_type="loss", names_filter=[Z, PRE], incl_bwd=True)
    assert set(cache) == {Z, PRE, f"{Z}_grad", f"{PRE}_grad"}
    for name, gradient in wanted(Z, PRE).items():
        close(cache[f"{name}_grad"], gradient)
        assert not cache[name].requires_grad
    close(loss, small().run(IDS).loss)
    with pytest.raises(InputError, match="return_type='loss'"):
        model.run_with_cache(IDS, names_filter=Z, incl_bwd=True)


def test_caching_hooks_fill_a_dictionary() -> None:
    model = HookedTransformer(small())
    cache = model.add_caching_hooks(Z, incl_bwd=True)
    model(IDS, return_type="loss").backward()
    close(cache[Z], small().run(IDS, mi.capture(Z))[Z])
    close(cache[f"{Z}_grad"], wanted(Z)[Z])


def test_permanent_hooks_and_order() -> None:
    model, seen = HookedTransformer(small()), list[str]()
    model.add_perma_hook("hook_embed", lambda value, hook: seen.append("permanent"))
    model.add_hook("hook_embed", lambda value, hook: seen.append("first"), prepend=True)
    model(IDS)
    assert seen == ["first", "permanent"]
    model.reset_hooks()
    model(IDS)
    assert seen == ["first", "permanent", "permanent"]
    model.reset_hooks(including_permanent=True)
    model(IDS)
    assert len(seen) == 3


def test_a_cache_may_hold_some_positions() -> None:
    model = HookedTransformer(small())
    pattern = "blocks.0.attn.hook_pattern"
    _, whole = model.run_with_cache(IDS, names_filter=[Z, pattern])
    _, last = model.run_with_cache(IDS, names_filter=[Z, pattern], pos_slice=-1)
    assert torch.equal(last[Z], whole[Z][:, -1])
    assert torch.equal(last[pattern], whole[pattern][:, :, -1])


def test_a_config_makes_a_model_that_learns() -> None:
    torch.manual_seed(0)
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=16, n_ctx=8, d_head=8, d_vocab=11, attn_only=True, normalization_type=None, seed=1
    )
    model = HookedTransformer(cfg)
    assert model.cfg is cfg
    assert (cfg.n_heads, cfg.d_mlp, model.cfg.device.type) == (2, None, "cpu")
    assert "blocks.0.hook_mlp_out" not in model.hook_dict
    tokens = torch.randint(11, (4, 8))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = None
    for _ in range(20):
        loss = model(tokens, return_type="loss")
        first = first or loss.item()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.8 * first
    with torch.no_grad():
        assert not model(tokens).requires_grad
    same, other = HookedTransformer(cfg).W_E, HookedTransformer({**cfg.to_dict(), "seed": 2}).W_E
    assert torch.equal(same, HookedTransformer(cfg).W_E)
    assert not torch.equal(same, other)


def test_without_a_seed_torch_s_own_counts() -> None:
    def made() -> Tensor:
        return HookedTransformer(HookedTransformerConfig(16, 8, 1, 8, d_vocab=11)).W_E

    torch.manual_seed(3)
    one, other = made(), made()
    torch.manual_seed(3)
    assert torch.equal(one, made())
    assert not torch.equal(one, other)


def test_what_cannot_be_made_or_done_is_refused() -> None:
    with pytest.raises(BadConfig, match="d_vocab"):
        HookedTransformer(HookedTransformerConfig(16, 8, 1, 8))
    with pytest.raises(BadConfig, match="attention_dir"):
        HookedTransformer(HookedTransformerConfig(16, 8, 1, 8, d_vocab=11, attention_dir="bidirectional"))
    model = HookedTransformer(small())
    with pytest.raises(SpecError, match="'fwd' or 'bwd'"):
        model.add_hook("hook_embed", lambda value, hook: None, dir="sideways")  # type: ignore[arg-type]
    with pytest.raises(UnknownPoint):
        model.run_with_hooks(IDS, bwd_hooks=[("blocks.0.hook_reside_pre", lambda value, hook: None)])


def toy(**changes: object) -> HookedTransformer:
    given = {"n_layers": 2, "d_model": 16, "n_ctx": 8, "d_head": 8, "d_vocab": 11, "n_key_value_heads": 1, **changes}
    return HookedTransformer(HookedTransformerConfig.from_dict(given))


@pytest.mark.parametrize("changes", [{}, {"attn_only": True}, {"normalization_type": "RMS"}])
def test_a_state_dict_is_the_model(changes: dict[str, object]) -> None:
    one, other = toy(**changes), toy(**changes)
    tokens = torch.randint(11, (2, 8))
    theirs = {
        **{name.replace(".W_K", "._W_K").replace(".b_V", "._b_V"): tensor for name, tensor in one.state_dict().items()},
        "blocks.0.attn.mask": torch.ones(8, 8),
    }
    assert not torch.equal(one(tokens), other(tokens))
    other.load_state_dict(theirs)
    assert torch.equal(one(tokens), other(tokens))
    bias = other.accumulated_bias(2)
    assert bias.shape == (16,)


def test_a_state_dict_of_another_model_is_refused() -> None:
    state = toy(attn_only=True).state_dict()
    with pytest.raises(MissingTensors, match="channel"):
        toy().load_state_dict(state)
    toy().load_state_dict(state, strict=False)
    with pytest.raises(UnusedTensors, match=r"mlp\.W_in"):
        toy(attn_only=True).load_state_dict(toy().state_dict())
    with pytest.raises(ValueMismatch, match=r"\[11, 16\], hooked_transformer has \[12, 16\]"):
        toy(attn_only=True, d_vocab=12).load_state_dict(state)
    gemma = HookedTransformer(family_example("gemma"))
    with pytest.raises(UnusedTensors, match="ln1"):  # its gains are stored as offsets: no view of what multiplies
        gemma.load_state_dict(gemma.state_dict())
