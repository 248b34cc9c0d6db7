"""Fresh random files of every version give what their authors' package ``rwkv`` gives, where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from original_checkpoints import VERSIONS, random_original
from safetensors.torch import load_file
from torch import Tensor

import mi_core as mi

SCRIPT = Path(__file__).parent.parent / "rwkv_package.py"
SITES = {"state": "mixer.hook_state", "shift": "mixer.hook_shift", "channel": "mixer.hook_channel_shift"}
IDS = [3, 14, 15, 9, 26, 5, 30, 8, 9, 7, 9, 3, 23, 8, 4, 6, 26, 4, 3, 3, 8, 3, 27, 9, 5, 0, 2, 8, 8, 4, 1, 9, 7, 16, 9]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rwkv") is None, reason="the package rwkv is not installed (pip install --no-deps rwkv)"
)


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_and_states_are_those_of_the_package(version: str, tmp_path: Path) -> None:
    path, ids, out = (str(tmp_path / name) for name in ("model.pth", "ids.json", "out.safetensors"))
    torch.save(random_original(version, layers=3, heads=3, d_head=8), path)
    Path(ids).write_text(json.dumps(IDS))
    switches = {"RWKV_V7_ON": "1" if version == "rwkv7" else "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    subprocess.run([sys.executable, SCRIPT, path, ids, out], env=os.environ | switches, check=True, capture_output=True)
    theirs = load_file(out)

    model = mi.load(path, allow_pickle=True, device="cpu")
    run = model.run(IDS, mi.capture([f"blocks.*.{site}" for site in SITES.values()]))
    near(run.logits[0], theirs.pop("logits"))
    for name, wanted in theirs.items():
        layer, _, kind = name.partition(".")
        seen = run[f"blocks.{layer}.{SITES[kind]}"][0, -1]
        if version == "rwkv4" and kind == "state":  # numerator and denominator are known up to their scale
            seen, wanted = (x[:, 0] / x[:, 1] for x in (seen, wanted))
        near(seen, wanted)


def near(seen: Tensor, wanted: Tensor) -> None:
    assert seen.shape == wanted.shape
    difference = float((seen - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    assert difference <= 5e-6, f"{difference:.2e} of the largest, at most 5e-6 wanted"
