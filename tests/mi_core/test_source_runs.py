"""What cells take from another run goes through each layer with them, and is let go behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from other_devices import ManyDevices
from small_models import CONFIG, SEEDS, close

import mi_core as mi
from mi_core import source_runs
from mi_core.building import initialise_randomly
from mi_core.errors import MissingActivation
from mi_core.packing import Pack
from mi_core.rehearsing_sweeps import source_bytes

IDS, OTHER = [[1, 2, 3, 4, 5, 6], [7, 8, 9]], [[9, 8, 7, 6, 5, 4], [3, 2, 1]]
METRIC = mi.metric(lambda logits: logits[:, 3], name="a logit")
STREAM = "blocks.*.hook_resid_post"
UNDER = mi.intervene("blocks.0.hook_mlp_out", mi.Scale(0.5))

Whole = tuple[mi.Model, Path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    model = mi.build(CONFIG, trainable=False, device="cpu")
    initialise_randomly(model, 11)
    folder = tmp_path_factory.mktemp("sources")
    mi.save_model(model, folder)
    return mi.load(folder), folder


def on_disk(whole: Whole) -> mi.Model:
    return mi.load(whole[1], device_map={"": "disk"})


def brought(model: mi.Model) -> set[int]:
    return {unit.brought for name, unit in model.backend.offloaded.items() if name != "outside"}


def taking(points: str, build: Any, *layers: int) -> mi.Grid:
    """A grid whose cells are made of a run."""
    return mi.Grid(build, {"layer": layers or (0, 1, 2)}, points=(points,), source=OTHER)


GRIDS = [
    mi.patch_grid(STREAM, source=OTHER),
    mi.patch_grid("blocks.*.hook_resid_pre", source=OTHER, each=("layer",), window=2),
    mi.patch_grid("blocks.{0..1}.attn.hook_z", source=OTHER, each=("layer", "head")),
    mi.patch_grid(["hook_embed", "blocks.1.attn.hook_k"], source=OTHER, each={"pos": [0, 2]}),
    mi.patch_grid("blocks.1.attn.hook_pattern", source=OTHER, each=("head",)),
    mi.patch_grid("ln_final.hook_normalized", source=OTHER, each=("pos",)),
    UNDER + mi.patch_grid("blocks.*.hook_mlp_out", source=OTHER),
    taking(STREAM, lambda layer, source: mi.intervene(STREAM, mi.Interpolate(source, 0.5).at(layer=layer))),
    taking(STREAM, lambda layer, source: mi.intervene(STREAM, mi.Mean(source).at(layer=layer, pos=0))),
    taking(STREAM, lambda layer, source: mi.intervene(STREAM, mi.Resample(source, 3).at(layer=layer, pos=[0, 2]))),
]


@settings(max_examples=12, phases=[Phase.generate])
@given(st.sampled_from(GRIDS), st.sampled_from([1, 7, 4096]))
def test_what_cells_take_from_another_run_costs_no_pass_of_its_own(whole: Whole, grid: mi.Grid, tokens: int) -> None:
    model = on_disk(whole)
    seen = model.sweep(IDS, grid, METRIC, batch=tokens)
    assert brought(model) == {1}
    made = mi.Grid(grid.build, grid.axes, grid.under, grid.points, whole[0].run(OTHER, mi.capture(grid.points)))
    wanted = whole[0].sweep(IDS, made, METRIC, batch=tokens)
    assert torch.equal(seen.values, wanted.values)
    assert torch.equal(whole[0].sweep(IDS, grid, METRIC, batch=tokens).values, wanted.values)
    assert not torch.equal(wanted.values, wanted.baseline.values.expand_as(wanted.values))


def test_a_run_that_is_given_costs_no_pass(whole: Whole) -> None:
    model = on_disk(whole)
    one, two = (model.run(ids, mi.capture(STREAM)) for ids in (OTHER, [[5, 5, 5]]))
    before = brought(model)
    cells = [mi.intervene(f"blocks.{at}.hook_resid_post", mi.Replace(one).at(pos=0)) for at in range(3)]
    cells += [mi.intervene("blocks.1.hook_resid_post", mi.Replace(two).at(pos=[0, 1]))]
    seen = model.sweep(IDS, cells, METRIC)
    assert brought(model) == {times + 1 for times in before}
    assert torch.equal(seen.values, whole[0].sweep(IDS, cells, METRIC).values)


def test_values_are_let_go_behind_their_layer(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    model, held = on_disk(whole), []
    call = Pack._layer

    def counting(pack: Pack, layer: int, *rest: Any) -> None:
        held.append((layer, {point.layer for name in passing[-1].after for point in model.hook_points(name)}))
        call(pack, layer, *rest)

    passing: list[Any] = []
    made = source_runs.Record
    monkeypatch.setattr(source_runs, "Record", lambda: passing.append(made()) or passing[-1])
    monkeypatch.setattr(Pack, "_layer", counting)
    model.sweep(IDS, mi.patch_grid("blocks.*.*", source=OTHER, each=("layer",)), METRIC)
    assert held == [(0, {0}), (1, {1}), (2, {2})]
    assert not passing[-1].after


def test_the_source_stops_behind_the_last_layer_that_is_taken(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    model, columns = on_disk(whole), []
    for layer, block in enumerate(model.backend.inner.blocks):
        forward = block.forward

        def told(stream: Any, *rest: Any, layer: int = layer, forward: Any = forward) -> Any:
            columns.append((layer, stream.resid.shape[1]))
            return forward(stream, *rest)

        monkeypatch.setattr(block, "forward", told)
    four = [[3, 3, 3, 3]]
    model.sweep([[1, 2, 3]], mi.patch_grid("blocks.1.attn.hook_in", source=four, each={"pos": [0]}), METRIC)
    assert [layer for layer, width in columns if width == 4] == [0, 1]


def test_cells_that_are_made_of_numbers_need_a_pass_before_and_the_plan_says_so(whole: Whole) -> None:
    def later(layer: int, source: mi.Run) -> mi.HookSpec:
        return mi.intervene(STREAM, mi.Replace(source[f"blocks.{2 - layer}.hook_resid_post"]).at(layer=layer))

    grid, model = taking(STREAM, later), on_disk(whole)
    said = model.plan_sweep(IDS, grid, METRIC).explain()
    assert "one pass before for the source, because the cells are made of its numbers" in said
    assert "base run and all cells go through a layer together" in said
    assert brought(model) == {0}
    seen = model.sweep(IDS, grid, METRIC)
    assert brought(model) == {2}
    assert torch.equal(seen.values, whole[0].sweep(IDS, grid, METRIC).values)


def test_a_plan_says_that_the_source_goes_with_the_cells(whole: Whole) -> None:
    model = on_disk(whole)
    plan = model.plan_sweep(IDS, mi.patch_grid(STREAM, source=OTHER, each=("layer",)), METRIC)
    assert "base run, source and all cells go through a layer together" in plan.explain()
    assert brought(model) == {0}
    held = sum(value.bytes for value in plan.source.rehearsal.after.values())
    assert source_bytes(plan, plan.source) == held / 3, "one layer's values are held at a time"
    assert source_bytes(replace(plan, coming=None), plan.source) == held


def test_a_source_that_outlives_its_sweep_is_a_run_like_any_other(whole: Whole) -> None:
    kept: list[mi.Run] = []

    def keeping(layer: int, source: mi.Run) -> mi.HookSpec:
        kept.append(source)
        return mi.intervene(STREAM, mi.Replace(source).at(layer=layer))

    model = on_disk(whole)
    model.sweep(IDS, taking(STREAM, keeping), METRIC)
    assert brought(model) == {1}
    assert "2 x 6 tokens" in repr(kept[0])
    edit = mi.intervene("blocks.1.hook_resid_post", mi.Replace(kept[0]))
    given = whole[0].run(OTHER, mi.capture(STREAM), logits="last")
    assert torch.equal(
        model.run(IDS, edit).logits,
        whole[0].run(IDS, mi.intervene("blocks.1.hook_resid_post", mi.Replace(given))).logits,
    )
    assert torch.equal(kept[0].stack("hook_resid_post"), given.stack("hook_resid_post"))
    assert torch.equal(kept[0].last_logits, given.last_logits)


def test_a_point_that_the_source_does_not_have_is_refused(whole: Whole) -> None:
    grid = taking("blocks.0.hook_mlp_out", lambda layer, source: mi.intervene(STREAM, mi.Replace(source)))
    for model in (on_disk(whole), whole[0]):
        with pytest.raises(MissingActivation, match=r"did not capture 'blocks.0.hook_resid_post'"):
            model.sweep(IDS, grid, METRIC)


def test_a_source_meets_its_cells_on_every_device(whole: Whole) -> None:
    for grid in GRIDS[:4]:
        wanted = whole[0].sweep(IDS, grid, METRIC).values
        with ManyDevices():
            places = {"": "disk", "outside": "lazy:0", "blocks.1": "lazy:1", "blocks.2": "cpu"}
            model = mi.load(whole[1], device_map=places)
            close(model.sweep(IDS, grid, METRIC).values, wanted)


@settings(max_examples=5, phases=[Phase.generate])
@given(SEEDS)
def test_a_stored_sweep_takes_one_pass_and_runs_what_is_missing(
    whole: Whole, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    grid = GRIDS[0]
    wanted = whole[0].sweep(IDS, grid, METRIC, store=folder / "cells").values
    lines = (folder / "cells").read_text().splitlines()
    chosen = torch.randperm(len(lines), generator=torch.Generator().manual_seed(seed))[: seed % len(lines)].tolist()
    (folder / "some").write_text("".join(f"{lines[at]}\n" for at in chosen) + lines[0][:9])
    model, ran = on_disk(whole), []
    arrived = Pack._arrived
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "_arrived", lambda *rest: ran.append(rest) or arrived(*rest))
        close(model.sweep(IDS, grid, METRIC, store=folder / "some").values, wanted)
    assert brought(model) == {1}
    assert len(ran) == len(lines) - len(chosen)
    assert len((folder / "some").read_text().splitlines()) == len(lines) + 1  # a line that a kill had torn
    again = on_disk(whole)
    close(again.sweep(IDS, grid, METRIC, store=folder / "some").values, wanted)
    assert brought(again) == {1}


def test_stored_cells_are_told_apart_by_source_and_positions(whole: Whole, tmp_path: Path) -> None:
    def sweep(model: mi.Model, store: Any, source: Any = OTHER, **more: Any) -> torch.Tensor:
        return model.sweep(IDS, mi.patch_grid(STREAM, source=source), METRIC, store=store, **more).values

    positions = [[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 0, 0]]
    others = ({"source": [[4, 4, 4, 4, 4, 4], [2, 2, 2]]}, {"position_ids": positions})
    for model in (on_disk(whole), whole[0]):
        sweep(model, tmp_path / "cells")
        for more in others:
            assert torch.equal(sweep(model, tmp_path / "cells", **more), sweep(model, None, **more))
