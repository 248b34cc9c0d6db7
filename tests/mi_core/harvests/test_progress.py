from __future__ import annotations

import sys

from small_models import small

import mi_core as mi
from mi_core.harvests.progress import ProgressBar


def test_a_bar_goes_from_where_a_harvest_goes_on_to_its_end(tmp_path, monkeypatch) -> None:
    told: list[tuple[int, float]] = []
    monkeypatch.setattr(ProgressBar, "advance", lambda self, tokens, done: told.append((tokens, done)))
    data = [[1, 2, 3, 4]] * 50
    made = mi.harvest(small(seed=6), data, "hook_embed", tmp_path, shard_rows=40, batch_tokens=12)
    assert sum(tokens for tokens, _ in told) == made.rows == 200
    done = [behind for _, behind in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 50)
    told.clear()
    made.shard(3).path.unlink()
    mi.harvest(small(seed=6), data, "hook_embed", tmp_path, shard_rows=40, batch_tokens=12)
    assert told[0] == (0, 30)
    assert sum(tokens for tokens, _ in told) == 40


def test_a_bar_shows_how_fast_and_is_shown_where_it_is_wanted(capsys, monkeypatch) -> None:
    with monkeypatch.context() as terminal:
        terminal.setattr(sys.stderr, "isatty", lambda: True)
        with ProgressBar(100, None) as bar:
            bar.advance(0, 40)
            bar.advance(500, 70)
            task = bar._bar.tasks[0]
            assert (task.completed, task.total) == (70, 100)
            assert task.fields["rate"].endswith(" tokens/s")
    with ProgressBar(None, False) as bar:
        bar.advance(500, 70)
    with ProgressBar(100, None) as bar:  # nobody watches a pipe
        bar.advance(500, 70)
        assert bar._bar is None
    assert capsys.readouterr().out == ""


def test_where_output_is_written_down_there_is_a_line_from_time_to_time(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with ProgressBar(1000, True, processes=2) as bar:
        bar.advance(0, 400)  # it goes on from there
        for _ in range(8):
            now[0] += 10
            bar.advance(50, 400 + now[0] - 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "harvest: 43.0%, 10 tokens/s, 0:09:30 left",
        "harvest: 46.0%, 10 tokens/s, 0:09:00 left",
    ]
    with ProgressBar(None, True) as bar:  # nobody knows where it ends
        bar.advance(0, 0)
        now[0] += 40
        bar.advance(400, 1234)
    assert capsys.readouterr().err == "harvest: 1,234 documents, 10 tokens/s\n"


def test_what_there_will_be_is_said_before_a_harvest_of_several_shards(tmp_path, capsys) -> None:
    data = [[1, 2, 3, 4]] * 50
    mi.harvest(small(seed=6), data, "hook_embed", tmp_path / "a", shard_rows=40, progress=True)
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("harvest: about 200 rows, 16.4 kB in 5 shards; ")
    mi.harvest(small(seed=6), data, "hook_embed", tmp_path / "b", progress=True)
    assert capsys.readouterr().err == ""
