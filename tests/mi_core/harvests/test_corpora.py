from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core import errors
from mi_core.harvests.corpora import corpus_of

TEXTS = ["One.", "Zwei, größer.", "三"]
RECORDS = [{"text": text, "label": number} for number, text in enumerate(TEXTS)]


def contents(data: Any, **options: Any) -> list[Any]:
    return [document.content for document in corpus_of(data, **options)]


def lines(path: Path, *rows: str) -> Path:
    path.write_bytes("\n".join(rows).encode())
    return path


def table(texts: Any = TEXTS) -> Any:
    import pyarrow as pa

    return pa.table({"label": list(range(len(texts))), "text": texts})


def parquet(path: Path, texts: Any = TEXTS) -> Path:
    import pyarrow.parquet as pq

    pq.write_table(table(texts), path, row_group_size=2)
    return path


def arrow(path: Path, stream: bool) -> Path:
    import pyarrow as pa

    made = table()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), made.schema) as sink:
        sink.write_table(made, max_chunksize=2)
    return path


def kinds(folder: Path) -> dict[str, Any]:
    """The same documents in every kind of data."""
    json_lines = "\n\n".join(json.dumps(record) for record in RECORDS)
    (folder / "a.jsonl").write_text(json_lines, encoding="utf-8")
    with gzip.open(folder / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json_lines)
    lines(folder / "a.txt", "\ufeff" + TEXTS[0] + "\r", "", " ", *TEXTS[1:], "")
    return {
        "a text file": folder / "a.txt",
        "its name": str(folder / "a.txt"),
        "json lines": folder / "a.jsonl",
        "compressed": folder / "a.jsonl.gz",
        "parquet": parquet(folder / "a.parquet"),
        "an arrow file": arrow(folder / "a.arrow", False),
        "an arrow stream": arrow(folder / "b.arrow", True),
        "several": [lines(folder / "b.txt", TEXTS[0]), lines(folder / "c.txt", *TEXTS[1:])],
        "a table": table(),
        "a list": TEXTS,
        "an iterator": iter(TEXTS),
        "records": RECORDS,
    }


def test_documents_are_the_same_in_every_kind_of_data(tmp_path) -> None:
    for kind, data in kinds(tmp_path).items():
        corpus = corpus_of(data)
        documents = list(corpus)
        assert [document.content for document in documents] == TEXTS, kind
        assert [document.number for document in documents] == [0, 1, 2], kind
        done = [document.done for document in documents]
        assert done == sorted(done), kind
        assert corpus.total is not None, kind
        assert corpus.total - 1 <= done[-1] <= corpus.total, kind  # a blank line may follow


@pytest.fixture(scope="module")
def dataset() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict({"id": list(range(len(TEXTS))), "story": TEXTS})


def test_datasets_are_read_by_their_field(dataset) -> None:
    assert contents(dataset, field="story") == TEXTS
    assert corpus_of(dataset, field="story").total == 3
    assert contents(dataset["story"]) == contents(dataset.with_format("torch"), field="story") == TEXTS
    with pytest.raises(errors.InputError, match=r"'id', 'story': say with field="):
        corpus_of(dataset)
    with pytest.raises(errors.InputError, match=r"no field 'stroy'.*Did you mean 'story'"):
        corpus_of(dataset, field="stroy")


def test_datasets_that_stream_are_read_as_they_come(dataset) -> None:
    import datasets

    streams = {
        "with columns": dataset.to_iterable_dataset(),
        "without": datasets.IterableDataset.from_generator(lambda: ({"story": text, "id": 0} for text in TEXTS)),
    }
    for kind, stream in streams.items():
        corpus = corpus_of(stream, field="story")
        assert [document.content for document in corpus] == TEXTS, kind
        assert corpus.total is None, kind
        assert contents(stream.skip(1), field="story") == TEXTS[1:], kind


def test_datasets_on_disk_are_read_without_what_is_cached_beside_them(dataset, tmp_path) -> None:
    import datasets

    dataset.save_to_disk(tmp_path / "one", num_shards=2)
    loaded = datasets.load_from_disk(tmp_path / "one")
    loaded.map(lambda row: {"story": row["story"].upper()})  # leaves its result in the folder
    assert len(list((tmp_path / "one").glob("*.arrow"))) == 3
    assert contents(tmp_path / "one", field="story") == TEXTS
    splits = datasets.DatasetDict({"train": dataset, "test": dataset})
    splits.save_to_disk(tmp_path / "two")
    for several in (splits, tmp_path / "two"):
        with pytest.raises(errors.InputError, match=r"several splits \(train, test\)"):
            corpus_of(several)
    assert contents(tmp_path / "two" / "test", field="story") == TEXTS


