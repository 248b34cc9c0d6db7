"""Maps of devices, and what is read and written when a model is spread over them."""

import re
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_models import CONFIG

import mi_core as mi
from mi_core import spreading, tensors
from mi_core.building import initialise_randomly
from mi_core.device_maps import DeviceMap, Unit, bytes_of, device_map_of, limits_of, uses_of
from mi_core.errors import LoadError, TensorMismatch
from mi_core.fill import slots
from mi_core.loading import resolve

IDS = [[1, 2, 3, 4, 5]]
LAYERS = {layer: f"blocks.{layer}" for layer in range(4)}


def units(outside: int, layer: int, **tied: str) -> dict[str, Unit]:
    """A model of these sizes."""
    sizes = {"outside": outside} | dict.fromkeys(LAYERS.values(), layer)
    return {name: Unit(name, (f"{name}.w",), (size,), (tied.get(name, f"{name}.w"),)) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = mi.build(CONFIG, trainable=False, device="cpu")
    initialise_randomly(model, 5)
    mi.save_model(model, found := tmp_path_factory.mktemp("checkpoint"))
    return found


@given(st.integers(1, 200), st.integers(1, 50), st.sampled_from(["auto", "balanced", "sequential"]), st.data())
def test_what_stays_and_what_comes_never_exceeds_a_limit(outside, layer, kind, data):
    made = units(outside, layer)
    limits = {
        f"cuda:{i}": data.draw(st.integers(max(outside, layer), 300)) for i in range(data.draw(st.integers(0, 2)))
    }
    limits["cpu"] = data.draw(st.integers(max(outside, layer), 400))
    found = device_map_of(kind, made, limits, layers=LAYERS)
    assert found.kept.keys() == made.keys()
    coming = max((made[name].bytes for name in LAYERS.values() if found.offloaded(name)), default=0)
    for place, limit in limits.items():
        held = sum(unit.bytes for name, unit in made.items() if found.kept[name] == place)
        assert held + (coming if place == found.main else 0) <= limit


def test_what_fits_stays_whole_and_in_order():
    assert set(device_map_of("auto", units(10, 10), {"cpu": 1000}, layers=LAYERS).kept.values()) == {"cpu"}
    split = device_map_of("sequential", units(10, 10), {"cuda:0": 41, "cpu": 21}, layers=LAYERS).kept
    assert list(split.values()) == ["cuda:0", "cuda:0", "cpu", "disk", "disk"]
    balanced = device_map_of("balanced", units(2, 10), {"cuda:0": 90, "cuda:1": 90}, layers=LAYERS).kept
    assert list(balanced.values()) == ["cuda:0"] * 2 + ["cuda:1"] * 3


@given(st.integers(1, 200), st.integers(1, 50), st.sampled_from(["auto", "balanced", "sequential"]), st.data())
def test_there_is_room_for_two_that_come_where_one_leaves_it_and_the_embedding(outside, layer, kind, data):
    made = units(outside, layer)
    limit = data.draw(st.integers(max(outside, layer), 400))
    found = device_map_of(kind, made, {"cpu": limit}, layers=LAYERS)
    coming = [name for name in LAYERS.values() if found.offloaded(name)]
    held = sum(unit.bytes for name, unit in made.items() if found.kept[name] == "cpu")
    assert found.room == limit - held
    (on_disk,) = [use for use in uses_of(found, made) if use.place == "disk"] or [None]
    ahead = on_disk is not None and on_disk.ahead
    assert ahead == (len(coming) > 1 and 2 * layer <= found.room)
    if outside + 2 * layer <= limit and coming:
        assert found.room >= min(2, len(coming)) * layer
        assert found.kept["outside"] == "cpu" or found.room >= 2 * layer


def test_an_embedding_that_fits_nowhere_does_not_push_the_layers_to_disk():
    found = device_map_of("auto", units(100, 10), {"cpu": 135}, layers=LAYERS).kept
    assert [place for name, place in found.items() if name != "outside"].count("cpu") >= 1


def test_tied_weights_go_together():
    tied = units(10, 10, **{"blocks.3": "blocks.0.w"})
    for limit in range(20, 60, 5):
        found = device_map_of("sequential", tied, {"cpu": limit}, layers=LAYERS).kept
        assert found["blocks.0"] == found["blocks.3"]


def test_the_closest_name_of_a_map_counts():
    asked = {"": "disk", "blocks": 1, "blocks.2": torch.device("cuda")}
    kept = device_map_of(asked, units(1, 1), None, layers=LAYERS).kept
    assert list(kept.values()) == ["disk", "cuda:1", "cuda:1", "cuda:0", "cuda:1"]


def test_the_host_computes_what_it_holds_unless_there_is_an_accelerator():
    alone, beside = (
        DeviceMap({"outside": "cpu", "blocks.0": "disk"}),
        DeviceMap({"outside": "cpu", "blocks.0": "cuda:1"}),
    )
    assert (alone.main, alone.offloaded("outside"), alone.computed_on("blocks.0")) == ("cpu", False, "cpu")
    assert (beside.main, beside.offloaded("outside"), beside.computed_on("outside")) == ("cuda:1", True, "cuda:1")


@given(st.integers(0, 2**40))
def test_sizes_are_read_in_any_unit(size):
    assert bytes_of(size) == bytes_of(f"{size} B") == size
    assert bytes_of(f"{size}KiB") == 1024 * size
    assert bytes_of(f"{size}gb") == 10**9 * size


REFUSED = [
    ({"device_map": "smart"}, "device_map='smart': give 'auto', 'balanced', 'sequential'"),
    ({"device_map": {"outside": "cpu", "blocks.0": "cpu"}}, "leaves out blocks.{1..2}"),
    ({"device_map": {"": "cpu", "block.1": "disk"}}, "Did you mean 'blocks.1'?"),
    ({"device_map": {"": "cpu", "blocks.3": "disk"}}, "names 'blocks.3', which is no part of this model"),
    ({"device_map": {"": "meta"}}, "say 'disk'"),
    ({"device_map": {"": "gpu"}}, "'gpu' is no place for weights"),
    ({"device_map": {"": "cpu", "blocks.1": 7}}, "'cuda:7' is not available here"),
    ({"device_map": {"": "cpu"}, "max_memory": {"cpu": 1}}, "leave one out"),
    ({"device_map": "auto", "device": "cpu"}, "both say where the model goes"),
    ({"max_memory": {"cpu": "1GB"}}, "max_memory goes with device_map"),
    ({"offload_folder": "x"}, "offload_folder goes with device_map"),
    ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "'much' is no amount of memory"),
    ({"device_map": "auto", "max_memory": {"cpu": 5000}}, "gives 'cpu' 5,000 bytes, and 'blocks.0' alone needs "),
    ({"device_map": "auto", "max_memory": {"cpu": 20000, "disk": 100}}, "gives 'disk' 100 bytes"),
    ({"device_map": "auto", "max_memory": "2GB"}, "max_memory='2GB': give what each place may hold"),
    ({"device_map": {"": None}}, "None is no place for weights"),
    ({"device_map": {"": "cpu", "blocks.1": True}}, "True is no place for weights"),
    ({"device_map": {"": "cpu", 1: "disk"}}, "device_map names 1, which is no part of this model"),
]


