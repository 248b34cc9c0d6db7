import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small, talking

import mi_core as mi
from mi_analyses import HeadScores, head_scores
from mi_core.cli.main import main
from mi_core.errors import ContextOverflow, SelectorError, UnsupportedAnalysis

MODEL = small()


def looking_back(columns, offset):
    """A pattern in which each query looks so many tokens back, at the first where there is no such token."""
    pattern = torch.zeros(columns, columns)
    for query in range(columns):
        pattern[query, max(query - offset, 0)] = 1
    return pattern


@settings(max_examples=15)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2), st.integers(0, 3), st.integers(0, 99))
def test_a_head_that_looks_where_its_kind_looks_scores_one(length, sequences, layer, head, seed):
    for kind, offset in (("previous token", 1), ("duplicate token", length), ("induction", length - 1)):
        pattern = looking_back(2 * length, offset)
        written = mi.Replace(pattern, dims=("query_pos", "key_pos")).at(head=head)
        spec = mi.intervene(f"blocks.{layer}.attn.hook_pattern", written)
        result = head_scores(MODEL, length=length, sequences=sequences, seed=seed, spec=spec)
        assert result.scores.sel(kind=kind, layer=layer, head=head).item() == pytest.approx(1)
        others = {1, length, length - 1} - {offset}
        for other, back in (("previous token", 1), ("duplicate token", length), ("induction", length - 1)):
            if back in others:
                assert result.scores.sel(kind=other, layer=layer, head=head).item() == pytest.approx(0)


def test_scores_are_those_of_each_sequence_alone_and_repeat_with_the_seed():
    whole = head_scores(MODEL, length=5, sequences=6, seed=3)
    assert whole == head_scores(MODEL, length=5, sequences=6, seed=3)
    assert whole != head_scores(MODEL, length=5, sequences=6, seed=4)
    last = whole.provenance.ids
    assert all(len(set(row)) == 5 and row[:5] == row[5:] for row in last)
    assert all(len(row) == 10 for row in last)


def test_rows_begin_with_bos_and_hold_no_other_special_token():
    model = talking()
    ids = head_scores(model, length=6, sequences=3).provenance.ids
    assert all(row[0] == model.tokenizer.bos and model.tokenizer.bos not in row[1:] for row in ids)


def test_what_cannot_be_scored_is_refused(monkeypatch):
    for wrong in ({"length": 1}, {"length": 62}, {"sequences": 0}):
        with pytest.raises(SelectorError, match="from 2 to 61"):
            head_scores(MODEL, **wrong)
    with pytest.raises(ContextOverflow, match="at most 32"):
        head_scores(MODEL, length=33)
    monkeypatch.setattr(MODEL.backend, "sites", list)
    with pytest.raises(UnsupportedAnalysis, match="head_scores"):
        head_scores(MODEL)


def test_the_command_finds_the_induction_head_of_tiny_world(capsys, tmp_path):
    html, data = tmp_path / "heads.html", tmp_path / "heads.json"
    assert main(["heads", "tiny-world", "--html", str(html), "--json", str(data)]) == 0
    assert "induction L1H3" in capsys.readouterr().out.replace("\n", " ")
    result = HeadScores.from_json(data)
    assert result.scores.sel(kind="induction", layer=1, head=3).item() == pytest.approx(0.932, abs=0.01)
    assert "previous token" in html.read_text(encoding="utf-8")
    assert HeadScores.from_json(result.to_json()) == result
    assert main(["heads", "tiny-world", "--length", "1"]) == 2
