from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small

import mi_core as mi
from mi_core.errors import InputError, MissingActivation, SelectorError, SpecError, ValueMismatch
from mi_core.sweeping import SweepInterrupted

RESID, Z, MLP = "blocks.{}.hook_resid_pre", "blocks.{}.attn.hook_z", "blocks.{}.hook_mlp_out"
SCORES, PATTERN, POST = "blocks.{}.attn.hook_attn_scores", "blocks.{}.attn.hook_pattern", "blocks.{}.hook_resid_post"
D_MODEL = small().shape.d_model


def edits(layer: int, pos: int) -> list[mi.HookSpec]:
    """One of each kind of edit, at a layer and a position that every row has."""
    return [
        mi.intervene(RESID.format(layer), mi.Add(random(D_MODEL, seed=layer)).at(pos=pos)),
        mi.intervene(POST.format(layer), mi.Scale(0.5).at(pos=pos)),
        mi.intervene(MLP.format(layer), mi.Zero().at(pos=pos)),
        mi.intervene(Z.format(layer), mi.Noise(1.0, seed=3).at(head=1, pos=slice(pos, None))),
        mi.intervene(SCORES.format(layer), mi.Knockout(query=-1, key=pos)),
        mi.intervene(PATTERN.format(layer), mi.Reweight(query=pos, key=0, scale=0.5)),
        mi.intervene(Z.format(layer), mi.Mean(over=("batch",))),
        mi.intervene(RESID.format(layer), mi.Apply(lambda x: 2 * x).at(pos=pos)),
    ]


EVERYWHERE = [
    mi.HookSpec(),
    mi.intervene("hook_embed", mi.Scale(1.5).at(pos=-1)),
    mi.intervene("unembed.hook_in", mi.Scale(1.5).at(pos=-1)),
    mi.intervene("hook_logits", mi.Add(1.0).at(d_vocab=3)),
]
UNDER = [mi.HookSpec(), mi.intervene(MLP.format(1), mi.Scale(0.3).at(pos=0)), mi.intervene(Z.format(0), mi.Zero())]
FEW = settings(max_examples=min(25, settings.default.max_examples if settings.default else 25))
"""One example is a dozen runs here."""
ANY_ROWS = ROWS.filter(lambda rows: len(rows) > 1)


