from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, laid_out, random

from mi_core.errors import ContextOverflow
from mi_core.layout import Layout
from mi_core.prompts import read_prompts
from mi_core.protocols import ModelShape


def layout_of(rows: list[list[int]], layout: str, seed: int = 0, **more: object) -> tuple[Layout, torch.Tensor]:
    ids, mask = laid_out(rows, layout, seed)
    return Layout.of(read_prompts(ids, None, d_vocab=61, attention_mask=mask, **more)), mask  # type: ignore[arg-type]


@given(ROWS, LAYOUTS, SEEDS)
def test_rows_lie_on_the_left_inside(rows: list[list[int]], layout: str, seed: int) -> None:
    inside, _ = layout_of(rows, layout, seed)
    assert inside.width == max(map(len, rows))
    assert inside.length.tolist() == [len(row) for row in rows]
    for number, row in enumerate(rows):
        assert inside.ids[number].tolist() == row + [0] * (inside.width - len(row))
        assert inside.positions[number, : len(row)].tolist() == list(range(len(row)))


@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([("batch", "pos", "d"), ("batch", "d", "query_pos", "key_pos")]))
def test_inward_undoes_outward_and_pads_are_zero(
    rows: list[list[int]], layout: str, seed: int, dims: tuple[str, ...]
) -> None:
    inside, mask = layout_of(rows, layout, seed)
    shape = [inside.size(dim) or 3 for dim in dims]
    value = random(*shape, seed=seed)
    pads = inside.pads(dims)
    value = value if pads is None else value.masked_fill(pads, 0.0)
    out = inside.outward(value, dims)
    assert torch.equal(inside.inward(out, dims).masked_fill(torch.zeros(()).bool(), 0), value)
    for axis, dim in enumerate(dims):
        if dim.endswith("pos"):
            assert not out.movedim(axis, 1)[~mask].any()
            for number in range(len(rows)):
                own = out[number].movedim(axis - 1, 0)[mask[number]]
                left = value[number].movedim(axis - 1, 0)[: len(rows[number])]
                if len(dims) == 3:
                    assert torch.equal(own, left)


@given(ROWS, LAYOUTS, SEEDS)
def test_pads_are_all_that_is_not_real(rows: list[list[int]], layout: str, seed: int) -> None:
    inside, _ = layout_of(rows, layout, seed)
    pads = inside.pads(("batch", "head", "query_pos", "key_pos"))
    if len(set(map(len, rows))) == 1:
        assert pads is None
        return
    assert pads is not None
    for number, row in enumerate(rows):
        open_ = ~pads[number, 0]
        assert open_[: len(row), : len(row)].all()
        assert open_.sum() == len(row) ** 2


@given(ROWS, LAYOUTS, SEEDS, st.data())
def test_some_rows_are_as_wide_as_their_longest(
    rows: list[list[int]], layout: str, seed: int, data: st.DataObject
) -> None:
    inside, _ = layout_of(rows, layout, seed)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    part = inside.rows(torch.tensor(index))
    assert part.width == max(len(rows[i]) for i in index)
    assert part.ids.tolist() == [rows[i] + [0] * (part.width - len(rows[i])) for i in index]
    assert inside.picked(torch.tensor(index)).width == inside.width


def test_positions_that_were_given_follow_their_tokens() -> None:
    inside, _ = layout_of([[5, 6], [7, 8, 9]], "left", position_ids=[[0, 4, 6], [1, 2, 3]])
    assert inside.positions.tolist() == [[4, 6, 0], [1, 2, 3]]


def test_a_row_longer_than_the_context_is_refused() -> None:
    shape = ModelShape(1, 4, 61, 3)
    layout_of([[1, 2, 3]], "right")[0].check_positions(shape, "toy")
    with pytest.raises(ContextOverflow, match=r"row 1 needs position 3, but toy has 3 positions \(0 to 2\)"):
        layout_of([[1], [1, 2, 3, 4]], "left")[0].check_positions(shape, "toy")
    with pytest.raises(ContextOverflow, match="position 9"):
        layout_of([[1]], "right", position_ids=[[9]])[0].check_positions(shape, "toy")


def test_behind_a_memory_keys_count_from_the_start() -> None:
    prompts = read_prompts([[1, 2], [3, 4]], None, d_vocab=61)
    inside = Layout.of(prompts, torch.tensor([3, 1]))
    assert (inside.size("query_pos"), inside.size("key_pos")) == (2, 5)
    assert inside.positions.tolist() == [[3, 4], [1, 2]]
    assert inside.batch(torch.device("cpu")).total.tolist() == [5, 3]
    pads = inside.pads(("batch", "query_pos", "key_pos"))
    assert pads is not None
    assert pads.sum((1, 2)).tolist() == [0, 2]
