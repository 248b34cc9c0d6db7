"""Attention: patterns, knockouts, masks that nothing opens, and heads that are reached alone."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mi_core.edges import Knockout
from mi_core.interventions import Add, Noise, Replace
from mi_core.run import Run
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal, expect_zero, largest
from mi_core.testing.strategies import Prompt, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = [
    "check_blocked_queries_give_zeros",
    "check_head_results_sum_to_the_output",
    "check_heads_are_reached_alone",
    "check_knockouts_cut_exactly",
    "check_patterns_are_causal_softmaxes",
    "check_scores_stay_masked",
]

SCORES, PATTERN, SINK = "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_sink"


def layers_with(subject: Subject, site: str) -> list[int]:
    """The layers that have a site."""
    return [point.layer for point in subject.points if point.site.name == site and point.layer is not None]


def seen_alone(prompt: Prompt, run: Run, name: str, row: int) -> Tensor:
    """A row's scores or pattern over its own tokens, ``[head query_pos key_pos]``."""
    columns = torch.tensor(prompt.columns[row], device=run[name].device)
    return run[name][row][:, columns][:, :, columns]


def check_patterns_are_causal_softmaxes(subject: Subject) -> None:
    """A pattern is the softmax of its scores, its rows sum to one (less the sink), and no query sees a later key."""

    def holds(prompt: Prompt) -> None:
        spec = capture([f"blocks.*.{site}" for site in (SCORES, PATTERN, SINK) if subject.offers(site)])
        run, call = subject.run(prompt, spec), prompt.call(spec)
        for layer in layers_with(subject, PATTERN):
            for row in range(len(prompt.ids)):
                check_row(subject, prompt, run, layer, row, call)
            own = prompt.real.to(run[f"blocks.{layer}.{PATTERN}"].device)
            pads = ~(own[:, None, :, None] & own[:, None, None, :])
            outside = run[f"blocks.{layer}.{PATTERN}"] * pads
            expect_zero(outside, f"blocks.{layer}.{PATTERN} is not zero at the pads", call=call)

    for_examples(holds, prompt=prompts(subject))


def check_row(subject: Subject, prompt: Prompt, run: Run, layer: int, row: int, call: str) -> None:
    """One row's pattern in one layer."""
    name = f"blocks.{layer}.{PATTERN}"
    pattern, wanted = seen_alone(prompt, run, name, row), 1.0
    total = pattern.float().sum(-1)
    sink = f"blocks.{layer}.{SINK}"
    taken = run[sink][row][:, prompt.columns[row]] if sink in run.receipt.fired else torch.zeros_like(total)
    where = f"{name} of row {row}"
    tolerance = max(subject.tolerance, 1e-6)
    expect_equal(
        total + taken, torch.full_like(total, wanted), f"{where} does not sum to one", call=call, tolerance=tolerance
    )
    if subject.model.shape.causal:
        expect_zero(pattern.triu(1), f"{where} sees later keys", call=call)
    scores = f"blocks.{layer}.{SCORES}"
    if scores in run.receipt.fired:
        soft = torch.softmax(seen_alone(prompt, run, scores, row).float(), -1) * (1 - taken[..., None])
        expect_equal(pattern.float(), soft, f"{where} is not the softmax of the scores", call=call, tolerance=tolerance)


@st.composite
def cut_edges(draw: st.DrawFn, subject: Subject) -> tuple[Prompt, int, dict[str, Any]]:
    """A prompt, a layer, and the edges to cut there: a query, some keys, perhaps one head."""
    prompt = draw(prompts(subject, least=2))
    layer = draw(st.sampled_from(layers_with(subject, SCORES)))
    query = draw(st.integers(0, prompt.shortest - 1))
    keys = draw(st.lists(st.integers(0, prompt.shortest - 1), min_size=1, max_size=3, unique=True))
    heads = subject.model.points.find(f"blocks.{layer}.{SCORES}").site.sizes["head"]
    head = draw(st.one_of(st.none(), st.integers(0, heads - 1)))
    return prompt, layer, {"query_pos": query, "key_pos": keys} | ({} if head is None else {"head": head})


