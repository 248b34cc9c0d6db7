"""Compiled runs are the runs; what cannot be compiled says why. But for one test graphs run as they are traced."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sly_insert import Sly
from small_models import LAYOUTS, ROWS, SEEDS, family_example, laid_out, small

import mi_core as mi
from mi_core.errors import HookContractBroken, NotCompiled
from mi_core.protocols import Site
from mi_core.tracing import NotAGraph, graph_of

OPTIONS = {"strict": True}


@pytest.fixture(autouse=True, scope="module")
def no_compiler() -> Iterator[None]:
    """What a compiler makes of a graph is its own business, and takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda graph, **options: graph)
        yield


def same(one: mi.Run, two: mi.Run) -> None:
    assert list(one) == list(two)
    assert one.receipt.fired == two.receipt.fired
    for name in two:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.logits, two.logits, rtol=1e-5, atol=1e-6)


@settings(max_examples=8)
@given(rows=ROWS, layout=LAYOUTS, seed=SEEDS, logits=st.sampled_from(["all", "last"]))
def test_a_compiled_run_is_the_run(rows: list[list[int]], layout: str, seed: int, logits: str) -> None:
    model = small(11)
    spec = (
        mi.intervene("blocks.1.attn.hook_pattern", mi.Scale(0.5).at(head=1, query_pos=-1))
        + mi.intervene("blocks.0.hook_resid_post", mi.Add(torch.ones(16)).at(pos=0))
        + mi.capture(["blocks.*.hook_resid_post", "blocks.2.attn.hook_attn_scores"])
        + mi.capture("hook_embed", before=True).at(pos=-1)
    )
    compiled = model.compile(spec, logits=logits, **OPTIONS)
    ids, mask = laid_out(rows, layout, seed)
    for tokens in (ids, ids.flip(0) if len(set(map(len, rows))) == 1 else ids, (ids + 7) % 61):
        same(compiled(tokens, attention_mask=mask), model.run(tokens, spec, logits=logits, attention_mask=mask))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3", "rwkv7", "bloom", "deepseek_v3"])
def test_families_of_every_kind_become_graphs(family: str) -> None:
    model = family_example(family)
    spec = mi.capture("blocks.*.hook_resid_post")
    if family == "deepseek_v3":  # has experts
        with pytest.raises(NotCompiled, match="decides by the numbers"):
            model.compile(spec, **OPTIONS)([[1, 2, 3, 4]])
        return
    compiled = model.compile(spec, **OPTIONS)
    for ids in ([[1, 2, 3, 4]], [[9, 8, 7, 6]]):
        same(compiled(ids), model.run(ids, spec))
    assert len(compiled.traced) == 1
    assert "1 x 4: one graph of" in compiled.explain()


def test_each_shape_and_each_place_has_a_graph_of_its_own() -> None:
    compiled = small(12).compile(mi.capture("blocks.0.hook_resid_post").at(pos=-1), **OPTIONS)
    for ids in ([[1, 2, 3]], [[4, 5, 6]], [[1, 2]], [[1, 2, 3], [4, 5]]):
        compiled(ids)
    assert len(compiled.traced) == 3


def test_inserts_are_part_of_the_graph() -> None:
    class Halved:
        reads = writes = ("blocks.1.hook_resid_post",)
        sites = (Site("hook_half", ("batch", "pos", "d_model"), {"d_model": 16}, meaning="half"),)

        def __call__(self, values, tap):  # type: ignore[no-untyped-def]
            return {self.writes[0]: tap("hook_half", values[self.reads[0]] / 2)}

    model, spec = small(13), mi.insert(Halved(), name="halved") + mi.capture("halved.hook_half")
    same(model.compile(spec, **OPTIONS)([[1, 2, 3]]), model.run([[1, 2, 3]], spec))


def test_noise_is_the_same_in_the_graph() -> None:
    model, spec = small(14), mi.intervene("hook_embed", mi.Noise(1.0, seed=0))
    compiled = model.compile(spec, **OPTIONS)
    for ids in ([[1, 2]], [[3, 4]]):
        same(compiled(ids), model.run(ids, spec))


def test_what_cannot_be_compiled_says_why_and_runs_as_it_is() -> None:
    model, reason = small(14), "may do anything"
    spec = mi.intervene("hook_embed", mi.Apply(lambda x: x * 2))
    with pytest.raises(NotCompiled, match=reason):
        model.compile(spec, **OPTIONS)([[1, 2]])
    compiled = model.compile(spec)
    with pytest.warns(UserWarning, match=reason):
        first = compiled([[1, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it says so once for each shape
        second = compiled([[3, 4]])
    assert torch.equal(first.logits, model.run([[1, 2]], spec).logits)
    assert torch.equal(second.logits, model.run([[3, 4]], spec).logits)
    assert reason in compiled.explain()


def test_a_decision_that_no_tracer_sees_is_refused() -> None:
    with pytest.raises(HookContractBroken, match="in a way that tracing does not see"):
        small(15).compile(mi.insert(Sly(), name="sly"), **OPTIONS)([[1, 2, 3]])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: [x * float(x.sum())],
        lambda x: [x * x.tolist()[0]],
        lambda x: [x[x > 0]],
        lambda x: [x if x.sum() > 0 else -x],
        lambda x: [torch.rand(3) * x],
    ],
)
def test_python_that_looks_at_numbers_is_no_graph(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotAGraph):
        graph_of(call, torch.tensor([1.0, 2.0, 3.0]))


@given(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3))
def test_constants_may_be_looked_at_and_written(values: list[float]) -> None:
    mask = torch.tensor([True, False, True])

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        y = x.clone()
        y[mask] = 0.5
        return [y, y[mask], x.sort().values, *(x * 2).split(1)] if bool(mask.any()) else []

    x = torch.tensor(values)
    for one, two in zip(graph_of(call, torch.zeros(3))(x), call(x), strict=True):
        assert torch.equal(one, two)


def test_numbers_that_python_wrote_are_where_the_input_is() -> None:
    x = torch.ones(3, device="meta")
    graph = graph_of(lambda x: [torch.where(x > 0, 2.0, x) * torch.tensor(3.0)], x)
    assert {constant.device.type for constant in graph.buffers()} == {"meta"}


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5))
def test_a_graph_goes_on_from_what_its_own_tensors_hold(values: list[float]) -> None:
    def call(x: torch.Tensor, total: torch.Tensor) -> list[torch.Tensor]:
        before = total.clone()
        total[1:].add_(x)
        return [before, total * x]

    own, other = torch.zeros(2), torch.zeros(2)
    graph = graph_of(lambda x: call(x, own), torch.zeros(()), own=[own])
    own.zero_()
    for value in map(torch.tensor, values):
        for one, two in zip(graph(value), call(value, other), strict=True):
            assert torch.equal(one, two)
    assert torch.equal(own, other)
    with pytest.raises(NotAGraph, match="decides by the numbers"):
        graph_of(lambda x: [x] if own.sum() > 0 else [-x], torch.zeros(()), own=[own])


def test_comparing_what_is_computed_is_a_look() -> None:
    with pytest.raises(NotAGraph, match="decides by the numbers"):
        graph_of(lambda x: [x] if torch.equal(x, torch.ones(3)) else [-x], torch.zeros(3))
