from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harvested import RESID, bytes_in, unflushed
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_core import errors
from mi_core.harvests.collecting import Collector
from mi_core.harvests.corpora import corpus_of
from mi_core.harvests.forecast import Forecast, rows_in
from mi_core.harvests.settings import Asked, spec_of
from mi_core.harvests.windows import Cutter, Window


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    with unflushed():
        yield


@given(st.integers(1, 12), st.integers(0, 3), st.slices(14) | st.integers(0, 13).map(lambda n: slice(n, None)))
def test_rows_of_a_window_are_counted_as_they_are_kept(length, fresh, pos) -> None:
    fresh = min(fresh, length - 1)
    window = Window(0, 0, tuple(range(length)), fresh)
    assert rows_in(window, pos) == len([place for place in range(length)[pos] if place >= fresh])
    assert rows_in(window, None) == length - fresh
    assert rows_in(window, mi.Span("a")) is None


def asked(pos=None, shard_rows: int | None = 40, dtype: str | None = None) -> Asked:
    options = {"context": 16, "overlap": 0, "long": "split", "repeat_bos": True, "skip_bos": False}
    spec = spec_of([RESID, "hook_embed"], None, pos)
    return Asked.of(small(seed=6), spec, dtype=dtype, batch_tokens=None, shard_rows=shard_rows, **options)


def forecast(how: Asked, data, total: int | None, folder: Path) -> Forecast | None:
    cutter = Cutter(corpus_of(data), lambda document: document.content, how.cutting)
    cut = cutter.next()
    assert cut is not None
    return Forecast.of(how, cut, 0, total, folder)


@pytest.mark.parametrize("pos", [None, -1, slice(-2, None), [0, 1]])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_it_is_near_what_is_written(tmp_path, pos, dtype) -> None:
    data, shards = [[number % 61] * (3 + number % 4) for number in range(80)], 40 if pos is None else 10
    told = forecast(asked(pos, shards, dtype), data, len(data), tmp_path)
    made = mi.harvest(
        small(seed=6),
        data,
        [RESID, "hook_embed"],
        tmp_path / "out",
        pos=pos,
        dtype=dtype,
        context=16,
        shard_rows=shards,
    )
    assert told is not None
    assert told.rows == pytest.approx(made.rows, rel=0.15)
    assert told.shards == pytest.approx(len(made.files), rel=0.15)
    written = sum(shard[name].nbytes for shard in made.shards() for name in shard.tensors)
    assert told.bytes == pytest.approx(written, rel=0.15)
    assert told.free > 0


def test_where_nobody_knows_nothing_is_foretold(tmp_path) -> None:
    data = [[1, 2, 3]] * 90
    assert forecast(asked(mi.Span("a")), data, 90, tmp_path) is None
    alone = forecast(asked(), iter(data), None, tmp_path)
    assert alone is not None
    assert (alone.shards, alone.rows) == (1, 42)


def test_what_the_disk_has_no_room_for_is_refused_before_the_model_runs(tmp_path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 20_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    collect = Collector.collect
    monkeypatch.setattr(Collector, "collect", None)
    data, folder = [[1, 2, 3, 4]] * 100, tmp_path / "out"
    with pytest.raises(
        errors.HarvestError, match=r"about 32\.8 kB are needed for 400 rows .* 20 kB are free"
    ) as refused:
        mi.harvest(small(seed=6), data, RESID, folder, shard_rows=40)
    assert refused.value.needed > refused.value.free == 20_000
    assert set(bytes_in(folder)) == {"index.json"}
    monkeypatch.setattr(Collector, "collect", collect)
    assert mi.harvest(small(seed=6), data, RESID, folder, shard_rows=40, check_room=False).rows == 400


def test_what_is_there_already_needs_no_room(tmp_path, monkeypatch) -> None:
    data = [[1, 2, 3, 4]] * 100
    made = mi.harvest(small(seed=6), data, RESID, tmp_path, shard_rows=40)
    made.files[8].unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 7_000}))
    assert mi.harvest(small(seed=6), data, RESID, tmp_path, shard_rows=40).rows == 400


def test_weights_that_come_and_go_are_told_to_come_once_for_each_shard(monkeypatch) -> None:
    monkeypatch.setattr("mi_core.harvests.forecast.comes_and_goes", lambda _: True)
    lines = Forecast(1000, 5_000_000, 3, 10**9, 7).lines(small(seed=6))
    assert lines[0] == "about 1 thousand rows, 5 MB in 3 shards; 1 GB are free"
    assert lines[-1] == "layer by layer: what is brought comes once for every shard, 3 times"
    assert Forecast(1, 1, 9, 1, 1).lines(small(seed=6), 4)[-1].endswith("comes once for every 4 shards, 3 times")
    assert Forecast(1, 1, 9, 1, 1).lines(small(seed=6), 9)[-1].endswith("comes once for all")
