"""Rotary frequencies and rotations are the reference's, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_core.config import Config
from mi_core.protocols import Batch
from mi_decoder import Rotary
from mi_decoder.rope_config import rotary
from mi_decoder.rope_scalings import Linear

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.5},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "yarn, no rounding": {"factor": 4.0, "original_max_position_embeddings": 4096, "truncate": False},
    "longrope": {"short_factor": [1.0, 1.2, 1.4, 2.0], "long_factor": [1.0, 2.0, 3.0, 4.0]}
    | {"original_max_position_embeddings": 16},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "proportional": {"factor": 2.0, "partial_rotary_factor": 0.5},
}


def batch_of(totals: list[int], positions: Tensor) -> Batch:
    total = torch.tensor(totals)
    return Batch(torch.zeros_like(positions), torch.zeros_like(total), total, total, positions)


@pytest.mark.parametrize("kind", SCALINGS)
@given(totals=st.lists(st.integers(1, 200), min_size=1, max_size=4), theta=st.sampled_from([10000.0, 500000.0]))
def test_frequencies_are_the_reference_s_for_each_row_s_length(kind: str, totals: list[int], theta: float) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 32}
    rope = {"rope_type": kind.partition(",")[0], "rope_theta": theta, **SCALINGS[kind]}
    config = LlamaConfig(**values, rope_parameters=dict(rope))
    ours = rotary(Config({**values, "rope_parameters": rope}), 8, 32)
    found = ours.scaling.frequencies(ours.theta, 8, torch.tensor(totals)).expand(len(totals), 4)
    for row, total in enumerate(totals):
        wanted, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"), seq_len=total)
        torch.testing.assert_close(found[row], wanted, atol=0, rtol=1e-6)
        assert ours.scaling.attention_factor == pytest.approx(factor, abs=0, rel=1e-12)


@given(seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16]), part=st.sampled_from([4, 8]))
def test_halves_turn_as_in_llama_bit_for_bit(seed: int, dtype: torch.dtype, part: int) -> None:
    from transformers.models.llama.modeling_llama import rotate_half

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 3, 8, generator=generator).to(dtype)
    turn = Rotary(part)
    cos, sin = turn.table(batch_of([5, 5], torch.randint(0, 50, (2, 5), generator=generator)), dtype)
    plain = torch.cat((-sin[..., : part // 2], sin[..., part // 2 :]), -1)
    wanted = torch.cat((x[..., :part] * cos + rotate_half(x[..., :part]) * plain, x[..., part:]), -1)
    assert torch.equal(turn.rotate(x, (cos, sin)), wanted)


@given(seed=st.integers(0, 99))
def test_neighbours_turn_as_in_glm_bit_for_bit(seed: int) -> None:
    from transformers.models.glm.modeling_glm import apply_rotary_pos_emb

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 3, 8, generator=generator)
    positions = torch.randint(0, 50, (2, 5), generator=generator)
    turn = Rotary(4, interleaved=True)
    angles = positions[..., None].float() / 10000.0 ** (torch.arange(0, 4, 2) / 4)
    angles = torch.cat((angles, angles), -1)
    wanted, _ = apply_rotary_pos_emb(x, x, angles.cos(), angles.sin(), unsqueeze_dim=2)
    found = turn.rotate(x, turn.table(batch_of([5, 5], positions), torch.float32))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@given(shift=st.integers(0, 1000), seed=st.integers(0, 99), interleaved=st.booleans())
def test_scores_depend_on_the_distance_alone(shift: int, seed: int, interleaved: bool) -> None:
    q, k = torch.randn(2, 1, 4, 1, 8, generator=torch.Generator().manual_seed(seed))
    turn = Rotary(8, interleaved=interleaved)
    scores = []
    for start in (0, shift):
        table = turn.table(batch_of([4], torch.arange(start, start + 4)[None]), torch.float32)
        scores.append(turn.rotate(q, table)[0, :, 0] @ turn.rotate(k, table)[0, :, 0].T)
    torch.testing.assert_close(scores[0], scores[1], atol=2e-3, rtol=0)


def test_a_rotation_changes_nothing_in_place() -> None:
    x = torch.randn(1, 3, 2, 8)
    copy = x.clone()
    for turn in (Rotary(8), Rotary(4), Rotary(8, interleaved=True), Rotary(4, interleaved=True)):
        table = turn.table(batch_of([3], torch.arange(3)[None]), torch.float32)
        kept = [part.clone() for part in table]
        turn.rotate(x, table)
        assert torch.equal(x, copy)
        assert all(torch.equal(part, before) for part, before in zip(table, kept, strict=True))


@pytest.mark.parametrize(
    ("kind", "rope", "reach"),
    [
        ("default", {}, 32),
        ("linear", SCALINGS["linear"], 96),
        ("dynamic", SCALINGS["dynamic"], None),
        ("yarn", SCALINGS["yarn"], 64),
        ("longrope", SCALINGS["longrope"], 32),
        ("llama3", SCALINGS["llama3"], 32),
        ("proportional", SCALINGS["proportional"], 64),
    ],
)
def test_the_context_reaches_as_far_as_the_scaling_goes(kind: str, rope: dict[str, Any], reach: int | None) -> None:
    assert rotary(Config({"rope_scaling": {"type": kind, **rope}}), 8, 32).scaling.reach(32) == reach


def test_the_older_spelling_wins_as_in_the_reference() -> None:
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5.0}}
    config = Config(both)
    found = rotary(config, 8, 32)
    assert (found.theta, found.scaling) == (10000.0, Linear(factor=2.0))
    assert config.unread() == {"rope_parameters.rope_theta": 5.0}


def test_the_outer_original_length_wins_as_in_the_reference() -> None:
    config = {"original_max_position_embeddings": 8, "rope_scaling": {"type": "longrope", **SCALINGS["longrope"]}}
    assert rotary(Config(config), 8, 32).scaling.regime(torch.tensor([8, 9])).tolist() == [False, True]
