from __future__ import annotations

import pytest
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


def test_a_bar_shows_how_fast_and_is_shown_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(100, True) as bar:
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
