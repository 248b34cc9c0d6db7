from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from harvested import bytes_in, harvest

import mi_core as mi
from mi_core.harvests import shards
from mi_core.harvests.ranks import SIZES, Ranks, ranks


def launched(count: int, work: Callable[[], object]) -> list[int]:
    """Let processes work together, as ``accelerate launch --cpu`` starts them; how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads that a fork does not have: this process starts none
            child = os.fork()
        if child == 0:
            known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            known |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
            os.environ.update({name: str(value) for name, value in known.items()})
            warnings.simplefilter("ignore")  # what accelerate says of a machine without a GPU
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_two_processes_make_the_harvest_of_one(tmp_path) -> None:
    harvest(tmp_path / "one")
    assert len(bytes_in(tmp_path / "one")) > 8
    # one has made some of it before
    harvest(tmp_path / "two")
    for number in (0, 1, 4, 5, 7):
        (tmp_path / "two" / shards.shard_name(number)).unlink()
    wrote: Path = tmp_path / "wrote"
    wrote.mkdir()

    def work() -> None:
        before = shards.write_shard
        mine = []

        def write(folder, number, *rest) -> None:
            mine.append(number)
            before(folder, number, *rest)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("mi_core.harvests.writing.write_shard", write)
            assert harvest(tmp_path / "two").complete
        (wrote / os.environ["RANK"]).write_text(" ".join(map(str, mine)), encoding="utf-8")

    assert launched(2, work) == [0, 0]
    assert bytes_in(tmp_path / "two") == bytes_in(tmp_path / "one")
    assert [(wrote / rank).read_text(encoding="utf-8") for rank in "01"] == ["0 4 7", "1 5"]


def test_a_process_that_nobody_launched_with_others_is_alone(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = ranks()
    assert (alone.index, alone.count, alone.first, alone.device) == (0, 1, True, "auto")
    assert not Ranks(1, 2).first


def test_one_process_instead_of_several_is_refused(monkeypatch) -> None:
    """What ``accelerate launch --cpu --num_processes 2`` says to the one process that it starts."""
    for name in SIZES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert ranks().count == 1
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(mi.errors.HarvestError, match=r"asked for several processes and started one.*--multi_gpu"):
        ranks()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("said", ["True", "true", "1"])
def test_every_launcher_says_how_many_there_are(name, said, monkeypatch) -> None:
    import accelerate

    class State:
        num_processes, process_index, device = 2, 1, "cpu"
        wait_for_everyone = None

        def __init__(self, cpu: bool) -> None:
            assert cpu

    for other in SIZES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(accelerate, "PartialState", State)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", said)
    monkeypatch.setenv(name, "2")
    assert (ranks().index, ranks().count) == (1, 2)


def test_processes_that_accelerate_does_not_see_are_not_taken_for_one(monkeypatch) -> None:
    import accelerate

    class Alone:
        num_processes = 1

        def __init__(self, cpu: bool) -> None:
            assert cpu

    monkeypatch.setattr(accelerate, "PartialState", Alone)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(mi.errors.HarvestError, match="2 processes were launched, and accelerate knows of 1"):
        ranks()