@FEW
@given(ANY_ROWS, LAYOUTS, SEEDS, st.integers(0, 1), st.sampled_from([0, -1]), st.sampled_from(UNDER))
def test_a_sweep_is_the_loop_of_full_runs(
    rows: list[list[int]], layout: str, seed: int, layer: int, pos: int, under: mi.HookSpec
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    specs = [*EVERYWHERE, *edits(layer, pos)]
    grid = under + mi.grid(lambda spec: spec, spec=specs)
    *runs, unchanged = (small().run(ids, under + spec, attention_mask=mask) for spec in (*specs, mi.HookSpec()))
    for metric, pick in ((mi.logit(3), lambda run: run.last_logits[:, 3]), (mi.loss(), losses)):
        swept = small().sweep(ids, grid, metric, attention_mask=mask, batch=16, progress=False)
        for cell, run in enumerate(runs):
            close(swept.values[cell], pick(run))
        assert swept.baseline is not None
        close(swept.baseline.values, pick(unchanged))


def losses(run: mi.Run) -> torch.Tensor:
    return run.token_losses.sum(1) / (run.mask.sum(1) - 1).clamp(min=1)


@FEW
@given(ANY_ROWS, LAYOUTS, SEEDS, st.integers(0, 1), st.sampled_from([0, -1]), st.sampled_from(UNDER))
def test_a_resumed_run_is_the_full_run(
    rows: list[list[int]], layout: str, seed: int, layer: int, pos: int, under: mi.HookSpec
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    base = small().run(ids, under, attention_mask=mask, resumable=True)
    captures = mi.capture([POST.format(1), Z.format(1)]).at(pos=-1)
    for spec in (*EVERYWHERE, *edits(layer, pos)):
        resumed = base.resume(spec + captures)
        full = small().run(ids, under + spec + captures, attention_mask=mask)
        close(resumed.logits, full.logits)
        for name in full:
            close(resumed[name], full[name])


def test_a_resumed_run_runs_only_the_layers_behind_the_fork() -> None:
    base = small().run([1, 2, 3], resumable=True)
    resumed = base.resume(mi.intervene(RESID.format(1), mi.Zero().at(pos=2)))
    assert resumed.receipt.layers == tuple(range(1, small().shape.n_layers))
    assert "columns [2]" in resumed.receipt.notes[0]


def test_a_run_that_kept_nothing_cannot_be_resumed() -> None:
    with pytest.raises(MissingActivation, match="resumable=True"):
        small().run([1, 2]).resume(mi.HookSpec())


def test_a_grid_has_labelled_axes_and_the_loops_values() -> None:
    source = [4, 5, 6, 7]
    swept = small().sweep([1, 2, 3, 4], mi.patch_grid("blocks.*.hook_resid_pre", source=source), mi.logit_diff(3, 5))
    assert swept.dims == ("layer", "pos", "batch")
    clean = small().run(source, mi.capture("blocks.*.hook_resid_pre"))
    for layer in range(small().shape.n_layers):
        edit = mi.intervene(RESID.format(layer), mi.Replace(clean).at(pos=2))
        logits = small().run([1, 2, 3, 4], edit).last_logits
        close(swept.sel(layer=layer, pos=2).values, logits[:, 3] - logits[:, 5])


def test_a_window_moves_blocks_of_layers() -> None:
    grid = mi.ablation_grid("blocks.*.hook_mlp_out", each=("layer",), window=2)
    swept = small().sweep([1, 2, 3], grid, mi.logit(3))
    edit = mi.intervene("blocks.*.hook_mlp_out", mi.Zero().at(layer=[0, 1]))
    close(swept.values[0], small().run([1, 2, 3], edit).last_logits[:, 3])


def test_axes_take_labelled_selectors() -> None:
    each = {"layer": [0], "pos": {"first": 0, "rest": slice(1, None)}}
    swept = small().sweep([1, 2, 3], mi.ablation_grid("blocks.*.hook_mlp_out", each=each), mi.prob(3))
    assert swept.coords["pos"] == ("first", "rest")


def test_steering_scales_its_vector() -> None:
    vector = random(D_MODEL)
    grid = mi.steering_grid("blocks.*.hook_resid_post", vector, strengths=[0.0, 2.0], each={"layer": [1]}, pos=-1)
    swept = small().sweep([1, 2, 3], grid, mi.logit(3))
    edit = mi.intervene(POST.format(1), mi.Add(vector, scale=2.0).at(pos=-1))
    assert swept.baseline is not None
    close(swept.values[0, 0], swept.baseline.values)
    close(swept.values[1, 0], small().run([1, 2, 3], edit).last_logits[:, 3])


def test_normalised_runs_from_corrupt_to_clean() -> None:
    swept = small().sweep([1, 2, 3], {"same": mi.HookSpec()}, mi.logit(3))
    assert swept.baseline is not None
    assert swept.normalised(swept.baseline + 1.0, swept.baseline).values.abs().max() < 1e-6
    with pytest.raises(ValueMismatch, match="same metric"):
        swept.normalised(swept.baseline, swept.baseline)


def test_the_baseline_follows_selections_of_rows() -> None:
    swept = small().sweep([[1, 2], [3, 4]], [mi.HookSpec()], mi.logit(3))
    one = swept.sel(batch=1)
    assert isinstance(one, mi.Sweep)
    assert one.baseline is not None
    assert one.baseline.dims == ()


def test_finished_cells_are_read_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "cells.jsonl"
    grid = mi.ablation_grid("blocks.*.attn.hook_z")
    first = small().sweep([1, 2, 3], grid, mi.logit(3), store=store)
    lines = store.read_text().splitlines()
    store.write_text("\n".join(lines[:3]) + "\n" + lines[3][:9])  # a kill in the fourth cell
    import mi_core.sweeping as sweeping

    ran: list[int] = []
    whole = sweeping.run_group
    monkeypatch.setattr(sweeping, "run_group", lambda t, v, m, b: (ran.append(len(v)), whole(t, v, m, b)))
    second = small().sweep([1, 2, 3], grid, mi.logit(3), store=store)
    assert first == second
    assert sum(ran) == first.values.numel() - 3
    other = small().sweep([1, 2, 3], grid, mi.logit(4), store=store)
    assert not torch.equal(other.values, first.values)
    with pytest.raises(InputError, match="name it"):
        small().sweep([1, 2, 3], grid, lambda logits: logits[:, 0], store=store)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", bytes(range(256)), b'{"a": 1}\n'])
def test_a_file_of_something_else_is_no_store_and_stays_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="a file of something else"):
        small().sweep([1, 2, 3], [mi.HookSpec()], mi.logit(3), store=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("path", ["", "missing/cells"])
def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("mi_core.plans.Plan.run", lambda *_: pytest.fail("run"))
    with pytest.raises(InputError, match=r"cannot be written: (Is a directory|No such file or directory)"):
        small().sweep([1, 2, 3], [mi.HookSpec()], mi.logit(3), store=tmp_path / path)


def test_cells_that_found_room_are_kept_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, grid = tmp_path / "cells", mi.ablation_grid("blocks.*.attn.hook_z")
    whole, room = Path.open, [4]

    def full(path: Path, *how: Any, **more: Any) -> Any:
        room[0] -= path == store
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        return whole(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(InputError, match=r"cells' cannot be written: No space left on device.*kept"):
            small().sweep([1, 2, 3], grid, mi.logit(3), store=store)
    assert len(store.read_text().splitlines()) == 3
    close(
        small().sweep([1, 2, 3], grid, mi.logit(3), store=store).values,
        small().sweep([1, 2, 3], grid, mi.logit(3)).values,
    )


def test_an_interrupted_sweep_keeps_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    import mi_core.sweeping as sweeping

    whole, left = sweeping.run_group, [2]

    def tired(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        whole(*arguments)

    monkeypatch.setattr(sweeping, "run_group", tired)
    grid = mi.ablation_grid("blocks.*.hook_mlp_out", each=("layer", "pos"))
    with pytest.raises(SweepInterrupted) as caught:
        small().sweep([1, 2, 3], grid, mi.logit(3), batch=1)
    partial = caught.value.partial.values
    assert 0 < int(partial.isnan().sum()) < partial.numel()


def test_out_of_memory_halves_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    import mi_core.packing as packing

    whole = packing.Pack._block

    def narrow(self: Any, layer: int, members: Any, **keep: Any) -> Any:
        if len(members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, layer, members, **keep)

    grid = mi.ablation_grid("blocks.*.attn.hook_z")
    expected = small().sweep([1, 2, 3], grid, mi.logit(3))
    monkeypatch.setattr(packing.Pack, "_block", narrow)
    close(small().sweep([1, 2, 3], grid, mi.logit(3)).values, expected.values)


REFUSED: list[tuple[Any, Any, type[Exception], str]] = [
    ([], mi.logit(3), SpecError, "no spec"),
    (["x"], mi.logit(3), SpecError, "takes specs"),
    ([mi.HookSpec()], lambda logits: logits, ValueMismatch, "one number"),
    (mi.ablation_grid("blocks.*.hook_mlp_out", each=("head",)), mi.logit(3), SelectorError, "'head'"),
    (mi.patch_grid("blocks.*.hook_resid_pre", source=[1, 2]), mi.logit(3), SelectorError, "3 tokens, the source 2"),
    (mi.patch_grid("hook_embed", source=[1, 2, 3], each={"batch": [0]}), mi.logit(3), SelectorError, "two axes"),
    ([mi.HookSpec()], mi.logit(10**6), ValueMismatch, "vocabulary"),
    ([mi.HookSpec()], mi.logit([1, 2]), ValueMismatch, "2 answers"),
    ([mi.HookSpec()], mi.logit([[]]), ValueMismatch, "empty set"),
    ([mi.intervene(RESID.format(0), mi.Zero().at(pos=9))], mi.logit(3), SelectorError, "pos=9"),
]


@pytest.mark.parametrize(("specs", "metric", "error", "message"), REFUSED)
def test_what_cannot_be_swept_is_refused(specs: Any, metric: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small().sweep([1, 2, 3], specs, metric)


def test_answers_of_several_tokens_are_pooled() -> None:
    logits = small().run([[1, 2], [3, 4]]).last_logits
    sets = [[3, 4], [5]]
    swept = small().sweep([[1, 2], [3, 4]], [mi.HookSpec()], mi.prob(sets))
    expected = torch.stack([logits[0].softmax(-1)[[3, 4]].sum(), logits[1].softmax(-1)[5]])
    close(swept.values[0], expected)
    ranked = small().sweep([[1, 2], [3, 4]], [mi.HookSpec()], mi.rank(sets)).values[0]
    best = [max(logits[0, 3], logits[0, 4]), logits[1, 5]]
    assert ranked.tolist() == [float((row > top).sum()) for row, top in zip(logits, best, strict=True)]


def test_a_metric_may_read_activations_and_every_position() -> None:
    point = POST.format(1)
    reading = mi.metric(lambda logits, held: held[point].norm(dim=-1).sum(1), reads=(point,))
    edit = mi.intervene(RESID.format(1), mi.Scale(2.0).at(pos=-1))
    swept = small().sweep([1, 2, 3], [edit], reading)
    close(swept.values[0], small().run([1, 2, 3], edit + mi.capture(point))[point].norm(dim=-1).sum(1))
    every = mi.metric(lambda logits: logits[:, :, 3].sum(1), pos="all")
    close(small().sweep([1, 2, 3], [edit], every).values[0], small().run([1, 2, 3], edit).logits[..., 3].sum(1))
