from __future__ import annotations

import os
import subprocess
import sys

import broken_backends
import torch

import mi_core as mi
from mi_core.cli.main import main


def shell(*words, **env):
    return subprocess.run(
        [sys.executable, "-m", "mi_core.cli.main", "check", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "140", "OMP_NUM_THREADS": "1", **env},
    )


def test_a_family_that_keeps_the_contract_gives_a_table_and_zero():
    ran = shell("llama", "--examples", 1, "--only", "names_are_standard", "--only", "check_residual_equations")
    assert ran.returncode == 0, ran.stderr
    assert "what it means" in ran.stdout
    assert "names_are_standard" in ran.stdout
    assert "The stream starts as the embedding" in ran.stdout
    assert "12 of 12 hold, on 6 model(s)." in ran.stdout


def test_a_checkpoint_is_checked_as_it_is(tmp_path, capsys):
    mi.save_model(broken_backends.plain(), tmp_path / "saved")
    assert main(["check", f"{tmp_path}/saved", "--examples", "1", "--only", "weights_are_finite"]) == 0
    assert "1 of 1 hold, on 1 model(s)." in capsys.readouterr().out


def test_nan_weights_are_found_and_named_and_the_status_is_one(tmp_path):
    model = broken_backends.plain()
    with torch.no_grad():
        next(iter(model.module.parameters()))[3, 4] = torch.inf
    mi.save_model(model, tmp_path / "saved")
    ran = shell(f"{tmp_path}/saved", "--examples", 1)
    assert ran.returncode == 1
    assert "hold NaN or infinity: embed_weight (1)" in ran.stdout
    assert "Stopped there" in ran.stdout


def test_an_unknown_name_is_refused_in_one_line():
    for words in (("no-such-thing",), ("llama", "--only", "nonsense")):
        ran = shell(*words)
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr
        assert len(ran.stderr.strip().splitlines()) == 1


def test_the_number_of_examples_comes_from_the_option_or_the_variable():
    only = ("--only", "names_are_standard")
    assert "6 x 3" in shell("llama", *only, "--examples", 3).stdout
    assert "6 x 4" in shell("llama", *only, MI_CHECK_EXAMPLES="4").stdout
