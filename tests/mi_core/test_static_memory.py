"""Memories with room are the memories, and go on in place as others do by growing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ROWS, close, family_example, laid_out, small
from torch import Tensor

import mi_core as mi
from mi_core.layout import Layout
from mi_core.loop import Taps, forward
from mi_core.protocols import Memory
from mi_core.static_memory import Buffers, room_for, with_room
from mi_core.tracing import NotAGraph

CPU = torch.device("cpu")


@given(st.integers(1, 10**6))
def test_rooms_are_rounded_up_so_that_few_positions_are_wasted(positions: int) -> None:
    room = room_for(positions)
    assert positions <= room < positions + max(64, 1 + positions // 4)
    assert room_for(room) == room


def remembered(model: mi.Model, rows: list[list[int]]) -> tuple[Sequence[Memory], Layout]:
    """What the layers remember of rows, and a column that goes on from there."""
    ids, mask = laid_out(rows, "right")
    memory = model.run(ids % model.shape.d_vocab, attention_mask=mask, resumable=True).memory()
    length = torch.tensor([len(row) for row in rows])
    column = Layout(torch.full((len(rows), 1), 5), torch.ones_like(length), length[:, None], length, None, length)
    return memory.cut(length).layers, column


def called(model: mi.Model, layout: Layout, layers: Sequence[Memory]) -> Any:
    with torch.no_grad():
        return forward(model.backend, layout.batch(CPU, "end"), Taps({}), memory=layers)


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma3_text", "minicpm3", "rwkv7", "rwkv"])
@settings(max_examples=3)
@given(rows=ROWS)
def test_columns_in_place_are_the_columns(family: str, rows: list[list[int]]) -> None:
    model = family_example(family)
    layers, layout = remembered(model, rows)
    buffers = Buffers(layers, 16)
    assert buffers.load(layers)
    places = [tensor.data_ptr() for tensor in buffers.tensors]
    for step in range(2):
        here = replace(layout, start=layout.start + step, positions=layout.positions + step)
        wanted, seen = called(model, here, layers), called(model, replace(here, room=16), buffers.layers)
        close(seen.logits, wanted.logits)
        layers = wanted.memory
        buffers.keep(seen.memory)
    assert [tensor.data_ptr() for tensor in buffers.tensors] == places
    # and back: a call like any other goes on from a memory with room
    behind = replace(layout, start=layout.start + 2, positions=layout.positions + 2)
    close(called(model, behind, buffers.layers).logits, called(model, behind, layers).logits)


def test_what_does_not_fit_is_not_taken() -> None:
    layers, _ = remembered(small(), [[1, 2, 3]])
    buffers = Buffers(layers, 8)
    before = [tensor.clone() for tensor in buffers.tensors]
    for others in (remembered(small(), [[4, 5], [6, 7]])[0], remembered(small(dtype="float64"), [[4, 5]])[0]):
        assert not buffers.load(others)
    assert all(map(torch.equal, buffers.tensors, before))
    assert buffers.load(remembered(small(), [[4, 5]])[0])
    assert not all(map(torch.equal, buffers.tensors, before))


def test_memories_that_do_not_say_how_to_make_room_are_refused_unless_they_hold_nothing() -> None:
    class States:
        def tensors(self) -> dict[str, Tensor]:
            return {"states": torch.zeros(2)}

    class Nothing(States):
        def tensors(self) -> dict[str, Tensor]:
            return {}

    with pytest.raises(NotAGraph, match=r"in a States, which has no with_room"):
        with_room(States(), 4)  # type: ignore[arg-type]
    nothing: Any = Nothing()
    assert with_room(nothing, 4) is nothing


def test_a_memory_that_changes_its_size_is_no_graph_s() -> None:
    layers, layout = remembered(small(), [[1, 2, 3]])
    with pytest.raises(NotAGraph, match="a KeyValues changes its size"):
        Buffers(layers, 8).keep(called(small(), layout, layers).memory)
