"""A row that goes on from its memory is the row as a whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mi_core as mi
from mi_core.errors import MemoryMismatch, NotRecorded
from mi_core.memory import NOTHING
from mi_core.protocols import Batch, Memory, Tap
from mi_core.taps import IDLE, IdleTap
from mi_families.llama import mi_family_examples

ONE = torch.ones(1, dtype=torch.long)
MODEL = mi.build({**mi_family_examples()[1], "num_hidden_layers": 2}, seed=3)


def call(
    rows: list[list[int]],
    starts: list[int],
    totals: list[int],
    memory: list[Memory] | None,
    tap: Tap = IDLE,
    backend: object = None,
) -> tuple[list[Tensor], list[Memory]]:
    """The residual stream behind the last block for each row's real columns, and the memories."""
    model = MODEL.backend if backend is None else backend
    length = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(length.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    start = torch.tensor(starts)
    positions = start[:, None] + torch.arange(ids.shape[1])
    batch = Batch(ids, start, length, torch.tensor(totals), positions, record="end")
    kept: list[Memory] = []
    with torch.no_grad():
        stream = model.embed(batch, tap)
        for layer, block in enumerate(model.blocks):
            stream, after = block(stream, batch, tap, None if memory is None else memory[layer])
            kept.append(after)
    return [stream.resid[index, : len(row)] for index, row in enumerate(rows)], kept


@st.composite
def split_rows(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    token = st.integers(0, 60)
    some = st.lists(token, min_size=1, max_size=6)
    return draw(st.lists(st.tuples(some, some), min_size=1, max_size=4))


class Looking(IdleTap):
    """A tap that looks at the pattern, so that scores are explicit."""

    def wants(self, *names: str) -> bool:
        return "attn.hook_pattern" in names


@given(rows=split_rows(), looking=st.booleans())
def test_prefix_then_rest_is_the_whole(rows: list[tuple[list[int], list[int]]], looking: bool) -> None:
    tap = Looking() if looking else IDLE
    totals = [len(prefix) + len(rest) for prefix, rest in rows]
    whole, _ = call([prefix + rest for prefix, rest in rows], [0] * len(rows), totals, None, tap)
    _, memory = call([prefix for prefix, _ in rows], [0] * len(rows), totals, None, tap)
    starts = [len(prefix) for prefix, _ in rows]
    after, _ = call([rest for _, rest in rows], starts, totals, memory, tap)
    for ours, theirs, start in zip(after, whole, starts, strict=True):
        torch.testing.assert_close(ours, theirs[start:], atol=1e-5, rtol=0)


@given(rows=split_rows())
def test_a_cut_memory_is_the_shorter_prefix_s(rows: list[tuple[list[int], list[int]]]) -> None:
    lengths = torch.tensor([len(prefix) for prefix, _ in rows])
    totals = [len(prefix) + len(rest) for prefix, rest in rows]
    _, long = call([prefix + rest for prefix, rest in rows], [0] * len(rows), totals, None)
    _, short = call([prefix for prefix, _ in rows], [0] * len(rows), totals, None)
    for ours, theirs in zip(long, short, strict=True):
        cut = ours.cut(lengths)
        assert torch.equal(cut.length, lengths)
        for row, length in enumerate(lengths.tolist()):
            for name in ("keys", "values"):
                found, wanted = cut.tensors()[name][row, :, :length], theirs.tensors()[name][row, :, :length]
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@given(rows=split_rows(), data=st.data())
def test_rows_select_reorder_and_repeat(rows: list[tuple[list[int], list[int]]], data: st.DataObject) -> None:
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    totals = [len(prefix) + len(rest) for prefix, rest in rows]
    starts = [len(prefix) for prefix, _ in rows]
    _, memory = call([prefix for prefix, _ in rows], [0] * len(rows), totals, None)
    once, _ = call([rest for _, rest in rows], starts, totals, memory)
    picked = [layer.rows(torch.tensor(order)) for layer in memory]
    again, _ = call([rows[i][1] for i in order], [starts[i] for i in order], [totals[i] for i in order], picked)
    for index, row in zip(order, again, strict=True):
        torch.testing.assert_close(row, once[index], atol=1e-5, rtol=0)


def test_nothing_is_kept_unless_asked_for() -> None:
    ids = torch.tensor([[1, 2, 3]])
    zeros = torch.zeros(1, dtype=torch.long)
    batch = Batch(ids, zeros, zeros + 3, zeros + 3, torch.arange(3)[None])
    _, after = MODEL.backend.blocks[0](MODEL.backend.embed(batch, IDLE), batch, IDLE, None)
    assert after is None


def test_a_memory_is_never_changed() -> None:
    _, memory = call([[1, 2, 3], [4, 5]], [0, 0], [5, 4], None)
    before = [{name: tensor.clone() for name, tensor in layer.tensors().items()} for layer in memory]
    call([[6, 7], [8, 9]], [3, 2], [5, 4], memory)
    for layer, copy in zip(memory, before, strict=True):
        assert isinstance(layer, Memory)
        assert all(torch.equal(tensor, copy[name]) for name, tensor in layer.tensors().items())


def test_a_memory_cannot_be_cut_behind_its_end() -> None:
    _, memory = call([[1, 2, 3]], [0], [3], None)
    with pytest.raises(NotRecorded, match=r"\[3\].*\[4\]"):
        memory[0].cut(torch.tensor([4]))


def test_other_rows_and_other_kinds_of_memory_are_refused() -> None:
    _, memory = call([[1, 2, 3]], [0], [4], None)
    with pytest.raises(MemoryMismatch, match="its own prefix"):
        call([[1], [2]], [3, 3], [4, 4], memory)
    with pytest.raises(MemoryMismatch, match="its own prefix"):
        call([[1]], [4], [5], memory)

    with pytest.raises(MemoryMismatch, match="keys and values"):
        MODEL.backend.blocks[0].mixer.recall(NOTHING, Batch(ONE[None], ONE, ONE, ONE, ONE[None]))


def test_a_memory_of_other_frequencies_is_refused() -> None:
    model = mi.build({**mi_family_examples()[3], "max_position_embeddings": 4}).backend
    _, memory = call([[1, 2, 3]], [0], [3], None, backend=model)
    call([[4]], [3], [4], memory, backend=model)
    with pytest.raises(MemoryMismatch, match="another regime"):
        call([[4, 5]], [3], [5], memory, backend=model)
    _, memory = call([[1, 2, 3]], [0], [5], None, backend=model)
    ours, _ = call([[4, 5]], [3], [5], memory, backend=model)
    whole, _ = call([[1, 2, 3, 4, 5]], [0], [5], None, backend=model)
    torch.testing.assert_close(ours[0], whole[0][3:], atol=1e-5, rtol=0)


def test_keys_that_a_write_told_apart_stay_apart() -> None:
    class Telling(IdleTap):
        def __call__(self, name: str, value: Tensor) -> Tensor:
            if name == "attn.hook_k_per_head":
                return value * torch.arange(1.0, value.shape[2] + 1)[:, None]
            return value

        def wants(self, *names: str) -> bool:
            return any(name.endswith("per_head") for name in names)

        edits = wants

    totals = [5, 4]
    whole, _ = call([[1, 2, 3, 4, 5], [6, 7, 8, 9]], [0, 0], totals, None, Telling())
    _, memory = call([[1, 2, 3], [6, 7]], [0, 0], totals, None, Telling())
    assert memory[0].tensors()["keys"].shape[1] == 4
    after, _ = call([[4, 5], [8, 9]], [3, 2], totals, memory, Telling())
    torch.testing.assert_close(after[0], whole[0][3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[1], whole[1][2:], atol=1e-5, rtol=0)
    # a later call that tells nothing apart goes on from them as well
    assert len(call([[4, 5], [8, 9]], [3, 2], totals, memory)[0]) == 2
