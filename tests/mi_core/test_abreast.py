"""Weights that come and go come once for everything that can go through a layer together."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from other_devices import ManyDevices
from small_models import CONFIG, LAYOUTS, ROWS, SEEDS, close, laid_out

import mi_core as mi
from mi_core import sweeping_by_layer
from mi_core.abreast import abreast, all_abreast, alone
from mi_core.building import initialise_randomly
from mi_core.packing import Pack
from mi_core.sweeping import SweepInterrupted

IDS = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]
GRID = mi.ablation_grid("blocks.*.hook_resid_pre", each=("layer", "pos"))
OTHER = [[9, 8, 7, 6, 5, 4], [3, 2, 1]]
PATCHES = mi.patch_grid("blocks.*.hook_resid_post", source=OTHER, each=("layer", "pos"))
HEADS = mi.ablation_grid("blocks.*.attn.hook_z", each=("layer", "head"))
STREAM = mi.capture("blocks.*.hook_resid_post")
METRIC = mi.metric(lambda logits: logits[:, 3], name="a logit")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    model = mi.build(CONFIG, trainable=False, device="cpu")
    initialise_randomly(model, 7)
    folder = tmp_path_factory.mktemp("whole")
    mi.save_model(model, folder)
    return model, folder


def on_disk(whole, **more):
    return mi.load(whole[1], device_map={"": "disk"}, **more)


def brought(model):
    return {name: lent.brought for name, lent in model.backend.offloaded.items() if name != "outside"}


@settings(max_examples=10, phases=[Phase.generate])  # shrinking takes minutes
@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([1, 7, 4096]), st.sampled_from([GRID, HEADS]))
def test_a_sweep_brings_each_layer_once_however_many_packs_there_are(whole, rows, layout, seed, tokens, grid):
    ids, mask = laid_out(rows, layout, seed)
    model = on_disk(whole)
    seen = model.sweep(ids, grid, METRIC, batch=tokens, attention_mask=mask)
    assert set(brought(model).values()) == {1}
    wanted = whole[0].sweep(ids, grid, METRIC, batch=tokens, attention_mask=mask)
    assert torch.equal(seen.values, wanted.values)
    assert torch.equal(seen.baseline.values, wanted.baseline.values)


def test_metrics_of_every_position_and_of_activations_are_measured_alike(whole):
    everywhere = mi.metric(lambda logits: logits[:, 0, 1], pos="all", name="first")
    z = "blocks.2.attn.hook_z"
    reading = mi.metric(lambda logits, acts: acts[z].flatten(1)[:, 0] + logits[:, 0], reads=(z,), name="z")
    under = mi.intervene("blocks.0.hook_resid_pre", mi.Scale(0.5))
    for metric in (everywhere, reading):
        seen, wanted = (m.sweep(IDS, under + GRID, metric) for m in (on_disk(whole), whole[0]))
        assert torch.equal(seen.values, wanted.values)
        assert torch.equal(seen.baseline.values, wanted.baseline.values)


def test_rows_in_chunks_go_through_each_layer_together(whole):
    model = on_disk(whole)
    rows = [[at, at + 1, *range(at)] for at in range(8)]
    seen = model.run(rows, STREAM, batch_tokens=9)
    assert seen.receipt.chunks > 3
    assert set(brought(model).values()) == {1}
    wanted = whole[0].run(rows, STREAM, batch_tokens=9)
    assert torch.equal(seen.logits, wanted.logits)
    assert torch.equal(seen.stack("hook_resid_post"), wanted.stack("hook_resid_post"))


def test_a_chunked_run_that_stops_early_brings_no_layer_behind(whole):
    model = on_disk(whole)
    model.run([[1, 2], [3]], mi.capture("blocks.1.hook_resid_post"), logits=None, batch_tokens=2)
    assert brought(model) == {"blocks.0": 1, "blocks.1": 1, "blocks.2": 0}


def test_more_streams_than_the_host_can_hold_take_more_passes(whole, monkeypatch):
    monkeypatch.setattr(sweeping_by_layer, "free_bytes", lambda _: 20_000)
    for grid in (GRID, PATCHES):
        model = on_disk(whole)
        seen = model.sweep(IDS, grid, METRIC, batch=5)
        passes = list(brought(model).values())
        assert passes == sorted(passes), "cells bring no layer before that in which they begin"
        assert 1 < passes[-1] < len(seen.values.flatten())
        assert torch.equal(seen.values, whole[0].sweep(IDS, grid, METRIC, batch=5).values)


def test_on_an_accelerator_streams_wait_on_the_host(whole, monkeypatch):
    arrived = set()
    call = Pack._block

    def told(pack, layer, members, **more):
        arrived.update(str(member.stream.resid.device) for member in members)
        call(pack, layer, members, **more)

    monkeypatch.setattr(Pack, "_block", told)
    wanted, patched = (whole[0].sweep(IDS, grid, METRIC, batch=5).values for grid in (GRID, PATCHES))
    rows = [[at, at + 1] for at in range(5)]
    logits = whole[0].run(rows, batch_tokens=4).logits
    with ManyDevices():
        model = mi.load(whole[1], device_map={"": "disk", "outside": "lazy:0", "blocks.1": "lazy:1"})
        plan = model.plan_sweep(IDS, GRID, METRIC, batch=5)
        passes = sweeping_by_layer.Passes(plan)
        packs = list(passes.run(range(len(plan.cells))))
        assert {str(stream.resid.device) for stream in passes.streams} == {"cpu"}
        assert str(packs[0][0][1].logits.device) == "lazy:0"
        assert arrived == {"cpu"}
        close(model.sweep(IDS, GRID, METRIC, batch=5).values, wanted)
        close(model.sweep(IDS, PATCHES, METRIC, batch=5).values, patched)
        close(model.run(rows, batch_tokens=4).logits.cpu(), logits)


def test_a_sweep_out_of_memory_begins_again_with_fewer_tokens(whole):
    model = on_disk(whole)
    block, failed = model.backend.inner.blocks[1], []
    forward = block.forward

    def full(stream, *rest):
        if stream.resid.shape[:2].numel() > 12 and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError
        return forward(stream, *rest)

    block.forward = full
    seen = model.sweep(IDS, PATCHES, METRIC, batch=40)
    assert failed
    assert set(brought(model).values()) == {2}, "the layer behind was on its way"
    assert torch.allclose(seen.values, whole[0].sweep(IDS, PATCHES, METRIC).values, atol=1e-5)


def test_a_store_is_asked_before_anything_is_run_again(whole, tmp_path):
    wanted = mi.load(whole[1]).sweep(IDS, GRID, METRIC, store=tmp_path / "cells").values
    model = on_disk(whole)
    assert torch.equal(model.sweep(IDS, GRID, METRIC, store=tmp_path / "cells").values, wanted)
    assert set(brought(model).values()) == {1}, "the base run"
    assert (tmp_path / "cells").read_text().count("\n") == wanted[..., 0].numel(), "every cell was found"


def test_an_interrupted_sweep_gives_what_was_finished(whole, monkeypatch):
    monkeypatch.setattr(sweeping_by_layer, "free_bytes", lambda _: 20_000)
    model = on_disk(whole)
    attempts = []

    def interrupted(backend, runs, finished):
        attempts.append(len(runs))
        if len(attempts) == 2:
            raise KeyboardInterrupt
        abreast(backend, runs, finished)

    monkeypatch.setattr(sweeping_by_layer, "abreast", interrupted)
    with pytest.raises(SweepInterrupted) as partial:
        model.sweep(IDS, GRID, METRIC, batch=5)
    values = partial.value.partial.values
    assert 0 < int(values.isnan().sum()) < values.numel()


def test_a_plan_says_that_it_goes_layer_by_layer(whole):
    said = "go through a layer together, so that its weights come once"
    model = on_disk(whole)
    assert said in model.plan_sweep([[1, 2]], HEADS, METRIC).explain()
    assert said in model.plan([[1], [2]], batch_tokens=1).explain()
    assert not whole[0].plan_sweep(IDS, HEADS, METRIC).by_layer


def test_a_looped_model_is_swept_alike(whole):
    loop = mi.Loop(range(1, 2), passes=3)
    seen, wanted = (mi.looped(m, loop).sweep(IDS, HEADS, METRIC).values for m in (on_disk(whole), whole[0]))
    assert torch.equal(seen, wanted)


def counting(stages, log, name):
    """A run that says where it is."""
    for stage in stages:
        yield stage
        log.append((stage, name))
    return name


def test_stages_are_taken_in_their_order_by_all_that_have_them(whole):
    log = []
    runs = [counting([-1, 0, 1, 2, 3], log, "a"), counting([-1, 2], log, "b")]
    assert all_abreast(whole[0].backend, runs) == ["a", "b"]
    assert log == [(-1, "a"), (-1, "b"), (0, "a"), (1, "a"), (2, "a"), (2, "b"), (3, "a")]
    assert alone(counting([-1, 5], log, "c")) == "c"
