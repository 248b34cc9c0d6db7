"""``mi dictionary evaluate`` prints what `evaluate` finds."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

import mi_core as mi
from mi_core.results import Result
from mi_dictionaries.evaluate_command import mi_command
from mi_dictionaries.evaluation import evaluate
from mi_dictionaries.loading import load

REF = "tiny-world/sae/blocks.1.hook_resid_post"


def test_the_command_says_what_the_function_finds(tmp_path: Path) -> None:
    texts = [f"The capital of {country} is" for country in ("France", "Italy", "Spain")]
    (tmp_path / "corpus.txt").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    app = typer.Typer()
    app.command()(mi_command())
    asked = [REF, "tiny-world", str(tmp_path / "corpus.txt"), "--rows", "2", "--json", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    model = mi.load("tiny-world")
    assert model.tokenizer is not None
    assert model.tokenizer.bos is not None
    wanted = evaluate(model, load(REF), [texts[:2], texts[2:]], skip=(model.tokenizer.bos,))
    assert Result.from_json(tmp_path / "found.json") == wanted
    assert f"{wanted.tokens} tokens" in done.output
    assert "ce_recovered" in done.output
