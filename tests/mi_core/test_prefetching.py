"""While one unit computes, the next is on its way: with the same numbers, once for each pass, two at a time."""

import threading
import weakref

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from late_copies import Late
from small_models import CONFIG, LAYOUTS, ROWS, SEEDS, laid_out

import mi_core as mi
from mi_core.building import initialise_randomly
from mi_core.errors import CorruptCheckpoint
from mi_core.lanes import Beside, OnDemand
from mi_core.loop import Taps, stages
from mi_core.parking import Parking
from mi_core.prefetching import Errand

IDS = [[1, 2, 3, 4, 5], [6, 7, 8]]
LAYERS = 5
PLACES = st.lists(st.sampled_from(["cpu", "disk"]), min_size=LAYERS + 1, max_size=LAYERS + 1)
STREAM = mi.capture("blocks.*.hook_resid_post")
HEADS = mi.ablation_grid("blocks.*.attn.hook_z", each=("layer", "head"))
HOST = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    model = mi.build({**CONFIG, "num_hidden_layers": LAYERS}, trainable=False, device="cpu")
    initialise_randomly(model, 11)
    folder = tmp_path_factory.mktemp("whole")
    mi.save_model(model, folder)
    # bits depend on where in memory matrices begin: views of the file are compared with views, copies with copies
    return mi.load(folder), folder, model


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "bringing weights"] == []


def placed(whole, places=("disk",) * (LAYERS + 1), *, room=None, ahead=True, late=False):
    names = ["outside", *(f"blocks.{layer}" for layer in range(LAYERS))]
    model = mi.load(whole[1], device_map=dict(zip(names, places, strict=True)))
    backend = model.backend
    courier = backend.desk.courier
    courier.room, courier.ahead = room, ahead
    if late:
        courier.lane, backend.parking = Beside(HOST, Late()), Parking(HOST, Late())
    return model


def brought(model):
    return {name: unit.brought for name, unit in model.backend.offloaded.items()}


def watched(model):
    """What is read, in its order; how many units were there at most at one time; what was read ahead of time."""
    there, order, most, early = weakref.WeakSet(), [], [0], []
    for name, unit in model.backend.offloaded.items():

        def read(name=name, own=unit._read):
            found = {key: tensor.view(tensor.shape) for key, tensor in own().items()}
            there.add(next(iter(found.values())))
            order.append(name)
            if threading.current_thread().name == "bringing weights":
                early.append(name)
            most[0] = max(most[0], len(there), len(model.backend.desk.courier._here) + 1)
            return found

        unit._read = read
    return order, most, early


def at_rest(model):
    """Nothing is on its way or where it was used."""
    courier = model.backend.desk.courier
    return courier._errand is None and courier._here == [] and courier._journeys == [] and not model.backend.desk.unit


def first_logit(logits):
    return logits[:, 3]


METRIC = mi.metric(first_logit, name="a logit")


@settings(max_examples=15, phases=[Phase.generate])
@given(PLACES, ROWS, LAYOUTS, SEEDS, st.sampled_from([None, 0, 3000, 30_000]), st.booleans())
def test_a_pass_brings_each_unit_once_and_the_numbers_are_the_same(whole, places, rows, layout, seed, room, ahead):
    ids, mask = laid_out(rows, layout, seed)
    model = placed(whole, places, room=room, ahead=ahead)
    seen = model.run(ids, STREAM, attention_mask=mask)
    wanted = whole[0].run(ids, STREAM, attention_mask=mask)
    assert torch.equal(seen.logits, wanted.logits)
    assert torch.equal(seen.stack("hook_resid_post"), wanted.stack("hook_resid_post"))
    assert brought(model) == {name: 2 if name == "outside" else 1 for name in brought(model)}
    assert at_rest(model)


def everything(model):
    """What one does with a model."""
    yield model.sweep(IDS, HEADS, METRIC, batch=5).values
    yield model.sweep(IDS, mi.patch_grid("blocks.*.hook_resid_pre", source=[[5, 4, 3, 2, 1], [8, 7, 6]]), METRIC).values
    yield model.run(IDS, STREAM, batch_tokens=5).stack("hook_resid_post")
    edit = mi.intervene("blocks.1.hook_resid_post", mi.Scale(0.5).at(pos=-1))
    yield model.run(IDS, resumable=True).resume(edit + STREAM).stack("hook_resid_post")
    yield model.stream([list(range(12))], STREAM, chunk=5).token_losses
    made = model.generate(IDS, edit + STREAM, max_new_tokens=3)
    yield from (made.tokens, made.stack("hook_resid_post"))
    run = model.run(IDS, mi.capture(["blocks.*.attn.hook_z", "blocks.0.hook_resid_pre"]), grad=True)
    yield from run.grad(first_logit, ["blocks.*.attn.hook_z", "blocks.0.hook_resid_pre"]).values()
    yield model.run(
        IDS, mi.intervene("blocks.1.hook_resid_post", mi.Apply(lambda x: x + model.weights["embed.W_E"][0]))
    ).logits


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("room", [None, 0])
def test_whatever_is_done_is_the_same_however_weights_come(whole, late, room):
    model = placed(whole, room=room, late=late)
    for ours, theirs in zip(everything(model), everything(whole[2 if late else 0]), strict=True):
        assert torch.equal(ours, theirs)
        assert at_rest(model)


