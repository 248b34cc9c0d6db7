"""Computed positions are the reference's table, row by row, in every dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.protocols import Batch
from mi_decoder import MLP, Attention, Decoder, Layer
from mi_decoder.sinusoids import Sinusoids


def batch_of(positions: torch.Tensor) -> Batch:
    zeros = torch.zeros(len(positions), dtype=torch.long)
    return Batch(torch.zeros_like(positions), zeros, zeros + positions.shape[1], zeros + positions.shape[1], positions)


@given(width=st.integers(4, 40), offset=st.integers(0, 3), seed=st.integers(0, 99))
def test_rows_are_the_reference_s(width: int, offset: int, seed: int) -> None:
    from transformers.models.xglm.modeling_xglm import XGLMSinusoidalPositionalEmbedding

    positions = torch.randint(0, 300, (2, 5), generator=torch.Generator().manual_seed(seed))
    table = XGLMSinusoidalPositionalEmbedding.get_embedding(304, width)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        found = Sinusoids(offset).embedding(None, batch_of(positions), torch.zeros(2, 5, width, dtype=dtype))
        assert torch.equal(found, table[positions + offset].to(dtype))


@pytest.mark.parametrize("positions", [None, Sinusoids()])
def test_a_decoder_with_computed_positions_has_their_site_and_no_table(positions: Sinusoids | None) -> None:
    backend = Decoder(11, 8, (Layer(Attention(2, 2, 4), MLP(12)),), positions=positions).build()
    assert backend.pos_embed_weight is None
    assert ("hook_pos_embed" in [site.name for site in backend.sites()]) == (positions is not None)
    assert "pos_embed.W_pos" not in backend.weights()
