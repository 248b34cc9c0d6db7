from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harvested import RESID, counted_up, unflushed
from hypothesis import given
from hypothesis import strategies as st
from small_models import small, talking
from torch.utils.data import DataLoader

import mi_core as mi
from mi_core import errors
from mi_core.harvests import shards
from mi_core.harvests.batches import HarvestBatches

QUERIES = "blocks.0.attn.hook_q"
by_shard = mi.Harvest.by_shard
DATA = counted_up()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> mi.Harvest:
    """Ten shards of two points."""
    with unflushed():
        folder = tmp_path_factory.mktemp("harvest")
        return mi.harvest(small(seed=9), DATA, [RESID, QUERIES], folder, shard_rows=40)


@pytest.fixture
def hurt(made, tmp_path) -> mi.Harvest:
    """A copy of it to break."""
    for path in made.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return mi.Harvest(tmp_path)


ROWS = sum(map(len, DATA))


def test_it_is_a_mapping_from_points_to_rows(made) -> None:
    assert list(made) == [QUERIES, RESID]
    assert made.rows == len(made[RESID]) == ROWS
    assert made[QUERIES].shape == (ROWS, 4, 4)
    assert made[QUERIES].dims == ("row", "head", "d_head")
    assert repr(made[QUERIES]) == f"HarvestedPoint('{QUERIES}', [{ROWS}, 4, 4], float32)"
    assert "400 rows of 2 points)" in repr(made)
    with pytest.raises(errors.MissingActivation, match=r"has no 'hook_embed'; it has blocks\.0"):
        made["hook_embed"]


@given(st.data())
def test_rows_are_read_alone_in_slices_by_number_and_by_mask(made, data) -> None:
    point = made[data.draw(st.sampled_from([RESID, QUERIES]))]
    every = torch.cat(list(point.shards()))
    row = data.draw(st.integers(-ROWS, ROWS - 1))
    assert torch.equal(point[row], every[row])
    ends = st.none() | st.integers(-ROWS - 5, ROWS + 5)
    part = slice(data.draw(ends), data.draw(ends), data.draw(st.integers(-50, 50).filter(bool)))
    assert torch.equal(point[part], every[list(range(ROWS))[part]])
    numbers = data.draw(st.lists(st.integers(-ROWS, ROWS - 1), max_size=20))
    assert torch.equal(point[torch.tensor(numbers, dtype=torch.long)], every[torch.tensor(numbers, dtype=torch.long)])
    mask = torch.rand(ROWS, generator=torch.Generator().manual_seed(row + ROWS)) < 0.1
    assert torch.equal(point[mask], every[mask])


def test_numbers_of_rows_come_in_every_kind_and_what_is_none_is_refused(made) -> None:
    point = made[RESID]
    every = torch.cat(list(point.shards()))
    for row in (np.int64(-3), torch.tensor(7), np.array(7)):
        assert torch.equal(point[row], every[int(row)])
    for rows in ([], torch.tensor([]), np.array([3, 5]), (3, 5)):
        assert torch.equal(point[rows], every[list(map(int, rows))])
    for wrong in (None, 1.5, "first", [[1, 2]], True, ["a"]):
        with pytest.raises(errors.SelectorError, match="names no rows"):
            point[wrong]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", None])
@pytest.mark.parametrize("points", ["hook_embed", mi.capture("blocks.0.attn.hook_z").at(head=1, d_head=2)])
def test_rows_of_every_dtype_and_of_one_number_are_read(tmp_path, points, dtype) -> None:
    made = mi.harvest(small(seed=9), DATA[:9], points, tmp_path, dtype=dtype, shard_rows=7)
    (point,) = made.values()
    every = torch.cat(list(point.shards()))
    rows = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    assert point[rows].dtype == every.dtype
    assert torch.equal(point[rows], every[rows])


def test_rows_come_one_after_the_other(made) -> None:
    assert torch.equal(torch.stack(list(made[RESID])), made[RESID][:])
    items = list(made.dataset(RESID))
    assert len(items) == ROWS
    assert torch.equal(torch.stack([item[RESID] for item in items]), made[RESID][:])
    assert [item["document"] for item in items] == made.documents.tolist()


