from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, small, talking

import mi_core as mi
from mi_core.errors import SelectorError, SpanError

RESID, Z, K, PATTERN = (
    "blocks.1.hook_resid_post",
    "blocks.1.attn.hook_z",
    "blocks.1.attn.hook_k",
    "blocks.1.attn.hook_pattern",
)
POSITIONS = st.one_of(
    st.sampled_from([0, -1]),
    st.builds(slice, st.integers(-3, 2) | st.none(), st.none()),
    st.sampled_from([[0, -1], [0]]),
)


def picked(pos: Any, length: int) -> list[int]:
    """Plain Python's answer."""
    if isinstance(pos, slice):
        return list(range(length))[pos]
    return [p % length for p in ([pos] if isinstance(pos, int) else pos)]


@given(ROWS, LAYOUTS, SEEDS, POSITIONS, st.sampled_from([None, 1, -1, [3, 0], slice(1, 3)]))
def test_a_capture_with_selectors_is_a_slice_of_the_full_capture(
    rows: list[list[int]], layout: str, seed: int, pos: Any, head: Any
) -> None:
    if isinstance(pos, list) and any(len({p % len(row) for p in pos}) < len(pos) for row in rows):
        return  # the same position twice
    if isinstance(pos, slice) and not any(picked(pos, len(row)) for row in rows):
        return
    ids, mask = laid_out(rows, layout, seed)
    selectors = {"pos": pos} | ({} if head is None else {"head": head})
    run = small().run(ids, mi.capture(Z).at(**selectors), attention_mask=mask)
    full = small().run(ids, mi.capture(Z), attention_mask=mask)
    close(full.at(Z, **selectors), run[Z])
    places = [picked(pos, len(row)) for row in rows]
    wanted = torch.zeros(len(rows), max(map(len, places)), 4, 4)
    for number, chosen in enumerate(places):
        wanted[number, : len(chosen)] = full[Z][number][mask[number]][chosen]
    if head is not None:
        wanted = wanted[:, :, head]
    close(run[Z], wanted[:, 0] if isinstance(pos, int) else wanted)


def test_a_row_with_fewer_entries_reads_zeros_behind_them() -> None:
    run = small().run([[1, 2], [3, 4, 5, 6, 7]], mi.capture(RESID).at(pos=slice(-3, None)))
    assert run[RESID].shape == (2, 3, 16)
    assert not run[RESID][0, 2].any()
    assert run[RESID][0, :2].abs().sum(-1).all()
    assert run[RESID][1].abs().sum(-1).all()


@given(ROWS, LAYOUTS, SEEDS, POSITIONS, POSITIONS)
def test_two_position_dims_select_edges_row_by_row(
    rows: list[list[int]], layout: str, seed: int, query: Any, key: Any
) -> None:
    for pos in (query, key):
        if isinstance(pos, list) and any(len({p % len(row) for p in pos}) < len(pos) for row in rows):
            return
        if not any(picked(pos, len(row)) for row in rows):
            return
    ids, mask = laid_out(rows, layout, seed)
    edit = mi.intervene(PATTERN, mi.Replace(7.0).at(query_pos=query, key_pos=key, head=2))
    run = small().run(ids, edit + mi.capture(PATTERN) + mi.capture(PATTERN, before=True), attention_mask=mask)
    wanted = run.before[PATTERN].clone()
    for number, row in enumerate(rows):
        columns = mask[number].nonzero()[:, 0]
        for q in picked(query, len(row)):
            for k in picked(key, len(row)):
                wanted[number, 2, columns[q], columns[k]] = 7.0
    close(run[PATTERN], wanted)