@settings(max_examples=15, phases=[Phase.generate])
@given(PLACES, st.sampled_from([0, None]))
def test_units_are_asked_for_in_the_order_of_layers_and_two_at_most_are_there(whole, places, room):
    model = placed(whole, places, room=room)
    order, most, _ = watched(model)
    model.run(IDS, logits="last")
    layers = [f"blocks.{layer}" for layer, place in enumerate(places[1:]) if place == "disk"]
    outside = ["outside"] if places[0] == "disk" else []
    assert order == [*outside, *layers, *outside]
    assert most[0] <= (1 if room == 0 else 2)


def test_the_next_layer_is_on_its_way_while_one_computes(whole):
    model = placed(whole, ["cpu", "disk", "cpu", "disk", "disk", "cpu"])
    order, _, _ = watched(model)
    on_the_way = {}
    courier = model.backend.desk.courier

    def look(layer):
        def note(x):
            on_the_way[layer] = courier._errand and courier._errand.parcel
            return x

        return mi.intervene(f"blocks.{layer}.hook_resid_post", mi.Apply(note))

    spec = look(0)
    for layer in range(1, LAYERS):
        spec = spec + look(layer)
    model.run(IDS, spec)
    lent = model.backend.offloaded
    assert list(on_the_way.values()) == [lent["blocks.2"], lent["blocks.2"], lent["blocks.3"], None, None]
    assert order == ["blocks.0", "blocks.2", "blocks.3"]


def test_weights_that_an_intervention_looks_at_leave_what_comes_next(whole):
    model = placed(whole)
    _, most, early = watched(model)
    model.run(IDS, mi.intervene("blocks.1.hook_resid_post", mi.Apply(lambda x: x + model.weights["embed.W_E"][0])))
    assert brought(model) == {"outside": 3} | {f"blocks.{layer}": 1 for layer in range(LAYERS)}
    assert early == [f"blocks.{layer}" for layer in range(LAYERS)] + ["outside"]
    assert most[0] <= 2


def test_a_run_that_stops_early_brings_nothing_behind(whole):
    model = placed(whole)
    model.run(IDS, mi.capture("blocks.1.hook_resid_post"), logits=None)
    assert [brought(model)[f"blocks.{layer}"] for layer in range(LAYERS)] == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("outside", ["cpu", "disk"])
def test_behind_a_pass_of_a_generation_the_next_begins(whole, outside):
    model = placed(whole, [outside, *["disk"] * LAYERS])
    order, most, early = watched(model)
    on_the_way, courier = [], model.backend.desk.courier

    def told(*_):
        on_the_way.append(courier._errand and courier._errand.parcel)

    made = model.generate(IDS[:1], max_new_tokens=3, stop_at_eos=False, stream=told)
    assert torch.equal(made.tokens, whole[0].generate(IDS[:1], max_new_tokens=3, stop_at_eos=False).tokens)
    one = [*(["outside"] if outside == "disk" else []), *(f"blocks.{layer}" for layer in range(LAYERS))]
    assert order == (one + one[:-LAYERS]) * 3
    if outside == "cpu":
        assert on_the_way == [model.backend.offloaded["blocks.0"]] * 2 + [None]
    assert set(early) >= {f"blocks.{layer}" for layer in range(1, LAYERS)}
    assert most[0] <= 2
    assert at_rest(model)


def test_pieces_of_a_long_input_follow_on_each_other(whole):
    model = placed(whole, ["cpu", *["disk"] * LAYERS])
    order, _, _ = watched(model)
    model.stream([list(range(12))], chunk=5)
    assert order == [f"blocks.{layer}" for layer in range(LAYERS)] * 3
    assert at_rest(model)


def test_the_backward_pass_goes_the_other_way_and_ends_with_an_empty_desk(whole):
    model = placed(whole)
    run = model.run(IDS, mi.capture("blocks.1.hook_resid_pre"), grad=True)
    order, most, early = watched(model)
    run.grad(first_logit, "blocks.1.hook_resid_pre")
    assert order == ["outside", *(f"blocks.{layer}" for layer in reversed(range(1, LAYERS)))]
    assert early == order[2:]
    assert most[0] <= 2
    assert at_rest(model)
    run.logits.sum().backward()
    assert order[LAYERS:] == order[:LAYERS]
    assert at_rest(model)


