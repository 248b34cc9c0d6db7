"""Pickles make tensors, plain containers and inert records; whatever else they ask for is refused and never run."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import pytest
import torch

from mi_core.errors import CorruptCheckpoint
from mi_dictionaries.reading.torch_files import read_gzipped_pickle, read_torch, tensors_of


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


class Settings:
    """What a training library pickles beside its weights."""

    def __init__(self) -> None:
        self.d_in = 4
        self.hook_point = "blocks.3.ln2.hook_normalized"
        self.dtype = torch.float32


NAMED = f"{Settings.__module__}.Settings"


def zipped(path: Path, value: object) -> Path:
    with gzip.open(path, "wb") as file:
        pickle.dump(value, file)
    return path


@pytest.mark.parametrize("old", [False, True])
def test_tensors_come_back(tmp_path, old):
    tensors = {"W_enc": torch.randn(3, 4), "k": torch.tensor(5)}
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    read = tensors_of(read_torch(tmp_path / "a.pt"), tmp_path / "a.pt")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("old", [False, True])
def test_a_torch_file_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path, old):
    torch.save({"a": Runs(f"touch {tmp_path / 'ran'}")}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(CorruptCheckpoint, match="read with weights_only, which makes tensors and plain containers"):
        read_torch(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path):
    path = zipped(tmp_path / "a.pkl.gz", {"a": Runs(f"touch {tmp_path / 'ran'}")})
    with pytest.raises(CorruptCheckpoint, match="system"):
        read_gzipped_pickle(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_hides_a_torch_file_which_would_run_a_command_runs_nothing(tmp_path):
    inner = tmp_path / "inner.pt"
    torch.save({"a": Runs(f"touch {tmp_path / 'ran'}")}, inner)

    class Hidden:
        def __reduce__(self) -> tuple[object, ...]:
            return torch.storage._load_from_bytes, (inner.read_bytes(),)

    with pytest.raises(CorruptCheckpoint):
        read_gzipped_pickle(zipped(tmp_path / "a.pkl.gz", {"a": Hidden()}))
    assert not (tmp_path / "ran").exists()


def test_the_settings_of_a_training_library_become_a_record_where_the_format_names_them(tmp_path):
    value = {"cfg": Settings(), "state_dict": {"W_enc": torch.randn(2, 3)}}
    torch.save(value, tmp_path / "a.pt")
    zipped(tmp_path / "a.pkl.gz", value)
    for read in (read_torch(tmp_path / "a.pt", (NAMED,)), read_gzipped_pickle(tmp_path / "a.pkl.gz", (NAMED,))):
        assert vars(read["cfg"]) == vars(value["cfg"])
        assert type(read["cfg"]).__name__ == "Record"
        assert torch.equal(read["state_dict"]["W_enc"], value["state_dict"]["W_enc"])
    with pytest.raises(CorruptCheckpoint, match="Settings"):
        read_torch(tmp_path / "a.pt")
    with pytest.raises(CorruptCheckpoint, match="Settings"):
        read_gzipped_pickle(tmp_path / "a.pkl.gz")


def test_a_pickle_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "a.pkl.gz"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(12):
            file.write(bytes(10_000_000))
    with pytest.raises(CorruptCheckpoint, match="unpacks to more than"):
        read_gzipped_pickle(path)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_files_are_refused(tmp_path, keep):
    torch.save({"a": torch.randn(40)}, tmp_path / "a.pt")
    zipped(tmp_path / "a.pkl.gz", {"a": torch.randn(40)})
    for path, read in ((tmp_path / "a.pt", read_torch), (tmp_path / "a.pkl.gz", read_gzipped_pickle)):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CorruptCheckpoint):
            read(path)


def test_a_file_with_more_than_tensors_is_refused_where_tensors_are_needed(tmp_path):
    with pytest.raises(CorruptCheckpoint, match=r"mapping with \{'epoch': 'int'\}"):
        tensors_of({"a": torch.zeros(1), "epoch": 3}, tmp_path)
