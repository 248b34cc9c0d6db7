"""What a layer carries past a position: written, replaced, cut, resumed and packed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import family_example
from torch import Tensor

import mi_core as mi
from mi_core.errors import MemoryMismatch, NotRecorded, SpecError
from mi_core.model import Model
from mi_core.protocols import Batch, Memory
from mi_core.run import Run
from mi_core.taps import IDLE

DATA = Path(__file__).parent.parent / "data"
VERSIONS = ("rwkv4", "rwkv5", "rwkv6", "rwkv7")
MODELS = {version: mi.load(str(DATA / f"{version}-seed0")) for version in VERSIONS}
STATE = "blocks.*.mixer.hook_state"
EVERY = pytest.mark.parametrize("version", VERSIONS)
WITH_SUMS = pytest.mark.parametrize("version", VERSIONS[1:])
"""The versions whose state takes arithmetic."""


def tokens(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randint(96, (rows, columns), generator=torch.Generator().manual_seed(seed))


def near(seen: Tensor, wanted: Tensor, bound: float = 1e-5) -> None:
    difference = float((seen - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    assert difference <= bound, f"{difference:.2e} of the largest, at most {bound:.0e} wanted"


@EVERY
@settings(max_examples=6)
@given(columns=st.integers(2, 40), at=st.integers(0, 38), seed=st.integers(0, 99))
def test_what_is_carried_is_the_prefix(version: str, columns: int, at: int, seed: int) -> None:
    """From the next position on, a run with another run's state and shifts is a run with that run's prefix."""
    model, at = MODELS[version], min(at, columns - 2)
    clean, corrupt = tokens(2, columns, seed), tokens(2, columns, seed + 100)
    carried = mi.carried("blocks.*")
    other = model.run(clean, mi.capture(carried))
    patched = model.run(corrupt, mi.intervene(carried, mi.Replace(other).at(pos=at)))
    mixed = torch.cat((clean[:, : at + 1], corrupt[:, at + 1 :]), 1)
    near(patched.logits[:, at + 1 :], model.run(mixed).logits[:, at + 1 :])
    near(patched.logits[:, : at + 1], model.run(corrupt).logits[:, : at + 1])


@WITH_SUMS
def test_states_are_written_one_after_the_other(version: str) -> None:
    """A second write finds what the first has left; reads of a position come before its own write."""
    model, ids = MODELS[version], tokens(1, 9, 3)
    name = "blocks.1.mixer.hook_state"
    edits = mi.intervene(name, mi.Scale(0.5).at(pos=[2, 5])) + mi.intervene(name, mi.Zero().at(pos=6))
    run = model.run(ids, edits + mi.capture(name) + mi.capture(name, before=True))
    plain = model.run(ids, mi.capture(name))
    near(run[name][:, 2], 0.5 * plain[name][:, 2])
    near(run[name][:, 5], 0.5 * run.before[name][:, 5])
    assert not torch.equal(run.before[name][:, 5], plain[name][:, 5])
    assert bool((run[name][:, 6] == 0).all())
    near(run.logits[:, :3], plain.logits[:, :3])
    assert float((run.logits[:, 3:] - plain.logits[:, 3:]).abs().amax(-1).min()) > 1e-5


@EVERY
def test_a_closed_write_gate_removes_the_token_from_the_future(version: str) -> None:
    model, ids = MODELS[version], tokens(2, 9, 4)
    gate, pattern = "blocks.1.mixer.hook_write_gate", "blocks.1.mixer.hook_effective_attn"
    run = model.run(ids, mi.intervene(gate, mi.Zero().at(pos=3)) + mi.capture(pattern))
    assert bool((run[pattern][:, :, 4:, 3] == 0).all())
    assert torch.equal(model.run(ids, mi.intervene(gate, mi.Replace(1.0))).logits, model.run(ids).logits)


@EVERY
def test_edges_are_cut_in_the_quadratic_form(version: str) -> None:
    model, ids = MODELS[version], tokens(1, 7, 5)
    pattern, read = "blocks.1.mixer.hook_effective_attn", "blocks.1.mixer.hook_wkv"
    cut = model.run(ids, mi.intervene(pattern, mi.Knockout(query=5, key=2)) + mi.capture([read]))
    plain = model.run(ids, mi.capture([pattern, read, "blocks.1.mixer.hook_v"]))
    weight, value = plain[pattern][0, :, 5, 2], plain["blocks.1.mixer.hook_v"][0, 2]
    lost = weight * value if version == "rwkv4" else weight[:, None] * value
    near(cut[read][0, 5], plain[read][0, 5] - lost.reshape(plain[read][0, 5].shape))
    near(cut[read][0, [0, 1, 2, 3, 4, 6]], plain[read][0, [0, 1, 2, 3, 4, 6]])


@EVERY
@settings(max_examples=6)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_memory_is_that_of_each_row_s_own_prefix(version: str, lengths: list[int], seed: int) -> None:
    model = MODELS[version]
    rows = [tokens(1, length, seed + i)[0].tolist() for i, length in enumerate(lengths)]
    heads = [1 + (seed + i) % (length - 1) for i, length in enumerate(lengths)]
    whole = model.run(rows)
    memory = model.run([r[:n] for r, n in zip(rows, heads, strict=True)], resumable=True).memory()
    rest = model.run([r[n:] for r, n in zip(rows, heads, strict=True)], memory=memory)
    for row, (length, head) in enumerate(zip(lengths, heads, strict=True)):
        near(rest.logits[row, : length - head], whole.logits[row, head:length])


def block_memory(model: Model, record: str | Tensor) -> object:
    ids = tokens(2, 6, 1)
    zeros = torch.zeros(2, dtype=torch.long)
    length = torch.tensor([6, 4])
    batch = Batch(ids, zeros, length, length, torch.arange(6).expand(2, 6), record=record)
    stream = model.backend.embed(batch, IDLE)
    return model.backend.blocks[0](stream, batch, IDLE, None)[1]


@EVERY
def test_memories_are_cut_where_they_were_recorded_only(version: str) -> None:
    end = block_memory(MODELS[version], "end")
    assert isinstance(end, Memory)
    end.cut(torch.tensor([6, 4]))
    with pytest.raises(NotRecorded, match=r"row 1 kept its state behind \[4\] positions, asked for 3"):
        end.cut(torch.tensor([6, 3]))
    some = block_memory(MODELS[version], torch.tensor([[2, 5], [1, 4]]))
    every = block_memory(MODELS[version], "all")
    assert isinstance(some, Memory)
    assert isinstance(every, Memory)
    for length in ([2, 1], [5, 4], [2, 4]):
        for name, tensor in some.cut(torch.tensor(length)).tensors().items():
            near(tensor, every.cut(torch.tensor(length)).tensors()[name])
    with pytest.raises(NotRecorded):
        some.cut(torch.tensor([3, 1]))
    with pytest.raises(NotRecorded):
        every.cut(torch.tensor([6, 5]))


def test_a_state_of_another_version_is_refused() -> None:
    ids = tokens(1, 3, 0)
    zeros, three = torch.zeros(1, dtype=torch.long), torch.tensor([3])
    batch = Batch(ids, three, three, three + 3, torch.arange(3, 6)[None])
    memory = block_memory(MODELS["rwkv5"], "all")
    assert isinstance(memory, Memory)
    backend, cut = MODELS["rwkv7"].backend, memory.cut(torch.tensor([3, 3])).rows(zeros)
    stream = backend.embed(batch, IDLE)
    with pytest.raises(MemoryMismatch, match=r"'state' is \[4, 16, 16\] in each row, this layer's is \[2, 64, 64\]"):
        backend.blocks[0](stream, batch, IDLE, cut)


@EVERY
@pytest.mark.parametrize("site", ["hook_resid_pre", "mixer.hook_write_gate", "mixer.hook_effective_attn"])
def test_sweeps_and_resumed_runs_equal_the_full_runs(version: str, site: str) -> None:
    model, ids = MODELS[version], [tokens(1, 11, 7)[0].tolist(), tokens(1, 8, 8)[0].tolist()]
    dim = "query_pos" if site.endswith("attn") else "pos"
    specs = [
        mi.intervene(f"blocks.{layer}.{site}", mi.Scale(0.3).at(**{dim: pos}))
        for layer in range(3)
        for pos in (0, 4, 7)
    ]
    base = model.run(ids, resumable=True)
    swept = model.sweep(ids, specs, metric=mi.metric(lambda logits: logits.square().mean(-1)))
    for index, spec in enumerate(specs):
        full = model.run(ids, spec)
        near(base.resume(spec).logits, full.logits)
        near(swept.values[index], full.last_logits.square().mean(-1))


@WITH_SUMS
def test_states_are_swept(version: str) -> None:
    model, ids = MODELS[version], tokens(2, 9, 9)
    specs = [
        mi.intervene(f"blocks.{layer}.mixer.hook_state", mi.Zero().at(pos=pos)) for layer in (0, 2) for pos in (1, 6)
    ]
    base = model.run(ids, resumable=True)
    for spec in specs:
        near(base.resume(spec).logits, model.run(ids, spec).logits)


@EVERY
def test_half_precision_keeps_the_recurrence_in_float32(version: str) -> None:
    model = mi.load(str(DATA / f"{version}-seed0"), dtype="bfloat16")
    names = [STATE, "blocks.*.mixer.hook_wkv", "blocks.*.mixer.hook_log_decay"]
    run: Run = model.run(tokens(1, 5, 2), mi.capture(names))
    assert {run[name].dtype for name in run} == {torch.float32}
    assert run.logits.dtype is torch.bfloat16


@EVERY
@settings(max_examples=6)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3), more=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_last_layer_computes_the_kept_columns_only(version: str, lengths: list[int], more: int, seed: int) -> None:
    """Each kept column with the one before it, which lies in the memory where the kept one is the call's first."""
    model = MODELS[version]
    rows = [tokens(1, length + more, seed + i)[0].tolist() for i, length in enumerate(lengths)]
    whole = model.run(rows)
    near(model.run(rows, logits="last").logits[:, 0], whole.last_logits)
    memory = model.run([row[:-more] for row in rows], resumable=True).memory()
    rest = torch.tensor([row[-more:] for row in rows])
    near(model.run(rest, memory=memory, logits="last").logits[:, 0], whole.last_logits)


