from __future__ import annotations

import json

import pytest
import torch
from tiny_llama import write_tiny_llama

import mi_core as mi
from mi_core.cli.main import main
from mi_core.harvests.collecting import Collector

RESID = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    texts = ["the cat sat", "a dog", "the cat"]
    path.write_text("\n".join(json.dumps({"story": text, "id": number}) for number, text in enumerate(texts)))
    return str(path)


def test_it_writes_what_the_function_writes_and_says_what(folder, data, tmp_path, capsys):
    options = ["--field", "story", "--pos", "-2:", "--store", "bfloat16"]
    assert main(["harvest", folder, data, "-p", RESID, "-p", "hook_embed", "-o", str(tmp_path / "a"), *options]) == 0
    seen = capsys.readouterr().out
    model = mi.load(folder)
    points, texts = [RESID, "hook_embed"], ["the cat sat", "a dog", "the cat"]
    made = mi.harvest(model, texts, points, tmp_path / "b", pos=slice(-2, None), dtype=torch.bfloat16)
    there = mi.Harvest(tmp_path / "a")
    assert (tmp_path / "a" / "shard-000000.safetensors").read_bytes() == made.shard(0).path.read_bytes()
    assert f"{there.rows} of" in seen
    assert "in 3 documents" in seen
    assert f"{RESID}  [row d_model={model.shape.d_model}]  bfloat16" in seen


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--field", "stroy"], "Did you mean 'story'"),
        (["--field", "story", "--pos", "last"], "'last' is no position"),
        (["--field", "story", "--divided", "word"], "divided='word'"),
        (["--field", "story", "-p", "blocks.9.hook_resid_post"], "blocks.9"),
        (["--field", "story", "-p", "blocks.0.attn.hook_pattern"], "no row for each token"),
        (["--field", "story", "--long", "cut"], "long='cut'"),
        (["--field", "story", "--check"], "--check is of a harvest alone"),
        (["--field", "story", "--shard-rows", "0"], "shard_rows=0: give at least 1"),
        (["--field", "story", "--batch-tokens", "0"], "batch_tokens=0: give at least 1"),
        (["--field", "story", "--context", "0"], "context=0: give at least 2"),
        (["--field", "story", "--overlap", "-3"], "overlap=-3: give at least 0"),
    ],
)
def test_what_is_wrong_is_one_message(folder, data, tmp_path, capsys, options, said):
    assert main(["harvest", folder, data, "-p", RESID, "-o", str(tmp_path / "out"), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_says_what_is_kept(folder, data, tmp_path, capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Collector, "collect", stopped)
    words = ["harvest", folder, data, "-p", RESID, "-o", str(tmp_path / "out"), "--field", "story"]
    assert main(words) == 130
    assert "has 0 whole shards, and the same call goes on from them" in " ".join(capsys.readouterr().err.split())


def test_a_harvest_alone_is_shown(folder, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["harvest", folder, data, "-p", RESID, "-o", str(out), "--field", "story", "--skip-bos"]) == 0
    made = capsys.readouterr().out
    assert main(["harvest", str(out)]) == 0
    seen = capsys.readouterr().out
    assert seen.startswith(made)
    for said in (f"capture('{RESID}')", f"{folder} (llama), weights", f"{data}, field 'story'", "3 documents, SHA-256"):
        assert said in seen
    assert main(["harvest", str(out), "--check"]) == 0
    assert "every byte of every shard is as it was written" in capsys.readouterr().out
    path = mi.Harvest(out).files[0]
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(bytes(content))
    assert main(["harvest", str(out)]) == 0
    assert "hurt" not in capsys.readouterr().out
    assert main(["harvest", str(out), "--check"]) == 2
    said = capsys.readouterr().out
    assert "its checksum differs" in said
    assert "every byte" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny-world"], "'tiny-world' is no harvest to show; to make one, give DATA, --points and --out"),
        (["tiny-world", "a.txt", "-o", "out"], "--points: is missing"),
        (["tiny-world", "a.txt", "-p", RESID], "--out: is missing"),
        (["tiny-world", "-p", RESID, "-o", "out"], "DATA: is missing"),
    ],
)
def test_what_is_missing_is_said(words, said, capsys):
    assert main(["harvest", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