def check_knockouts_cut_exactly(subject: Subject) -> None:
    """A cut edge has the weight zero, the others share it by softmax, and it is cut whether or not anybody looks."""

    def holds(case: tuple[Prompt, int, dict[str, Any]]) -> None:
        prompt, layer, where = case
        scores, pattern = f"blocks.{layer}.{SCORES}", f"blocks.{layer}.{PATTERN}"
        cut = intervene(scores, Knockout().at(**where))
        sink = [f"blocks.{layer}.{SINK}"] if layer in layers_with(subject, SINK) else []
        looking = cut + capture([scores, pattern, *sink])
        base, run, fused = subject.run(prompt, capture(scores)), subject.run(prompt, looking), subject.run(prompt, cut)
        call = prompt.call(looking)
        what = "the logits differ when somebody looks at the cut pattern"
        expect_equal(run.logits, fused.logits, what, call=call, tolerance=subject.tolerance)
        for row in range(len(prompt.ids)):
            wanted = seen_alone(prompt, base, scores, row).float()
            closed = torch.zeros_like(wanted, dtype=torch.bool)
            heads = slice(None) if "head" not in where else slice(where["head"], where["head"] + 1)
            closed[heads, where["query_pos"], where["key_pos"]] = True
            soft = torch.softmax(wanted.masked_fill(closed, -torch.inf), -1).nan_to_num(0.0)
            seen = seen_alone(prompt, run, pattern, row)
            expect_zero(seen * closed, f"{pattern} of row {row} is not zero at the cut edges", call=call)
            for name in sink:
                soft = soft * (1 - run[name][row][:, prompt.columns[row]])[..., None]
            what = f"{pattern} of row {row} is not the softmax over the edges that are left"
            expect_equal(seen.float(), soft, what, call=call, tolerance=max(subject.tolerance, 1e-6))

    for_examples(holds, case=cut_edges(subject))


def check_blocked_queries_give_zeros(subject: Subject) -> None:
    """A query that may see no key gets zeros: no NaN, forward or backward, whether or not anybody looks."""

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[Prompt, int, int, bool]:
        prompt = draw(prompts(subject, least=2))
        layer = draw(st.sampled_from(layers_with(subject, SCORES)))
        return prompt, layer, draw(st.integers(0, prompt.shortest - 1)), draw(st.booleans())

    def holds(case: tuple[Prompt, int, int, bool]) -> None:
        prompt, layer, query, looking = case
        head = f"blocks.{layer}."
        read = ["hook_embed", head + "attn.hook_z", *([head + PATTERN] if looking else [])]
        spec = intervene(head + SCORES, Knockout(query=query)) + capture(read)
        run, call = subject.run(prompt, spec, grad=True), prompt.call(spec, grad=True)
        z = run.at(head + "attn.hook_z", pos=query).detach()
        expect_zero(z, f"{head}attn.hook_z of the blocked query {query}", call=call)
        if looking:
            pattern = run.at(head + PATTERN, query_pos=query).detach()
            expect_zero(pattern, f"{head}{PATTERN} of the blocked query {query}", call=call)
        expect(
            bool(run.logits.isfinite().all()),
            "a blocked query made logits NaN.",
            seen="NaN",
            wanted="numbers",
            call=call,
        )
        slope = run.grad(lambda logits: logits.sum(-1), "hook_embed")["hook_embed"]
        finite = bool(slope.isfinite().all())
        expect(finite, "a blocked query made gradients NaN.", seen="NaN at hook_embed", wanted="numbers", call=call)

    for_examples(holds, case=cases())


def check_scores_stay_masked(subject: Subject) -> None:
    """No write to the scores opens an edge: neither one that the architecture closes nor one that is cut."""

    def holds(case: tuple[Prompt, int, dict[str, Any]], seed: int) -> None:
        prompt, layer, where = case
        scores, pattern = f"blocks.{layer}.{SCORES}", f"blocks.{layer}.{PATTERN}"
        for write in (Replace(float(seed % 7)), Add(3.0), Noise(5.0, seed=seed)):
            edges = intervene(scores, write) + intervene(scores, Knockout().at(**where))
            spec = edges + capture([scores, pattern])
            run, call = subject.run(prompt, spec), prompt.call(spec)
            for row in range(len(prompt.ids)):
                seen = seen_alone(prompt, run, pattern, row)
                heads = slice(None) if "head" not in where else slice(where["head"], where["head"] + 1)
                cut = seen[heads, where["query_pos"]][..., where["key_pos"]]
                expect_zero(cut, f"a write to {scores} opened an edge that is cut (row {row})", call=call)
                if subject.model.shape.causal:
                    what = f"a write to {scores} let queries see later keys (row {row})"
                    expect_zero(seen.triu(1), what, call=call)

    for_examples(holds, case=cut_edges(subject), seed=seeds())