@given(ROWS.filter(lambda rows: len(rows) > 1), LAYOUTS, SEEDS, st.data())
def test_a_batch_selector_reaches_those_rows_alone(
    rows: list[list[int]], layout: str, seed: int, data: st.DataObject
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    batch = data.draw(st.one_of(st.integers(-1, 1), st.permutations(range(len(rows))).map(lambda p: p[:2])))
    spec = mi.intervene(RESID, mi.Zero().at(batch=batch, pos=-1)) + mi.capture(RESID)
    run = small().run(ids, spec, attention_mask=mask)
    wanted = small().run(ids, mi.capture(RESID), attention_mask=mask)[RESID].clone()
    for row in [batch] if isinstance(batch, int) else batch:
        wanted[row, mask[row].nonzero()[-1, 0]] = 0.0
    close(run[RESID], wanted)
    for limit in (None, 3):
        part = small().run(ids, mi.capture(RESID).at(batch=batch), attention_mask=mask, batch_tokens=limit)
        close(part[RESID], small().run(ids, mi.capture(RESID), attention_mask=mask)[RESID][batch])


def test_masks_select_by_bools() -> None:
    run = small().run([[1, 2, 3], [4, 5]], mi.capture(Z).at(pos=[True, False, True], head=[True, False, False, True]))
    full = small().run([[1, 2, 3], [4, 5]], mi.capture(Z))[Z]
    close(run[Z][0], full[0][[0, 2]][:, [0, 3]])
    close(run[Z][1, 0], full[1, 0][[0, 3]])
    assert not run[Z][1, 1].any()


def test_text_positions_are_found_in_each_rows_own_text() -> None:
    model = talking()
    texts = ["The capital of France is Paris", "France and Italy"]
    run = model.run(texts, mi.capture(RESID).at(pos=mi.Span(["France", "Italy"]).last))
    full = model.run(texts, mi.capture(RESID))
    for number, name in enumerate(["France", "Italy"]):
        last = mi.Span(name).last.resolve(full._prompts.rows[number], number)
        close(run[RESID][number], full[RESID][number, last])
    with pytest.raises(SpanError, match="Italy"):
        model.run(texts, mi.capture(RESID).at(pos=mi.Span("Italy")))


@pytest.mark.parametrize(
    ("point", "selectors", "said"),
    [
        (RESID, {"head": 0}, "has no dim 'head'; it has batch, pos, d_model"),
        (RESID, {"pos": 3}, "row 0 at .* has 3"),
        (RESID, {"pos": [0, -3]}, "pos=-3 is out of range"),
        (RESID, {"pos": []}, "selects no token"),
        (RESID, {"pos": slice(9, None)}, "selects no token in any row"),
        (RESID, {"pos": [0, 0]}, "twice"),
        (RESID, {"d_model": 16}, "d_model=16 is out of range"),
        (RESID, {"d_model": []}, "selects nothing"),
        (RESID, {"d_model": [3, -13]}, "twice"),
        (RESID, {"d_model": mi.Span("x")}, "is a position"),
        (RESID, {"batch": 2}, "batch=2 is out of range"),
        (RESID, {"batch": slice(5, 9)}, "selects nothing"),
        (RESID, {"pos": [True]}, "mask for 'pos' has 1 entries"),
        (Z, {"head": 4}, r"head=4 is out of range: llama's .* has 4 \(-4 to 3\)"),
        (K, {"head": 3, "pos": -1}, r"query head 3 reads kv_head 1\. Select kv_head=\.\.\., or name 'blocks.1.attn"),
        (K, {"head": [2, 0]}, "query head 2 reads kv_head 1.*hook_k_per_head"),
        ("blocks.0.attn.rot_k", {"head": -1}, "query head 3 reads kv_head 1.*blocks.0.attn.hook_k_per_head"),
        ("blocks.*.hook_resid_post", {"layer": 3}, "layer=3 is out of range"),
        ("blocks.1.hook_resid_post", {"layer": 0}, r"in the layers \[1\]"),
        ("blocks.*.hook_resid_post", {"layer": []}, "selects none"),
    ],
)
def test_a_selector_that_the_site_does_not_have_is_refused_before_anything_runs(
    point: str, selectors: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(small().backend), "embed", lambda *_: pytest.fail("it ran"))
    for spec in (mi.capture(point).at(**selectors), mi.intervene(point, mi.Zero().at(**selectors))):
        with pytest.raises(SelectorError, match=said):
            small().run([[1, 2, 3], [4, 5]], spec)


def test_head_is_accepted_for_kv_head_where_there_are_as_many() -> None:
    model = small(num_key_value_heads=4)
    run = model.run([[1, 2, 3]], mi.capture(K).at(head=1))
    close(run[K], model.run([[1, 2, 3]], mi.capture(K))[K][:, :, 1])
    close(run.at(K, kv_head=1), run.at(K, head=1))
    close(model.run([[1, 2, 3]], mi.capture(K)).at(K, head=1), run[K])
    with pytest.raises(SelectorError, match="one dim"):
        model.run([[1, 2, 3]], mi.capture(K).at(head=1, kv_head=1))


def test_layers_are_selected_like_other_dims() -> None:
    every = "blocks.*.hook_resid_post"
    for layer, wanted in ((range(1, 3), (1, 2)), (-1, (2,)), ([0, 2], (0, 2)), ([True, False, True], (0, 2))):
        run = small().run([[1, 2]], mi.capture(every).at(layer=layer))
        assert run.layers("hook_resid_post") == wanted
        assert run.receipt.asked[every] == tuple(run)


def test_positions_are_those_of_the_rows_that_are_selected() -> None:
    ids, mask = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    point = "blocks.1.hook_resid_post"
    whole = small().run(ids, mi.capture(point), attention_mask=mask)[point]
    short = small().run(ids, mi.capture(point).at(batch=1, pos=slice(0, None)), attention_mask=mask)[point]
    close(short, whole[1, :1])
    long = small().run(ids, mi.capture(point).at(batch=[0], pos=2), attention_mask=mask)[point]
    close(long, whole[:1, 2])
    with pytest.raises(SelectorError, match="row 1"):
        small().run(ids, mi.capture(point).at(batch=1, pos=2), attention_mask=mask)
    edit = mi.intervene(point, mi.Zero().at(batch=0, pos=2))
    assert not small().run(ids, edit + mi.capture(point), attention_mask=mask)[point][0, 2].any()
