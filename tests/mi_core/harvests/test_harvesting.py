from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from harvested import RESID, documents, harvest, unflushed
from hypothesis import given
from hypothesis import strategies as st
from small_models import small, talking

import mi_core as mi
from mi_core import errors
from mi_core.harvests.collecting import Collector

DOCUMENTS = st.lists(st.lists(st.integers(0, 60), max_size=23), min_size=1, max_size=12).filter(any)


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    with unflushed():
        yield


@given(DOCUMENTS, st.integers(4, 16), st.integers(0, 2), st.integers(1, 40), st.integers(1, 60))
def test_rows_are_what_runs_capture_whatever_is_batched_and_split(
    tmp_path_factory, corpus, context, overlap, batch_tokens, shard_rows
) -> None:
    model = small(seed=5)
    made = mi.harvest(
        model,
        corpus,
        ["blocks.{0..1}.hook_resid_post", "blocks.1.attn.hook_q"],
        tmp_path_factory.mktemp("h"),
        context=context,
        overlap=overlap,
        batch_tokens=batch_tokens,
        shard_rows=shard_rows,
    )
    # every token once, in order
    expected = [(number, place, token) for number, own in enumerate(corpus) for place, token in enumerate(own)]
    columns = zip(made.documents.tolist(), made.places.tolist(), made.tokens.tolist(), strict=True)
    assert list(columns) == expected
    # and what the model computes for it in its window
    spec = mi.capture(list(made.points))
    begin = 0
    for document in corpus:
        for row in range(len(document)):
            window, first = window_of(row, len(document), context, overlap)
            if made.positions[begin + row] == 0 or row == len(document) - 1:
                run = model.run([document[window : window + context]], spec, logits=None)
                assert int(made.positions[begin + row]) == row - window
                for point in made.points:
                    torch.testing.assert_close(made[point][begin + row], run[point][0, row - window])
            assert row - window >= first
        begin += len(document)


def window_of(row: int, length: int, context: int, overlap: int) -> tuple[int, int]:
    """Where the window begins in which a token is fresh, and how many of its tokens are context."""
    begin, first = 0, 0
    while row >= begin + context:
        begin, first = begin + context - overlap, overlap
    return begin, first


@pytest.mark.parametrize(
    ("points", "options", "kind", "said"),
    [
        ("blocks.0.attn.hook_pattern", {}, errors.SpecError, "batch head query_pos key_pos.*no row for each token"),
        ("blocks.9.hook_resid_post", {}, errors.UnknownPoint, "blocks.9"),
        (mi.intervene(RESID, mi.Zero()), {}, errors.SpecError, "captures nothing"),
        (mi.capture(RESID, before=True), {}, errors.SpecError, "before=True"),
        (mi.capture(RESID).at(batch=0), {}, errors.SpecError, "batch="),
        (mi.capture(RESID).at(pos=0) + mi.capture("hook_embed"), {}, errors.SpecError, "different positions"),
        (RESID, {"spec": mi.intervene("hook_embed", mi.Mean())}, errors.SpecError, "a mean over the rows"),
        (RESID, {"context": 65}, errors.ContextOverflow, "65"),
        (RESID, {"context": 8, "overlap": 7}, errors.InputError, "no room"),
        (RESID, {"skip_bos": True}, errors.InputError, "BOS"),
        (RESID, {"long": "cut"}, errors.InputError, "split"),
        (RESID, {"dtype": "int8"}, errors.SpecError, "int8"),
        (RESID, {"batch_tokens": -1}, errors.InputError, "at least 1"),
    ],
)
def test_what_cannot_be_harvested_is_refused_and_no_folder_made(tmp_path, points, options, kind, said) -> None:
    with pytest.raises(kind, match=said):
        mi.harvest(small(seed=6), documents(), points, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        ([], errors.EmptyInput, "no document with a token"),
        ([[], []], errors.EmptyInput, "no document with a token"),
        ([[1, 2], [1, 61]], errors.TokenOutOfRange, "document 1 holds token 61"),
        ([[1, 2], "text"], errors.NoTokenizer, "tokenizer"),
        ([list(range(20))], errors.InputError, "document 0 has 20 tokens"),
    ],
)
def test_documents_that_the_model_cannot_take_are_named(tmp_path, data, kind, said) -> None:
    with pytest.raises(kind, match=said):
        harvest(tmp_path, data, long="refuse")


