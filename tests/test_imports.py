"""What an import costs: ``import mi_core`` brings no plugin and nothing that only some need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LAZY = (
    *("transformers", "accelerate", "tokenizers", "huggingface_hub", "typer", "rich", "jinja2", "pandas"),
    *("mi_decoder", "mi_recurrent", "mi_families", "mi_analyses", "mi_dictionaries", "mi_probing", "mi_registry"),
    *("hypothesis", "pytest"),
)
LISTED = f"print(*sorted(set({LAZY!r}) & {{name.partition('.')[0] for name in sys.modules}}))"


def imported_by(code: str, cwd: Path) -> list[str]:
    """Which of the packages above a fresh interpreter holds after these lines."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{LISTED}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_core_imports_no_plugin_and_nothing_heavy(tmp_path: Path) -> None:
    assert imported_by("import mi_core", tmp_path) == []


def test_a_run_imports_the_one_family_it_needs_and_no_analysis(tmp_path: Path) -> None:
    code = """
import mi_core as mi
model = mi.build({"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2})
model.run([[1, 2]], mi.capture("*"))
"""
    assert imported_by(code, tmp_path) == ["mi_decoder", "mi_families"]


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("lens", "--help")])
def test_the_command_line_starts(arguments: tuple[str, ...], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("mi")
    done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "broken:" not in done.stdout
