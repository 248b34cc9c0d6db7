"""``position_ids`` move the logits, or are refused: nowhere are they read and forgotten."""

from __future__ import annotations

import pytest
import torch
from small_models import family_example

from mi_core.errors import MaskMismatch

TOKENS = [[3, 4, 5, 6, 7]]
SPREAD = [[0, 2, 3, 7, 9]]


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "xglm", "gpt_neox", "smollm3", "deepseek_v2", "ministral3"])
def test_positions_move_the_logits_where_they_are_read(family: str) -> None:
    model = family_example(family)
    moved = model.run(TOKENS, position_ids=SPREAD).logits
    assert not torch.allclose(moved, model.run(TOKENS).logits, atol=1e-4)


@pytest.mark.parametrize("family", ["bloom", "mpt", "rwkv", "rwkv5", "rwkv6", "rwkv7"])
def test_positions_are_refused_where_nothing_reads_them(family: str) -> None:
    model = family_example(family)
    with pytest.raises(MaskMismatch, match=r"position 2 at its token 1, which would change nothing: \w+ reads no pos"):
        model.run(TOKENS, position_ids=SPREAD)
    with pytest.raises(MaskMismatch, match="reads no positions"):
        model.generate(TOKENS, position_ids=SPREAD, max_new_tokens=1)
    mask = [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    counted = model.run(TOKENS * 2, attention_mask=mask, position_ids=[[9, 9, 0, 1, 2], [0, 1, 2, 3, 4]])
    assert torch.equal(counted.logits, model.run(TOKENS * 2, attention_mask=mask).logits)
