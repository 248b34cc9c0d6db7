"""Latent attention remembers latents where they say all, and goes on from them as from keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, family_example
from torch import Tensor

import mi_core as mi
from mi_core.errors import MemoryMismatch
from mi_core.protocols import Batch
from mi_decoder.latent_attention import LatentAttentionModule
from mi_decoder.latent_memory import Latents
from mi_decoder.memory import KeyValues

TOKENS = [[3, 4, 5, 6, 7, 8], [9, 3, 4]]
NEXT = [[5, 6], [7, 8]]
FAMILIES = ["deepseek_v2", "deepseek_v3", "youtu", "minicpm3", "glm4_moe_lite"]


def remembered(model: mi.Model, spec: mi.HookSpec | None = None, **options: object) -> list[object]:
    return list(model.run(TOKENS, spec, resumable=True, **options).memory().layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_costs_a_latent_and_the_shared_dims_for_each_position(family: str) -> None:
    model = family_example(family)
    mixer = model.backend.blocks[0].mixer
    spec = mixer.latent
    (held,) = {tuple(memory.latents.shape[1:]) for memory in remembered(model)}
    assert held == (1, 6, spec.kv_rank + spec.d_shared)
    each = sum(t[0].numel() for t in remembered(model)[0].tensors().values() if t.ndim == 4)
    assert each == 6 * (spec.kv_rank + spec.d_shared) < 6 * spec.n_heads * (spec.d_head + spec.d_value)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_goes_on_from_latents_is_the_whole_run(family: str, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatentAttentionModule, "few", lambda self, queries: few)
    model = family_example(family)
    spec = mi.capture("blocks.*.attn.{hook_k,hook_v,hook_pattern,hook_z}")
    whole = model.run([row + more for row, more in zip(TOKENS, NEXT, strict=True)], spec)
    begun = model.run(TOKENS, resumable=True)
    run = model.run(NEXT, spec, memory=begun.memory())
    for row, before in enumerate(map(len, TOKENS)):
        close(run.logits[row], whole.logits[row, before : before + 2], 2e-5)
        for name in ("hook_k", "hook_v", "hook_z"):
            point = f"blocks.0.attn.{name}"
            close(run[point][row], whole[point][row, before : before + 2], 2e-5)
        pattern = "blocks.0.attn.hook_pattern"
        close(run[pattern][row, :, :, : before + 2], whole[pattern][row, :, before : before + 2, : before + 2], 2e-5)


WRITES = ["hook_k", "hook_v", "hook_rot_k", "hook_k_per_head", "hook_v_per_head"]


@given(write=st.sampled_from(WRITES), family=st.sampled_from(FAMILIES[:2]), late=st.booleans())
def test_keys_and_values_that_were_written_are_remembered_as_written(write: str, family: str, late: bool) -> None:
    model = family_example(family)
    edit = mi.intervene(f"blocks.1.attn.{write}", mi.Scale(3.0).at(pos=1))
    if late:  # the latents of the first part are made keys again, beside which the written ones lie
        edit = mi.intervene(f"blocks.1.attn.{write}", mi.Scale(3.0).at(pos=slice(4, 5)))
    whole = model.run([TOKENS[0] + NEXT[0]], edit).logits
    cut = 4 if late else 6
    begun = model.run([TOKENS[0][:cut]], None if late else edit, resumable=True).memory()
    middle = mi.intervene(f"blocks.1.attn.{write}", mi.Scale(3.0).at(pos=0)) if late else None
    rest = [TOKENS[0][cut:] + NEXT[0]]
    run = model.run(rest, middle, memory=begun, resumable=True)
    close(run.logits[0], whole[0, cut:], 3e-5)
    assert isinstance(run.memory().layers[1], KeyValues)
    assert isinstance(run.memory().layers[0], Latents)


def test_memories_of_both_kinds_are_saved_and_read(tmp_path: Path) -> None:
    model = family_example("deepseek_v3")
    edit = mi.intervene("blocks.0.attn.hook_v", mi.Scale(2.0))
    memory = model.run(TOKENS, edit, resumable=True).memory()
    memory.save(tmp_path / "memory.safetensors")
    wanted = model.run(NEXT, memory=memory).logits
    assert torch.equal(model.run(NEXT, memory=tmp_path / "memory.safetensors").logits, wanted)


def test_keys_of_another_width_are_refused() -> None:
    model = family_example("deepseek_v3")
    mixer: LatentAttentionModule = model.backend.blocks[0].mixer
    zeros: Tensor = torch.zeros(1, mixer.n_heads, 2, mixer.d_head + 1)
    one = torch.ones(1, dtype=torch.long)
    with pytest.raises(MemoryMismatch, match="keys are remembered of"):
        mixer.recall(KeyValues(zeros, zeros, torch.tensor([2])), Batch(one[None], one, one, one, one[None]))


def test_latents_that_were_turned_by_other_frequencies_are_refused() -> None:
    plain = family_example("minicpm3").config
    dims = int(plain["qk_rope_head_dim"]) // 2
    long = {
        "type": "longrope",
        "short_factor": [1.0] * dims,
        "long_factor": [2.0] * dims,
        "original_max_position_embeddings": 6,
    }
    model = mi.build({**plain, "rope_scaling": long, "rope_parameters": None}, trainable=False, device="cpu")
    begun = model.run([[3, 4, 5, 6]], resumable=True).memory()
    model.run([[7, 8]], memory=begun)
    with pytest.raises(MemoryMismatch, match="in another regime than its memory"):
        model.run([[7, 8, 9]], memory=begun)
