from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from toy_family import tensors_of, write_checkpoint

from mi_core.errors import BadConfig, CorruptCheckpoint, MiError, ModelNotFound
from mi_core.files import Files
from mi_core.tensors import TensorIndex

KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]


@given(st.integers(1, 4), st.sampled_from(KINDS))
def test_tensors_are_those_that_were_saved_in_one_file_or_several(
    tmp_path_factory: pytest.TempPathFactory, shards: int, kind: torch.dtype
) -> None:
    wanted = {name: tensor.to(kind) for name, tensor in tensors_of().items()} | {"empty": torch.zeros(0, 3, dtype=kind)}
    folder = write_checkpoint(tmp_path_factory.mktemp("saved"), tensors=wanted, shards=shards)
    index = TensorIndex.read(Files(folder))
    assert index.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert index[name].shape == tuple(tensor.shape)
        assert index.tensor(name).dtype == kind
        assert torch.equal(index.tensor(name), tensor)


def test_tensors_are_views_of_one_mapping_and_editing_one_leaves_the_file_alone(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a")
    before = (folder / "model.safetensors").read_bytes()
    index = TensorIndex.read(Files(folder))
    first, second = index.tensor("h.0.weight"), index.tensor("h.1.weight")
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert index.tensor("h.0.weight").data_ptr() == first.data_ptr()
    first.fill_(7.0)
    assert (folder / "model.safetensors").read_bytes() == before
    assert torch.equal(TensorIndex.read(Files(folder)).tensor("h.0.weight"), tensors_of()["h.0.weight"])


def test_a_mapping_outlives_its_index(tmp_path: Path) -> None:
    tensor = TensorIndex.read(Files(write_checkpoint(tmp_path / "a"))).tensor("wte.weight")
    assert torch.equal(tensor, tensors_of()["wte.weight"])


def test_numbers_at_an_odd_byte_are_read_all_the_same(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * ((3 - len(header)) % 4)
    assert (8 + len(header)) % 4
    numbers = torch.tensor([1.5, -2.0])
    data = len(header).to_bytes(8, "little") + header + numbers.numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    found = TensorIndex.read(Files(tmp_path)).tensor("a")
    assert found.data_ptr() % 4 == 0
    assert torch.equal(found, numbers)


@given(st.integers(0, 2**20), st.integers(1, 3))
def test_a_file_cut_at_any_byte_is_corrupt(tmp_path_factory: pytest.TempPathFactory, cut: int, shards: int) -> None:
    folder = write_checkpoint(tmp_path_factory.mktemp("cut"), shards=shards)
    path = sorted(folder.glob("*.safetensors"))[-1]
    data = path.read_bytes()
    path.write_bytes(data[: cut % len(data)])
    with pytest.raises(CorruptCheckpoint, match=path.name):
        TensorIndex.read(Files(folder))


@given(st.integers(0, 2**20), st.integers(1, 255))
def test_a_changed_byte_of_the_header_is_an_error_or_another_valid_header(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    folder = write_checkpoint(tmp_path_factory.mktemp("flip"))
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = 8 + int.from_bytes(data[:8], "little")
    data[place % length] ^= change
    path.write_bytes(data)
    try:
        index = TensorIndex.read(Files(folder))
    except MiError:
        return
    for name in index:  # every number can be touched: nothing lies outside the file
        assert index.tensor(name).numel() == index.tensor(name).clone().numel()


@pytest.mark.parametrize("shard", ["../a/model.safetensors", "/etc/passwd", "sub/../../x", "C:\\x"])
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path, shard: str) -> None:
    write_checkpoint(tmp_path / "a")
    folder = write_checkpoint(tmp_path / "b", shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": shard}}))
    with pytest.raises(CorruptCheckpoint, match="outside"):
        TensorIndex.read(Files(folder))


def test_an_index_that_is_wrong_about_a_shard_is_corrupt(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    other = next(shard for shard in index["weight_map"].values() if shard != index["weight_map"]["wte.weight"])
    index["weight_map"]["wte.weight"] = other
    path.write_text(json.dumps(index))
    with pytest.raises(CorruptCheckpoint, match=r"wte\.weight"):
        TensorIndex.read(Files(folder))


def test_a_tensor_in_two_shards_is_corrupt(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", shards=2)
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(CorruptCheckpoint, match="another shard"):
        TensorIndex.read(Files(folder))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="model-00002-of-00002"):
        TensorIndex.read(Files(folder))


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 3}}])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, index: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadConfig, match="weight_map"):
        TensorIndex.read(Files(tmp_path))


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"model\.safetensors.*config\.json"):
        TensorIndex.read(Files(tmp_path))


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_files_are_read_only_when_allowed(tmp_path: Path, legacy: bool) -> None:
    torch.save(tensors_of(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelNotFound, match="allow_pickle=True"):
        TensorIndex.read(Files(tmp_path))
    index = TensorIndex.read(Files(tmp_path), allow_pickle=True)
    assert all(torch.equal(index.tensor(name), tensor) for name, tensor in tensors_of().items())


def test_sharded_pickle_files_are_read_whole(tmp_path: Path) -> None:
    tensors = tensors_of()
    where = {name: f"pytorch_model-{i % 2 + 1:05}-of-00002.bin" for i, name in enumerate(tensors)}
    for shard in set(where.values()):
        torch.save({name: tensors[name] for name in tensors if where[name] == shard}, tmp_path / shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    index = TensorIndex.read(Files(tmp_path), allow_pickle=True)
    assert all(torch.equal(index.tensor(name), tensor) for name, tensor in tensors.items())


class Attack:
    def __reduce__(self) -> Any:
        return (print, ("code from the checkpoint runs",))


@pytest.mark.parametrize("data", [b"", b"rubbish", pickle.dumps({"a": Attack()}), pickle.dumps([1])])
def test_a_pickle_that_is_no_mapping_of_tensors_is_corrupt(
    tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=r"pytorch_model\.bin"):
        TensorIndex.read(Files(tmp_path), allow_pickle=True)
    assert capsys.readouterr().out == ""


def test_safetensors_are_preferred_to_pickle_files(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert TensorIndex.read(Files(tmp_path), allow_pickle=True).tensor("a") == 1
