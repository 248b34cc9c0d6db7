"""Mixtures of experts: what they write, what re-routes them, and which experts a weight calls."""

from __future__ import annotations

from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from mi_core.interventions import Replace
from mi_core.run import Run
from mi_core.spec import HookSpec, capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal, expect_zero
from mi_core.testing.strategies import Prompt, prompts
from mi_core.testing.subject import Subject
from mi_core.testing.weights import weight_of

__all__ = [
    "INDICES",
    "check_experts_sum_to_the_output",
    "check_given_weights_call_experts",
    "check_router_logits_route",
    "check_sinks_leave_the_rest",
]

INDICES: Final = "mlp.hook_expert_indices"
LOGITS: Final = "mlp.hook_router_logits"
WEIGHTS: Final = ("mlp.hook_expert_weights", "mlp.hook_expert_input_weights")
INSIDE: Final = ("mlp.hook_in", INDICES, *WEIGHTS, "mlp.experts.hook_pre", "mlp.experts.hook_out")
OUTSIDE: Final = ("mlp.shared.hook_out", "mlp.shared.hook_gate", "mlp.hook_out")
FAR: Final = 50.0
"""A router logit that no other comes near."""


def layers_with(subject: Subject, site: str) -> list[int]:
    """The layers that have a site."""
    return [point.layer for point in subject.points if point.site.name == site and point.layer is not None]


def inside(subject: Subject, layer: int) -> HookSpec:
    """A capture of everything that a layer's mixture is made of."""
    here = {point.name for point in subject.points if point.layer == layer}
    return capture([name for site in (*INSIDE, *OUTSIDE) if (name := f"blocks.{layer}.{site}") in here])


def weights_site(subject: Subject, layer: int) -> str:
    """The point of the experts' weights in a layer: of their outputs, or of their inputs."""
    here = {point.site.name for point in subject.points if point.layer == layer}
    return f"blocks.{layer}.{next(site for site in WEIGHTS if site in here)}"


def sent_to(layer: int, expert: int) -> HookSpec:
    """Every token's router prefers one expert by far."""
    point = f"blocks.{layer}.{LOGITS}"
    return intervene(point, Replace(-FAR)) + intervene(point, Replace(FAR).at(expert=expert))


@st.composite
def an_expert(draw: st.DrawFn, subject: Subject) -> tuple[Prompt, int, int]:
    """A prompt, a layer that has experts, and one of them."""
    layer = draw(st.sampled_from(layers_with(subject, INDICES)))
    count = subject.model.points.find(f"blocks.{layer}.{LOGITS}").site.sizes["expert"]
    return draw(prompts(subject)), layer, draw(st.integers(0, count - 1))


def check_experts_sum_to_the_output(subject: Subject) -> None:
    """What chosen experts write, each times its weight, plus what the shared one writes, is the part's own output."""

    def holds(prompt: Prompt) -> None:
        for layer in layers_with(subject, INDICES):
            spec = inside(subject, layer)
            check_sum(subject, prompt, subject.run(prompt, spec), layer, prompt.call(spec))

    for_examples(holds, prompt=prompts(subject))


def check_sum(subject: Subject, prompt: Prompt, run: Run, layer: int, call: str) -> None:
    """The equations of one layer's mixture."""
    head, real, weights = f"blocks.{layer}.", prompt.real, run[weights_site(subject, layer)]
    indices, outputs = run[f"{head}{INDICES}"], run[f"{head}mlp.experts.hook_out"]
    ordered = indices[real].sort(-1).values
    twice = bool((ordered.diff(dim=-1) == 0).any())
    expect(not twice, f"{head}{INDICES} holds an expert twice.", seen=indices.tolist(), wanted="once each", call=call)
    beside = weights.scatter(-1, indices, 0.0)
    expect_zero(beside[real], f"{weights_site(subject, layer)} of experts that are not chosen", call=call)
    chosen = weights.gather(-1, indices)[..., None]
    on_input = weights_site(subject, layer).endswith(WEIGHTS[1])
    total = (outputs if on_input else outputs * chosen).sum(2)
    if f"{head}{OUTSIDE[0]}" in run:
        shared, gate = run[f"{head}{OUTSIDE[0]}"], f"{head}{OUTSIDE[1]}"
        total = total + (shared * run[gate] if gate in run else shared)
    what = f"{head}mlp.hook_out is not the sum of what its experts write"
    expect_equal(run[f"{head}mlp.hook_out"][real], total[real], what, call=call, tolerance=subject.tolerance)
    each = pre_activations(subject, run, layer)
    if each is not None:
        read = each * weights[..., None] if on_input else each
        wanted = read.gather(2, indices[..., None].expand(*indices.shape, read.shape[-1]))
        bias = biases_of(subject, layer)
        wanted = wanted if bias is None else wanted + bias[indices]
        what = f"{head}mlp.experts.hook_pre is not that of the experts which {INDICES} names"
        seen = run[f"{head}mlp.experts.hook_pre"]
        expect_equal(seen[real], wanted[real], what, call=call, tolerance=subject.tolerance)


