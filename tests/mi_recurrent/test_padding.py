"""A row among padding, on whichever side, is that row alone: logits, activations, states, and what it remembers."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from original_checkpoints import DATA, VERSIONS
from torch import Tensor

import mi_core as mi
from mi_core.run import Run

MODELS = {version: mi.load(str(DATA / f"{version}-seed0")) for version in VERSIONS}
ROWS = [[7, 1, 9, 4, 2], [3, 5, 6, 0, 2, 8, 11, 90, 4, 4, 1, 17, 33, 9, 2, 40, 41, 42, 8], [60]]
WIDTH = 23
SPEC = mi.capture("*") + mi.capture(["blocks.*.mixer.hook_state", "blocks.*.mixer.hook_effective_attn"])


def laid_out(side: str) -> tuple[Tensor, Tensor]:
    """Ids with pads that would matter if anybody looked at them, and the mask."""
    ids = torch.randint(96, (len(ROWS), WIDTH), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids)
    for number, row in enumerate(ROWS):
        left = {"left": WIDTH - len(row), "right": 0, "both": 2}[side]
        ids[number, left : left + len(row)] = torch.tensor(row)
        mask[number, left : left + len(row)] = 1
    return ids, mask


@cache
def run_alone(version: str, number: int) -> Run:
    return MODELS[version].run(ROWS[number], SPEC, resumable=True)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_row_is_the_row_alone(version: str, side: str) -> None:
    ids, mask = laid_out(side)
    batch = MODELS[version].run(ids, SPEC, attention_mask=mask, resumable=True)
    memory = batch.memory()
    for number in range(len(ROWS)):
        real = mask[number].bool()
        alone = run_alone(version, number)
        same(batch.logits[number][real], alone.logits[0])
        for name in alone:
            value = batch[name][number]
            same(value[:, real][:, :, real] if name.endswith("effective_attn") else value[real], alone[name][0])
        for name, tensor in memory.rows(torch.tensor([number])).tensors().items():
            same(tensor, alone.memory().tensors()[name])
        assert bool((batch.logits[number][~real] == 0).all())


def same(seen: Tensor, wanted: Tensor) -> None:
    assert seen.shape == wanted.shape
    difference = float((seen - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    assert difference <= 1e-5, f"{difference:.2e} of the largest, at most 1e-5 wanted"
