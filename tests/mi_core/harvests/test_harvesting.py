from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small, talking

import mi_core as mi
from mi_core import errors
from mi_core.harvests import atomic, shards
from mi_core.harvests.collecting import Collector

RESID = "blocks.1.hook_resid_post"
DOCUMENTS = st.lists(st.lists(st.integers(0, 60), max_size=23), min_size=1, max_size=12).filter(any)


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    """Files are not pressed onto the disk, for which tests would wait."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(atomic, "flush", lambda path: None)
        yield


def ids(count: int = 40, seed: int = 0) -> list[list[int]]:
    """Documents of ids, of one to forty tokens."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=draw).tolist()
    return [torch.randint(0, 61, (length,), generator=draw).tolist() for length in lengths]


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Every file of a harvest that is data."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@given(DOCUMENTS, st.integers(4, 16), st.integers(0, 2), st.integers(1, 40), st.integers(1, 60))
def test_rows_are_what_runs_capture_whatever_is_batched_and_split(
    tmp_path_factory, documents, context, overlap, batch_tokens, shard_rows
) -> None:
    model = small(seed=5)
    made = mi.harvest(
        model,
        documents,
        ["blocks.{0..1}.hook_resid_post", "blocks.1.attn.hook_q"],
        tmp_path_factory.mktemp("h"),
        context=context,
        overlap=overlap,
        batch_tokens=batch_tokens,
        shard_rows=shard_rows,
    )
    # every token once, in order
    expected = [(number, place, token) for number, own in enumerate(documents) for place, token in enumerate(own)]
    columns = zip(made.documents.tolist(), made.places.tolist(), made.tokens.tolist(), strict=True)
    assert list(columns) == expected
    # and what the model computes for it in its window
    spec = mi.capture(list(made.points))
    begin = 0
    for document in documents:
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


@pytest.fixture
def whole(tmp_path) -> Path:
    """A harvest that nothing stopped."""
    harvest(tmp_path / "whole")
    return tmp_path / "whole"


def harvest(folder: Path, documents: Any = None, **options: Any) -> mi.Harvest:
    options = {"context": 16, "batch_tokens": 48, "shard_rows": 60, **options}
    return mi.harvest(small(seed=6), ids() if documents is None else documents, RESID, folder, **options)


def test_a_harvest_that_was_stopped_at_every_shard_ends_with_the_same_bytes(whole, tmp_path, monkeypatch) -> None:
    folder, collect = tmp_path / "stopped", Collector.collect
    shards_there = len(mi.Harvest(whole).index["shards"])
    assert shards_there > 5

    def once(self, windows, tick):
        if once.calls:
            raise KeyboardInterrupt
        once.calls += 1
        return collect(self, windows, tick)

    monkeypatch.setattr(Collector, "collect", once)
    for number in range(1, shards_there):
        once.calls = 0
        with pytest.raises(mi.HarvestInterrupted) as stopped:
            harvest(folder)
        assert stopped.value.shards == number
        partial = mi.Harvest(folder)
        assert not partial.complete
        assert partial.rows == mi.Harvest(whole).offsets[number]
    once.calls = 0
    harvest(folder)
    assert bytes_in(folder) == bytes_in(whole)


@given(st.sets(st.integers(0, 8), min_size=1))
@settings(max_examples=8)
def test_shards_that_are_missing_are_made_again_as_they_were(tmp_path_factory, lost) -> None:
    folder = tmp_path_factory.mktemp("lost")
    harvest(folder)
    before = bytes_in(folder)
    for number in lost:
        (folder / shards.shard_name(number)).unlink(missing_ok=True)
    harvest(folder)
    assert bytes_in(folder) == before