def pre_activations(subject: Subject, run: Run, layer: int) -> Tensor | None:
    """All gate pre-activations without biases, ``[batch pos expert d_mlp]``; None where weights have no names."""
    count = run[weights_site(subject, layer)].shape[-1]
    found = [weight_of(subject, f"blocks.{layer}.mlp.experts.{expert}.W_gate") for expert in range(count)]
    matrices = [matrix for matrix in found if matrix is not None]
    x = run[f"blocks.{layer}.mlp.hook_in"]
    return torch.stack([x @ matrix for matrix in matrices], 2) if len(matrices) == count else None


def biases_of(subject: Subject, layer: int) -> Tensor | None:
    """The gate biases of all experts, ``[expert d_mlp]``."""
    count = subject.model.points.find(f"blocks.{layer}.{LOGITS}").site.sizes["expert"]
    found = [weight_of(subject, f"blocks.{layer}.mlp.experts.{expert}.b_gate") for expert in range(count)]
    biases = [bias for bias in found if bias is not None]
    return torch.stack(biases) if biases else None


def check_router_logits_route(subject: Subject) -> None:
    """A write to the router's logits sends tokens to other experts, and the output is what those write."""

    def holds(case: tuple[Prompt, int, int]) -> None:
        prompt, layer, expert = case
        spec = sent_to(layer, expert) + inside(subject, layer)
        run, call = subject.run(prompt, spec), prompt.call(spec)
        indices = run[f"blocks.{layer}.{INDICES}"][prompt.real]
        expect(
            bool((indices == expert).any(-1).all()),
            f"tokens whose router prefers expert {expert} by far are not sent to it in layer {layer}.",
            seen=indices.tolist(),
            wanted=f"{expert} in every row",
            call=call,
        )
        check_sum(subject, prompt, run, layer, call)

    for_examples(holds, case=an_expert(subject))


def check_given_weights_call_experts(subject: Subject) -> None:
    """An expert whose weight is written writes that much of its output, whether or not the router chose it."""

    def holds(case: tuple[Prompt, int, int]) -> None:
        prompt, layer, expert = case
        point, out, seen = weights_site(subject, layer), f"blocks.{layer}.mlp.hook_out", inside(subject, layer)
        sent = subject.run(prompt, sent_to(layer, expert) + seen)
        spec = intervene(point, Replace(1.0).at(expert=expert)) + capture(out)
        whole, call = subject.run(prompt, spec), prompt.call(spec)
        nothing = subject.run(prompt, intervene(point, Replace(0.0).at(expert=expert)) + capture(out))
        here = sent[f"blocks.{layer}.{INDICES}"] == expert
        wanted = torch.where(here[..., None], sent[f"blocks.{layer}.mlp.experts.hook_out"], 0.0).sum(2)
        expect_equal(
            (whole[out] - nothing[out])[prompt.real],
            wanted[prompt.real],
            f"a weight of one for expert {expert} does not add what it writes to {out}",
            call=call,
            tolerance=2 * subject.tolerance,
        )

    for_examples(holds, case=an_expert(subject))


def check_sinks_leave_the_rest(subject: Subject) -> None:
    """A write to the share that sinks take leaves the rest of it to the keys, in the same proportions."""
    sink, pattern = "attn.hook_sink", "attn.hook_pattern"

    def holds(prompt: Prompt, share: float) -> None:
        for layer in layers_with(subject, sink):
            point, behind = f"blocks.{layer}.{sink}", f"blocks.{layer}.{pattern}"
            base = subject.run(prompt, capture([point, behind]))
            spec = intervene(point, Replace(share)) + capture(behind)
            run, call = subject.run(prompt, spec), prompt.call(spec)
            wanted = base[behind] / (1 - base[point])[..., None] * (1 - share)
            what = f"{behind} is not what {point} leaves"
            expect_equal(run[behind], wanted, what, call=call, tolerance=max(subject.tolerance, 1e-6))

    for_examples(holds, prompt=prompts(subject), share=st.floats(0.0, 0.9))
