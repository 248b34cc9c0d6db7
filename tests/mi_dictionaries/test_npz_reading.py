"""``.npz`` archives are read by their declared sizes, and refused where those lie."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mi_core.errors import CorruptCheckpoint
from mi_dictionaries.reading.npz import read_npz


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@given(
    arrays.arrays(
        st.sampled_from([np.dtype("<f4"), np.dtype(">f4"), np.dtype("<f2"), np.dtype("<f8"), np.dtype("<i8")]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"min_value": -100, "max_value": 100},
    ),
    st.booleans(),
    st.booleans(),
)
def test_every_array_comes_back_as_numpy_wrote_it(tmp_path_factory, array, fortran, compressed):
    path = tmp_path_factory.mktemp("npz") / "params.npz"
    (np.savez_compressed if compressed else np.savez)(path, a=np.array(array, order="F" if fortran else "C"))
    read = read_npz(path)["a"]
    assert read.shape == array.shape
    assert torch.equal(read, torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C")))


def test_an_archive_of_zeros_that_unpacks_to_gigabytes_is_refused_before_anything_is_unpacked(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (50_000_000,)})
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("W_enc.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(20):
            member.write(bytes(10_000_000))
    assert path.stat().st_size < 300_000
    with pytest.raises(CorruptCheckpoint, match="declare 200000128 bytes"):
        read_npz(path)


def test_a_header_that_declares_another_size_than_its_member_has_is_refused(tmp_path):
    data = npy(np.ones((4, 3), np.float32)).replace(b"(4, 3)", b"(9, 9)")
    with pytest.raises(CorruptCheckpoint, match=r"needs 324 bytes and declares 48"):
        read_npz(archive(tmp_path / "a.npz", {"W_enc.npy": data}))


def test_a_member_that_unpacks_to_less_than_the_directory_says_is_refused(tmp_path):
    path = archive(tmp_path / "a.npz", {"a.npy": npy(np.ones(1000, np.float32))}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    size = struct.pack("<I", 4128)
    assert data.count(size) == 2
    shape = npy(np.ones(2000, np.float32))
    inflated = zipfile.ZIP_DEFLATED, {"a.npy": shape[:4128]}
    other = archive(tmp_path / "b.npz", inflated[1], inflated[0])
    other.write_bytes(other.read_bytes().replace(size, struct.pack("<I", 8128)))
    with pytest.raises(CorruptCheckpoint):
        read_npz(other)


def test_python_objects_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CorruptCheckpoint, match="Python objects are not read"):
        read_npz(path)


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    path = tmp_path / "a.npz"
    np.savez(path, W_enc=np.random.default_rng(0).normal(size=(16, 48)).astype(np.float32), b=np.zeros(4))
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(CorruptCheckpoint, match="no valid"):
        read_npz(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(1000, dtype=np.float32))
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptCheckpoint, match="CRC"):
        read_npz(path)


def test_a_member_that_is_no_array_and_a_name_that_occurs_twice_are_refused(tmp_path):
    with pytest.raises(CorruptCheckpoint, match=r"'run.py' is no .npy array"):
        read_npz(archive(tmp_path / "a.npz", {"run.py": b"print()"}))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("a.npy", npy(np.ones(2)))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.npy", npy(np.ones(2)))
    with pytest.raises(CorruptCheckpoint, match="occurs twice"):
        read_npz(tmp_path / "b.npz")