def test_data_frames_are_read_by_their_field() -> None:
    import pandas as pd

    frame = pd.DataFrame({"label": [3, 1, 2], "text": TEXTS})
    assert contents(frame) == contents(frame["text"]) == TEXTS
    assert corpus_of(frame).total == 3
    with pytest.raises(errors.InputError, match="has no field 'body'; it has 'label', 'text'"):
        corpus_of(frame, field="body")


@given(st.lists(st.lists(st.integers(0, 2**40)), min_size=1))
def test_ids_are_taken_as_lists_tuples_arrays_and_tensors(rows) -> None:
    wanted = [tuple(row) for row in rows]
    assert contents(rows) == wanted
    assert contents([torch.tensor(row, dtype=torch.long) for row in rows]) == wanted
    assert contents([np.array(row, dtype=np.int64) for row in rows]) == wanted
    assert contents([{"ids": row} for row in rows]) == wanted


def test_an_id_tensor_has_a_document_in_each_row() -> None:
    assert contents(torch.tensor([[1, 2], [3, 4]])) == [(1, 2), (3, 4)]
    with pytest.raises(errors.InputError, match=r"shape \[3\]"):
        corpus_of(torch.tensor([1, 2, 3]))


def test_text_is_divided_as_it_is_said(tmp_path) -> None:
    path = lines(tmp_path / "a.py", "def f():", "    pass", "", " ", "f()")
    assert contents(path, divided="line") == ["def f():", "    pass", "f()"]
    assert contents(path, divided="paragraph") == ["def f():\n    pass", "f()"]
    assert contents(path, divided="file") == ["def f():\n    pass\n\n \nf()"]


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("a.py", b"x", {}, r"'\.py' is none of \.txt.*divided='line'"),
        ("a.json", b'[{"text": "x"}]', {}, r"document 0 of .*a\.json is neither"),
        ("a.txt", b"x", {"divided": "word"}, "divided='word'"),
        ("a.txt", b"fine\n\xff\xfe", {}, r"a\.txt, line 2 is no UTF-8.*byte 0"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', {}, r"a\.jsonl, line 2 is no JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "x", "id": 1}', {}, r"document 1 of .* has the fields 'body', 'id'"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "x"}', {"field": "text"}, "document 1 of .* has no field 'text'"),
        ("a.jsonl", b'{"text": null}', {}, "document 0 of .* neither a text nor a list of token ids: None"),
        ("a.jsonl", b"[1, 2.5]", {}, "document 0 of .* neither"),
        ("a.jsonl", b"[1, true]", {}, "document 0 of .* neither"),
        ("a.parquet", b"PAR?", {}, r"a\.parquet cannot be read"),
        ("a.arrow", b"nothing", {}, r"a\.arrow cannot be read"),
    ],
)
def test_files_that_are_no_corpus_are_refused(tmp_path, name, content, options, said) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.InputError, match=said):
        contents(tmp_path / name, **options)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("nowhere.txt", {}, "there is no file 'nowhere.txt'"),
        (17, {}, "an int is no corpus"),
        ({"text": "x"}, {}, "a dict is no corpus"),
        (["x", 3], {}, "document 1 of a list is neither"),
        (["x"], {"divided": "line"}, "these data are a list"),
    ],
)
def test_what_is_no_corpus_is_refused(data, options, said) -> None:
    with pytest.raises(errors.InputError, match=said):
        contents(data, **options)


def test_an_unknown_field_of_a_table_is_refused_with_those_there_are(tmp_path) -> None:
    for data in (parquet(tmp_path / "a.parquet"), arrow(tmp_path / "a.arrow", True), table()):
        with pytest.raises(errors.InputError, match="no field 'body'; it has 'label', 'text'"):
            contents(data, field="body")


def test_ids_may_be_a_column_of_a_file(tmp_path) -> None:
    assert contents(parquet(tmp_path / "a.parquet", [[1, 2], [3]])) == [(1, 2), (3,)]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch) -> None:
    path = parquet(tmp_path / "a.parquet")
    for name in [name for name in sys.modules if name.startswith("pyarrow")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(errors.MiError, match=r"pip install 'mi-core\[data\]'"):
        contents(path)
