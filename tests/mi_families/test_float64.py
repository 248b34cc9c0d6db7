"""In double precision the reference's numbers are ours to rounding, whether the weights lie in one file or in several.

Where the reference names float32, it computes in float64 here; both make rotary angles in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from checkpoints import reference, reference_run
from family_examples import EXAMPLES, FAMILIES, attention
from torch import Tensor

import mi_core as mi

BOUND = 1e-10
ROUTER = "its router's weights are rounded to single precision"
KEPT = "its router stays in single precision"
OTHERWISE_NARROW = {
    "bloom": "a constant of its activation has eight digits",
    "cohere2_moe": ROUTER,
    "codegen": "its rotary angles follow torch's default dtype",
    "deepseek_v2": "its rotation is complex, in single precision",
    "ernie4_5_moe": KEPT,
    "flex_olmo": ROUTER,
    "flint": KEPT,
    "hy_v3": KEPT,
    "gptj": "its rotary angles follow torch's default dtype",
    "hunyuan_v1_moe": KEPT,
    "mellum": ROUTER,
    "llama4_text": "its rotation is complex, in single precision",
    "olmoe": ROUTER,
    "phimoe": "its rotation rounds once more in single precision",
    "qwen2_moe": ROUTER,
    "qwen3_5_moe": ROUTER,
    "qwen3_5_moe_text": ROUTER,
    "qwen3_moe": ROUTER,
    "qwen3_next": ROUTER,
}
"""Families whose reference rounds something to single precision in another way: 1e-6 then."""
NOT_WIDE = {"xglm": "its mask overflows: it cannot be run in float64"}


@contextmanager
def wide() -> Iterator[None]:
    """Let the reference's casts to float32 keep what is float64."""
    narrow = torch.Tensor.float
    kept = patch.object(torch.Tensor, "float", lambda t: t if t.dtype is torch.float64 else narrow(t))
    with patch.object(torch, "float32", torch.float64), kept:
        yield


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NOT_WIDE])
def test_double_precision_is_the_reference_s_from_one_file_or_several(family: str, tmp_path: Path) -> None:
    name, ids = f"{family}-0", torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(1))
    theirs = reference(EXAMPLES[name], dtype="float64", attention=attention(name))
    with nullcontext() if OTHERWISE_NARROW.get(family) == KEPT else wide():
        wanted = reference_run(theirs, ids).logits
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2

    def logits(folder: str) -> Tensor:
        model = mi.load(str(tmp_path / folder))
        assert model.dtype == torch.float64
        return model.run(ids).logits

    ours = logits("whole")
    bound = 1e-6 if family in OTHERWISE_NARROW else BOUND
    difference = (ours - wanted).abs().max().item()
    assert difference <= bound, f"largest difference {difference:.2e}, at most {bound:.0e} wanted"
    torch.testing.assert_close(logits("shards"), ours, atol=1e-12, rtol=0)
