"""Files from which weights are still to come: gone, cut or replaced, they are refused, and never mixed."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import CONFIG

import mi_core as mi
from mi_core.building import initialise_randomly
from mi_core.errors import CorruptCheckpoint

IDS = [[1, 2, 3], [4, 5]]
GRID = mi.ablation_grid("blocks.*.hook_resid_pre", each=("layer",))
METRIC = mi.metric(lambda logits: logits[:, 3], name="a logit")


@pytest.fixture
def folder(tmp_path):
    model = mi.build(CONFIG, trainable=False, device="cpu")
    initialise_randomly(model, 5)
    mi.save_model(model, tmp_path / "model")
    return tmp_path / "model"


def gone(file):
    file.unlink()


def cut(file):
    os.truncate(file, 1000)


def shorter(file):
    os.truncate(file, file.stat().st_size // 2)


def other_weights(file):
    return {name: value + 1 for name, value in load_file(file).items()}


def replaced(file):
    new = file.with_suffix(".new")
    save_file(other_weights(file), new)
    new.replace(file)


def overwritten(file):
    new = file.with_suffix(".new")
    save_file(other_weights(file), new)
    with file.open("r+b") as old:
        old.write(new.read_bytes())


def put_back(file):
    """The same numbers in another file, as a checkout or a download makes them."""
    new = file.with_suffix(".new")
    shutil.copyfile(file, new)
    new.replace(file)


@pytest.mark.parametrize("places", [{"": "disk"}, {"": "cpu", "blocks.1": "disk"}])
@pytest.mark.parametrize("happens", [gone, cut, shorter, replaced, overwritten, put_back])
def test_weights_of_another_file_are_refused(folder, happens, places):
    model = mi.load(folder, device_map=places)
    before = model.run(IDS).logits
    if places == {"": "disk"} or happens not in (cut, shorter):  # of a file that is cut, mapped pages kill the process
        happens(folder / "model.safetensors")
        uses = [
            lambda: model.run(IDS),
            lambda: model.sweep(IDS, GRID, METRIC),
            lambda: model.generate(IDS, max_new_tokens=1),
            lambda: model.weights["blocks.1.attn.W_Q"],
            lambda: mi.save_model(model, folder.parent / "saved"),
        ]
        for use in uses:
            with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors (is gone|was changed).*again"):
                use()
    assert before.isfinite().all()


def test_a_file_that_comes_back_is_read_on(folder):
    model = mi.load(folder, device_map={"": "disk"})
    wanted = model.run(IDS).logits
    folder.rename(folder.parent / "away")
    with pytest.raises(CorruptCheckpoint, match=r"is gone.*Put it back"):
        model.run(IDS, mi.capture("blocks.1.hook_resid_post"))
    assert all(parameter.is_meta for parameter in model.backend.inner.parameters())
    (folder.parent / "away").rename(folder)
    assert torch.equal(model.run(IDS).logits, wanted)


def test_what_was_written_for_offloading_is_watched_too(folder, tmp_path):
    model = mi.load(folder, dtype="bfloat16", device_map={"": "disk"}, offload_folder=tmp_path / "offload")
    model.run(IDS)
    file = next((tmp_path / "offload").rglob("blocks.1.safetensors"))
    cut(file)
    with pytest.raises(CorruptCheckpoint, match=r"blocks\.1\.safetensors was changed"):
        model.run(IDS)
    shutil.rmtree(tmp_path / "offload")
    with pytest.raises(CorruptCheckpoint, match="is gone"):
        model.run(IDS)


def test_a_model_that_was_read_whole_needs_its_file_no_more(folder):
    model = mi.load(folder, dtype="bfloat16")
    wanted = model.run(IDS).logits
    gone(folder / "model.safetensors")
    assert torch.equal(model.run(IDS).logits, wanted)
