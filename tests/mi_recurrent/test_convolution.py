"""Short convolutions: sums over the last inputs, in one call or in pieces, with the inputs as something to write to."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import SEEDS, close, family_example
from torch import Tensor

import mi_core as mi
from mi_core.protocols import Batch
from mi_core.taps import IDLE
from mi_recurrent.convolution import convolved

SHIFT = "mixer.hook_shift"


def batch_of(rows: int, length: list[int], columns: int, record: Any, start: int = 0) -> Batch:
    starts = torch.full((rows,), start)
    positions = starts[:, None] + torch.arange(columns)
    real = torch.tensor(length)
    return Batch(torch.zeros(rows, columns).long(), starts, real, starts + real, positions, record=record)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(pos=st.integers(2, 9), cut=st.integers(1, 8), width=st.integers(2, 5), biased=st.booleans(), seed=SEEDS)
def test_pieces_give_what_the_whole_gives(pos: int, cut: int, width: int, biased: bool, seed: int) -> None:
    cut, channels = min(cut, pos - 1), 3
    x, weight = draw(seed, 2, pos, channels), draw(seed + 1, channels, 1, width)
    bias = draw(seed + 2, channels) if biased else None
    line = torch.cat((torch.zeros(2, width - 1, channels), x), 1)
    wanted = torch.stack([(line[:, t : t + width] * weight[:, 0].T).sum(1) for t in range(pos)], 1)
    wanted = wanted if bias is None else wanted + bias
    whole, kept = convolved(x, weight, bias, None, batch_of(2, [pos] * 2, pos, None), IDLE)
    assert kept is None
    close(whole, wanted)
    first, kept = convolved(x[:, :cut], weight, bias, None, batch_of(2, [cut] * 2, cut, "end"), IDLE)
    assert kept is not None
    rest, _ = convolved(x[:, cut:], weight, bias, kept[:, 0], batch_of(2, [pos - cut] * 2, pos - cut, None, cut), IDLE)
    close(torch.cat((first, rest), 1), wanted)


@given(length=st.lists(st.integers(1, 6), min_size=2, max_size=2), seed=SEEDS)
def test_what_is_kept_of_a_short_row_is_behind_its_own_last_token(length: list[int], seed: int) -> None:
    x, weight = draw(seed, 2, 6, 3), draw(seed + 1, 3, 1, 4)
    _, kept = convolved(x, weight, None, None, batch_of(2, length, 6, "end"), IDLE)
    assert kept is not None
    for row, count in enumerate(length):
        _, alone = convolved(x[row : row + 1, :count], weight, None, None, batch_of(1, [count], count, "end"), IDLE)
        assert alone is not None
        assert torch.equal(kept[row], alone[0])


def test_a_write_to_what_positions_leave_acts_from_the_next_one_on() -> None:
    model = family_example("qwen3_5_text")
    ids = torch.arange(1, 9)[None]
    read = mi.capture(["blocks.0.mixer.hook_v", f"blocks.0.{SHIFT}"])
    plain = model.run(ids, read)
    run = model.run(ids, mi.intervene(f"blocks.0.{SHIFT}", mi.Zero().at(pos=3)) + read)
    same = (run["blocks.0.mixer.hook_v"] == plain["blocks.0.mixer.hook_v"]).flatten(2).all(-1)[0]
    # the convolution is four tokens wide: three see what position 3 left, and position 3 itself does not
    assert same.tolist() == [True] * 4 + [False] * 3 + [True]
    assert (run[f"blocks.0.{SHIFT}"][0, 3] == 0).all()
    assert torch.equal(run[f"blocks.0.{SHIFT}"][0, 4, :-1], torch.zeros_like(run[f"blocks.0.{SHIFT}"][0, 4, :-1]))
