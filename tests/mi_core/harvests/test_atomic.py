from __future__ import annotations

from pathlib import Path

import pytest

from mi_core import errors
from mi_core.harvests import atomic


def test_a_file_gets_its_name_when_it_is_whole_and_on_the_disk(tmp_path, monkeypatch) -> None:
    path, flushed = tmp_path / "data", []

    def flush(what: Path) -> None:
        flushed.append((what, path.exists()))

    monkeypatch.setattr(atomic, "flush", flush)
    with atomic.committed(path) as part:
        part.write_text("whole")
        inode = part.stat().st_ino
    assert flushed == [(part, False), (tmp_path, True)]
    assert path.stat().st_ino == inode  # renamed: there is no moment at which it is half there
    assert list(tmp_path.iterdir()) == [path]


def test_who_may_read_the_folder_may_read_what_is_in_it(tmp_path) -> None:
    tmp_path.chmod(0o750)
    with atomic.committed(tmp_path / "data") as part:
        part.touch(0o600)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_is_not_finished_leaves_what_was_there(tmp_path, error) -> None:
    path = tmp_path / "data"
    path.write_text("before")
    expected = errors.HarvestError if isinstance(error, OSError) else KeyboardInterrupt

    def write() -> None:
        with atomic.committed(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(expected) as raised:
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
        assert raised.value.free > 0


def test_files_are_pressed_onto_the_disk(tmp_path) -> None:
    (tmp_path / "data").write_text("x")
    atomic.flush(tmp_path / "data")
    atomic.flush(tmp_path)


def test_a_lock_is_given_back_whatever_happens(tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(errors.HarvestLocked), atomic.locked(tmp_path), atomic.locked(tmp_path):
            pass
    assert (tmp_path / ".lock").read_text() == ""
