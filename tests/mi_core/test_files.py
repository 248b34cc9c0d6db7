from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import BadConfig, CorruptCheckpoint, ModelNotFound
from mi_core.files import Files


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc/passwd", "..", "C:/x", "C:\\x", "a\0b", "", "..\\secret", "\\\\host\\x"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in").mkdir()
    with pytest.raises(CorruptCheckpoint, match="outside"):
        Files(tmp_path / "in").path(name)


@given(st.text(max_size=12))
def test_no_name_at_all_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp()
    try:
        Files(root).has(name)
    except CorruptCheckpoint:
        return
    assert (root / name).resolve().is_relative_to(root.resolve())


def test_links_are_followed_because_hub_snapshots_are_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").symlink_to("../blob")
    assert Files(tmp_path / "snapshot").read_json("config.json") == {"a": 1}


def test_a_missing_file_lists_the_ones_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "config.jso").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"'config\.json'.*config\.jso"):
        Files(tmp_path).path("config.json")


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"a":' * 100_000, b"1" * 10_000])
def test_json_that_holds_no_object_is_a_bad_config(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(BadConfig, match=r"config\.json"):
        Files(tmp_path, where="folder 'x'").read_json("config.json")


def test_files_inside_an_archive_get_a_real_path_once(tmp_path: Path) -> None:
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("model/config.json", '{"a": 1}')
    files = Files(zipfile.Path(archive, "model/"), where="embedded model 'x'")
    assert files.names() == ("config.json",)
    assert files.has("config.json")
    assert not files.has("other")
    assert files.read_json("config.json") == {"a": 1}
    assert files.path("config.json") == files.path("config.json")
