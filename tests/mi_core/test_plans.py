from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import operations_of, peak_of
from small_models import LAYOUTS, SEEDS, family_example, laid_out, random, small, talking

import mi_core as mi
from mi_core.errors import InputError, SelectorError, SpecError

FAMILIES = ["llama", "gpt2", "gemma2", "rwkv7"]
FEW = settings(max_examples=min(10, settings.default.max_examples if settings.default else 10))
LONG_ROWS = st.lists(st.lists(st.integers(0, 60), min_size=2, max_size=20), min_size=1, max_size=3)


def specs(model: mi.Model) -> st.SearchStrategy[mi.HookSpec]:
    """Captures and writes, several of them, anywhere."""
    points = [point for point in model.hook_points() if not point.site.read_only and not point.site.replace_only]
    # by their places: a strategy that names hundreds of points is too long for hypothesis to describe
    point = st.integers(0, len(points) - 1).map(lambda place: points[place])
    captures = point.map(lambda point: mi.capture(point.name))
    plain = [mi.Scale(0.5), mi.Add(1.0), mi.Noise(1.0), mi.Apply(lambda x: 2 * x)]
    writes = st.builds(lambda p, edit: mi.intervene(p.name, edit), point, st.sampled_from(plain))
    onto = mi.intervene("blocks.*.hook_resid_post", mi.ProjectOut(random(model.shape.d_model)))
    wide = st.sampled_from([mi.capture("*"), mi.capture("blocks.*.hook_resid_post").at(pos=-1), onto])
    return st.lists(captures | writes | wide, max_size=3, unique_by=repr).map(lambda parts: sum(parts, mi.HookSpec()))


@FEW
@given(st.data(), st.sampled_from(FAMILIES), LONG_ROWS, LAYOUTS, SEEDS)
def test_estimates_are_within_a_fifth_of_what_is_measured(
    data: st.DataObject, family: str, rows: list[list[int]], layout: str, seed: int
) -> None:
    model = family_example(family)
    ids, mask = laid_out(rows, layout, seed)
    how = data.draw(
        st.fixed_dictionaries({"logits": st.sampled_from(["all", "last", None]), "resumable": st.booleans()})
        | st.just({"batch_tokens": 20})
    )
    spec = data.draw(specs(model))

    def run() -> object:
        return model.run(ids, spec, attention_mask=mask, **how)

    try:
        plan = model.plan(ids, spec, attention_mask=mask, **how)
    except SpecError:
        return  # a point that is captured twice
    assert plan.operations == pytest.approx(operations_of(run), rel=0.2)
    assert plan.peak_bytes == pytest.approx(peak_of(run), rel=0.2, abs=1024)


@pytest.mark.parametrize("how", [{}, {"logits": "last"}, {"logits": None}, {"resumable": True}, {"batch_tokens": 5}])
def test_a_plan_that_is_carried_out_is_the_run(how: dict[str, Any]) -> None:
    ids, spec = [[3, 4, 5, 6], [7, 8]], mi.capture("blocks.1.hook_resid_post").at(pos=-1)
    mask = [[1, 1, 1, 1], [1, 1, 0, 0]]
    ids[1] += [0, 0]
    plan = small().plan(ids, spec, attention_mask=mask, **how)
    ran, direct = plan.run(), small().run(ids, spec, attention_mask=mask, **how)
    assert torch.equal(ran["blocks.1.hook_resid_post"], direct["blocks.1.hook_resid_post"])
    assert ran.receipt.kernels == direct.receipt.kernels
    assert list(plan.layers) == list(ran.receipt.layers)
    assert plan.stops_after == ran.receipt.stopped_after


def test_nothing_is_run_and_no_function_is_called() -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("called")

    plan = small().plan([[3, 4, 5]], mi.intervene("blocks.1.hook_resid_pre", mi.Apply(fail)))
    assert plan.operations > 0
    assert "a function (Apply) runs as it is" in plan.explain()
    with pytest.raises(RuntimeError, match="called"):
        plan.run()


@pytest.mark.parametrize(
    ("spec", "how", "said"),
    [
        (mi.HookSpec(), {}, "layers 0 to 2: fused kernel"),
        (mi.HookSpec(), {}, "logits     of every position"),
        (mi.HookSpec(), {"logits": "last"}, "of each row's last token only"),
        (mi.capture("hook_logits"), {"logits": "last"}, "computed at every position, because"),
        (mi.capture("hook_embed"), {"logits": None}, "none of 3: the embedding is all that is asked for"),
        (mi.capture("blocks.1.hook_resid_pre"), {"logits": None}, "layers 0 to 1 of 3; stops there"),
        (mi.capture("blocks.1.attn.hook_pattern"), {}, "layer 1: explicit arithmetic, because of attn.hook_pattern"),
        (
            mi.intervene("blocks.{0,2}.attn.hook_attn_scores", mi.Knockout(query=-1)),
            {},
            "layers 0, 2: fused kernel, with the cut edges in its mask",
        ),
        (
            mi.capture("blocks.*.hook_resid_post", dtype="bfloat16", device="host").at(pos=-1),
            {},
            "blocks.{0..2}.hook_resid_post: only pos=-1, bfloat16 [2, 16] on cpu, 64 bytes",
        ),
        (mi.capture("blocks.0.hook_resid_post", before=True), {}, "384 bytes, before writes"),
        (mi.intervene("blocks.*.hook_mlp_out", mi.Zero()), {}, "writes     blocks.{0..2}.hook_mlp_out: Zero()"),
        (mi.HookSpec(), {"resumable": True}, "streams and memory of every layer"),
        (mi.HookSpec(), {"batch_tokens": 5}, "2, of at most 1 row each, for batch_tokens=5"),
    ],
)
def test_it_says_in_words_what_will_happen(spec: mi.HookSpec, how: dict[str, Any], said: str) -> None:
    assert said in small().plan([[3, 4, 5], [6, 7, 8]], spec, **how).explain()


def test_attention_that_no_fused_kernel_computes_is_called_explicit() -> None:
    assert "explicit scores, though nobody looks" in family_example("gemma2").plan([[3, 4, 5]]).explain()


def test_a_model_that_decides_by_numbers_is_run_once() -> None:
    plan = family_example("rwkv7").plan([list(range(3, 23))])
    assert "found by running it once" in plan.explain()
    assert plan.rehearsal.missed
    assert not family_example("llama").plan([[3, 4]]).rehearsal.missed


def test_a_plan_is_json() -> None:
    plan = talking().plan(["the cat", "a"], mi.capture("blocks.*.hook_resid_post").at(pos=-1), logits=None)
    data = json.loads(json.dumps(plan.to_json()))
    assert data["captures"][0]["point"] == "blocks.0.hook_resid_post"
    assert data["captures"][0]["shape"] == [2, 16]
    assert data["operations"] == plan.operations
    assert data["explained"] == plan.explain()


def test_what_cannot_be_run_cannot_be_planned() -> None:
    with pytest.raises(SelectorError):
        small().plan([[3, 4]], mi.capture("blocks.1.hook_resid_post").at(pos=5))
    with pytest.raises(InputError, match="batch_tokens runs the rows apart"):
        small().plan([[3, 4]], batch_tokens=4, resumable=True)