def forked(folder: Path) -> int:
    """A harvest in a process of its own, which begins at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a fork does not have: this process starts none
        child = os.fork()
    if child == 0:
        harvest(folder)
        os._exit(0)
    return child


def test_a_process_that_is_killed_at_any_moment_leaves_whole_shards(whole, tmp_path) -> None:
    folder, draw = tmp_path / "killed", random.Random(0)
    took = -time.perf_counter()
    os.waitpid(forked(tmp_path / "unharmed"), 0)
    took += time.perf_counter()
    made = []
    for _ in range(6):
        child = forked(folder)
        time.sleep(took * draw.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        there = bytes_in(folder) if folder.exists() else {}
        assert {name: data for name, data in bytes_in(whole).items() if name in there and name != "index.json"} == {
            name: data for name, data in there.items() if name != "index.json"
        }
        made.append(len(there))
    assert made == sorted(made)
    harvest(folder)
    assert bytes_in(folder) == bytes_in(whole)


def test_a_full_disk_is_said_and_nothing_is_lost(whole, tmp_path, monkeypatch) -> None:
    import safetensors.torch

    folder, save = tmp_path / "full", safetensors.torch.save_file

    def full(tensors, path, metadata):
        if json.loads(metadata["mi_core"])["number"] == 3:
            Path(path).write_bytes(b"half")
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        save(tensors, path, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(errors.HarvestError, match=r"shard-000003.*No space left.*MB are free.*is kept"):
            harvest(folder)
    assert len(list(folder.glob("shard-*"))) >= 3
    assert not list(folder.glob(".*.part"))
    harvest(folder)
    assert bytes_in(folder) == bytes_in(whole)


def test_what_a_killed_writer_left_is_swept_away(tmp_path) -> None:
    (tmp_path / ".shard-000000.safetensors.part").write_bytes(b"half")
    harvest(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == {".lock"}


def test_two_harvests_do_not_share_a_folder_at_one_time(tmp_path) -> None:
    with atomic.locked(tmp_path), pytest.raises(errors.HarvestLocked, match=f"process {os.getpid()} on"):
        harvest(tmp_path)
    harvest(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"context": 12}, "context: 16 there, 12 here"),
        ({"dtype": "bfloat16"}, "dtype: None there, bfloat16 here"),
        ({"pos": -1}, r"spec: capture\('blocks.1.hook_resid_post'\) there, .*at\(pos=-1\) here"),
        ({"spec": mi.intervene("blocks.0.hook_mlp_out", mi.Zero())}, "spec: "),
        ({"batch_tokens": 50, "overlap": 2}, "overlap: 0 there, 2 here"),
    ],
)
def test_going_on_with_other_settings_is_refused(whole, change, said) -> None:
    before = bytes_in(whole)
    with pytest.raises(errors.HarvestMismatch, match=said):
        harvest(whole, **change)
    assert bytes_in(whole) == before


def test_going_on_with_other_weights_is_refused(whole) -> None:
    with pytest.raises(errors.HarvestMismatch, match=r"weights: .* there, .* here") as refused:
        mi.harvest(small(seed=7), ids(), RESID, whole, context=16, batch_tokens=48, shard_rows=60)
    assert refused.value.differs == ("weights",)


@pytest.mark.parametrize("change", ["first", "later", "more", "fewer"])
@pytest.mark.parametrize("finished", [True, False])
def test_going_on_with_other_data_is_refused_before_anything_is_written(whole, change, finished) -> None:
    data = ids()
    if change in ("first", "later"):
        data[0 if change == "first" else -1][0] ^= 1
    data = data[:-5] if change == "fewer" else [*data, *ids(30, seed=4)] if change == "more" else data
    if not finished:
        index = whole / "index.json"
        known = json.loads(index.read_text())
        index.write_text(json.dumps({**known, "complete": False}))
    before = bytes_in(whole)
    with pytest.raises(errors.HarvestMismatch, match="data"):
        harvest(whole, data)
    assert bytes_in(whole) == before


@pytest.mark.parametrize("lost", [0, 4, -1])
def test_a_lost_shard_is_not_made_anew_from_other_data(whole, lost) -> None:
    shards_there = sorted(whole.glob("shard-*"))
    shards_there[lost].unlink()
    before, data = bytes_in(whole), ids()
    data[0 if lost == 0 else -1][-1] ^= 1
    with pytest.raises(errors.HarvestMismatch, match="documents"):
        harvest(whole, data)
    if lost != 4:
        assert bytes_in(whole) == before


def test_a_finished_harvest_is_found_finished(whole, monkeypatch) -> None:
    monkeypatch.setattr(Collector, "collect", None)
    before = bytes_in(whole)
    assert harvest(whole).complete
    assert bytes_in(whole) == before


def test_an_iterator_is_a_corpus_too(whole, tmp_path) -> None:
    harvest(tmp_path / "again", iter(ids()))
    assert bytes_in(tmp_path / "again") == bytes_in(whole)


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
        mi.harvest(small(seed=6), ids(), points, tmp_path / "new", **options)
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
    model, data = small(seed=6), ids(6)
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


def test_weights_that_come_and_go_come_once_for_a_shard(tmp_path) -> None:
    model, out = mi.load("tiny-world", device="cpu"), tmp_path / "out"
    texts = ["The capital of France is Paris.", "Rome"] * 6
    points = "blocks.{0..2}.hook_resid_post"
    here = mi.harvest(model, texts, points, tmp_path / "here", batch_tokens=16)
    away = mi.load("tiny-world", device_map="auto", max_memory={"cpu": "1MB"}, offload_folder=str(tmp_path / "weights"))
    before = {unit: weights.brought for unit, weights in away.backend.offloaded.items()}
    made = mi.harvest(away, texts, points, out, batch_tokens=16)
    assert torch.equal(made["blocks.2.hook_resid_post"][:], here["blocks.2.hook_resid_post"][:])
    brought = {unit: weights.brought - before[unit] for unit, weights in away.backend.offloaded.items()}
    # once for the shard, and once to tell the model from others; behind the last point nothing runs
    assert brought["blocks.0"] == brought["blocks.3"] + 1
