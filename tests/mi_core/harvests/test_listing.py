from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import pytest

from mi_core import errors
from mi_core.harvests.corpora import corpus_of


def contents(data, **options):
    return [document.content for document in corpus_of(data, **options)]


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or f"{path.name}\n", encoding="utf-8")
    return path


def test_a_folder_is_its_files_and_those_below_it_in_the_order_of_their_names(tmp_path) -> None:
    for name in ("b.txt", "a/2.txt", "a/10.txt", "c.TXT", ".hidden/x.txt", "_SUCCESS", ".DS_Store"):
        write(tmp_path / name)
    assert contents(tmp_path) == ["10.txt", "2.txt", "b.txt", "c.TXT"]
    assert contents(str(tmp_path)) == contents(tmp_path)
    assert contents([tmp_path / "b.txt", tmp_path / "a"]) == ["b.txt", "10.txt", "2.txt"]


def test_a_folder_of_several_kinds_is_refused_and_of_any_kind_read_as_text(tmp_path) -> None:
    write(tmp_path / "README.md")
    write(tmp_path / "part-0.jsonl", '{"text": "x"}')
    with pytest.raises(errors.InputError, match=r"several kinds \(\.jsonl, \.md\): give those that are meant"):
        corpus_of(tmp_path)
    assert contents(tmp_path, divided="file") == ["README.md\n", '{"text": "x"}']
    write(tmp_path / "model.safetensors")
    with pytest.raises(errors.InputError, match=r"'\.safetensors' is none of"):
        corpus_of(tmp_path)


def test_a_pattern_is_the_files_that_fit_it(tmp_path) -> None:
    for name in ("b.txt", "a.txt", "a/c.txt", "d[0].txt"):
        write(tmp_path / name)
    assert contents(tmp_path / "*.txt") == ["a.txt", "b.txt", "d[0].txt"]
    assert contents(str(tmp_path / "**/[ac].txt")) == ["a.txt", "c.txt"]
    assert contents(tmp_path / "d[0].txt") == ["d[0].txt"]  # it is there under this very name
    with pytest.raises(errors.InputError, match=r"none that fits it"):
        corpus_of(tmp_path / "*.text")


def test_what_is_no_file_is_said(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("-", tmp_path / "pipe"):
        with pytest.raises(errors.InputError, match="no file that can be read twice"):
            corpus_of(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InputError, match="there is no file in"):
        corpus_of(tmp_path / "empty")
    with pytest.raises(errors.InputError, match=r"there is no file '.*nowhere\.txt'"):
        corpus_of([write(tmp_path / "a.txt"), tmp_path / "nowhere.txt"])


def test_names_of_files_are_not_taken_for_texts(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt")
    with pytest.raises(errors.InputError, match=r"'a\.txt' .* names of files here.*\[Path\('a\.txt'\)"):
        corpus_of(["a.txt", "a.txt"])
    assert contents(["a.txt", "A text."]) == ["a.txt", "A text."]
    assert contents(["x" * 5000, "\0"]) == ["x" * 5000, "\0"]


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_compressed_files_are_unpacked_and_broken_ones_named(tmp_path, kind) -> None:
    pack = PACKERS.get(kind, zstd)
    path = tmp_path / f"a.JSONL.{kind}"
    lines = "\n".join(json.dumps({"text": f"Text {number}"}) for number in range(3000)).encode()
    path.write_bytes(pack(lines[:20000]) + pack(lines[20000:]))  # several parts, as parallel packers write them
    corpus = corpus_of(path)
    documents = list(corpus)
    assert [document.content for document in documents] == [f"Text {number}" for number in range(3000)]
    assert documents[-1].done == corpus.total == path.stat().st_size
    for broken in (path.read_bytes()[:-30], b"plain\n"):
        path.write_bytes(broken)
        with pytest.raises(errors.InputError, match=rf"a\.JSONL\.{kind} cannot be read: "):
            contents(path)


def test_tables_are_not_read_from_within_a_compressed_file(tmp_path) -> None:
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(errors.InputError, match=r"'\.parquet' is none of"):
        corpus_of(path)


def test_json_files_are_lines_and_an_array_says_how_to_make_them(tmp_path) -> None:
    assert contents(write(tmp_path / "a.json", '{"text": "x"}\n{"text": "y"}')) == ["x", "y"]
    with pytest.raises(errors.InputError, match=r"line 1 is no JSON.*jq -c '\.\[\]'"):
        contents(write(tmp_path / "b.json", '[\n{"text": "x"}\n]'))
