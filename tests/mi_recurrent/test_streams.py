"""Recurrent models over long inputs: in pieces as at once, in constant memory, from a state on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from original_checkpoints import DATA, VERSIONS
from small_models import family_example
from torch import Tensor

import mi_core as mi
from mi_core.errors import MemoryMismatch, NotRecorded, SpecError

MODELS = {version: mi.load(str(DATA / f"{version}-seed0")) for version in VERSIONS}
EVERY = pytest.mark.parametrize("version", VERSIONS)
STATE = "blocks.1.mixer.hook_state"


def tokens(rows: int, columns: int, seed: int) -> list[list[int]]:
    drawn = torch.randint(96, (rows, columns), generator=torch.Generator().manual_seed(seed))
    return [row[: columns - 7 * number].tolist() for number, row in enumerate(drawn)]


def near(seen: Tensor, wanted: Tensor) -> None:
    assert seen.shape == wanted.shape
    difference = float((seen - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    assert difference <= 1e-5, f"{difference:.2e} of the largest, at most 1e-5 wanted"


@EVERY
@settings(max_examples=3)
@given(columns=st.integers(16, 60), chunk=st.integers(1, 40), seed=st.integers(0, 99))
def test_pieces_give_what_the_whole_gives(version: str, columns: int, chunk: int, seed: int) -> None:
    model, rows = MODELS[version], tokens(2, columns, seed)
    spec = mi.capture(STATE).at(pos=[3, -1]) + mi.capture("blocks.*.hook_resid_post").at(pos=slice(2, 9))
    spec += mi.intervene("blocks.0.mixer.hook_write_gate", mi.Zero().at(pos=[1, 5]))
    run, streamed = model.run(rows, spec, resumable=True), model.stream(rows, spec, chunk=chunk)
    near(streamed.last_logits, run.last_logits)
    near(streamed.token_losses, run.token_losses)
    for name in run:
        near(streamed[name], run[name])
    held, wanted = streamed.memory().tensors(), run.memory().tensors()
    for name in wanted:
        if not (version == "rwkv4" and name.endswith("state")):  # known up to a scale
            near(held[name], wanted[name])


@EVERY
def test_what_is_remembered_does_not_grow(version: str) -> None:
    model = MODELS[version]
    short, long = (model.stream(tokens(1, columns, 1), chunk=16) for columns in (16, 160))
    assert long.receipt.notes == ()
    assert long.memory().bytes == short.memory().bytes
    with pytest.raises(NotRecorded, match="cannot be taken back"):
        long.memory(pos=3)


def test_weights_of_all_earlier_tokens_are_not_to_be_had_in_pieces() -> None:
    model, pattern = MODELS["rwkv6"], "blocks.0.mixer.hook_effective_attn"
    for spec in (mi.capture(pattern), mi.intervene(pattern, mi.Knockout(query=5, key=2))):
        with pytest.raises(SpecError, match="cannot be had piece by piece"):
            model.stream(tokens(1, 16, 2), spec, chunk=8)


@EVERY
def test_runs_and_generations_go_on_from_a_state_on_disk(version: str, tmp_path: Path) -> None:
    model, path = MODELS[version], tmp_path / "state.safetensors"
    rows = tokens(2, 30, 3)
    model.stream([row[:9] for row in rows], chunk=4).memory().save(path)
    rest, whole = [row[9:] for row in rows], model.run(rows)
    run = model.run(rest, memory=path)
    for number, row in enumerate(rest):
        near(run.logits[number, : len(row)], whole.logits[number, 9 : 9 + len(row)])
    made = model.generate(rest, memory=path, max_new_tokens=8, stop_at_eos=False)
    assert made.new_tokens == model.generate(rows, max_new_tokens=8, stop_at_eos=False).new_tokens


def test_a_state_of_another_version_or_shape_is_refused_with_both(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    MODELS["rwkv5"].stream([[1, 2, 3]]).memory().save(path)
    with pytest.raises(MemoryMismatch, match=r"is of a 'rwkv5' of 3 layers; this model is a 'rwkv6' of 3 layers"):
        MODELS["rwkv6"].run([[4]], memory=path)
    other = mi.build({**MODELS["rwkv5"].config, "head_size": 32}, trainable=False, device="cpu")
    with pytest.raises(MemoryMismatch, match=r"'state': \[4, 16, 16\].*remembers.*'state': \[2, 32, 32\]"):
        other.run([[4]], memory=path)
    same = mi.build(MODELS["rwkv5"].config, trainable=False, device="cpu")
    with pytest.raises(MemoryMismatch, match="belongs to other weights"):
        same.run([[4]], memory=path)


@pytest.mark.parametrize(("wide", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_the_stream_of_a_state_space_model_is_as_wide_as_its_config_says(wide: bool, dtype: torch.dtype) -> None:
    config = {**family_example("mamba2").config, "residual_in_fp32": wide}
    model = mi.build(config, trainable=False, dtype="bfloat16")
    run = model.run([3, 1, 4], mi.capture(["hook_embed", "blocks.*.hook_resid_*", "blocks.*.hook_attn_out"]))
    assert run["hook_embed"].dtype is run["blocks.0.hook_attn_out"].dtype is run.logits.dtype is torch.bfloat16
    assert {value.dtype for name, value in run.items() if "resid" in name} == {dtype}
