from __future__ import annotations

import pytest
import torch
from hypothesis import given
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
from mi_core.errors import MissingActivation, ValueMismatch

RESID, Z, PRE = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.0.hook_resid_pre"


def metric(logits: Tensor) -> Tensor:
    return logits[:, 3] - 2 * logits[:, 5] ** 2


@given(ROWS, LAYOUTS, SEEDS)
def test_a_gradient_is_what_autograd_gives_by_hand(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    points = [PRE, RESID, Z, "blocks.1.attn.hook_pattern"]
    run = small().run(ids, mi.capture(points), attention_mask=mask, grad=True)
    grads = run.grad(metric, points)
    assert list(grads) == [point.name for point in small().hook_points(points)]
    for name in (RESID, Z):
        leaf = run[name].detach().clone().requires_grad_()
        again = small().run(ids, mi.intervene(name, mi.Replace(leaf)), attention_mask=mask, grad=True)
        (wanted,) = torch.autograd.grad(metric(again.last_logits).sum(), leaf)
        close(grads[name], wanted)
        assert not grads[name][~mask].any()


@given(ROWS, SEEDS)
def test_a_gradient_agrees_with_finite_differences(rows: list[list[int]], seed: int) -> None:
    model = small(dtype="float64")
    ids, mask = laid_out(rows, "left", seed)
    run = model.run(ids, mi.capture("blocks.*.hook_mlp_out"), attention_mask=mask, grad=True)
    name = "blocks.1.hook_mlp_out"
    grads = run.grad(lambda logits: logits.double()[:, 7], name)[name]
    step = random(*ids.shape, 16, seed=seed, dtype=torch.float64) * mask[..., None]
    ends = [
        model.run(ids, mi.intervene(name, mi.Add(sign * 1e-4 * step)), attention_mask=mask).last_logits[:, 7].sum()
        for sign in (1, -1)
    ]
    # metrics are float32
    assert abs(float((ends[0] - ends[1]) / 2e-4) - float((grads * step).sum())) < 1e-3


def test_a_selected_capture_has_its_parts_gradient() -> None:
    rows = [[1, 2, 3], [4, 5]]
    full = small().run(rows, mi.capture(Z), grad=True).grad(metric, Z)[Z]
    part = small().run(rows, mi.capture(Z).at(pos=-1, head=2), grad=True).grad(metric, Z)[Z]
    close(part, torch.stack([full[0, 2, 2], full[1, 1, 2]]))


def test_cotangents_are_pulled_back() -> None:
    run = small().run([[1, 2, 3], [4, 5]], mi.capture([PRE, RESID]), grad=True)
    weights = random(*run.logits.shape)
    by_logits = run.vjp({"hook_logits": weights}, PRE)[PRE]
    (wanted,) = torch.autograd.grad((run.logits * weights).sum(), run._captured[PRE].path, retain_graph=True)
    close(by_logits, wanted * run.mask[..., None])
    there = run.vjp({RESID: torch.ones_like(run[RESID])}, [PRE])
    assert there[PRE].abs().sum() > 0
    assert not run.vjp({PRE: torch.ones_like(run[PRE])}, RESID)[RESID].any()
    with pytest.raises(ValueMismatch, match=r"the cotangent at .* is \[1\]"):
        run.vjp({RESID: torch.ones(1)}, PRE)


def test_gradients_flow_into_the_tensors_of_a_spec() -> None:
    vector = random(16).requires_grad_()
    edit = mi.intervene(RESID, mi.Add(vector, scale=2.0).at(pos=-1)) + mi.capture(RESID)
    run = small().run([[1, 2], [3, 4]], edit, grad=True)
    (wanted,) = torch.autograd.grad(metric(run.last_logits).sum(), vector, retain_graph=True)
    close(2 * run.grad(metric, RESID)[RESID][:, -1].sum(0), wanted)
    assert not small().run([[1, 2]], edit).logits.requires_grad


def test_captures_are_attached_only_if_gradients_are_kept() -> None:
    vector = random(16).requires_grad_()
    spec = mi.intervene(PRE, mi.Replace(vector)) + mi.capture([PRE, RESID])
    plain = small(trainable=True).run([[1, 2]], spec)
    assert not any(value.requires_grad for value in [*plain.values(), plain.logits])
    kept = small(trainable=True).run([[1, 2]], spec, grad=True)
    assert all(value.requires_grad for value in [*kept.values(), kept.logits])


def test_the_graph_starts_at_the_first_captured_point() -> None:
    run = small().run([[1, 2]], mi.capture([RESID, "blocks.2.hook_resid_post"]), grad=True)
    assert run[RESID].is_leaf
    assert not run["blocks.2.hook_resid_post"].is_leaf
    assert not small().run([[1, 2]], grad=True).logits.requires_grad


def test_gradients_need_captured_points_and_a_fitting_metric() -> None:
    run = small().run([[1, 2], [3, 4]], mi.capture(RESID), grad=True)
    close(run.grad(lambda logits: logits.sum(), RESID)[RESID], run.grad(lambda logits: logits.sum(-1), RESID)[RESID])
    with pytest.raises(ValueMismatch, match=r"returned \[2, 61\] .*must return \[batch\] \(here \[2\]\)"):
        run.grad(lambda logits: logits, RESID)
    with pytest.raises(MissingActivation, match="did not capture"):
        run.grad(metric, Z)
    assert list(run.grad(metric, "blocks.*.hook_resid_post")) == [RESID]
    with pytest.raises(MissingActivation, match="captured none"):
        run.grad(metric, "blocks.*.attn.hook_z")
    with pytest.raises(MissingActivation, match="grad=True"):
        small().run([[1, 2]], mi.capture(RESID)).grad(metric, RESID)


def test_readers_lie_on_the_path_when_gradients_are_kept() -> None:
    points = ["blocks.1.ln1.hook_scale", "blocks.1.attn.hook_result", "blocks.1.attn.hook_v_per_head"]
    run = small().run([[1, 2, 3]], mi.capture(points), grad=True)
    assert all(gradient.abs().sum() > 0 for gradient in run.grad(metric, points).values())
    close(run.logits, small().run([[1, 2, 3]]).logits)


@pytest.mark.parametrize("measured", [mi.logit_diff(3, 5), mi.log_prob([3, 4]), mi.loss()])
def test_metrics_of_sweeps_are_differentiated_as_they_are_measured(measured: mi.Metric) -> None:
    rows = [[1, 2, 3], [4, 5]]
    model, logits = small(), "all" if measured.pos != -1 else "last"
    bound = measured.bound(model, 2)
    run = model.run(rows, mi.capture(RESID), grad=True, logits=logits)
    gradient = run.grad(bound, RESID)[RESID]
    close(bound.of(run).detach(), model.sweep(rows, [mi.HookSpec()], measured).values[0])
    step = 1e-2 * random(*gradient.shape) * run.mask[..., None]
    ends = [bound.of(model.run(rows, mi.intervene(RESID, mi.Add(sign * step)), logits=logits)) for sign in (1, -1)]
    assert abs(float((ends[0] - ends[1]).sum() / 2 - (gradient * step).sum())) < 1e-3


def test_a_metric_without_a_gradient_or_without_its_logits_is_refused() -> None:
    run = small().run([[1, 2]], mi.capture(RESID), grad=True, logits="last")
    with pytest.raises(ValueMismatch, match="'rank' has no gradient"):
        run.grad(mi.rank(3).bound(small(), 1), RESID)
    with pytest.raises(
        MissingActivation, match="the metric 'loss' needs the logits of every position: run with logits=\"all\""
    ):
        run.grad(mi.loss(), RESID)
