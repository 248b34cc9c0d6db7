from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from mi_core.errors import CorruptCheckpoint
from mi_core.safetensors_header import DTYPES, read_header

shapes = st.lists(st.integers(0, 4), max_size=3)


def written(path: Path, header: Any, numbers: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    return path


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(shapes, st.sampled_from(sorted(DTYPES))), max_size=5))
def test_shapes_and_types_are_those_that_were_saved(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, tuple[list[int], str]]
) -> None:
    wanted.pop("__metadata__", None)
    tensors = {
        name: torch.zeros(math.prod(shape) * DTYPES[kind].itemsize, dtype=torch.uint8).view(DTYPES[kind]).view(shape)
        for name, (shape, kind) in wanted.items()
    }
    path = tmp_path_factory.getbasetemp() / "saved.safetensors"
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    found = read_header(path)
    assert {name: (list(info.shape), info.dtype) for name, info in found.items()} == {
        name: (shape, DTYPES[kind]) for name, (shape, kind) in wanted.items()
    }
    assert sum(info.bytes for info in found.values()) == sum(tensor.nbytes for tensor in tensors.values())


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "numbers", "what"),
    [
        (b"{", b"", "JSON"),
        (b"\xff", b"", "JSON"),
        (b"[" * 200_000, b"", "JSON"),
        ([], b"", "list"),
        (b'{"a": 1, "a": 2}', b"", "twice"),
        ({"a": 3}, b"", "'a'"),
        ({"a": {"dtype": "F32"}}, b"", "'a'"),
        ({"a": entry("F99")}, b"1234", "F99"),
        ({"a": entry(["F32"])}, b"1234", "dtype"),
        ({"a": entry(shape=[True])}, b"1234", "sizes"),
        ({"a": entry(shape=[-1], offsets=[4, 0])}, b"1234", "sizes"),
        ({"a": entry(shape=[10**30])}, b"1234", "sizes"),
        ({"a": entry(shape=[2**62, 2**62])}, b"1234", "needs"),
        ({"a": entry(shape=[1.0])}, b"1234", "sizes"),
        ({"a": entry(shape="1")}, b"1234", "sizes"),
        ({"a": entry(offsets=[0, 4, 8])}, b"1234", "sizes"),
        ({"a": entry(shape=[2])}, b"1234", "needs 8 bytes and has 4"),
        ({"a": entry(), "b": entry()}, b"1234", "overlaps"),
        ({"a": entry(offsets=[4, 8])}, b"12345678", "gap"),
        ({"a": entry()}, b"12345678", "the file at"),
        ({"a": entry()}, b"12", "the file at"),
    ],
)
def test_a_header_that_contradicts_itself_is_corrupt(tmp_path: Path, header: Any, numbers: bytes, what: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=what) as caught:
        read_header(written(tmp_path / "a.safetensors", header, numbers))
    assert "a.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 1000


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_corrupt(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(CorruptCheckpoint):
        assert sum(info.bytes for info in read_header(path).values()) <= len(data)


def test_an_absurd_length_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptCheckpoint, match="truncated"):
        read_header(path)