def check_head_results_sum_to_the_output(subject: Subject) -> None:
    """Each head's write is its values times its part of W_O; with b_O they sum to the mixer's own output."""

    def holds(prompt: Prompt) -> None:
        sites = [f"blocks.*.attn.{site}" for site in ("hook_z", "hook_result", "hook_out")]
        run, call = subject.run(prompt, capture(sites)), prompt.call(capture(sites))
        for layer in layers_with(subject, "attn.hook_result"):
            head, weights = f"blocks.{layer}.attn.", subject.model.weights
            bias = weights[head + "b_O"].detach() if head + "b_O" in weights else 0
            total = run[head + "hook_result"].sum(2) + bias
            real = prompt.real.to(total.device)
            what = f"the heads' {head}hook_result (plus b_O) do not sum to {head}hook_out"
            expect_equal(total[real], run[head + "hook_out"][real], what, call=call, tolerance=subject.tolerance)
            if head + "W_O" in weights:
                each = torch.einsum("bphd,hdm->bphm", run[head + "hook_z"], weights[head + "W_O"].detach())
                what = f"{head}hook_result is not each head's hook_z times W_O"
                expect_equal(run[head + "hook_result"], each, what, call=call, tolerance=subject.tolerance)

    for_examples(holds, prompt=prompts(subject))


def check_heads_are_reached_alone(subject: Subject) -> None:
    """A query head's own key or value is its group's, and a write to it reaches that head and no other."""

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[Prompt, str, int, int]:
        site = draw(st.sampled_from([s for s in ("attn.hook_k_per_head", "attn.hook_v_per_head") if subject.offers(s)]))
        layer = draw(st.sampled_from(layers_with(subject, site)))
        heads = subject.model.points.find(f"blocks.{layer}.{site}").site.sizes["head"]
        return draw(prompts(subject, least=2)), site, layer, draw(st.integers(0, heads - 1))

    def holds(case: tuple[Prompt, str, int, int], seed: int) -> None:
        prompt, site, layer, head = case
        # a norm before W_O reads all heads together
        mixed = "hook_z_ungated" if layer in layers_with(subject, "attn.hook_z_ungated") else "hook_z"
        point, z = f"blocks.{layer}.{site}", f"blocks.{layer}.attn.{mixed}"
        names = {"attn.hook_v_per_head": [f"attn.hook_v{how}" for how in ("_normed", "_scaled", "_clipped", "")]}.get(
            site, ["attn.hook_rot_k", "attn.hook_k_normed", "attn.hook_k_clipped", "attn.hook_k"]
        )
        shared = next(f"blocks.{layer}.{name}" for name in names if layer in layers_with(subject, name))
        base = subject.run(prompt, capture([point, shared, z]))
        groups = base[point].shape[2] // base[shared].shape[2]
        call = prompt.call(capture([point, shared]))
        wanted = base[shared].repeat_interleave(groups, 2)
        expect_equal(base[point], wanted, f"{point} is not {shared} of each head's group", call=call)
        spec = intervene(point, Noise(1.0, seed=seed).at(head=head)) + capture(z)
        run, call = subject.run(prompt, spec), prompt.call(spec)
        others = [other for other in range(base[z].shape[2]) if other != head]
        what = f"a write to head {head} of {point} changed {z} of other heads"
        expect_equal(run[z][:, :, others], base[z][:, :, others], what, call=call, tolerance=subject.tolerance)
        moved = largest(run[z][:, :, head] - base[z][:, :, head])
        what = f"a write to head {head} of {point} did not change its {z}."
        expect(moved > 1e-6, what, seen=f"moved by {moved:.3g}", wanted="more", call=call)

    for_examples(holds, case=cases(), seed=seeds())
