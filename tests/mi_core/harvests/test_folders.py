from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from harvested import RESID, bytes_in, documents, harvest, unflushed
from small_models import small, talking

import mi_core as mi
from mi_core import errors
from mi_core.harvests import folder as folder_files
from mi_core.harvests import shards
from mi_core.harvests.collecting import Collector
from mi_core.harvests.ranks import Ranks
from mi_core.harvests.settings import PROBE


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    with unflushed():
        yield


def test_a_call_that_wrote_nothing_binds_nobody(tmp_path) -> None:
    with pytest.raises(errors.InputError, match="document 0"):
        harvest(tmp_path, [3.5])
    assert (tmp_path / "index.json").exists()
    made = harvest(tmp_path, dtype="bfloat16")
    assert made.complete
    with pytest.raises(errors.HarvestMismatch, match="dtype: bfloat16 there"):
        harvest(tmp_path)


def test_files_that_are_no_shards_are_not_replaced(tmp_path) -> None:
    stranger = tmp_path / shards.shard_name(1)
    stranger.write_bytes(b"somebody's weights")
    with pytest.raises(errors.HarvestMismatch, match=rf"has no index\.json, but '{stranger.name}'"):
        harvest(tmp_path)
    assert bytes_in(tmp_path) == {stranger.name: b"somebody's weights"}


@pytest.mark.parametrize("content", ["{", '{"format": "mi-core harvest 2"}', '{"weight_map": {}}'])
def test_an_index_that_is_not_read_is_not_replaced(tmp_path, content) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(errors.HarvestError, match=r"is no index of a harvest"):
        harvest(tmp_path)
    assert bytes_in(tmp_path) == {"index.json": content.encode()}


def test_a_version_that_is_not_known_is_said(tmp_path) -> None:
    (tmp_path / "index.json").write_text('{"format": "mi-core harvest 2"}')
    with pytest.raises(errors.HarvestError, match="its format is 'mi-core harvest 2', not 'mi-core harvest 1'"):
        mi.Harvest(tmp_path)


def test_an_index_that_was_lost_is_made_again_from_what_is_there(tmp_path, monkeypatch) -> None:
    harvest(tmp_path)
    before, index = bytes_in(tmp_path), tmp_path / "index.json"
    index.write_text(index.read_text()[:200])
    with pytest.raises(errors.HarvestError, match="remove it and harvest again in the same way"):
        harvest(tmp_path)
    index.unlink()
    monkeypatch.setattr(Collector, "collect", None)
    harvest(tmp_path)
    assert bytes_in(tmp_path) == before


def test_the_index_says_what_was_read(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"ids": row, "n": 1}) for row in documents()))
    made = mi.harvest(small(seed=6), path, RESID, tmp_path / "out", field="ids")
    assert made.index["data"] == {"name": str(path), "field": "ids", "divided": None}
    assert harvest(tmp_path / "list").index["end"]["digest"] == made.index["end"]["digest"]


def test_shards_of_processes_that_read_other_documents_are_not_joined(tmp_path, monkeypatch) -> None:
    """The second process has its documents in another order, as a set's would be."""
    folder, waits = tmp_path / "out", []
    other = harvest(tmp_path / "other", [*reversed(documents())])
    seconds = [path for _, path in sorted(folder_files.numbered(other.folder)) if int(path.stem[-6:]) % 2]

    def wait() -> None:
        waits.append(1)
        if len(waits) == 2:  # everybody has seen what is there: now the second one writes
            for path in seconds:
                (folder / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr("mi_core.harvests.harvesting.ranks", lambda: Ranks(0, 2, wait))
    with pytest.raises(errors.HarvestMismatch, match=rf"{seconds[0].name}.* other documents .* in the same order"):
        harvest(folder)
    assert not mi.Harvest(folder).complete


def test_a_text_that_cannot_be_encoded_is_named_by_its_document(tmp_path) -> None:
    with pytest.raises(errors.TokenizerError, match=r"document 1: .*ud800"):
        mi.harvest(talking(), ["fine", "half \ud800"], RESID, tmp_path)


def test_a_tokenizer_that_makes_fewer_tokens_of_a_document_is_refused(tmp_path) -> None:
    """One that says the same of the text by which tokenizers are told apart."""
    model = talking()

    class Short(type(model.tokenizer)):
        def encode(self, text: str, special: bool = True):
            found = super().encode(text, special)
            return found if text == PROBE else replace(found, ids=found.ids[:3])

    texts, sizes = ["one two one two one two one two"], {"context": 3, "shard_rows": 3}
    made = mi.harvest(model, texts, RESID, tmp_path, **sizes)
    assert len(made.files) > 2
    other = mi.Model(model.backend, name=model.name, config=model.config, tokenizer=Short(model.tokenizer.files))
    with pytest.raises(errors.HarvestMismatch, match="document 0 of a list has fewer tokens"):
        mi.harvest(other, texts, RESID, tmp_path, **sizes)
