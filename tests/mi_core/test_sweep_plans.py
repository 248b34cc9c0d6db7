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
from mi_core import sweeping
from mi_core.errors import InputError, SelectorError, SpecError
from mi_core.rehearsing_sweeps import SAMPLE

FAMILIES = ["llama", "gpt2", "rwkv7"]
FEW = settings(max_examples=min(3, settings.default.max_examples if settings.default else 3))
"""One example is a sweep, planned and run twice."""
EMBEDDED = mi.intervene("hook_embed", mi.Scale(1.5))
LONG_ROWS = st.lists(st.lists(st.integers(0, 60), min_size=3, max_size=16), min_size=1, max_size=2)


def grids(source: list[list[int]]) -> st.SearchStrategy[mi.Grid]:
    """Patches, ablations and steering, over layers and positions or one of them."""
    each = st.sampled_from([("layer",), {"layer": [0, 1], "pos": [0, -1]}, {"layer": [1], "pos": [1, 2]}])
    return st.one_of(
        each.map(lambda axes: mi.patch_grid("blocks.*.hook_resid_pre", source=source, each=axes)),
        each.map(lambda axes: mi.ablation_grid("blocks.*.hook_mlp_out", each=axes)),
        each.map(lambda axes: EMBEDDED + mi.ablation_grid("blocks.*.hook_attn_out", each=axes)),
    )


@FEW
@given(st.data(), st.sampled_from(FAMILIES), LONG_ROWS, LAYOUTS, SEEDS, st.sampled_from(["auto", 24]))
def test_estimates_are_within_a_fifth_of_what_is_measured(
    data: st.DataObject, family: str, rows: list[list[int]], layout: str, seed: int, batch: Any
) -> None:
    model = family_example(family)
    ids, mask = laid_out(rows, layout, seed)
    lengths = [len(row) for row in rows]
    source = ids if min(lengths) == max(lengths) == ids.shape[1] else None
    grid = data.draw(
        grids(source) if source is not None else grids(model.run(ids, mi.capture("*"), attention_mask=mask))
    )
    metric = data.draw(st.sampled_from([mi.logit(3), mi.loss()]))

    def sweep() -> object:
        return model.sweep(ids, grid, metric, batch=batch, attention_mask=mask, progress=False)

    plan = model.plan_sweep(ids, grid, metric, batch=batch, attention_mask=mask)
    assert plan.operations == pytest.approx(operations_of(sweep), rel=0.2)
    assert plan.peak_bytes == pytest.approx(peak_of(sweep), rel=0.2, abs=2048)


CELLS = [
    mi.HookSpec(),
    mi.intervene("blocks.1.hook_resid_pre", mi.Apply(lambda x: 2 * x).at(pos=1)),
    mi.intervene("blocks.2.hook_mlp_out", mi.Zero().at(pos=-1)),
    mi.intervene("blocks.0.hook_mlp_out", mi.Apply(lambda x: 3 * x)),
    mi.intervene("blocks.0.attn.hook_pattern", mi.Zero().at(head=1)),
    mi.intervene("blocks.1.attn.hook_attn_scores", mi.Knockout(query=-1, key=0)),
]
IDS = [[3, 4, 5, 6], [7, 8, 9, 10]]


@pytest.mark.parametrize("batch", ["auto", 8])
def test_the_packs_that_are_planned_are_run(monkeypatch: pytest.MonkeyPatch, batch: Any) -> None:
    plan = small().plan_sweep(IDS, CELLS, mi.logit(3), batch=batch)
    planned = [len(pack.cells) for pack in plan.rehearsal.packs]
    ran: list[int] = []
    whole = sweeping.run_group
    monkeypatch.setattr(sweeping, "run_group", lambda t, v, m, b: (ran.append(len(v)), whole(t, v, m, b)))
    small().sweep(IDS, CELLS, mi.logit(3), batch=batch, progress=False)
    assert ran == planned
    assert sorted(cell for pack in plan.rehearsal.packs for cell in pack.cells) == list(range(len(CELLS)))


def test_functions_run_one_by_one_and_the_plan_says_so() -> None:
    plan = small().plan_sweep(IDS, CELLS, mi.logit(3))
    alone = [pack.cells for pack in plan.rehearsal.packs if pack.functions]
    assert sorted(alone) == [(1,), (3,)]
    assert "2 cells with functions (Apply): run one by one" in plan.explain()


def test_nothing_is_run_and_no_function_is_called() -> None:
    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("called")

    cells = [mi.intervene("blocks.1.hook_resid_pre", mi.Apply(fail))]
    plan = small().plan_sweep(IDS, cells, mi.metric(fail, reads=("blocks.1.hook_resid_post",)))
    assert plan.rehearsal.unknown == ""
    assert plan.operations is not None


