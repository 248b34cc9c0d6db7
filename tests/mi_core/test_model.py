from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small, talking

import mi_core as mi
from mi_core.errors import InputError, NoTokenizer, ReadOnlyPoint, SpecError, UnknownPoint

RESID = "blocks.{layer}.hook_resid_post"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that run, in order."""
    backend = small().module
    seen: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return function(*args, **kwargs)

        return call

    for number, block in enumerate(small().backend.blocks):
        monkeypatch.setattr(block, "forward", counted(f"block {number}", block.forward))  # type: ignore[attr-defined]
    for name in ("embed", "unembed"):
        monkeypatch.setattr(backend, name, counted(name, getattr(backend, name)))
    return seen


@pytest.mark.parametrize(
    ("spec", "blocks", "unembeds"),
    [
        (mi.HookSpec(), 0, False),
        (mi.capture("hook_embed"), 0, False),
        (mi.capture("blocks.0.hook_resid_pre"), 1, False),
        (mi.capture("blocks.*.hook_resid_post").at(layer=1), 2, False),
        (mi.intervene("blocks.0.attn.hook_attn_scores", mi.Knockout(-1, 0)), 1, False),
        (mi.capture("ln_final.hook_normalized"), 3, True),
    ],
)
def test_nothing_behind_the_last_point_is_run(spec: mi.HookSpec, blocks: int, unembeds: bool, calls: list[str]) -> None:
    for limit in (None, 100):
        calls.clear()
        run = small().run([[1, 2]], spec, logits=None, batch_tokens=limit)
        assert calls == ["embed", *(f"block {n}" for n in range(blocks)), *(["unembed"] if unembeds else [])]
        full = small().run([[1, 2]], spec)
        assert all(torch.equal(run[name], full[name]) for name in run)


def test_a_memory_needs_every_layer_but_no_logits(calls: list[str]) -> None:
    small().run([[1, 2]], mi.capture("blocks.0.hook_resid_post"), logits=None, resumable=True)
    assert calls == ["embed", "block 0", "block 1", "block 2"]
    run = small().run([[1, 2]], mi.capture("ln_final.hook_normalized"), logits=None, resumable=True)
    assert "ln_final.hook_normalized" in run
    assert run.memory().length.tolist() == [2]


@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([None, 3]))
def test_the_last_logits_are_those_of_the_last_real_token(
    rows: list[list[int]], layout: str, seed: int, limit: int | None
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    everything = small().run(ids, attention_mask=mask)
    for spec in (mi.HookSpec(), mi.capture("unembed.hook_in"), mi.intervene("hook_embed", mi.Scale(1.0))):
        run = small().run(ids, spec, attention_mask=mask, logits="last", batch_tokens=limit)
        assert run.logits.shape == (len(rows), 1, 61)
        close(run.logits[:, 0], everything.last_logits)
        for name in run:
            assert run[name].shape[:2] == ids.shape


@given(ROWS, LAYOUTS, SEEDS)
def test_nothing_that_a_caller_holds_is_changed(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    vector, basis = random(16, seed=seed), random(2, 16, seed=seed)
    model = small()
    source = model.run(ids, mi.capture("*"), attention_mask=mask)
    held = [ids, mask, vector, basis, source.logits, *source.values(), *model.module.parameters()]
    before = [(tensor.clone(), tensor._version) for tensor in held]
    every = "blocks.*.hook_resid_post"
    edits = [mi.Replace(vector), mi.Add(vector, norm="match"), mi.ProjectOut(basis), mi.Replace(source), mi.Noise(1.0)]
    spec = sum((mi.intervene(every, edit) for edit in edits), mi.capture("*"))
    spec += mi.intervene("blocks.*.attn.hook_pattern", mi.Reweight(key=0, scale=0.5))
    spec += mi.intervene("blocks.*.attn.hook_attn_scores", mi.Knockout(-1, 0))
    model.run(ids, spec, attention_mask=mask)
    model.run(ids, spec, attention_mask=mask, grad=True).grad(lambda logits: logits[:, 0], every)
    for tensor, (value, version) in zip(held, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version


def test_a_failing_run_leaves_nothing_behind() -> None:
    before = small().run([[1, 2]]).logits

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        small().run([[1, 2]], mi.intervene("blocks.1.hook_mlp_out", mi.Apply(fail)), grad=True)
    assert torch.is_grad_enabled()
    assert torch.equal(small().run([[1, 2]]).logits, before)


def test_capturing_changes_nothing() -> None:
    plain = small().run([[1, 2, 3], [4, 5]])
    assert torch.equal(small().run([[1, 2, 3], [4, 5]], mi.capture("blocks.*.hook_resid_*")).logits, plain.logits)
    close(small().run([[1, 2, 3], [4, 5]], mi.capture("*")).logits, plain.logits)


def test_unembedding_the_last_stream_gives_the_logits() -> None:
    run = small().run([[1, 2, 3]], mi.capture([RESID.format(layer=2), "unembed.hook_in", "unembed.hook_out"]))
    resid = run[RESID.format(layer=2)]
    assert torch.equal(small().unembed(resid), run.logits)
    close(small().unembed(resid[0, 1]), run.logits[0, 1])
    assert small().unembed(random(2, 3, 4, 16)).shape == (2, 3, 4, 61)
    close(small().unembed(run["unembed.hook_in"], norm=False), run.logits)
    close(small().unembed(resid, cap=False), run["unembed.hook_out"])
    with pytest.raises(InputError, match=r"d_model=16, got \[3\]"):
        small().unembed(torch.zeros(3))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"logits": "first"}, "logits='first'"),
        ({"batch_tokens": 0}, "at least 1"),
        ({"batch_tokens": 4, "grad": True}, "grad=True needs them together"),
        ({"batch_tokens": 4, "resumable": True}, "resumable=True needs them together"),
        ({"batch_tokens": 4, "spec": mi.intervene("hook_embed", mi.Mean())}, "a mean over the rows"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        small().run([[1, 2], [3, 4]], **options)


def test_a_mean_over_positions_runs_in_chunks() -> None:
    spec = mi.intervene("hook_embed", mi.Mean(over="pos"))
    close(small().run([[1, 2], [3, 4]], spec, batch_tokens=2).logits, small().run([[1, 2], [3, 4]], spec).logits)


def test_a_point_that_cannot_be_written_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from mi_core.names import Points

    sites = [replace(s, read_only="it is a view") if s.name == "attn.hook_z" else s for s in small().backend.sites()]
    model = mi.Model(small().backend, name="toy", config={})
    model.points = Points(sites, model.shape, "toy")
    with pytest.raises(ReadOnlyPoint, match=r"'blocks.0.attn.hook_z' cannot be written: it is a view"):
        model.run([[1]], mi.intervene("blocks.*.attn.hook_z", mi.Zero()))
    model.run([[1]], mi.capture("blocks.*.attn.hook_z"))


def test_text_needs_a_tokenizer_and_ids_do_not() -> None:
    with pytest.raises(NoTokenizer):
        small().run("France")
    assert small().tokenizer is None
    assert talking().run("France").logits.shape[0] == 1
    assert "d_model 16" in repr(small())


def test_points_are_listed_and_found() -> None:
    assert [point.name for point in small().hook_points("blocks.1.hook_resid_post")] == ["blocks.1.hook_resid_post"]
    assert any(point.site.on_demand for point in small().hook_points())
    with pytest.raises(UnknownPoint):
        small().hook_points("blocks.1.nothing")
    with pytest.raises(SpecError, match="Knockout cuts edges"):
        small().run([[1]], mi.intervene("hook_embed", mi.Knockout()))
