from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small

import mi_core as mi
from mi_core.errors import InputError, MemoryMismatch, NotSerialisable, UnknownPoint
from mi_core.looping import LoopedBackend, Nothing
from mi_core.testing import CATALOGUE, Subject, effort, subjects

MODEL = small()
LAYERS = st.sampled_from([range(1), range(1, 2), range(1, 3), range(3)])
CHECKED = (
    "check_points_fire_in_order",
    "check_residual_equations",
    "check_rows_in_a_batch_equal_rows_alone",
    "check_memory_is_the_prefix",
    "check_sweeps_equal_the_loop",
)
"""What a loop could break; with all of them the other checks pass too, and take a minute."""
WEIGHTS = st.sampled_from([(0.0, 1.0), (1.0, 1.0), (0.5, -0.25)])


def by_hand(model, loop, ids, mask):
    """The same by runs of the model as it is, each with the stream of the pass before written in; logits of all."""
    start, end = (f"blocks.{loop.layers.start}.hook_resid_pre", f"blocks.{loop.layers.stop - 1}.hook_resid_post")
    run = model.run(ids, mi.capture([start, end]), attention_mask=mask)
    first = run[start]
    for _ in range(loop.passes - 1):
        stream = loop.inject * first + loop.carry * run[end]
        spec = mi.intervene(start, mi.Replace(stream)) + mi.capture(end)
        run = model.run(ids, spec, attention_mask=mask)
    return run.logits


@settings(max_examples=12)
@given(ROWS, LAYOUTS, SEEDS, LAYERS, st.integers(1, 3), WEIGHTS)
def test_passes_are_runs_with_the_stream_of_the_pass_before_written_in(rows, layout, seed, layers, passes, weights):
    loop = mi.Loop(layers, passes, *weights)
    ids, mask = laid_out(rows, layout, seed)
    close(mi.looped(MODEL, loop).run(ids, attention_mask=mask).logits, by_hand(MODEL, loop, ids, mask), 1e-4)


def test_one_pass_is_the_model_itself():
    assert torch.equal(mi.looped(MODEL, mi.Loop(range(3), 1)).run([1, 2, 3]).logits, MODEL.run([1, 2, 3]).logits)


@settings(max_examples=8)
@given(
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=5), min_size=1, max_size=3),
    LAYERS,
    WEIGHTS,
    st.sampled_from([mi.PROMPT, mi.GENERATED, -1, slice(-1, None)]),
)
def test_generation_is_the_same_with_and_without_a_cache(rows, layers, weights, pos):
    loop = mi.Loop(layers, 2, *weights)
    model, point = mi.looped(MODEL, loop), f"blocks.{loop.index(layers.start, turn=2)}.hook_resid_pre"
    ids, mask = laid_out(rows, "right")
    spec = mi.intervene(point, mi.Add(random(16), scale=2.0).at(pos=pos)) + mi.capture("blocks.*.hook_resid_post")
    made, anew = (
        model.generate(ids, spec, max_new_tokens=3, attention_mask=mask, cache=cache) for cache in (True, False)
    )
    close(made.logits, anew.logits, 1e-4)
    for name in made:
        close(made[name], anew[name], 1e-4)


def test_a_write_reaches_one_pass_and_a_capture_holds_one():
    loop = mi.Loop(range(1, 2), passes=3)
    model, plain = mi.looped(MODEL, loop), MODEL.run([1, 2, 3], mi.capture("blocks.*.hook_resid_post"))
    second = f"blocks.{loop.index(1, turn=2)}.hook_mlp_out"
    streams = mi.capture("blocks.*.hook_resid_post")
    run, edited = model.run([1, 2, 3], streams), model.run([1, 2, 3], mi.intervene(second, mi.Zero()) + streams)
    changed = [not torch.equal(run[name], edited[name]) for name in run]
    assert changed == [False, False, True, True, True]
    for turn, layer in ((0, 0), (1, 1)):
        close(run[f"blocks.{loop.index(layer, turn)}.hook_resid_post"], plain[f"blocks.{layer}.hook_resid_post"])


@given(st.integers(1, 5), st.data(), st.integers(1, 3), WEIGHTS)
def test_every_layer_of_every_pass_has_a_number_of_its_own(n_layers, data, passes, weights):
    start = data.draw(st.integers(0, n_layers - 1))
    loop = mi.Loop(range(start, data.draw(st.integers(start + 1, n_layers))), passes, *weights)
    places = loop.places(n_layers)
    assert [loop.index(*place) for place in places] == list(range(len(places)))
    joints = (passes - 1) * (weights != (0, 1))
    assert len(places) == n_layers + (passes - 1) * len(loop.layers) + joints


