from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_core import errors
from mi_core.harvests.corpora import corpus_of
from mi_core.harvests.windows import Cutter, Cutting, bytes_of, split

BOS = 99
CUTTINGS = st.builds(
    Cutting,
    context=st.integers(5, 12),
    overlap=st.integers(0, 3),
    repeat_bos=st.sampled_from([None, BOS]),
    shard_rows=st.integers(1, 30),
    pos=st.sampled_from([None, -1, (0, -1), slice(2, None)]),
)
CORPORA = st.lists(st.lists(st.sampled_from([1, 2, BOS]), max_size=40), max_size=8)


@given(st.lists(st.sampled_from([1, 2, 3, BOS]), max_size=60), CUTTINGS)
def test_every_token_of_a_document_is_fresh_once_and_has_its_context(ids, how) -> None:
    windows = list(split(7, ids, how))
    again = ids[:1] == [how.repeat_bos]
    fresh = [
        (window.first + position, window.ids[position])
        for window in windows
        for position in range(window.fresh, len(window.ids))
    ]
    assert fresh == list(enumerate(ids))
    for number, window in enumerate(windows):
        assert window.document == 7
        assert len(window.ids) <= how.context
        assert window.fresh == (how.overlap + again if number else 0)
        assert len(window.ids) == how.context or window is windows[-1]
        real = window.ids[1:] if again and number else window.ids
        begin = window.first + (again and number > 0)
        assert list(real) == ids[begin : begin + len(real)]
        assert window.ids[0] == BOS or not again


def cuts(documents, how):
    cutter = Cutter(corpus_of(documents), lambda document: document.content, how)
    found = []
    while (cut := cutter.next()) is not None:
        found.append(cut)
    return found, cutter.cursor


@given(CORPORA, CUTTINGS, st.data())
def test_shards_are_the_same_whichever_of_them_are_skipped(documents, how, data) -> None:
    whole, end = cuts(documents, how)
    there = data.draw(st.sets(st.integers(0, max(len(whole) - 1, 0))))
    cutter = Cutter(corpus_of(documents), lambda document: document.content, how)
    for number, cut in enumerate(whole):
        if number in there:
            cutter.skip(cut.end)
        else:
            assert cutter.next() == cut
    assert cutter.next() is None
    assert cutter.cursor == end
    assert end.ended
    assert end.documents == len(documents)


@given(CORPORA, CUTTINGS)
def test_shards_are_as_large_as_they_may_be(documents, how) -> None:
    whole, _ = cuts(documents, how)
    for cut in whole:
        assert sum(map(len, (window.ids for window in cut.windows))) == cut.tokens
        if how.pos is None and cut is not whole[-1]:
            rows = [len(window.ids) - window.fresh for window in cut.windows]
            assert sum(rows[:-1]) < how.shard_rows <= sum(rows)


@given(CORPORA.filter(any), CUTTINGS, st.data())
def test_other_documents_are_not_skipped(documents, how, data) -> None:
    whole, _ = cuts(documents, how)
    cut = whole[data.draw(st.integers(0, len(whole) - 1))]
    read = documents[: cut.end.documents]
    changed = data.draw(st.sampled_from([number for number, row in enumerate(read) if row]))
    others = [row if number != changed else [*row[:-1], row[-1] + 1] for number, row in enumerate(documents)]
    cutter = Cutter(corpus_of(others), lambda document: document.content, how)
    with pytest.raises(errors.HarvestMismatch, match="are not the same"):
        cutter.skip(cut.end)
    short = Cutter(corpus_of(read[:-1]), lambda document: document.content, how)
    with pytest.raises(errors.HarvestMismatch, match=f"it has {len(read) - 1} documents"):
        short.skip(cut.end)


@given(st.lists(st.text() | st.lists(st.integers(0, 3)).map(tuple)), st.lists(st.text() | st.just((1, 2))))
def test_different_documents_have_different_bytes(one, other) -> None:
    assert (b"".join(map(bytes_of, one)) == b"".join(map(bytes_of, other))) == (one == other)


def test_what_must_not_be_split_is_refused() -> None:
    with pytest.raises(errors.InputError, match="document 3 has 6 tokens and the context 5"):
        list(split(3, range(6), Cutting(5, split=False)))
    assert len(list(split(3, range(5), Cutting(5, split=False)))) == 1
