"""The same weights have one fingerprint wherever they are, and nothing is brought for it."""

import pytest
import torch
from other_devices import ManyDevices
from small_models import CONFIG

import mi_core as mi
from mi_core.building import initialise_randomly
from mi_core.weight_samples import fingerprint_of

PLACES = [{"": "disk"}, {"": "cpu", "blocks.1": "disk"}, {"": "lazy:0", "blocks.1": "disk", "outside": "cpu"}]


@pytest.fixture(scope="module", params=[False, True])
def whole(tmp_path_factory, request):
    model = mi.build({**CONFIG, "tie_word_embeddings": request.param}, trainable=False, device="cpu")
    initialise_randomly(model, 2)
    folder = tmp_path_factory.mktemp("samples")
    mi.save_model(model, folder)
    return mi.load(folder), folder


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fingerprint_is_that_of_the_whole_model_and_brings_nothing(whole, places, dtype):
    loop = mi.Loop(range(1, 2), passes=2)
    with ManyDevices():
        model, other = mi.load(whole[1], device_map=places, dtype=dtype), mi.load(whole[1], dtype=dtype)
        for change in (lambda given: given, lambda given: mi.looped(given, loop)):
            assert fingerprint_of(change(model).backend) == fingerprint_of(change(other).backend)
        assert {unit.brought for unit in model.backend.offloaded.values()} == {0}
        assert (fingerprint_of(model.backend) == fingerprint_of(whole[0].backend)) == (dtype == "float32")


def test_one_number_of_a_small_parameter_makes_another_fingerprint(whole):
    changed = mi.load(whole[1], dtype="float32")
    before = fingerprint_of(changed.backend)
    parameter = min(changed.backend.parameters(), key=lambda own: own.numel())
    with torch.no_grad():
        parameter.flatten()[3] += 1
    assert fingerprint_of(changed.backend) != before


def test_a_looped_model_finds_its_stored_cells_under_every_placement(whole, tmp_path):
    loop, metric = mi.Loop(range(1, 2), passes=2), mi.metric(lambda logits: logits[:, 3], name="a logit")
    grid = mi.ablation_grid("blocks.*.hook_mlp_out", each=("layer",))
    for places in (None, {"": "disk"}):
        model = mi.looped(mi.load(whole[1], device_map=places), loop)
        model.sweep([[1, 2, 3]], grid, metric, store=tmp_path / "cells")
    assert len((tmp_path / "cells").read_text().splitlines()) == 4


def test_a_stored_cell_is_of_one_config(whole, tmp_path):
    metric = mi.metric(lambda logits: logits[:, 3], name="a logit")
    seen = []
    for theta in (10_000.0, 500.0):
        model = mi.build({**CONFIG, "rope_theta": theta}, trainable=False, device="cpu")
        initialise_randomly(model, 2)
        seen.append(model.sweep([[1, 2, 3]], [mi.HookSpec()], metric, store=tmp_path / "cells").values)
    assert not torch.equal(*seen)
