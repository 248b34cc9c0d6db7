import pytest
import torch

import mi_core as mi
from mi_core import memory_report
from mi_core.memory_report import MemoryReport, host_memory

SIZE = 40_000_000


def test_a_phase_tells_what_was_made_kept_and_given_back():
    memory = MemoryReport()
    with memory.phase("kept"):
        kept = torch.ones(SIZE // 4)
    with memory.phase("given back"):
        for _ in range(8):  # long enough for somebody to look
            passing = torch.ones(SIZE // 4).cos().sin()
            del passing
    assert memory["kept"].after["host"] - memory["kept"].before["host"] > 0.9 * SIZE
    back = memory["given back"]
    assert back.growth["host"] > 0.9 * SIZE
    assert abs(back.after["host"] - back.before["host"]) < 0.5 * SIZE
    assert kept.sum() == SIZE // 4


def test_pages_of_files_are_told_from_own_memory(tmp_path):
    (tmp_path / "file").write_bytes(bytes(SIZE))
    memory = MemoryReport()
    with memory.phase("read"):
        mapped = torch.UntypedStorage.from_file(str(tmp_path / "file"), shared=False, nbytes=SIZE)
        torch.empty(0, dtype=torch.uint8).set_(mapped).max()
    assert memory["read"].growth["host, files"] > 0.9 * SIZE
    assert memory["read"].growth["host, own"] < 0.5 * SIZE


def test_a_phase_is_told_even_if_it_fails():
    memory = MemoryReport()
    with pytest.raises(ZeroDivisionError), memory.phase("wrong"):
        _ = 1 // 0
    assert [phase.name for phase in memory.phases] == ["wrong"]


def test_the_latest_phase_of_a_name_is_found_and_all_are_printed():
    memory = mi.MemoryReport()
    for _ in range(2):
        with memory.phase("run"):
            pass
    assert memory["run"] is memory.phases[1]
    lines = str(memory).splitlines()
    assert lines[0].split() == ["phase", "place", "before", "after", "peak", "seconds"]
    assert len(lines) == 1 + 2 * len(host_memory())


def test_without_the_systems_account_the_whole_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_report, "STATUS", tmp_path / "nothing")
    assert list(host_memory()) == ["host"]
    assert host_memory()["host"] > 1_000_000
