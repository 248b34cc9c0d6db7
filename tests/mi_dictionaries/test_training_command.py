"""``mi dictionary train``, on a harvest and on a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mi_core.errors import BadConfig, CorruptShard
from mi_dictionaries.loading import load
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.training import StoredActivations
from mi_dictionaries.training.command import mi_command

POINT = "blocks.1.hook_resid_post"
SMALL = ("-C", "batch=64", "-C", "mix_tokens=256", "-C", "lr=0.01")
TEXTS = "The capital of France is Paris. The capital of Italy is Rome. Anna gave the book to Ben.\n" * 60


def run(*arguments: str) -> str:
    import typer

    app = typer.Typer()
    app.command()(mi_command())
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_a_model_reads_a_corpus_and_a_harvest_gives_what_it_stored(tmp_path: Path) -> None:
    import mi_core as mi

    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXTS)
    shape = ("--tokens", "1280", "--d-sae", "32", "-O", "k=4", *SMALL)
    said = run("tiny-world", "--data", str(corpus), "--context", "16", "-p", POINT, *shape, "-o", str(tmp_path / "a"))
    assert "batchtopk, 32 features, L0 4.0" in " ".join(said.split())
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20
    found = load(tmp_path / "a" / "dictionary")
    assert isinstance(found, SparseDictionary)
    assert (found.reads, found.d_in, found.d_sae) == ((POINT,), 128, 32)

    mi.harvest(mi.load("tiny-world"), [corpus], [POINT, "blocks.1.hook_mlp_out"], tmp_path / "harvest")
    harvest = (str(tmp_path / "harvest"), "-p", POINT, "-p", "blocks.1.hook_mlp_out")
    run(*harvest, *shape, "--architecture", "topk", "--layout", "own", "-o", str(tmp_path / "b"))
    trained = load(tmp_path / "b" / "dictionary")
    assert isinstance(trained, SparseDictionary)
    assert trained.writes == ("blocks.1.hook_mlp_out",)
    assert trained.about.model == "tiny-world"  # the harvest knows
    (tmp_path / "harvest").rename(tmp_path / "elsewhere")  # and is the same wherever it lies
    run(str(tmp_path / "elsewhere"), *harvest[1:], *shape, "--architecture", "topk", "-o", str(tmp_path / "b"))


def test_a_harvest_that_is_hurt_is_not_trained_on(tmp_path: Path) -> None:
    import mi_core as mi

    made = mi.harvest(mi.load("tiny-world"), [TEXTS[:90]] * 40, POINT, tmp_path, shard_rows=200)
    assert StoredActivations(made).length == made.rows
    path = made.files[2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptShard, match=rf"{path.name}.* Harvest\.sound\(\)"):
        StoredActivations(mi.Harvest(tmp_path))
    assert StoredActivations(mi.Harvest(tmp_path).sound()).length < made.rows


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="batchtopk has no option 'l1'"):
        run("tiny-world", "-p", POINT, "--tokens", "64", "--d-sae", "8", "-O", "l1=1", "-o", str(tmp_path))
    with pytest.raises(BadConfig, match="no field 'epochs'"):
        run("tiny-world", "-p", POINT, "--tokens", "64", "--d-sae", "200", "-C", "epochs=1", "-o", str(tmp_path))
