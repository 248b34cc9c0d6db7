"""On a CUDA device: copies beside the computation, and models split over it, memory and disk."""

import pytest
import torch
from small_models import CONFIG, random

import mi_core as mi
from mi_core.building import initialise_randomly
from mi_core.lanes import Beside

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")

IDS = [[1, 2, 3, 4, 5], [6, 7, 8]]
LAYERS = 6
STREAM = mi.capture("blocks.*.hook_resid_post")
HEADS = mi.ablation_grid("blocks.*.attn.hook_z", each=("layer", "head"))
METRIC = mi.metric(lambda logits: logits[:, 3], name="a logit")
SPLITS = [
    {"": "disk", "outside": "cuda:0"},
    {"": "cpu", "blocks.0": "cuda:0", "blocks.3": "disk", "blocks.4": "disk"},
    {"": "cpu", "outside": "disk", "blocks.5": "cuda:0"},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": LAYERS}
    model = mi.build({**CONFIG, **wide}, trainable=False, device="cpu")
    initialise_randomly(model, 3)
    folder = tmp_path_factory.mktemp("whole")
    mi.save_model(model, folder)
    return mi.load(folder, device="cuda:0"), folder


def everything(model):
    """What one does with a model."""
    yield model.run(IDS, STREAM).stack("hook_resid_post")
    yield model.run([[at, at + 1, *range(at)] for at in range(8)], STREAM, batch_tokens=9).stack("hook_resid_post")
    yield model.sweep(IDS, HEADS, METRIC, batch=7).values
    patches = mi.patch_grid("blocks.*.hook_resid_pre", source=[[5, 4, 3, 2, 1], [8, 7, 6]], each=("layer", "pos"))
    yield model.sweep(IDS, patches, METRIC, batch=7).values
    edit = mi.intervene("blocks.1.hook_resid_post", mi.Add(random(512), scale=2.0).at(pos=-1))
    yield model.run(IDS, resumable=True).resume(edit + STREAM).stack("hook_resid_post")
    yield model.generate(IDS, max_new_tokens=4).tokens
    run = model.run(IDS, mi.capture("blocks.0.hook_resid_pre"), grad=True)
    yield run.grad(lambda logits: logits[:, 3], "blocks.0.hook_resid_pre")["blocks.0.hook_resid_pre"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("ahead", [True, False])
def test_everything_is_as_on_one_device(whole, split, ahead):
    model = mi.load(whole[1], device_map=split)
    courier = model.backend.desk.courier
    assert isinstance(courier.lane, Beside)
    courier.ahead = ahead
    for ours, theirs in zip(everything(model), everything(whole[0]), strict=True):
        ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert courier._here == []
    assert courier._errand is None


def test_there_are_never_more_than_two_layers_beside_what_stays(whole):
    model = mi.load(whole[1], device_map={"": "cpu", "outside": "cuda:0"})
    model.run(IDS)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(5):
        model.run(IDS)
    torch.cuda.synchronize()
    layer = model.backend.units["blocks.0"].bytes
    assert torch.cuda.max_memory_allocated() - before < 2.5 * layer
