from __future__ import annotations

from pathlib import Path
from typing import Any

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


def test_two_do_not_write_under_one_name(tmp_path) -> None:
    with atomic.committed(tmp_path / "data") as one, atomic.committed(tmp_path / "data") as other:
        assert one != other
        one.write_text("one")
        other.write_text("one")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_room_that_is_said_is_what_is_left_without_the_half_file(tmp_path, monkeypatch) -> None:
    there: list[list[str]] = []

    def usage(folder: Path) -> object:
        there.append([path.name for path in folder.iterdir()])
        return type("Usage", (), {"free": 10**6})

    monkeypatch.setattr("shutil.disk_usage", usage)

    def write() -> None:
        with atomic.committed(tmp_path / "data") as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(errors.HarvestError, match=r"1\.0 MB are free"):
        write()
    assert there == [[]]


def test_a_folder_that_cannot_be_made_or_written_is_said(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.HarvestError, match=r"folder '.*file.*' cannot be made"):
            atomic.made(folder)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(errors.HarvestError, match="Read-only file system"), atomic.locked(tmp_path):
        pass


def test_a_lock_holds_where_there_is_no_room_for_a_word(tmp_path, monkeypatch) -> None:
    open_file = Path.open

    class Full:
        """A file that nothing can be written to."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, *rest, **options: Full(open_file(path, *rest, **options)))
    with atomic.locked(tmp_path), pytest.raises(errors.HarvestLocked, match="another process"), atomic.locked(tmp_path):
        pass


def test_a_lock_is_given_back_whatever_happens(tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(errors.HarvestLocked), atomic.locked(tmp_path), atomic.locked(tmp_path):
            pass
    assert (tmp_path / ".lock").read_text() == ""