def test_a_backward_pass_through_one_layer_brings_no_other(whole):
    model = placed(whole)
    run = model.run(IDS, mi.capture(["blocks.*.hook_resid_pre", "blocks.*.hook_resid_post"]), grad=True)
    order, _, _ = watched(model)
    for layer in (1, 2, 3):
        post = f"blocks.{layer}.hook_resid_post"
        run.vjp({post: torch.ones_like(run[post])}, [f"blocks.{layer}.hook_resid_pre"])
    assert order == ["blocks.1", "blocks.2", "blocks.3"]
    assert at_rest(model)


def test_two_graphs_do_not_mistake_each_other_for_their_beginning(whole):
    model = placed(whole)
    first, second = (model.run(IDS, mi.capture("blocks.3.hook_resid_pre"), grad=True) for _ in range(2))
    order, _, _ = watched(model)
    second.grad(first_logit, "blocks.3.hook_resid_pre")
    first.grad(first_logit, "blocks.3.hook_resid_pre")
    assert order == ["outside", "blocks.4", "blocks.3"] * 2


def test_an_error_on_the_way_is_raised_where_the_weights_are_asked_for(whole):
    model = placed(whole)
    unit = model.backend.offloaded["blocks.3"]
    read = unit._read

    def broken():
        raise CorruptCheckpoint("the file is cut.")

    unit._read = broken
    for _ in range(2):
        with pytest.raises(CorruptCheckpoint, match="is cut"):
            model.run(IDS)
        assert at_rest(model)
        assert all(parameter.is_meta for parameter in model.backend.inner.parameters())
    unit._read = read
    assert torch.equal(model.run(IDS).logits, whole[0].run(IDS).logits)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("chunks", [None, 5])
def test_what_ends_a_run_leaves_nothing_on_its_way(whole, error, chunks):
    model = placed(whole)

    def ends(x):
        raise error

    with pytest.raises(error) as kept:
        model.run(IDS, mi.intervene("blocks.2.hook_resid_post", mi.Apply(ends)), batch_tokens=chunks)
    assert at_rest(model), f"while somebody has {kept}"
    assert all(parameter.is_meta for parameter in model.backend.inner.parameters())
    assert torch.equal(model.run(IDS).logits, whole[0].run(IDS).logits)


@pytest.mark.parametrize("backward", [False, True])
def test_an_interrupt_while_weights_are_waited_for_lets_them_go(whole, monkeypatch, backward):
    model = placed(whole)
    run = model.run(IDS, mi.capture("blocks.0.hook_resid_pre"), grad=True)
    joined, result = [], Errand.result

    def interrupted(errand):
        joined.append(errand)
        if len(joined) == 2:
            raise KeyboardInterrupt
        return result(errand)

    monkeypatch.setattr(Errand, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.grad(first_logit, "blocks.0.hook_resid_pre") if backward else model.run(IDS)
    assert len(joined) == 2
    assert at_rest(model)
    monkeypatch.setattr(Errand, "result", result)
    assert torch.equal(model.run(IDS).logits, run.logits)


def test_a_backward_pass_that_fails_hinders_no_other_pass(whole):
    model = placed(whole)

    def fails(gradient):
        raise ValueError("no such gradient")

    def hooked(x):
        x.register_hook(fails)
        return x * 1

    edit = mi.intervene("blocks.2.hook_resid_pre", mi.Apply(hooked))
    run = model.run(IDS, edit + mi.capture("blocks.0.hook_resid_pre"), grad=True)
    with pytest.raises(ValueError, match="no such gradient"):
        run.grad(first_logit, "blocks.0.hook_resid_pre")
    order, most, early = watched(model)
    assert torch.equal(model.run(IDS).logits, run.logits)
    assert order == ["outside", *(f"blocks.{layer}" for layer in range(LAYERS)), "outside"]
    assert early == order[1:]
    assert most[0] <= 2
    assert at_rest(model)


def test_a_run_that_is_dropped_half_way_drops_what_was_coming_for_it(whole):
    model = placed(whole)
    courier = model.backend.desk.courier
    batch = model.plan(IDS).layout.batch(model.device)
    run = stages(model.backend, batch, Taps({}), kept=[])
    for _ in range(3):
        next(run)
    assert courier._errand is not None
    run.close()
    assert at_rest(model)


def test_where_memory_does_not_hold_two_the_next_comes_when_one_has_gone(whole):
    class Small(OnDemand):
        def carry(self, values, free, stopped=None):
            if stopped is not None:
                raise torch.OutOfMemoryError
            return super().carry(values, free)

    model = placed(whole)
    model.backend.desk.courier.lane = Small(HOST)
    assert torch.equal(model.run(IDS).logits, whole[0].run(IDS).logits)
    assert brought(model)["blocks.0"] == 2
    assert {brought(model)[f"blocks.{layer}"] for layer in range(1, LAYERS)} == {1}
