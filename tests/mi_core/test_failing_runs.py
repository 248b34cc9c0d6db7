"""What goes wrong in the middle of a run leaves a split model as it was, and memory that runs out comes with advice."""

import pytest
import torch
from small_models import CONFIG, close

import mi_core as mi
from mi_core.building import initialise_randomly
from mi_core.sweeping import SweepInterrupted

IDS, OTHER = [[1, 2, 3, 4], [5, 6]], [[4, 3, 2, 1], [6, 5]]
METRIC = mi.metric(lambda logits: logits[:, 3], name="a logit")
PATCHES = mi.patch_grid("blocks.*.hook_resid_pre", source=OTHER, each=("layer",))
READ = mi.capture("blocks.0.hook_resid_pre")
USES = {
    "run": lambda model: model.run(IDS),
    "chunks": lambda model: model.run(IDS, batch_tokens=2),
    "gradient": lambda model: model.run(IDS, READ, grad=True).grad(METRIC, "blocks.0.hook_resid_pre"),
    "sweep": lambda model: model.sweep(IDS, PATCHES, METRIC, batch=1),
    "generation": lambda model: model.generate(IDS, max_new_tokens=3),
    "stream": lambda model: model.stream(IDS, chunk=2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = mi.build(CONFIG, trainable=False, device="cpu")
    initialise_randomly(model, 5)
    mi.save_model(model, tmp_path_factory.mktemp("failing") / "model")
    return tmp_path_factory.getbasetemp() / "failing0" / "model"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("device lost"), KeyboardInterrupt()])
def test_what_fails_in_a_layer_leaves_the_model_as_it_was(folder, monkeypatch, use, error):
    model = mi.load(folder, device_map={"": "disk"})
    wanted = model.run(IDS).logits

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model.backend.inner.blocks[1], "forward", fail)
        with pytest.raises(type(error)):
            USES[use](model)
    assert torch.equal(model.run(IDS).logits, wanted)
    assert all(parameter.is_meta for _, parameter in torch.nn.Module.named_parameters(model.backend))


@pytest.mark.parametrize(("use", "said"), [("run", "batch_tokens="), ("chunks", "batch_tokens="), ("sweep", "shorter")])
def test_memory_that_runs_out_comes_with_advice(folder, monkeypatch, use, said):
    model = mi.load(folder, device_map={"": "disk"})

    def full(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(model.backend.inner.blocks[1], "forward", full)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        USES[use](model)
    assert any(said in note for note in caught.value.__notes__)


def test_an_interrupted_sweep_with_a_source_gives_what_was_finished(folder, monkeypatch):
    from mi_core import sweeping_by_layer

    monkeypatch.setattr(sweeping_by_layer, "free_bytes", lambda _: 2_000)
    model = mi.load(folder, device_map={"": "disk"})
    wanted = model.sweep(IDS, PATCHES, METRIC, batch=1)
    run, passes = sweeping_by_layer.Passes._pass, []

    def interrupted(*arguments):
        passes.append(arguments)
        if len(passes) == 2:
            raise KeyboardInterrupt
        run(*arguments)

    monkeypatch.setattr(sweeping_by_layer.Passes, "_pass", interrupted)
    with pytest.raises(SweepInterrupted) as caught:
        model.sweep(IDS, PATCHES, METRIC, batch=1)
    there = ~caught.value.partial.values.isnan()
    assert there.any()
    assert not there.all()
    close(caught.value.partial.values[there], wanted.values[there])
