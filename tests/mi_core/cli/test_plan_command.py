from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import write_tiny_llama

import mi_core as mi
from mi_core.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


def lines(text: str) -> str:
    """What was printed, whatever the terminal's width did to it."""
    return " ".join(text.split())


def test_it_says_what_a_run_would_do(folder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mi.intervene("blocks.0.hook_mlp_out", mi.Zero()).save(tmp_path / "spec.json")
    words = ["--capture", "blocks.*.hook_resid_post", "--pos", "-1", "--host", "--logits", "none"]
    assert main(["plan", folder, "the cat", "--spec", str(tmp_path / "spec.json"), *words]) == 0
    seen = lines(capsys.readouterr().out)
    spec = mi.HookSpec.load(tmp_path / "spec.json")
    spec += mi.capture("blocks.*.hook_resid_post", device="host").at(pos=-1)
    assert seen == lines(mi.load(folder).plan("the cat", spec, logits=None).explain())


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (["--grid", "resid"], "layer x"),
        (["--grid", "heads"], " head"),
        (["--grid", "edges", "--each", "layer,query_pos"], " query_pos"),
        (["--grid", "blocks.1.hook_mlp_out", "--each", "pos"], " pos"),
        (["--grid", "resid", "--source", "the cat"], "one run more"),
    ],
)
def test_it_says_what_a_sweep_would_do(
    folder: str, capsys: pytest.CaptureFixture[str], words: list[str], cells: str
) -> None:
    assert main(["plan", folder, "the cat", *words]) == 0
    seen = lines(capsys.readouterr().out)
    assert cells in seen
    assert "of the operations of a loop of whole runs" in seen


def test_json_is_the_plan(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", folder, "the cat", "the dog", "--json", "--batch-tokens", "8"]) == 0
    data: Any = json.loads(capsys.readouterr().out)
    assert data == mi.load(folder).plan(["the cat", "the dog"], batch_tokens=8).to_json()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--logits", "some"], "say all, last or none"),
        (["--each", "layer"], "goes with --grid"),
        (["--source", "the dog"], "goes with --grid"),
        (["--pos", "0"], "goes with --capture"),
        (["--host"], "goes with --capture"),
        (["--grid", "resid", "--capture", "*"], "a sweep keeps no activations"),
        (["--grid", "nonsense"], "has no point 'nonsense'"),
        (["--grid", "resid", "--each", "layer,head"], "a grid over 'head' needs a dim"),
        (["--capture", "blocks.9.hook_resid_post"], "UnknownPoint"),
        (["--batch-tokens", "0"], "at least 1"),
        (["--spec", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(
    folder: str, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["plan", folder, "the cat", *words]) == 2
    problem = capsys.readouterr().err
    assert said in lines(problem.replace("│", " "))
    assert "Traceback" not in problem


def test_help_names_every_grid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    seen = lines(capsys.readouterr().out.replace("│", " "))
    assert "resid, attn, mlp, heads, edges" in seen
