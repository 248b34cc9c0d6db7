"""Models whose parts are in several places give what they give whole."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from other_devices import ManyDevices
from small_models import CONFIG, LAYOUTS, ROWS, SEEDS, close, laid_out, random

import mi_core as mi
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.errors import InputError, NotCompiled, UnsupportedAnalysis
from mi_core.explaining import amount
from mi_core.tensors import TensorIndex
from mi_core.weight_samples import fingerprint_of

IDS = [[1, 2, 3, 4, 5], [6, 7, 8]]
PLACES = st.sampled_from(["cpu", "disk"])
DEVICES = st.sampled_from(["lazy:0", "lazy:1", "cpu", "disk"])
STREAM = mi.capture("blocks.*.hook_resid_post")
KNOCKOUT = mi.intervene("blocks.{1..2}.attn.hook_attn_scores", mi.Knockout(query=-1, key=0))
FAMILIES = ["gemma2", "mixtral", "rwkv7", "gpt2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model and its folder; its embedding is its unembedding."""
    model = mi.build({**CONFIG, "tie_word_embeddings": True}, trainable=False, device="cpu")
    initialise_randomly(model, 5)
    folder = tmp_path_factory.mktemp("whole")
    mi.save_model(model, folder)
    return model, folder


def mapped(places):
    return {"outside": places[0]} | {f"blocks.{layer}": place for layer, place in enumerate(places[1:])}


def placed(whole, places, **more):
    return mi.load(whole[1], device_map=mapped(places), **more)


def test_streams_come_through_every_split_with_the_same_numbers(whole):
    @given(st.lists(PLACES, min_size=4, max_size=4), ROWS, LAYOUTS, SEEDS)
    def check(places, rows, layout, seed):
        ids, mask = laid_out(rows, layout, seed)
        spec = STREAM + KNOCKOUT if min(map(len, rows)) > 1 else STREAM
        seen, wanted = (m.run(ids, spec, attention_mask=mask) for m in (placed(whole, places), whole[0]))
        assert torch.equal(seen.logits, wanted.logits)
        assert torch.equal(seen.stack("hook_resid_post"), wanted.stack("hook_resid_post"))

    check()


def test_on_several_devices_everything_that_meets_is_on_one(whole):
    @settings(max_examples=10, phases=[Phase.generate])  # shrinking takes minutes
    @given(st.lists(DEVICES, min_size=4, max_size=4), ROWS, LAYOUTS, SEEDS)
    def check(places, rows, layout, seed):
        ids, mask = laid_out(rows, layout, seed)
        wanted = whole[0].run(ids, STREAM, attention_mask=mask)
        with ManyDevices():
            model = placed(whole, places)
            seen = model.run(ids, STREAM, attention_mask=mask)
            main = next((place for place in places if place.startswith("lazy")), "cpu")
            assert str(model.device) == str(seen.logits.device) == str(seen.stack("hook_resid_post").device) == main
            close(seen.logits.cpu(), wanted.logits)
            close(seen.stack("hook_resid_post").cpu(), wanted.stack("hook_resid_post"))

    check()


SPREAD = ["lazy:0", "lazy:1", "cpu", "lazy:0"]
GRID = mi.ablation_grid("blocks.*.attn.hook_z", each=("layer", "head"))


def everything(model):
    """What one does with a model."""
    edit = mi.intervene("blocks.1.hook_resid_post", mi.Add(random(16), scale=2.0).at(pos=-1))
    yield model.sweep(IDS, KNOCKOUT + GRID, mi.metric(first_logit, name="a logit")).values
    yield model.run(IDS, resumable=True).resume(edit + STREAM).stack("hook_resid_post")
    yield model.stream([list(range(12))], STREAM, chunk=5).token_losses
    made = model.generate(IDS, edit + STREAM, max_new_tokens=4)
    yield from (made.tokens, made.stack("hook_resid_post"))
    prefix = model.run([IDS[0][:3], IDS[1][:2]], resumable=True).memory()
    yield model.run([IDS[0][3:], IDS[1][2:]], memory=prefix).logits
    run = model.run(IDS, mi.capture(["blocks.*.attn.hook_z", "blocks.0.hook_resid_pre"]), grad=True)
    yield from run.grad(first_logit, ["blocks.*.attn.hook_z", "blocks.0.hook_resid_pre"]).values()
    yield model.weights["blocks.2.attn.W_Q"]
    yield model.weights.stack("mlp.W_out")
    yield model.unembed(run["blocks.0.hook_resid_pre"])


def first_logit(logits):
    return logits[:, 3]


