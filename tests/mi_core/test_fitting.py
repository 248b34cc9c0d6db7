"""Which values fit a selection, in the user's layout; values that are runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
from mi_core.errors import ChangedInPlace, MissingActivation, SelectorError, ValueMismatch

RESID, Z, PATTERN = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"
LIMITS = st.sampled_from([None, 3])


def put(value: Any, ids: Any, point: str = Z, dims: Any = None, at: Any = None, **options: Any) -> mi.Run:
    edit = mi.Replace(value, dims=dims).at(**(at or {}))
    return small().run(ids, mi.intervene(point, edit) + mi.capture(point), **options)


@given(ROWS, LAYOUTS, SEEDS, LIMITS)
def test_a_whole_value_is_in_the_users_layout(rows: list[list[int]], layout: str, seed: int, limit: int | None) -> None:
    ids, mask = laid_out(rows, layout, seed)
    options: dict[str, Any] = {"attention_mask": mask, "batch_tokens": limit}
    value = random(*ids.shape, 4, 4, seed=seed)
    close(put(value, ids, **options)[Z], value * mask[..., None, None])
    last = put(value, ids, at={"pos": -1, "head": [2]}, **options)
    plain = small().run(ids, mi.capture(Z), attention_mask=mask)[Z]
    for number in range(len(rows)):
        column = mask[number].nonzero()[-1, 0]
        plain[number, column, 2] = value[number, column, 2]
    close(last[Z], plain)


@given(ROWS, LAYOUTS, SEEDS, LIMITS, st.data())
def test_every_shape_that_fits_lands_where_it_should(
    rows: list[list[int]], layout: str, seed: int, limit: int | None, data: st.DataObject
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    batch, columns = ids.shape
    case = data.draw(st.integers(0, 6))
    at: dict[str, Any] = {}
    if case == 0:  # the trailing dims
        value = random(4, 4, seed=seed)
        wanted = value.expand(batch, columns, 4, 4)
    elif case == 1:  # all dims, some of size one
        value = random(batch, 1, 1, 4, seed=seed)
        wanted = value.expand(batch, columns, 4, 4)
    elif case == 2:  # one row for all, in columns
        value = random(1, columns, 4, 1, seed=seed)
        wanted = value.expand(batch, columns, 4, 4)
    elif case == 3:  # named dims
        value = random(batch, 4, seed=seed)
        wanted = value[:, None, None].expand(batch, columns, 4, 4)
        assert torch.equal(
            put(value, ids, dims=("batch", "d_head"), attention_mask=mask)[Z], wanted * mask[..., None, None]
        )
        value = value[:, None, None]
    elif case == 4:  # an int-selected dim left out
        at = {"head": 1}
        value = random(batch, columns, 4, seed=seed)
        wanted = value
    elif case == 5:  # the trailing dims without the int-selected one
        at = {"head": 1}
        value = random(4, seed=seed)
        wanted = value.expand(batch, columns, 4)
    else:  # one value for each selected row
        picked = data.draw(st.permutations(range(batch)).map(lambda p: p[:2]))
        at = {"batch": picked, "head": 1}
        value = random(len(picked), columns, 4, seed=seed)
        wanted = small().run(ids, mi.capture(Z), attention_mask=mask)[Z][:, :, 1].clone()
        wanted[picked] = value
    run = put(value, ids, at=at, attention_mask=mask, batch_tokens=limit)
    seen = run.at(Z, head=1) if "head" in at else run[Z]
    close(
        seen * mask.reshape(*mask.shape, *[1] * (seen.ndim - 2)),
        wanted * mask.reshape(*mask.shape, *[1] * (seen.ndim - 2)),
    )


@pytest.mark.parametrize(
    ("value", "at", "dims", "said"),
    [
        (torch.zeros(2, 16), {}, None, r"\[2, 16\] does not fit .*'batch': 2, 'pos': 3, 'd_model': 16.*dims="),
        (torch.zeros(3, 16), {}, None, r"\[3, 16\] does not fit"),
        (torch.zeros(15), {}, None, r"\[15\] does not fit"),
        (torch.zeros(1), {}, None, r"\[1\] does not fit"),
        (torch.zeros(2, 2, 16), {}, None, "does not fit"),
        (torch.zeros(2, 2, 16), {"pos": -1}, None, "does not fit"),
        (torch.zeros(2, 1, 3, 16), {}, None, "does not fit"),
        (torch.zeros(2, 16), {}, ("batch",), "does not describe"),
        (torch.zeros(16, 2), {}, ("d_model", "batch"), "in that order"),
        (torch.zeros(2, 16), {}, ("batch", "head"), "does not describe"),
        (torch.zeros(3, 16), {}, ("batch", "d_model"), "does not fit"),
        (torch.zeros(2, 2), {}, ("batch", "batch"), "does not describe"),
    ],
)
@pytest.mark.parametrize("limit", [None, 3])
def test_what_does_not_fit_is_refused_before_anything_runs(
    value: Tensor, at: dict[str, Any], dims: Any, said: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(small().backend), "embed", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueMismatch, match=said):
        put(value, [[1, 2, 3], [4, 5, 6]], RESID, dims, at, batch_tokens=limit)


def test_an_int_leaves_a_dim_out() -> None:
    value = random(2, 16)
    run = put(value, [[1, 2, 3], [4, 5, 6]], RESID, at={"pos": -1})
    close(run[RESID][:, -1], value)


def test_values_take_the_dtype_of_the_activation_and_are_not_changed() -> None:
    value = random(16, dtype=torch.float64)
    before, version = value.clone(), value._version
    run = put(value, [[1, 2]], RESID)
    assert run[RESID].dtype == torch.float32
    assert torch.equal(value, before)
    assert value._version == version


# -- values that are runs ---------------------------------------------------------------------------


@given(ROWS, LAYOUTS, LAYOUTS, SEEDS, LIMITS, st.sampled_from([RESID, PATTERN]))
def test_a_run_is_the_same_as_its_tensor_given_by_hand(
    rows: list[list[int]], layout: str, other: str, seed: int, limit: int | None, point: str
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    tokens, there = laid_out([[(t + 7) % 61 for t in row] for row in rows], other, seed + 1)
    source = small(seed=5).run(tokens, mi.capture(point), attention_mask=there)
    run = put(source, ids, point, attention_mask=mask, batch_tokens=limit)
    assert torch.equal(
        run[point],
        run._layout.outward(
            source._layout.inward(source[point], run._points.find(point).site.dims), run._points.find(point).site.dims
        ),
    )
    if layout == other == "right":
        by_hand = put(source[point], ids, point, attention_mask=mask, batch_tokens=limit)
        close(run.logits, by_hand.logits)


@given(ROWS, SEEDS, LIMITS, st.sampled_from([-1, [0, -1], slice(-2, None)]))
def test_a_captured_slice_serves_the_same_slice(rows: list[list[int]], seed: int, limit: int | None, pos: Any) -> None:
    if isinstance(pos, list) and min(map(len, rows)) < 2:
        return
    ids, mask = laid_out(rows, "left", seed)
    last = small(seed=5).run(ids, mi.capture(RESID).at(pos=pos), attention_mask=mask)
    full = small(seed=5).run(ids, mi.capture(RESID), attention_mask=mask)
    options: dict[str, Any] = {"at": {"pos": pos}, "attention_mask": mask, "batch_tokens": limit}
    close(put(last, ids, RESID, **options)[RESID], put(full, ids, RESID, **options)[RESID])
    with pytest.raises(MissingActivation, match=r"captured .* only at"):
        put(last, ids, RESID, attention_mask=mask)


@given(ROWS, SEEDS, LIMITS)
def test_one_row_serves_all_rows(rows: list[list[int]], seed: int, limit: int | None) -> None:
    ids, mask = laid_out(rows, "holes", seed)
    source = small().run([[5, 6, 7]], mi.capture(RESID))
    run = put(source, ids, RESID, at={"pos": -1}, attention_mask=mask, batch_tokens=limit)
    close(run.at(RESID, pos=-1), source[RESID][:, -1].expand(len(rows), -1))


def test_rows_of_other_lengths_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    source = small().run([[1, 2, 3], [4, 5]], mi.capture(RESID))
    one = small().run([[1, 2]], mi.capture(RESID))
    wide = small().run([[1, 2, 3], [4, 5], [6]], mi.capture(RESID))
    monkeypatch.setattr(type(small().backend), "embed", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueMismatch, match=r"row 0 has 2 entries along 'pos', .* 3"):
        put(source, [[1, 2], [3, 4, 5]], RESID)
    with pytest.raises(ValueMismatch, match="3 rows for 2 here"):
        put(wide, [[1, 2, 3], [4, 5]], RESID)
    with pytest.raises(MissingActivation, match=r"did not capture 'blocks.0.hook_resid_post'.*mi.capture"):
        put(source, [[1, 2, 3], [4, 5]], "blocks.0.hook_resid_post")
    with pytest.raises(SelectorError, match="batch=1"):
        put(one, [[1, 2], [3, 4]], RESID, at={"batch": 1})


def test_a_run_whose_activation_was_edited_is_no_source() -> None:
    for ids in ([[1, 2]], [[1, 2], [3]]):
        source = small().run(ids, mi.capture(RESID))
        put(source, ids, RESID)
        source[RESID].add_(1)
        with pytest.raises(ChangedInPlace, match="changed in place"):
            put(source, ids, RESID)


def test_under_a_wildcard_each_point_gets_its_own() -> None:
    every = "blocks.*.hook_attn_out"
    source = small(seed=5).run([[1, 2, 3]], mi.capture(every))
    run = small().run([[4, 5, 6]], mi.intervene(every, mi.Replace(source)) + mi.capture(every))
    close(run.stack("hook_attn_out"), source.stack("hook_attn_out"))


def test_a_part_of_a_run_is_a_value() -> None:
    source = small().run([[1, 2, 3]], mi.capture(RESID))
    run = put(source.at(RESID, pos=0), [[4, 5, 6]], RESID, at={"pos": 2})
    close(run[RESID][:, 2], source[RESID][:, 0])
