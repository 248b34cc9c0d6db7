"""Each intervention against arithmetic by hand on the captured activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
from mi_core.errors import SelectorError, SpecError, ValueMismatch

RESID, Z = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"
PLAIN = [[1, 2, 3], [4, 5, 6]]


def edited(edit: mi.Intervention, rows: Any = PLAIN, point: str = RESID, **options: Any) -> tuple[Tensor, Tensor]:
    """What is there before and after an edit."""
    spec = mi.intervene(point, edit) + mi.capture(point) + mi.capture(point, before=True)
    run = small().run(rows, spec, **options)
    return run.before[point], run[point]


def project(x: Tensor, basis: Tensor) -> Tensor:
    """Onto the rows of a basis, by least squares."""
    inverse = torch.linalg.pinv(basis.double())
    return (x.double() @ inverse @ basis.double()).float()


V, D, B2 = random(16, seed=1), random(16, seed=2), random(2, 16, seed=3)
BY_HAND: list[tuple[mi.Intervention, Callable[[Tensor], Tensor]]] = [
    (mi.Replace(V), lambda x: V.expand_as(x)),
    (mi.Replace(2.0), lambda x: torch.full_like(x, 2.0)),
    (mi.Replace(V, within=D), lambda x: x + project(V - x, D[None])),
    (mi.Replace(V, within=B2), lambda x: x + project(V - x, B2)),
    (mi.Add(V), lambda x: x + V),
    (mi.Add(V, scale=-3.0), lambda x: x - 3 * V),
    (mi.Add(V, scale=0.5, norm="match"), lambda x: x + 0.5 * V / V.norm() * x.norm(dim=-1, keepdim=True)),
    (mi.Add(0.0, norm="match"), lambda x: x),
    (mi.Scale(2.5), lambda x: 2.5 * x),
    (mi.Scale(V), lambda x: V * x),
    (mi.Zero(), torch.zeros_like),
    (mi.Interpolate(V, 0.25), lambda x: 0.75 * x + 0.25 * V),
    (mi.ProjectOut(D), lambda x: x - project(x, D[None])),
    (mi.ProjectOut(B2), lambda x: x - project(x, B2)),
    (
        mi.ClampAlong(D, min=-0.1, max=0.1),
        lambda x: x + (((x @ D) / D.norm()).clamp(-0.1, 0.1) - (x @ D) / D.norm())[..., None] * D / D.norm(),
    ),
    (
        mi.ClampAlong(D, min=1.0),
        lambda x: x + ((x @ D / D.norm()).clamp(1.0) - x @ D / D.norm())[..., None] * D / D.norm(),
    ),
    (mi.Clamp(min=-0.2, max=0.3), lambda x: x.clamp(-0.2, 0.3)),
    (mi.Clamp(max=0.0), lambda x: x.clamp(max=0.0)),
    (mi.Detach(), lambda x: x),
    (mi.Apply(lambda x: x.flip(-1)), lambda x: x.flip(-1)),
]
EDITS = st.sampled_from(BY_HAND)


@given(
    EDITS, ROWS, LAYOUTS, SEEDS, st.sampled_from([{}, {"pos": -1}, {"pos": slice(-2, None)}, {"batch": 0, "pos": [0]}])
)
def test_each_intervention_is_its_formula(
    pair: tuple[mi.Intervention, Callable[[Tensor], Tensor]],
    rows: list[list[int]],
    layout: str,
    seed: int,
    selectors: dict[str, Any],
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    before, after = edited(pair[0].at(**selectors) if selectors else pair[0], ids, attention_mask=mask)
    wanted = before.clone()
    for number in range(len(rows)):
        columns = mask[number].nonzero()[:, 0]
        pos = selectors.get("pos", slice(None))
        columns = columns[[pos] if isinstance(pos, int) else pos]
        if selectors.get("batch", number) == number:
            wanted[number, columns] = pair[1](before[number, columns])
    close(after, wanted)


@given(st.lists(EDITS, min_size=2, max_size=4))
def test_interventions_compose_in_the_order_of_the_sum(
    pairs: list[tuple[mi.Intervention, Callable[[Tensor], Tensor]]],
) -> None:
    spec = sum((mi.intervene(RESID, edit) for edit, _ in pairs), mi.HookSpec())
    for captures in (mi.capture(RESID) + spec, spec + mi.capture(RESID)):
        run = small().run(PLAIN, captures + mi.capture(RESID, before=True))
        wanted = run.before[RESID]
        for _, function in pairs:
            wanted = function(wanted)
        close(run[RESID], wanted, 1e-4)


@given(
    ROWS.filter(lambda rows: len(rows) > 1), LAYOUTS, SEEDS, st.sampled_from([("batch",), ("pos",), ("batch", "pos")])
)
def test_a_mean_counts_real_tokens_only(rows: list[list[int]], layout: str, seed: int, over: tuple[str, ...]) -> None:
    ids, mask = laid_out(rows, layout, seed)
    if over == ("pos",) and max(map(len, rows)) == 1:
        return
    if over == ("batch",) and sum(len(row) == max(map(len, rows)) for row in rows) == 0:
        return
    before, after = edited(mi.Mean(over=over), ids, attention_mask=mask)
    flat = [before[number][mask[number]] for number in range(len(rows))]
    for number, row in enumerate(rows):
        for pos in range(len(row)):
            if over == ("batch",):
                wanted = torch.stack([x[pos] for x in flat if len(x) > pos]).mean(0)
            else:
                wanted = (flat[number] if over == ("pos",) else torch.cat(flat)).mean(0)
            close(after[number][mask[number]][pos], wanted)
    assert not after[~mask].any()


@given(ROWS, ROWS, SEEDS, st.sampled_from([None, 4]))
def test_the_mean_of_a_reference_run_is_put_there(
    rows: list[list[int]], others: list[list[int]], seed: int, limit: int | None
) -> None:
    ids, mask = laid_out(others, "left", seed)
    source = small().run(ids, mi.capture(RESID), attention_mask=mask)
    if mask.sum() < 2:
        return
    _, after = edited(mi.Mean(source, over=("batch", "pos")), rows, batch_tokens=limit)
    wanted = source[RESID][mask].mean(0)
    for number, row in enumerate(rows):
        close(after[number, : len(row)], wanted.expand(len(row), -1))
    if len(others) > 1:
        _, after = edited(mi.Mean(source).at(pos=-1), rows, batch_tokens=limit)
        close(after[0, len(rows[0]) - 1], source.at(RESID, pos=-1).mean(0))


def test_a_mean_over_one_element_or_no_dim_is_refused() -> None:
    for edit in (mi.Mean(), mi.Mean(over="pos").at(pos=-1)):
        with pytest.raises(ValueMismatch, match="single element"):
            edited(edit, [[1, 2]])
    source = small().run([[1, 2, 3]], mi.capture(RESID))
    with pytest.raises(ValueMismatch, match="single element"):
        edited(mi.Mean(source))
    for over in (("head",), ()):
        with pytest.raises(SelectorError, match="name some of them"):
            edited(mi.Mean(over=over))
    short = small().run([[1], [2]], mi.capture(RESID))
    with pytest.raises(ValueMismatch, match="'pos' differs"):
        edited(mi.Mean(small().run([[1, 2], [2, 3]], mi.capture(RESID))))
    close(edited(mi.Mean(short).at(pos=0))[1][1, 0], short[RESID].mean((0, 1)))


@given(SEEDS, st.sampled_from([None, 3]))
def test_resampling_gives_each_row_a_row_of_the_source(seed: int, limit: int | None) -> None:
    source = small().run([[i, i + 1, i + 2] for i in range(5)], mi.capture(RESID))
    _, after = edited(mi.Resample(source, seed), [[1, 2, 3], [4, 5, 6], [7, 8, 9]], batch_tokens=limit)
    for row in after:
        assert any(torch.equal(row, other) for other in source[RESID])
    assert torch.equal(edited(mi.Resample(source, seed))[1], after[:2])
    _, last = edited(mi.Resample(source, seed).at(batch=1, pos=-1), PLAIN)
    close(last[1, -1], after[1, -1])


def test_resampling_does_not_always_pick_the_same_row_and_refuses_other_lengths() -> None:
    source = small().run([[i, i + 1, i + 2] for i in range(5)], mi.capture(RESID))
    drawn = {tuple(edited(mi.Resample(source, seed))[1][0, 0].tolist()) for seed in range(12)}
    assert len(drawn) > 2
    with pytest.raises(ValueMismatch, match=r"has 2 entries along 'pos'.* 3"):
        edited(mi.Resample(source, 0), [[1, 2], [3, 4]])
    edited(mi.Resample(source, 0).at(pos=-1), [[1, 2], [3]])


def test_apply_gets_a_private_copy_and_must_return_its_like() -> None:
    seen: list[Tensor] = []

    def spoil(x: Tensor) -> Tensor:
        seen.append(x)
        return x.zero_()

    before, after = edited(mi.Apply(spoil).at(head=1), point=Z)
    assert before.abs().sum() > 0
    assert seen[0].shape == (2, 3, 1, 4)
    assert not after[:, :, 1].any()
    close(after[:, :, 0], before[:, :, 0])
    wrong: list[tuple[Callable[[Tensor], Any], str]] = [
        (lambda x: x[:1], r"\[1, 3, 16\] torch.float32 for \[2, 3, 16\]"),
        (lambda x: x.double(), "torch.float64"),
        (lambda x: None, "returned None"),
    ]
    for function, said in wrong:
        with pytest.raises(ValueMismatch, match=said):
            edited(mi.Apply(function))


def test_detach_stops_gradients() -> None:
    points = ["blocks.0.hook_resid_post", RESID]
    spec = mi.capture(points) + mi.intervene(RESID, mi.Detach())
    run = small().run(PLAIN, spec, grad=True)
    grads = run.grad(lambda logits: logits[:, 0], points)
    assert grads[RESID].any()
    assert not grads[points[0]].any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mi.Add(1.0, norm="length"), "norm is None or 'match'"),
        (lambda: mi.Clamp(), "give one bound"),
        (lambda: mi.Clamp(min=2.0, max=1.0), "min at most max"),
        (lambda: mi.ClampAlong(D), "give one bound"),
        (lambda: mi.intervene(RESID, mi.Replace("France")), "value is 'France'.*a number, a tensor or a run"),
        (lambda: mi.intervene(RESID, mi.Replace([1.0])), "must be a number"),
        (lambda: mi.intervene(RESID, mi.Interpolate(None, 0.5)), "towards is None"),
        (lambda: mi.intervene(RESID, mi.Resample(V)), "source is .* must be a run"),
        (lambda: mi.intervene(RESID, mi.Mean(V)), "must be a run, or None"),
        (lambda: mi.intervene(RESID, mi.Add(torch.zeros(16, dtype=torch.complex64))), "complex"),
        (lambda: mi.intervene(RESID, lambda x: x), "is no intervention"),
        (lambda: edited(mi.ProjectOut(random(4))), r"has 16 entries .*got \[4\]"),
        (lambda: edited(mi.ClampAlong(B2, min=0.0)), "one vector"),
        (lambda: edited(mi.Replace(V, within=torch.zeros(16))), "zero or not finite"),
    ],
)
def test_an_intervention_that_makes_no_sense_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()


def test_interventions_are_equal_by_content_and_show_themselves() -> None:
    assert mi.Add(V.clone(), scale=2.0) == mi.Add(V, scale=2.0)
    assert mi.Add(V) != mi.Add(D)
    assert mi.Zero().at(pos=1) != mi.Zero().at(pos=2)
    assert len({mi.Zero(), mi.Zero(), mi.Scale(2.0)}) == 2
    assert repr(mi.Add(V, scale=2.0).at(head=[1, 2], pos=slice(-1, None))) == (
        "Add(value=<float32 [16]>, scale=2.0).at(head=(1, 2), pos=slice(-1, None))"
    )
    assert mi.Zero() != 0


@given(EDITS)
def test_half_precision_keeps_its_dtype(pair: tuple[mi.Intervention, Callable[[Tensor], Tensor]]) -> None:
    model = small(dtype="bfloat16")
    spec = mi.intervene(RESID, pair[0]) + mi.capture(RESID) + mi.capture(RESID, before=True)
    run = model.run(PLAIN, spec)
    assert run[RESID].dtype == torch.bfloat16
    wanted = pair[1](run.before[RESID].float())
    torch.testing.assert_close(run[RESID].float(), wanted, atol=0.05, rtol=0.05)