@pytest.mark.parametrize("places", [SPREAD, ["cpu", "lazy:1", "lazy:0", "disk"]])
def test_whatever_is_done_with_a_model_is_the_same_wherever_its_parts_are(whole, places):
    wanted = list(everything(whole[0]))
    for ours, theirs in zip(everything(placed(whole, ["disk", "cpu", "disk", "disk"])), wanted, strict=True):
        assert torch.equal(ours, theirs)
    with ManyDevices():
        seen = list(everything(placed(whole, places)))
        for ours, theirs in zip(seen, wanted, strict=True):
            assert ours.device.type in ("cpu", "lazy")
            close(ours.detach().cpu(), theirs.detach(), atol=3e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer_can_be_split(family, tmp_path):
    model = mi.build(plugins.plugin("mi_core.families", family).call("mi_family_examples")[0], trainable=False)
    initialise_randomly(model, 1)
    mi.save_model(model, tmp_path)
    wanted = model.run([[1, 2, 3, 4]], STREAM)
    with ManyDevices():
        split = mi.load(tmp_path, device_map={"": "disk", "outside": "lazy:1", "blocks.0": "lazy:0"})
        seen = split.run([[1, 2, 3, 4]], STREAM)
        close(seen.logits.cpu(), wanted.logits)
        close(seen.stack("hook_resid_post").cpu(), wanted.stack("hook_resid_post"))


def test_a_memory_from_a_file_goes_to_its_layers(whole, tmp_path):
    prefix = whole[0].run([[1, 2, 3]], resumable=True).memory()
    prefix.save(tmp_path / "memory")
    wanted = whole[0].run([[4, 5]], memory=prefix).logits
    with ManyDevices():
        close(placed(whole, SPREAD).run([[4, 5]], memory=tmp_path / "memory").logits.cpu(), wanted)


def test_a_layer_is_brought_in_once_for_a_run_and_once_more_for_its_gradient(whole):
    model = placed(whole, ["disk", "disk", "cpu", "disk"])
    lent = model.backend.offloaded
    run = model.run(IDS, mi.capture("blocks.0.hook_resid_pre"), grad=True)
    assert {name: unit.brought for name, unit in lent.items()} == {"outside": 2, "blocks.0": 1, "blocks.2": 1}
    run.grad(first_logit, "blocks.0.hook_resid_pre")
    assert {name: unit.brought for name, unit in lent.items()} == {"outside": 3, "blocks.0": 2, "blocks.2": 2}


def test_a_graph_holds_no_weights(whole):
    model = placed(whole, ["disk"] * 4, dtype="float64")
    run = model.run(IDS, mi.capture("blocks.0.hook_resid_pre"), grad=True)
    held, nodes, seen = [], [run.logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        held += [name for name in dir(node) if name.startswith("_raw_saved_") and saved_weight(getattr(node, name))]
    assert len(seen) > 20
    assert held == []


def saved_weight(saved):
    """Whether a saved tensor is a matrix of weights: the model's, whose activations have three dims at least."""
    value = getattr(saved, "data", None)
    return isinstance(value, torch.Tensor) and value.ndim == 2 and min(value.shape) >= 16


def test_what_is_offloaded_is_empty_between_calls(whole):
    model = placed(whole, ["disk"] * 4)
    model.run(IDS)
    with pytest.raises(ZeroDivisionError):
        model.run(IDS, mi.intervene("blocks.1.hook_resid_post", mi.Apply(lambda x: x / (1 // 0))))
    assert all(parameter.is_meta for parameter in model.backend.inner.parameters())


def test_a_split_model_is_not_folded_and_says_why(whole):
    with pytest.raises(UnsupportedAnalysis, match=r"placed by a device map.*without device_map="):
        mi.folded(placed(whole, ["disk", "cpu", "disk", "cpu"]))


def test_a_split_model_is_saved_and_known_as_the_whole_one(whole, tmp_path):
    model = placed(whole, ["disk", "cpu", "disk", "disk"])
    assert fingerprint_of(model.backend) == fingerprint_of(whole[0].backend)
    mi.save_model(model, tmp_path)
    assert torch.equal(mi.load(tmp_path).run(IDS).logits, whole[0].run(IDS).logits)


NAMED = (("blocks.0",), ("outside",))


def test_a_plan_of_a_split_model_says_where_weights_are_and_reads_none(whole, monkeypatch):
    model = placed(whole, ["cpu", "cpu", "disk", "disk"])
    monkeypatch.setattr(TensorIndex, "tensor", lambda *_: pytest.fail("a weight was read"))
    lines = model.plan(IDS, STREAM).explain()
    layer, outside = (sum(unit.bytes for unit in model.backend.units.values() if unit.name in names) for names in NAMED)
    assert f"layer 0 and embedding and unembedding: {amount(layer + outside)} on cpu" in lines
    assert f"layers 1 to 2: {amount(2 * layer)} on disk, brought to cpu for each call" in lines
    assert (
        f"{amount(2 * layer)} on disk" in model.plan_sweep(IDS, GRID, mi.metric(first_logit, name="a logit")).explain()
    )


def test_an_insert_is_called_where_its_weights_are(whole):
    class Halving(torch.nn.Module):
        reads = writes = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
        sites = ()

        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.full((16,), 0.5), requires_grad=False)

        def forward(self, values, tap):
            return {name: value * self.factor for name, value in values.items()}

    class Last(Halving):
        writes = ("blocks.2.hook_resid_post",)

    wanted = whole[0].run(IDS, mi.insert(Last(), "half")).logits
    with ManyDevices():
        module = Last()
        module.factor = torch.nn.Parameter(module.factor.to("lazy:0"), requires_grad=False)
        model = placed(whole, ["lazy:0", "lazy:1", "lazy:0", "lazy:1"])
        close(model.run(IDS, mi.insert(module, "half")).logits.cpu(), wanted)


def test_a_placed_model_is_not_moved_or_trained(whole):
    with pytest.raises(InputError, match="placed by a device map"):
        _ = placed(whole, ["cpu"] * 4).module


def test_a_looped_model_runs_where_its_layers_are(whole):
    loop = mi.Loop(range(1, 2), passes=2)
    wanted = mi.looped(whole[0], loop).run(IDS).logits
    with ManyDevices():
        model = mi.looped(placed(whole, SPREAD), loop)
        assert str(model.device) == "lazy:0"
        close(model.run(IDS).logits.cpu(), wanted)


def test_a_run_whose_weights_come_and_go_is_not_compiled(whole):
    with pytest.raises(NotCompiled, match="some of its weights are offloaded"):
        placed(whole, ["cpu", "disk", "cpu", "cpu"]).compile(STREAM, strict=True)([[1, 2]])
