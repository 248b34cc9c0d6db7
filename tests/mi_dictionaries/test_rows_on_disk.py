"""Decoders that stay in their files: the numbers of tensors, and only the bytes of the rows that are asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import mi_dictionaries as md
from mi_core.errors import CorruptCheckpoint
from mi_core.safetensors_header import read_header
from mi_core.tensors import TensorIndex
from mi_dictionaries.on_disk import OnDisk

F, WRITES, D = 300, 3, 8
WEIGHT = torch.randn(F, WRITES, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    file = tmp_path_factory.mktemp("rows") / "x.safetensors"
    save_file({"a": torch.zeros(7), "W": WEIGHT}, file)
    return opened(file)


def opened(file: Path) -> OnDisk:
    info = read_header(file)["W"]
    mapped = TensorIndex({"W": info}, {}, "here", {}).tensor("W")
    return OnDisk.of(mapped, file, info.start)


@given(st.lists(st.integers(-F, F - 1)), st.integers(0, WRITES - 1))
def test_rows_are_those_of_the_tensor(stored: OnDisk, indices: list[int], first: int) -> None:
    index = torch.tensor(indices, dtype=torch.long)
    for found, wanted in (
        (stored, WEIGHT),
        (stored.behind(first), WEIGHT[:, first:]),
        (stored.write(first), WEIGHT[:, first]),
        (stored.behind(first).write(0), WEIGHT[:, first]),
    ):
        assert torch.equal(found[index], wanted[index])
        assert torch.equal(found.whole(), wanted)
        assert found.shape == wanted.shape


def dictionary(weight: Tensor | OnDisk | md.Stacked) -> md.SparseDictionary:
    encoder = torch.randn(D, F, generator=torch.Generator().manual_seed(1))
    return md.SparseDictionary(reads=("a",), writes=("a", "b", "c"), W_enc=encoder, W_dec=weight)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_dictionary_on_disk_is_the_dictionary_in_memory(stored: OnDisk, sparse: bool) -> None:
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(2), requires_grad=True)
    stacked = md.Stacked(tuple(WEIGHT.unbind(1)))
    outs = []
    for held in map(dictionary, (WEIGHT, stored, stacked)):
        features = held.encode(x, sparse=sparse)
        # of features that are not active too
        values = features.values.detach().requires_grad_()
        y = held.decode(features.with_values(values))
        outs.append((y, *torch.autograd.grad(y.square().sum(), values), held.forward(x), held.decoder_norms()))
    for others in outs[1:]:
        for one, other in zip(outs[0], others, strict=True):
            torch.testing.assert_close(one, other)


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes that a process reads")
def test_only_the_rows_that_are_asked_for_are_read(stored: OnDisk) -> None:
    index = torch.tensor([5, 17])
    stored[index]
    before = bytes_read()
    bytes_read()
    counting = bytes_read() - before
    before = bytes_read()
    stored.behind(1)[index]
    assert bytes_read() - before - counting / 2 <= 2 * (WRITES - 1) * D * 4 + 64


def test_a_file_that_is_cut_off_later_is_refused(stored: OnDisk, tmp_path: Path) -> None:
    file = tmp_path / "y.safetensors"
    shutil.copy(stored.file.path, file)
    held = opened(file)
    with file.open("r+b") as cut:
        cut.truncate(held.start + WEIGHT.numel() * 4 - 1)
    assert torch.equal(held[torch.tensor([3])], WEIGHT[[3]])
    with pytest.raises(CorruptCheckpoint, match=f"ends before row {F - 1}"):
        held[torch.tensor([F - 1])]


def test_a_file_whose_name_is_gone_is_still_read(stored: OnDisk, tmp_path: Path) -> None:
    file = tmp_path / "z.safetensors"
    shutil.copy(stored.file.path, file)
    held = opened(file)
    file.unlink()
    assert torch.equal(held[torch.tensor([3])], WEIGHT[[3]])
    assert torch.equal(held.whole(), WEIGHT)
