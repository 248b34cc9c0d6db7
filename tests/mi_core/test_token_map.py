import pytest
from hypothesis import given
from hypothesis import strategies as st

import mi_core as mi
from mi_core.errors import SpanError
from mi_core.rows import RowText

MODEL = mi.load("tiny-world")
TEXT = "The capital of France is"


def row_of(offsets, length):
    """A row whose tokens cover these characters."""
    text = "abcdefghijklmnopqrstuvwxyz"[:length]
    return mi.TokenMap(RowText(tuple(range(len(offsets))), (text, tuple(offsets)), names=("x",) * len(offsets)))


GOLDEN = row_of([(0, 3), (3, 10), (10, 16), (16, 19)], 19)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8).filter(any))
def test_characters_and_tokens_belong_to_each_other(widths):
    ends = [sum(widths[: i + 1]) for i in range(len(widths))]
    row = row_of([(end - width, end) for end, width in zip(ends, widths, strict=True)], ends[-1])
    for character in range(ends[-1]):
        token = row.token_at(character)
        start, stop = row.characters(token)
        assert start <= character < stop
        assert row.nearest(character) == token
        assert token in row.tokens_in(character, character + 1)
    assert row.tokens_in(0, ends[-1]) == [token for token, width in enumerate(widths) if width]


def test_a_character_between_tokens_is_in_none_and_near_one():
    row = row_of([(0, 0), (0, 2), (5, 6)], 8)
    with pytest.raises(SpanError, match=r"nearest\(3\), which is token 2"):
        row.token_at(3)
    assert [row.nearest(character) for character in range(8)] == [1, 1, 1, 2, 2, 2, 2, 2]


def test_labels_name_spans_and_where_they_end():
    subject_first = {"subject": (0, 16), "relation": (16, 19)}
    assert GOLDEN.labels(subject_first) == ["subject", "subject", "subject_final", "relation_final"]
    assert GOLDEN.labels({"relation": (2, 4), "subject": (0, 10)}) == ["relation", "relation_final", "other", "other"]


def test_labels_take_texts_and_selectors_of_a_run():
    row = mi.TokenMap.of(MODEL.run(TEXT))
    assert row.text == TEXT
    assert len(row) == len(row.tokens) == 6
    wanted = ["other", "other", "relation", "relation_final", "subject_final", "other"]
    assert row.labels({"relation": "capital of", "subject": mi.Span("France")}) == wanted
    twice = mi.TokenMap.of_text(MODEL.tokenizer, "in France and France")
    assert twice.labels({"again": "France"}) == ["other", "other", "again_final", "other", "again_final"]


REFUSED = [
    (lambda row: row.token_at(24), "no character 24"),
    (lambda row: row.characters(6), "no token 6"),
    (lambda row: row.labels({"x": "Spain"}), "not in row 0"),
    (lambda row: row.labels({"x": (30, 40)}), "covers no token"),
]


@pytest.mark.parametrize(("ask", "message"), REFUSED)
def test_what_is_not_there_is_refused(ask, message):
    with pytest.raises(SpanError, match=message):
        ask(mi.TokenMap.of_text(MODEL.tokenizer, TEXT))