def test_a_loader_reads_the_rows_of_a_batch_together(made, monkeypatch) -> None:
    rows = made.dataset(RESID)
    wanted = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))[:30]
    seen = []
    monkeypatch.setattr(mi.Harvest, "by_shard", lambda *args: seen.append(args) or by_shard(*args))
    (batch,) = DataLoader(rows, batch_size=30, sampler=wanted.tolist())
    assert len(seen) == 2  # for the activations, and for what is beside them
    assert torch.equal(batch[RESID], made[RESID][wanted])
    for name, values in (("document", made.documents), ("position", made.positions), ("token", made.tokens)):
        assert torch.equal(batch[name], values[wanted]), name
    with pytest.raises(errors.SelectorError, match=f"row {ROWS} is out of range"):
        rows[ROWS]
    assert rows[-1]["document"] == made.documents[-1]


@pytest.mark.parametrize("rows", [ROWS, -ROWS - 1, [0, ROWS], torch.zeros(3, dtype=torch.bool)])
def test_rows_that_are_not_there_are_refused(made, rows) -> None:
    with pytest.raises(errors.SelectorError, match=str(ROWS)):
        made[RESID][rows]


def test_rows_know_their_token_document_and_place(made) -> None:
    wanted = [(number, place, token) for number, row in enumerate(DATA) for place, token in enumerate(row)]
    assert list(zip(made.documents.tolist(), made.places.tolist(), made.tokens.tolist(), strict=True)) == wanted
    assert torch.equal(made.positions, made.places)
    rows = made.dataset(RESID)
    assert len(rows) == ROWS
    number = next(row for row, known in enumerate(wanted) if known[:2] == (12, 5))
    item = rows[number]
    assert (item["document"], item["position"], item["token"]) == (12, 5, DATA[12][5])
    assert torch.equal(item[RESID], made[RESID][number])
    context = made.context(number, before=2, after=3)
    assert context.ids == tuple(DATA[12][3:9])
    assert (context.at, context.document, context.position) == (2, 12, 5)
    assert str(context) == "".join(f"[<{t}>]" if place == 2 else f"<{t}>" for place, t in enumerate(DATA[12][3:9]))


def test_tokens_have_texts_where_there_is_a_tokenizer(tmp_path) -> None:
    model = talking()
    mi.harvest(model, ["one two"], RESID, tmp_path)
    context = mi.Harvest(tmp_path, tokenizer=model.tokenizer).context(1)
    assert "".join(context.tokens) == "<s>one two"


@given(st.integers(1, 30), st.integers(0, 2**31))
def test_the_highest_scores_are_found_over_all_shards(made, k, seed) -> None:
    direction = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    found = made.top(lambda part: part[RESID] @ direction, k, points=[RESID])
    every = made[RESID][:] @ direction
    torch.testing.assert_close(found.scores, every.topk(k).values)
    torch.testing.assert_close(every[found.rows], found.scores)


def batches(made: mi.Harvest, **options: Any) -> list[torch.Tensor]:
    return [batch.clone() for batch in made.batches(RESID, 32, mixed=3, **options)]


def sorted_rows(rows: torch.Tensor) -> list[list[float]]:
    return sorted(rows.tolist())


