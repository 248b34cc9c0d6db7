"""A call in parts gives each part what its own call gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mi_core as mi
from mi_core.lots import in_one_row
from mi_core.protocols import Batch, Memory, Part, Stream
from mi_core.taps import IDLE

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "rotary": {"model_type": "llama", **TINY},
    "length-dependent rotary": {
        "model_type": "llama",
        **TINY,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    },
    "window": {"model_type": "mistral", **TINY, "sliding_window": 3},
}


def batch_of(start: int, rows: int, columns: int) -> Batch:
    ids = (torch.arange(rows * columns) * 7 % 11).view(rows, columns)
    begun = torch.full((rows,), start)
    count = torch.full((rows,), columns)
    return Batch(ids, begun, count, begun + count, start + torch.arange(columns).expand(rows, columns))


def prefixes(model: mi.Model, start: int, rows: int, total: int) -> Memory | None:
    """What the last layer remembers of as many tokens."""
    if start == 0:
        return None
    whole = {"total": torch.full((rows,), total), "record": "end", "shared": {}}
    prefix = Batch(**{**vars(batch_of(0, rows, start)), **whole})
    stream, _ = model.backend.blocks[0](model.backend.embed(prefix, IDLE), prefix, IDLE, None)
    return model.backend.blocks[1](stream, prefix, IDLE, None)[1]


@pytest.mark.parametrize("name", CONFIGS)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(1, 4)), min_size=2, max_size=4),
    keep_last=st.booleans(),
)
@torch.no_grad()
def test_a_call_in_parts_is_the_calls_one_by_one(name, shapes, keep_last):
    model = mi.build(CONFIGS[name], seed=1, trainable=False)
    block = model.backend.blocks[1]
    parts, streams, alone = [], [], []
    for start, rows, columns in shapes:
        batch = batch_of(start, rows, columns)
        if keep_last:
            batch = Batch(**{**vars(batch), "keep": batch.length[:, None] - 1, "shared": {}})
        memory = prefixes(model, start, rows, start + columns)
        stream = model.backend.embed(batch, IDLE)
        alone.append(block(stream, batch, IDLE, memory)[0].resid.flatten(0, 1))
        parts.append(Part(Batch(**{**vars(batch), "shared": {}}), memory))
        streams.append(stream.resid.flatten(0, 1))
    together, remembered = block(Stream(torch.cat(streams)[None]), in_one_row(parts), IDLE, None)
    assert remembered is None
    torch.testing.assert_close(together.resid[0], torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_only_backends_whose_layers_all_mix_by_attention_take_parts():
    assert mi.build({"model_type": "llama", **TINY}).shape.parts
    recurrent = {"model_type": "rwkv", "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 11}
    assert not mi.build({**recurrent, "attention_hidden_size": 16, "intermediate_size": 32}).shape.parts
