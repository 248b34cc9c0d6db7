"""Several processes, as ``accelerate launch`` really starts them: harvests and trainings of dictionaries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import mi_core as mi

POINT = "blocks.1.hook_resid_post"
SCRIPT = f"""
import sys
import torch
import mi_core as mi
from mi_dictionaries.training import StoredActivations, TopK, TrainingConfig, train

data = [[(7 * number + place) % 900 for place in range(1 + number % 13)] for number in range(60)]
made = mi.harvest(mi.load("tiny-world", device="cpu"), data, {POINT!r}, "harvest", shard_rows=40)
config = TrainingConfig(tokens=20 * 32, batch=32, lr=1e-2, mix_tokens=128, dead_feature_window=3)
sparse, asked = TopK(d_sae=16, k=2), []


def stopped():
    asked.append(torch.distributed.get_rank())
    return asked == [1] * 5  # the second process alone, behind its fifth step


assert train(StoredActivations(made), sparse, config, out="training", stopped=stopped) is None
assert len(asked) == 5
found = train(StoredActivations(made), sparse, config, out="training")
torch.save(found.W_dec, f"weights{{torch.distributed.get_rank()}}")
torch.distributed.destroy_process_group()
"""


def launched(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What ``accelerate launch`` makes of the script."""
    (folder / "script.py").write_text(SCRIPT)
    known = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *options, "script.py"]
    environment = {**known, "HF_HOME": str(folder), "CUDA_VISIBLE_DEVICES": "", "MI_NO_SHAPE_CHECKS": "1"}
    return subprocess.run(
        [*command, *fixed], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_make_one_harvest_and_one_dictionary(tmp_path) -> None:
    done = launched(tmp_path, "--multi_gpu")
    assert done.returncode == 0, done.stderr[-3000:]
    data = [[(7 * number + place) % 900 for place in range(1 + number % 13)] for number in range(60)]
    alone = mi.harvest(mi.load("tiny-world", device="cpu"), data, POINT, tmp_path / "alone", shard_rows=40)
    assert len(alone.files) > 8
    for path in (*alone.files, alone.folder / "index.json"):
        assert (tmp_path / "harvest" / path.name).read_bytes() == path.read_bytes(), path.name
    first, second = (torch.load(tmp_path / f"weights{rank}") for rank in range(2))
    assert torch.equal(first, second)
    (line,) = (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 20