@EVERY
def test_a_block_returns_the_columns_that_are_asked_for(version: str) -> None:
    ids, keep = tokens(2, 6, 1), torch.tensor([[5, 0], [3, 2]])
    zeros, six = torch.zeros(2, dtype=torch.long), torch.tensor([6, 6])
    batch = Batch(ids, zeros, six, six, torch.arange(6).expand(2, 6))
    model = MODELS[version]
    stream = model.backend.embed(batch, IDLE)
    every = model.backend.blocks[0](stream, batch, IDLE, None)[0].resid
    kept = model.backend.blocks[0](stream, replace(batch, keep=keep), IDLE, None)[0].resid
    assert kept.shape[1] == 2
    near(kept, every[torch.arange(2)[:, None], keep])


def test_what_is_carried_is_what_a_model_has() -> None:
    assert mi.carried(model=family_example("rwkv7")) == mi.carried()
    assert mi.carried("blocks.1", model=family_example("mamba2")) == mi.carried("blocks.1")[:2]
    hybrid = family_example("qwen3_5_text")
    assert mi.carried("blocks.0", model=hybrid) == mi.carried("blocks.0")[:2]
    with pytest.raises(SpecError, match=r"layers 1 of .* look back at earlier tokens themselves"):
        mi.carried(model=hybrid)
