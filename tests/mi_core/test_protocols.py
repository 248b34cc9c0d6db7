from __future__ import annotations

import torch
from small_models import small

from mi_core.protocols import Backend, Batch, Block, Tap
from mi_core.taps import IDLE


def batch() -> Batch:
    zeros = torch.zeros(1, dtype=torch.long)
    return Batch(zeros[None], zeros, zeros + 1, zeros + 1, zeros[None])


def test_the_engine_is_a_backend_of_blocks() -> None:
    backend = small().backend
    assert isinstance(backend, Backend)
    assert isinstance(backend.blocks, tuple)
    assert all(isinstance(block, Block) for block in backend.blocks)
    assert isinstance(IDLE, Tap)


def test_a_batch_makes_a_shared_value_once_and_shares_it_with_no_other_batch() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    one, other = batch(), batch()
    assert [one.once("x", make), one.once("x", make), other.once("x", make)] == [1, 1, 2]
