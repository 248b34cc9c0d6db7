"""A stream is the run of the whole, whatever the size of its pieces; and refuses what it cannot do, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
from mi_core.errors import InputError, LoadError, MemoryMismatch, MissingActivation, SpecError, ValueMismatch
from mi_core.memory import ModelMemory
from mi_core.run import Run

STREAM = "blocks.1.hook_resid_post"
PATTERN, SCORES = "blocks.2.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"


def same(streamed: Run, run: Run) -> None:
    """Logits, losses and captures."""
    close(streamed.last_logits, run.last_logits)
    close(streamed.token_losses, run.token_losses)
    assert list(streamed) == list(run)
    for name in run:
        close(streamed[name], run[name])
        for at in set(run.before) & {name}:
            close(streamed.before[at], run.before[at])


EDITS = (
    mi.intervene(STREAM, mi.Scale(0.3).at(pos=slice(1, None))),
    mi.intervene(STREAM, mi.Add(random(16), scale=2.0).at(pos=-1)),
    mi.intervene("blocks.0.hook_resid_pre", mi.Noise(0.5, seed=3)),
    mi.intervene("blocks.*.attn.hook_attn_scores", mi.Knockout(query=-1, key=0)),
    mi.intervene("blocks.1.attn.hook_z", mi.Zero().at(head=1)),
)
CAPTURES = (
    mi.capture([STREAM, "hook_embed"]),
    mi.capture(STREAM, before=True) + mi.capture(STREAM).at(pos=[-1, 0]),
    mi.capture(PATTERN),
    mi.capture(PATTERN).at(query_pos=-1, key_pos=[0, -1]),
    mi.capture("hook_logits").at(pos=-1),
    mi.capture(SCORES),
    mi.capture(SCORES).at(query_pos=[0, -1], key_pos=slice(0, 3)),
)


@settings(max_examples=25)
@given(ROWS, LAYOUTS, SEEDS, st.integers(1, 7), st.sampled_from([None, *EDITS]), st.sampled_from([None, *CAPTURES]))
def test_pieces_give_what_the_whole_gives(
    rows: list[list[int]], layout: str, seed: int, chunk: int, edit: Any, capture: Any
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    spec = sum((part for part in (edit, capture) if part is not None), mi.HookSpec())
    model = small()
    try:
        run = model.run(ids, spec, attention_mask=mask)
    except SpecError:  # positions that not every row has
        return
    same(model.stream(ids, spec, chunk=chunk, attention_mask=mask), run)


@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_several_pieces_are_those_of_the_whole(edit: mi.HookSpec) -> None:
    rows, spec = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]], edit + mi.capture([STREAM, SCORES])
    same(small().stream(rows, spec, chunk=3), small().run(rows, spec))


def test_keys_are_counted_from_the_first_that_a_memory_covers() -> None:
    memory = small().run([[1, 2, 3, 4], [5, 6]], resumable=True).memory()
    rows, spec = [[7, 8, 9], [10, 11, 12]], mi.capture(PATTERN).at(query_pos=[0, 2], key_pos=[0, 3, -1])
    same(small().stream(rows, spec, chunk=2, memory=memory), small().run(rows, spec, memory=memory))


@settings(max_examples=6)
@given(ROWS, st.integers(1, 5))
def test_the_memory_at_the_end_is_that_of_the_whole(rows: list[list[int]], chunk: int) -> None:
    model, rest = small(), [[7, 8, 9]] * len(rows)
    memory = model.stream(rows, chunk=chunk).memory()
    whole = model.run([[*row, *more] for row, more in zip(rows, rest, strict=True)])
    # the scores of keys that a shorter row does not have are nobody's
    spec = mi.capture([PATTERN, SCORES] if len({len(row) for row in rows}) == 1 else PATTERN)
    after = model.stream(rest, spec, chunk=2, memory=memory)
    for row, prefix in enumerate(rows):
        close(after.last_logits[row], whole.logits[row, len(prefix) + 2])
    same(after, model.run(rest, spec, memory=memory))


def test_a_stream_says_what_it_kept() -> None:
    model = small()
    run = model.stream([[1, 2, 3, 4, 5]], chunk=2)
    assert run.receipt.notes[0].startswith("what the layers remember grew with the input")
    close(run.loss, model.run([[1, 2, 3, 4, 5]]).loss)
    lean = model.stream([[1, 2, 3, 4, 5]], chunk=2, losses=False)
    close(lean.last_logits, run.last_logits)
    with pytest.raises(MissingActivation, match="losses=True"):
        _ = lean.token_losses


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        (
            mi.intervene(STREAM, mi.Replace(random(1, 4, 16)).at(pos=[0, 1, 2, 3])),
            ValueMismatch,
            "is written piece by piece",
        ),
        (mi.intervene(STREAM, mi.Mean(over=("pos",))), ValueMismatch, "the mean of positions in other pieces"),
        (mi.intervene(STREAM, mi.Zero().at(pos=9)), SpecError, "9"),
    ],
)
def test_what_pieces_cannot_do_is_refused(spec: mi.HookSpec, error: type[SpecError], said: str) -> None:
    with pytest.raises(error, match=said):
        small().stream([[1, 2, 3, 4]], spec, chunk=2)


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True])
def test_a_piece_has_at_least_one_token(chunk: Any) -> None:
    with pytest.raises(InputError, match=f"chunk={chunk}"):
        small().stream([[1, 2]], chunk=chunk)


# -- memories on disk, and generations from them -------------------------------------------------------


def prefix(model: mi.Model, rows: list[list[int]]) -> ModelMemory:
    return model.run(rows, resumable=True).memory()


def test_a_memory_comes_back_from_its_file(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "prefix.safetensors"
    memory = prefix(model, [[1, 2, 3], [4, 5, 6]])
    memory.save(path)
    again = ModelMemory.load(path, model)
    assert again.length.tolist() == [3, 3]
    assert {n: t.tolist() for n, t in again.tensors().items()} == {n: t.tolist() for n, t in memory.tensors().items()}
    rest = [[7], [8]]
    assert torch.equal(model.run(rest, memory=path).logits, model.run(rest, memory=memory).logits)
    assert torch.equal(model.stream(rest, memory=str(path)).last_logits, model.run(rest, memory=memory).last_logits)


def test_a_memory_of_another_model_is_refused_with_both(tmp_path: Path) -> None:
    path = tmp_path / "prefix.safetensors"
    prefix(small(), [[1, 2, 3]]).save(path)
    others: dict[str, tuple[mi.Model, str]] = {
        "depth": (small(num_hidden_layers=2), r"is of a 'llama' of 3 layers; this model is a 'llama' of 2 layers"),
        "heads": (small(num_attention_heads=2, num_key_value_heads=1), r"holds \{'keys': 4.*remembers \{'keys': 8"),
        "groups": (small(num_key_value_heads=4), "holds 2 heads, the layer remembers 4"),
        "weights": (small(seed=1), "belongs to other weights or another dtype"),
        "dtype": (small(dtype="float64"), "belongs to other weights or another dtype"),
    }
    for model, said in others.values():
        with pytest.raises(MemoryMismatch, match=said):
            model.run([[4]], memory=path)
    with pytest.raises(MemoryMismatch, match="has 1 rows, the input has 2"):
        small().run([[4], [5]], memory=path)


def test_what_is_no_memory_is_no_memory(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "run.safetensors"
    model.run([[1, 2]]).save(path)
    with pytest.raises(LoadError, match="its format is 'mi-core run 1', not 'mi-core memory 1'"):
        model.run([[3]], memory=path)
    with pytest.raises(LoadError, match="is no saved memory"):
        model.run([[3]], memory=tmp_path / "absent")


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(1, 3)), min_size=1, max_size=3
    ),
    st.booleans(),
)
def test_a_generation_from_a_memory_is_that_of_the_whole(parts: list[tuple[list[int], int]], cache: bool) -> None:
    model = small()
    heads, tails = [row for row, _ in parts], [list(range(n)) for _, n in parts]
    whole = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
    options: dict[str, Any] = {"max_new_tokens": 4, "stop_at_eos": False, "temperature": 0.9, "seed": 5, "cache": cache}
    wanted = model.generate(whole, mi.capture(PATTERN), **options)
    seen = model.generate(tails, mi.capture(PATTERN), memory=prefix(model, heads), **options)
    assert seen.new_tokens == wanted.new_tokens
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        end = len(tail) + 4
        close(seen.logits[row], wanted.logits[row])
        stop = len(head) + end
        close(last_rows(seen[PATTERN][row], end, stop), last_rows(wanted[PATTERN][row, :, len(head) :], end, stop))


def last_rows(pattern: Tensor, queries: int, keys: int) -> Tensor:
    return pattern[:, :queries, :keys]