@pytest.fixture(scope="module")
def told() -> str:
    return small().plan_sweep(IDS, CELLS, mi.logit(3), batch=32).explain()


@pytest.mark.parametrize(
    "said",
    [
        "6 cells: 6 spec",
        "metric    logit, from the logits of each row's last token",
        "all 3 layers, once; keeps streams and memory of every layer (",
        "4 cells go on before layers 0 to 2, behind the layers, from positions 0 to 3",
        "1 cell: explicit arithmetic where they look at attn.hook_pattern; fused kernel elsewhere",
        "1 cell: fused kernel, with cut edges in its mask",
        "at most 32 tokens in one call of a layer",
        "of the operations of a loop of whole runs",
    ],
)
def test_it_says_in_words_what_will_happen(told: str, said: str) -> None:
    assert said in told


def test_it_tells_of_the_source_and_of_what_is_under_every_cell() -> None:
    under = mi.intervene("blocks.1.hook_mlp_out", mi.Scale(0.5))
    grid = mi.patch_grid("blocks.*.hook_resid_pre", source="the cat")
    told = talking().plan_sweep("the cat", under + grid, mi.loss()).explain()
    assert "one run more, of the input that cells take values from" in told
    assert "blocks.{0..2}.hook_resid_pre: whole" in told
    assert "under all  blocks.1.hook_mlp_out: Scale(factor=0.5)" in told
    assert "loss, from the logits of every position" in told


def test_a_model_that_sends_tokens_to_experts_is_told_apart() -> None:
    plan = family_example("mixtral").plan_sweep(
        [[3, 4, 5]], [mi.intervene("blocks.1.hook_mlp_out", mi.Zero())], mi.logit(3)
    )
    assert plan.operations is None
    assert plan.peak_bytes is None
    assert "cannot be told before the sweep: this model decides by the numbers" in plan.explain()
    assert len(plan.rehearsal.packs) == 1


def test_some_cells_of_a_large_pack_stand_for_all() -> None:
    ids = [list(range(3, 25))]
    grid = mi.ablation_grid("blocks.*.hook_mlp_out", each=("layer", "pos"))

    def sweep() -> object:
        return small().sweep(ids, grid, mi.logit(3), progress=False)

    plan = small().plan_sweep(ids, grid, mi.logit(3))
    assert max(len(pack.cells) for pack in plan.rehearsal.packs) > 2 * SAMPLE
    assert plan.operations == pytest.approx(operations_of(sweep), rel=0.15)
    assert plan.peak_bytes == pytest.approx(peak_of(sweep), rel=0.15)


def test_alike_packs_are_rehearsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mi_core import rehearsing_sweeps

    cells = [mi.intervene("blocks.1.hook_resid_pre", mi.Add(random(16, seed=n)).at(pos=0)) for n in range(6)]
    ran: list[int] = []
    whole = rehearsing_sweeps.run_group
    monkeypatch.setattr(rehearsing_sweeps, "run_group", lambda t, v, m, b: (ran.append(len(v)), whole(t, v, m, b)))
    plan = small().plan_sweep(IDS, cells, mi.logit(3), batch=1)
    whole_sweep = operations_of(lambda: small().sweep(IDS, cells, mi.logit(3), batch=1, progress=False))
    assert plan.operations == whole_sweep
    assert ran == [1]
    assert len(plan.rehearsal.packs) == 6


def test_a_plan_is_json() -> None:
    plan = small().plan_sweep(IDS, mi.ablation_grid("blocks.*.attn.hook_z"), mi.logit(3))
    data = json.loads(json.dumps(plan.to_json()))
    assert data["cells"] == 12
    assert data["axes"] == {"layer": ["0", "1", "2"], "head": ["0", "1", "2", "3"]}
    assert data["operations"] == plan.operations
    assert sum(len(pack["cells"]) for pack in data["packs"]) == 12
    assert data["explained"] == plan.explain()


def test_what_cannot_be_swept_cannot_be_planned() -> None:
    with pytest.raises(SpecError, match="a sweep takes specs"):
        small().plan_sweep(IDS, [3], mi.logit(3))  # type: ignore[list-item]
    with pytest.raises(SelectorError):
        small().plan_sweep(IDS, [mi.intervene("blocks.0.hook_mlp_out", mi.Zero().at(pos=9))], mi.logit(3)).explain()
    with pytest.raises(InputError, match="batch"):
        small().plan_sweep(IDS, CELLS, mi.logit(3), batch=0)