@pytest.mark.parametrize(
    ("pos", "kept"),
    [
        (-1, [5, 1]),
        (slice(1, 3), [1, 2, 1]),
        (slice(2, None), [2, 3, 4, 5]),
        ([0, -1], [0, 5, 0, 1]),
        (mi.PROMPT.first, [0, 0]),
    ],
)
def test_positions_are_kept_as_captures_select_them(tmp_path, pos, kept) -> None:
    data, model = [[1, 2, 3, 4, 5, 6], [7, 8]], small(seed=6)
    made = mi.harvest(model, data, RESID, tmp_path, pos=pos, batch_tokens=6)
    assert made.positions.tolist() == kept
    runs = [model.run([row], mi.capture(RESID))[RESID][0] for row in data]
    wanted = [runs[document][position] for document, position in zip(made.documents, made.positions, strict=True)]
    torch.testing.assert_close(made[RESID][:], torch.stack(wanted))


def test_a_window_begins_as_its_document_and_bos_may_be_left_out(tmp_path) -> None:
    model = talking()
    bos = model.tokenizer.bos
    text = "one two three four five six seven eight nine ten"
    encoded = list(model.tokenizer.encode(text).ids)
    made = mi.harvest(model, [text, "", "one"], RESID, tmp_path / "a", context=8)
    second = mi.Harvest(tmp_path / "a").shard(0).window_of(8)
    assert second[0].tolist() == [bos, *encoded[8:15]]
    assert second[1] == 1
    assert set(made.documents.tolist()) == {0, 2}
    plain = mi.harvest(model, [text], RESID, tmp_path / "b", context=8, repeat_bos=False)
    assert plain.shard(0).window_of(8)[0].tolist() == encoded[8:16]
    without = mi.harvest(model, [text, "one"], RESID, tmp_path / "c", context=8, skip_bos=True)
    assert without.tokens.tolist() == [*encoded[1:], *model.tokenizer.encode("one").ids[1:]]


def test_edits_and_inserts_act_and_the_run_stops_early(tmp_path) -> None:
    model, data = small(seed=6), documents(6)
    edit = mi.intervene("blocks.0.hook_resid_post", mi.Scale(2.0))
    made = mi.harvest(model, data, mi.capture("blocks.1.attn.hook_z").at(head=[0, 2]), tmp_path, spec=edit)
    run = model.run([data[0]], edit + mi.capture("blocks.1.attn.hook_z"))
    assert made["blocks.1.attn.hook_z"].dims == ("row", "head", "d_head")
    torch.testing.assert_close(made["blocks.1.attn.hook_z"][: len(data[0])], run["blocks.1.attn.hook_z"][0][:, [0, 2]])


def test_a_dtype_to_store_is_not_one_to_compute_in(tmp_path) -> None:
    made = harvest(tmp_path / "half", dtype=torch.bfloat16)
    full = harvest(tmp_path / "full")
    assert made[RESID].dtype == torch.bfloat16
    assert torch.equal(made[RESID][:], full[RESID][:].bfloat16())


def test_shards_may_have_no_row_and_a_harvest_may_not(tmp_path) -> None:
    data = [[1, 2]] * 30 + [list(range(9))] + [[3]] * 30
    made = harvest(tmp_path / "some", data, pos=slice(6, None), shard_rows=20)
    assert made.shard(0).rows == 0
    assert made.rows == 3
    assert made[RESID][:].shape == (3, 16)
    assert made.tokens.tolist() == [6, 7, 8]
    assert made.top(lambda part: part[RESID][:, 0], k=2).rows.shape == (2,)
    assert made.problems(thorough=True) == {}
    with pytest.raises(errors.SelectorError, match="keeps no token of any document"):
        harvest(tmp_path / "none", data, pos=slice(10, None), shard_rows=20)


def test_runs_are_of_like_length_even_where_a_shard_is_small(tmp_path, monkeypatch) -> None:
    lengths = [1, 2, 2, 3, 4, 60, 61, 64]
    runs: list[list[int]] = []
    chunk = Collector.chunk
    monkeypatch.setattr(
        Collector, "chunk", lambda self, rows, w: runs.append([len(x.ids) for x in w]) or chunk(self, rows, w)
    )
    mi.harvest(small(seed=6), [[5] * length for length in lengths], RESID, tmp_path, batch_tokens=640)
    padded = sum(len(run) * max(run) - sum(run) for run in runs)
    assert runs == [[60, 61, 64], [1, 2, 2, 3, 4]]
    assert padded / sum(lengths) < 0.1
