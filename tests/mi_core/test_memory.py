from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, SEEDS, close, laid_out, small

import mi_core as mi
from mi_core.errors import MemoryMismatch

CUT = st.lists(
    st.tuples(st.lists(st.integers(0, 60), min_size=2, max_size=7), st.integers(1, 6)), min_size=1, max_size=3
)
POINTS = mi.capture(["blocks.*.hook_resid_post", "blocks.1.attn.hook_z"])


@given(CUT, LAYOUTS, LAYOUTS, SEEDS, st.sampled_from([None, 4]))
def test_a_prefix_and_the_rest_are_the_whole(
    cuts: list[tuple[list[int], int]], before: str, after: str, seed: int, limit: int | None
) -> None:
    rows = [row for row, _ in cuts]
    places = [min(cut, len(row) - 1) for row, cut in cuts]
    ids, mask = laid_out([row[:cut] for row, cut in zip(rows, places, strict=True)], before, seed)
    memory = small().run(ids, attention_mask=mask, resumable=True).memory()
    assert memory.length.tolist() == places
    rest, real = laid_out([row[cut:] for row, cut in zip(rows, places, strict=True)], after, seed + 1)
    run = small().run(rest, POINTS, attention_mask=real, memory=memory, batch_tokens=limit)
    for number, (row, cut) in enumerate(zip(rows, places, strict=True)):
        alone = small().run([row], POINTS)
        close(run.logits[number][real[number]], alone.logits[0, cut:])
        for name in run:
            close(run[name][number][real[number]], alone[name][0, cut:])


@given(CUT, SEEDS)
def test_a_memory_is_cut_and_its_rows_are_chosen(cuts: list[tuple[list[int], int]], seed: int) -> None:
    rows = [row for row, _ in cuts]
    ids, mask = laid_out(rows, "right", seed)
    run = small().run(ids, attention_mask=mask, resumable=True)
    memory = run.memory(pos=0)
    assert memory.length.tolist() == [1] * len(rows)
    last = memory.rows(torch.tensor([len(rows) - 1, 0]))
    going_on = small().run([rows[-1][1:2], rows[0][1:2]], memory=last)
    close(going_on.logits[0, 0], run.logits[-1, 1])
    close(going_on.logits[1, 0], run.logits[0, 1])
    assert memory.to("cpu").bytes == memory.bytes > 0
    assert "length" in repr(memory)
    assert any(name.startswith("2.") for name in memory.tensors())


def test_a_memory_goes_on_only_where_it_was_made() -> None:
    memory = small().run([[1, 2], [3, 4]], resumable=True).memory()
    for other in (small(seed=1), small(num_hidden_layers=2)):
        with pytest.raises(MemoryMismatch, match=r"not of this model.*run\(memory=path\)"):
            other.run([[1], [2]], memory=memory)
    with pytest.raises(MemoryMismatch, match=r"2 rows, the input has 1.*memory.rows"):
        small().run([[1]], memory=memory)
    with pytest.raises(MemoryMismatch, match=r"pos=2 is not in every row"):
        small().run([[1, 2, 3], [3, 4]], resumable=True).memory(pos=2)
    with pytest.raises(MemoryMismatch, match="cannot be cut"):
        memory.cut(torch.tensor([3, 1]))


def test_a_memory_is_not_changed_by_those_who_go_on_from_it() -> None:
    memory = small().run([[1, 2]], resumable=True).memory()
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    for _ in range(2):
        small().run([[3, 4]], mi.intervene("blocks.*.attn.hook_k", mi.Zero()), memory=memory, resumable=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in memory.tensors().items())
    further = small().run([[3]], memory=memory, resumable=True).memory()
    assert further.length.tolist() == [3]
    close(small().run([[4]], memory=further).logits, small().run([[1, 2, 3, 4]]).logits[:, -1:])


def test_an_edited_prefix_is_remembered_as_edited() -> None:
    edit = mi.intervene("blocks.0.hook_resid_post", mi.Scale(3.0))
    memory = small().run([[1, 2]], edit, resumable=True).memory()
    close(
        small().run([[3]], memory=memory).logits,
        small().run([[1, 2, 3]], mi.intervene("blocks.0.hook_resid_post", mi.Scale(3.0).at(pos=[0, 1]))).logits[:, -1:],
    )
