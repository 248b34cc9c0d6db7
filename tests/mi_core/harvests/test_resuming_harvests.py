from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from harvested import RESID, bytes_in, documents, harvest, unflushed
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small, talking

import mi_core as mi
from mi_core import errors
from mi_core.harvests import atomic, shards
from mi_core.harvests.collecting import Collector


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    with unflushed():
        yield


@pytest.fixture
def whole(tmp_path) -> Path:
    """A harvest that nothing stopped."""
    harvest(tmp_path / "whole")
    return tmp_path / "whole"


def test_a_harvest_that_was_stopped_at_every_shard_ends_with_the_same_bytes(whole, tmp_path, monkeypatch) -> None:
    folder, collect = tmp_path / "stopped", Collector.collect
    shards_there = len(mi.Harvest(whole).index["shards"])
    assert shards_there > 5

    def once(self, shards):
        if once.calls:
            raise KeyboardInterrupt
        once.calls += 1
        return collect(self, shards)

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


def stopped_before(step: int, folder: Path) -> bool:
    """Whether a harvest in a process of its own came to a step of its writing, where it ended at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        left = [step]

        def counted(work):
            def call(*given, **named):
                left[0] -= 1
                return os._exit(9) if left[0] == 0 else work(*given, **named)

            return call

        try:
            atomic.flush = counted(lambda path: None)
            Path.replace = counted(Path.replace)
            Path.unlink = counted(Path.unlink)
            harvest(folder, documents(6))
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_a_process_that_ends_before_any_step_of_writing_loses_nothing(tmp_path) -> None:
    """Before a file is on the disk, before it has its name, before its name is: indexes and shards alike."""
    wanted = bytes_in(harvest(tmp_path / "whole", documents(6)).folder)
    assert len(wanted) >= 3
    step = 1
    while stopped_before(step, tmp_path / f"{step}"):
        harvest(tmp_path / f"{step}", documents(6))
        assert bytes_in(tmp_path / f"{step}") == wanted, f"step {step}"
        assert not list((tmp_path / f"{step}").glob(".*.part"))
        step += 1
    assert step > 4 * (len(wanted) + 1)
    assert bytes_in(tmp_path / f"{step}") == wanted


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
    (tmp_path / ".shard-000099.safetensors.part").write_bytes(b"half")
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
        mi.harvest(small(seed=7), documents(), RESID, whole, context=16, batch_tokens=48, shard_rows=60)
    assert refused.value.differs == ("weights",)


def test_going_on_with_another_tokenizer_is_refused(tmp_path) -> None:
    model = talking()

    class Loud(type(model.tokenizer)):
        def encode(self, text: str, special: bool = True):
            return super().encode(text.upper(), special)

    mi.harvest(model, ["one", "two"], RESID, tmp_path)
    loud = Loud(model.tokenizer.files)
    other = mi.Model(model.backend, name=model.name, config=model.config, tokenizer=loud)
    with pytest.raises(errors.HarvestMismatch, match="differs in tokenizer"):
        mi.harvest(other, ["one", "two"], RESID, tmp_path)


@pytest.mark.parametrize("change", ["first", "later", "more", "fewer"])
@pytest.mark.parametrize("finished", [True, False])
def test_going_on_with_other_data_is_refused_before_anything_is_written(whole, change, finished) -> None:
    data = documents()
    if change in ("first", "later"):
        data[0 if change == "first" else -1][0] ^= 1
    data = data[:-5] if change == "fewer" else [*data, *documents(30, seed=4)] if change == "more" else data
    if not finished:
        index = whole / "index.json"
        known = json.loads(index.read_text())
        index.write_text(json.dumps({**known, "complete": False}))
    before = bytes_in(whole)
    with pytest.raises(errors.HarvestMismatch, match="data"):
        harvest(whole, data)
    assert bytes_in(whole) == before


def test_a_shard_of_another_harvest_is_not_taken_for_one_of_this(whole, tmp_path) -> None:
    other = harvest(tmp_path / "other", context=12)
    name = shards.shard_name(2)
    (whole / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(errors.HarvestMismatch, match=f"{name}.* is of another harvest"):
        harvest(whole)


@pytest.mark.parametrize("lost", [0, 4, -1])
def test_a_lost_shard_is_not_made_anew_from_other_data(whole, lost) -> None:
    shards_there = sorted(whole.glob("shard-*"))
    shards_there[lost].unlink()
    before, data = bytes_in(whole), documents()
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
    harvest(tmp_path / "again", iter(documents()))
    again, before = bytes_in(tmp_path / "again"), bytes_in(whole)
    index = again.pop("index.json").decode()
    assert "a list_iterator" in index
    assert index.replace("a list_iterator", "a list") == before.pop("index.json").decode()
    assert again == before