@pytest.mark.parametrize("family", ["llama", "rwkv7"])
def test_a_looped_model_passes_checks_of_the_conformance_kit(family):
    inside = subjects(family)[0]
    model = mi.looped(inside.model, mi.Loop(range(inside.depth), 2, 0.5, 0.75))
    subject = Subject(model, inside.config, None, model.name)
    with effort(1, shrink=False):
        for check in CATALOGUE:
            if check.name in CHECKED:
                check.function(subject)


def test_loops_may_be_inside_loops():
    inner, outer = mi.Loop(range(1, 2), 2, 1.0, 0.5), mi.Loop(range(1, 4), 2, 0.5, 0.5)
    once = mi.looped(MODEL, inner)
    ids, mask = laid_out([[1, 2, 3], [4, 5]], "left")
    logits = mi.looped(once, outer).run(ids, attention_mask=mask).logits
    close(logits, by_hand(once, outer, ids, mask), 1e-4)


def test_weights_are_those_of_the_layer_in_every_pass():
    loop = mi.Loop(range(1, 3), 2, inject=1.0)
    model = mi.looped(MODEL, loop)
    weights = [model.weights[f"blocks.{loop.index(2, turn)}.attn.W_Q"] for turn in (1, 2)]
    assert all(torch.equal(weight, MODEL.weights["blocks.2.attn.W_Q"]) for weight in weights)
    assert model.weights["unembed.W_U"].shape == MODEL.weights["unembed.W_U"].shape
    with pytest.raises(UnknownPoint, match="has none"):
        model.weights[f"blocks.{loop.index(None, turn=2)}.attn.W_Q"]


def test_memories_of_a_looped_model_are_kept_on_disk_for_that_loop_alone(tmp_path):
    model = mi.looped(MODEL, mi.Loop(range(1, 3), 2, 0.5, 0.1))
    model.run([1, 2, 3], resumable=True).memory().save(tmp_path / "prefix.safetensors")
    rest = model.run([4, 5], memory=tmp_path / "prefix.safetensors")
    close(rest.logits, model.run([1, 2, 3, 4, 5]).logits[:, 3:], 1e-4)
    other = mi.looped(MODEL, mi.Loop(range(1, 3), 2, 0.5, 0.1 + 1e-12))
    with pytest.raises(MemoryMismatch, match=r"0\.1"):
        other.run([4, 5], memory=tmp_path / "prefix.safetensors")
    with pytest.raises(MemoryMismatch, match="remembers nothing"):
        Nothing().restored({"keys": random(1)})


def test_cells_of_one_loop_are_not_taken_for_those_of_another(tmp_path):
    specs = [mi.intervene("blocks.0.hook_mlp_out", mi.Zero())]
    found = [
        mi.looped(MODEL, mi.Loop(range(1, 2), 2, 1.0, carry)).sweep(
            [1, 2, 3], specs, mi.logit(5), store=tmp_path / "cells.jsonl", progress=False
        )
        for carry in (1.0, 2.0)
    ]
    assert not torch.equal(found[0].values, found[1].values)
    assert len((tmp_path / "cells.jsonl").read_text(encoding="utf-8").splitlines()) >= 2


def test_loops_that_make_no_sense_are_refused(tmp_path):
    for layers in ([0, 2], [2, 1], [], range(-2, 1), "0-2", range(0, 4, 2)):
        with pytest.raises(InputError, match="neighbouring"):
            mi.Loop(layers)
    for passes in (0, True, 1.5):
        with pytest.raises(InputError, match="passes"):
            mi.Loop(range(2), passes)
    with pytest.raises(InputError, match="only the last would count"):
        mi.Loop(range(1, 2), 3, inject=1.0, carry=0.0)
    with pytest.raises(InputError, match="finite"):
        mi.Loop(range(2), inject=float("nan"))
    with pytest.raises(InputError, match="0 to 2"):
        mi.looped(MODEL, mi.Loop(range(2, 4)))
    loop = mi.Loop(range(1, 3), 2)
    for layer, turn in ((1, 0), (1, 3), (0, 1), (None, 2)):
        with pytest.raises(InputError, match="passes 1 to 2"):
            loop.index(layer, turn)
    with pytest.raises(NotSerialisable, match="inside"):
        mi.save_model(mi.looped(MODEL, loop), tmp_path / "looped")
    assert isinstance(mi.looped(MODEL, loop).backend, LoopedBackend)