@pytest.mark.parametrize(("asked", "said"), REFUSED)
def test_what_cannot_be_placed_is_refused_in_words(folder, asked, said):
    with pytest.raises(LoadError, match=re.escape(said)):
        mi.load(folder, **asked)


def test_a_layer_on_disk_is_read_from_the_checkpoint_itself(folder, tmp_path):
    model = mi.load(folder, device_map={"": "disk"}, offload_folder=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    wanted = mi.load(folder)
    assert torch.equal(model.run(IDS).logits, wanted.run(IDS).logits)


def test_what_stays_on_disk_is_not_converted_while_loading(folder, monkeypatch):
    kept, convert = [], spreading.converted
    monkeypatch.setattr(spreading, "converted", lambda value, *rest: kept.append(value) or convert(value, *rest))
    model = mi.load(folder, device_map={"": "disk"}, dtype="bfloat16")
    assert not kept
    model.run(IDS)
    assert kept


def test_another_dtype_is_written_once_or_converted_each_time(folder, tmp_path, monkeypatch):
    wanted = mi.load(folder, dtype="bfloat16").run(IDS).logits
    again = mi.load(folder, device_map={"": "disk"}, dtype="bfloat16")
    assert torch.equal(again.run(IDS).logits, wanted)
    once = mi.load(folder, device_map={"": "disk"}, dtype="bfloat16", offload_folder=tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    monkeypatch.setattr(spreading, "viewed", lambda *_: pytest.fail("read from the checkpoint"))
    assert torch.equal(once.run(IDS).logits, wanted)
    del once
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_folder_that_is_full_or_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    asked = {"device_map": {"": "disk"}, "dtype": "float64"}
    with pytest.raises(LoadError, match="file' cannot be written"):
        mi.load(folder, **asked, offload_folder=tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 100}))
    with pytest.raises(LoadError, match="has 100 bytes left, and 'outside' needs 15,"):
        mi.load(folder, **asked, offload_folder=tmp_path)
    assert not list(tmp_path.glob("offloaded-*"))


def test_pickles_are_written_down_before_they_are_read_in_parts(folder, tmp_path):
    from safetensors.torch import load_file

    shutil.copy(folder / "config.json", tmp_path)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    asked = {"device_map": {"": "disk"}, "allow_pickle": True}
    with pytest.raises(LoadError, match="pickle files cannot be read in parts"):
        mi.load(tmp_path, **asked)
    model = mi.load(tmp_path, **asked, offload_folder=tmp_path / "offloaded")
    assert torch.equal(model.run(IDS).logits, mi.load(folder).run(IDS).logits)


def test_a_wrong_shape_on_disk_is_found_while_loading(folder, tmp_path):
    from safetensors.torch import load_file

    held = load_file(folder / "model.safetensors")
    held["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 5)
    save_file(held, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(TensorMismatch):
        mi.load(tmp_path, device_map={"": "disk"})


def test_pages_that_were_copied_are_given_back_and_views_keep_theirs(folder, monkeypatch):
    index = tensors.TensorIndex.read(resolve(folder))
    monkeypatch.setattr(tensors, "HELD", 10)
    name = next(iter(index))
    kept = index.tensor(name)
    index.let_go(0)
    assert index.maps
    index.let_go(11)
    assert not index.maps
    assert torch.equal(kept, index.tensor(name))


def test_a_converted_model_maps_no_file_any_more(folder, monkeypatch):
    monkeypatch.setattr(tensors, "HELD", 0)
    made = []
    mapped = tensors.TensorIndex._mapped
    monkeypatch.setattr(tensors.TensorIndex, "_mapped", lambda *file: made.append(mapped(*file)) or made[-1])
    model = mi.load(folder, dtype="float64")
    files = {storage._cdata for storage in made}
    assert len(made) > 5
    assert not any(tensor.untyped_storage()._cdata in files for tensor in slots(model.backend).values())


def test_limits_are_sorted_accelerators_first():
    assert list(limits_of({"disk": 1, "cpu": "1kB", 1: 5, "cuda:0": 4})) == ["cuda:0", "cuda:1", "cpu", "disk"]