@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(made, drop_last) -> None:
    first = batches(made, drop_last=drop_last)
    dataset = made.batches(RESID, 32, mixed=3, drop_last=drop_last)
    assert len(dataset) == len(first) == (ROWS // 32 if drop_last else ROWS // 32 + 1)
    if not drop_last:
        assert sorted_rows(torch.cat(first)) == sorted_rows(made[RESID][:])
    assert all(torch.equal(*pair) for pair in zip(first, batches(made, drop_last=drop_last), strict=True))
    assert not torch.equal(torch.cat(first)[:320], made[RESID][:320])
    dataset.set_epoch(1)
    assert not torch.equal(next(iter(dataset)), first[0])
    assert not torch.equal(batches(made, seed=1)[0], first[0])


def test_without_shuffling_rows_come_as_they_lie(made) -> None:
    assert torch.equal(torch.cat(batches(made, shuffle=False, drop_last=False)), made[RESID][:])


def test_workers_give_the_batches_of_one_process_in_its_order(made) -> None:
    alone = batches(made)
    loader = DataLoader(
        made.batches(RESID, 32, mixed=3), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for batch, wanted in zip(loader, alone, strict=True):
        assert torch.equal(batch, wanted)


def test_processes_that_train_together_share_an_epoch(made) -> None:
    alone, parts = batches(made), [batches(made, part=(index, 3)) for index in range(3)]
    assert [len(made.batches(RESID, 32, mixed=3, part=(index, 3))) for index in range(3)] == [len(p) for p in parts]
    for number, batch in enumerate(alone):
        assert torch.equal(parts[number % 3][number // 3], batch)


def test_several_points_come_together(made) -> None:
    batch = next(iter(made.batches(batch_size=16, seed=4)))
    assert isinstance(batch, dict)
    assert {name: list(value.shape) for name, value in batch.items()} == {QUERIES: [16, 4, 4], RESID: [16, 16]}
    places = [(made[RESID][:] == row).all(1).nonzero()[0, 0] for row in batch[RESID]]
    assert torch.equal(batch[QUERIES], made[QUERIES][torch.stack(places)])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"mixed": 0}, {"part": (2, 2)}])
def test_sizes_that_make_no_batches_are_refused(made, options) -> None:
    with pytest.raises(errors.InputError, match="at least 1"):
        made.batches(RESID, **options)


def test_it_goes_to_other_processes_without_its_rows(made) -> None:
    made[RESID][:]
    assert len(pickle.dumps(made)) < 20_000
    assert torch.equal(pickle.loads(pickle.dumps(made))[RESID][5], made[RESID][5])


@pytest.mark.parametrize("how", ["cut", "gone", "nonsense", "another"])
def test_a_shard_that_is_hurt_is_named_and_the_rest_is_read(hurt, made, how) -> None:
    path = hurt.folder / shards.shard_name(3)
    if how == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        other = (hurt.folder / "index.json").read_bytes() if how == "nonsense" else hurt.shard(4).path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if how == "cut" else other)
    opened = mi.Harvest(hurt.folder)
    with pytest.raises(errors.CorruptShard, match="shard-000003"):
        opened[RESID][:]
    with pytest.raises(errors.CorruptShard, match="shard-000003"):
        list(opened.batches(RESID, 8))
    assert torch.equal(opened[RESID][: made.offsets[3]], made[RESID][: made.offsets[3]])
    assert list(opened.problems()) == ["shard-000003.safetensors"]
    left = opened.sound()
    assert left.rows == ROWS - (made.offsets[4] - made.offsets[3])
    assert torch.equal(left[RESID][-40:], made[RESID][-40:])
    assert len(list(left.batches(RESID, 8))) == left.rows // 8


def test_an_unfinished_harvest_names_what_is_hurt_too(hurt, made) -> None:
    index = hurt.folder / "index.json"
    index.write_text(index.read_text().replace('"complete": true', '"complete": false'))
    path = hurt.folder / shards.shard_name(2)
    path.write_bytes(path.read_bytes()[:-1])
    opened = mi.Harvest(hurt.folder)
    assert "unfinished" in repr(opened)
    assert list(opened.problems()) == ["shard-000002.safetensors"]
    assert opened.rows == ROWS - (made.offsets[3] - made.offsets[2])


def test_a_bit_that_flipped_is_found_by_reading_every_byte(hurt) -> None:
    path = hurt.folder / shards.shard_name(1)
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(bytes(data))
    opened = mi.Harvest(hurt.folder)
    assert opened.problems() == {}
    (problem,) = opened.problems(thorough=True).values()
    assert "is not as it was written" in str(problem)
    assert opened.sound(thorough=True).rows < ROWS


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "mi-core harvest 0"}'])
def test_a_folder_without_a_harvest_is_refused(tmp_path: Path, content) -> None:
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(errors.HarvestError, match="harvest"):
        mi.Harvest(tmp_path)


def test_reading_loads_no_more_than_it_needs(made, monkeypatch) -> None:
    fresh, opened = mi.Harvest(made.folder), []
    monkeypatch.setattr(shards.Shard, "open", classmethod(lambda cls, path: opened.append(path.name) or made.shard(0)))
    fresh[RESID][3]
    assert opened == ["shard-000000.safetensors"]
    assert isinstance(fresh.batches(), HarvestBatches)
