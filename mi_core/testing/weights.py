"""Weights by name: times an activation they give the next one. And that they are numbers, and stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from mi_core.errors import CheckFailed, UnknownPoint
from mi_core.interventions import Add, Noise, Replace
from mi_core.run import Run
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal
from mi_core.testing.strategies import Prompt, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = [
    "check_nothing_given_is_changed",
    "check_weights_are_finite",
    "check_weights_lead_to_the_next_activation",
    "tensors_of",
]

Product = Callable[[Tensor, Tensor], Tensor]


def matrix(x: Tensor, weight: Tensor) -> Tensor:
    """``[... in] [in out]``."""
    return x @ weight


def into_heads(x: Tensor, weight: Tensor) -> Tensor:
    """``[... d_model] [head d_model d_head]``."""
    return torch.einsum("bpm,hmd->bphd", x, weight)


def out_of_heads(x: Tensor, weight: Tensor) -> Tensor:
    """``[... head d_head] [head d_head d_model]``; a mixer without heads has ``[... d_in] [d_in d_model]``."""
    return torch.einsum("bphd,hdm->bpm", x, weight) if weight.ndim == 3 else x @ weight


def gain(x: Tensor, weight: Tensor) -> Tensor:
    """Entry by entry."""
    return x * weight


IN_LAYER: Final[tuple[tuple[str, str, str, str, Product], ...]] = (
    ("attn.hook_in", "attn.W_Q", "attn.b_Q", "attn.hook_q", into_heads),
    ("attn.hook_in", "attn.W_K", "attn.b_K", "attn.hook_k", into_heads),
    ("attn.hook_in", "attn.W_V", "attn.b_V", "attn.hook_v", into_heads),
    ("attn.hook_q_latent", "attn.W_UQ", "attn.b_UQ", "attn.hook_q", into_heads),
    ("attn.hook_kv_latent", "attn.W_UV", "attn.b_UV", "attn.hook_v", into_heads),
    ("attn.hook_z", "attn.W_O", "attn.b_O", "attn.hook_out", out_of_heads),
    ("mixer.hook_z", "mixer.W_O", "mixer.b_O", "mixer.hook_out", out_of_heads),
    ("mlp.hook_in", "mlp.W_gate", "mlp.b_gate", "mlp.hook_pre", matrix),
    ("mlp.hook_in", "mlp.W_in", "mlp.b_in", "mlp.hook_pre_linear", matrix),
    ("mlp.hook_post", "mlp.W_out", "mlp.b_out", "mlp.hook_out", matrix),
    ("mlp.hook_in", "mlp.W_router", "mlp.b_router", "mlp.hook_router_logits", matrix),
    ("mlp.shared.hook_in", "mlp.shared.W_gate", "mlp.shared.b_gate", "mlp.shared.hook_pre", matrix),
    ("mlp.shared.hook_in", "mlp.shared.W_in", "mlp.shared.b_in", "mlp.shared.hook_pre_linear", matrix),
    ("mlp.shared.hook_post", "mlp.shared.W_out", "mlp.shared.b_out", "mlp.shared.hook_out", matrix),
    ("ln1.hook_normalized", "ln1.w", "ln1.b", "attn.hook_in", gain),
    ("ln1.hook_normalized", "ln1.w", "ln1.b", "mixer.hook_in", gain),
    ("ln2.hook_normalized", "ln2.w", "ln2.b", "mlp.hook_in", gain),
)
"""Site, weight, bias, next site, product. Source: the equations of the hook-point table."""
POST_NORM: Final[tuple[tuple[str, str, str, str, Product], ...]] = (
    ("ln1_post.hook_normalized", "ln1_post.w", "ln1_post.b", "hook_resid_mid", gain),
    ("ln2_post.hook_normalized", "ln2_post.w", "ln2_post.b", "hook_resid_post", gain),
)
"""Where the norm stands on the stream itself."""
UNGATED: Final = ("mlp.hook_in", "mlp.W_in", "mlp.b_in", "mlp.hook_pre", matrix)
OUTSIDE: Final[tuple[tuple[str, str, str, str, Product], ...]] = (
    ("embed_norm.hook_normalized", "embed_norm.w", "embed_norm.b", "hook_embed", gain),
    ("ln_final.hook_normalized", "ln_final.w", "ln_final.b", "unembed.hook_in", gain),
    ("unembed.hook_in", "unembed.W_U", "unembed.b_U", "unembed.hook_out", matrix),
)


NAMED: Final = {site for row in (*IN_LAYER, UNGATED, *POST_NORM, *OUTSIDE) for site in (row[0], row[3])}


def check_weights_lead_to_the_next_activation(subject: Subject) -> None:
    """A weight by its name and layout, times the activation before it, plus its bias, is the activation behind it."""

    def holds(prompt: Prompt) -> None:
        spec = capture([point.name for point in subject.points if point.site.name in NAMED])
        run, call = subject.run(prompt, spec), prompt.call(spec)
        for head, (before, weight, bias, behind, product) in equations(subject, run):
            factor = weight_of(subject, head + weight)
            if factor is None:
                continue
            wanted = product(run[head + before].to(factor.dtype), factor)
            added = weight_of(subject, head + bias)
            wanted = wanted if added is None else wanted + added
            expect_equal(
                run[head + behind][prompt.real],
                wanted[prompt.real].to(run[head + behind].dtype),
                f"{head}{behind} is not {head}{before} times {weight}{'' if added is None else f' plus {bias}'}",
                call=f"model.weights[{head + weight!r}], {call}",
                tolerance=subject.tolerance,
            )

    for_examples(holds, prompt=prompts(subject))


def equations(subject: Subject, run: Run) -> Iterator[tuple[str, tuple[str, str, str, str, Product]]]:
    """The equations whose two sites a layer has."""
    for layer in range(subject.depth):
        head = f"blocks.{layer}."
        gated = f"{head}mlp.hook_pre_linear" in run.receipt.fired
        normed = POST_NORM if subject.rule(layer).kind == "post_norm" else ()
        for row in (*IN_LAYER, *(() if gated else (UNGATED,)), *normed):
            if {head + row[0], head + row[3]} <= set(run.receipt.fired):
                yield head, row
    for row in OUTSIDE:
        if {row[0], row[3]} <= set(run.receipt.fired):
            yield "", row


def weight_of(subject: Subject, name: str) -> Tensor | None:
    """A weight, or None where the backend names none."""
    try:
        return subject.model.weights[name].detach()
    except UnknownPoint:
        return None


def tensors_of(subject: Subject) -> dict[str, Tensor]:
    """Every parameter and buffer."""
    backend = subject.model.backend
    if not isinstance(backend, nn.Module):
        return {}
    return {**dict(backend.named_parameters()), **dict(backend.named_buffers())}


def check_weights_are_finite(subject: Subject) -> None:
    """No weight is NaN or infinite."""
    bad = {name: int((~t.isfinite()).sum()) for name, t in tensors_of(subject).items() if t.is_floating_point()}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        shown = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:5])
        raise CheckFailed(
            f"{len(bad)} tensor(s) hold NaN or infinity: {shown}{', ...' if len(bad) > 5 else ''}. The checkpoint is "
            "damaged, or was saved in a dtype that its values overflow.",
            tensors=bad,
        )


def prints(tensors: dict[str, Tensor]) -> dict[str, tuple[float, float, int]]:
    """A fingerprint of each tensor that takes no memory: two sums, and how often it was written in place."""
    return {n: (float(t.double().sum()), float(t.double().abs().sum()), t._version) for n, t in tensors.items()}


def check_nothing_given_is_changed(subject: Subject) -> None:
    """No run changes weights, inputs, the tensors of a spec, or what an earlier run has captured."""

    def holds(prompt: Prompt, seed: int, grad: bool) -> None:
        target = subject.writable[seed % len(subject.writable)]
        earlier = subject.run(prompt, capture("*"))
        kept = {name: earlier[name].clone() for name in earlier}
        value = earlier[target.name].clone() if target.name in earlier else torch.tensor(0.5)
        spec = intervene(target.name, Replace(value)) + intervene(target.name, Add(value)) + capture("*")
        spec += intervene(target.name, Noise(1.0, seed=seed))
        ids, mask = prompt.ids.clone(), prompt.real.clone()
        given, before = value.clone(), prints(tensors_of(subject))
        subject.run(prompt, spec, grad=grad)
        call = prompt.call(spec, grad=grad)
        expect_equal(prompt.ids, ids, "the run changed the ids that it was given", call=call)
        expect_equal(prompt.real, mask, "the run changed the mask that it was given", call=call)
        expect_equal(value, given, "the run changed a tensor of its spec", call=call)
        for name, wanted in kept.items():
            expect_equal(earlier[name], wanted, f"the run changed what an earlier one captured at {name!r}", call=call)
        after = prints(tensors_of(subject))
        moved = [name for name in before if before[name] != after[name]]
        expect(not moved, "the run changed weights.", seen=moved, wanted="no tensor of the model", call=call)

    always = [{"prompt": Prompt.of([3], subject.model.shape), "seed": 0, "grad": True}]
    for_examples(holds, always=always, prompt=prompts(subject), seed=seeds(), grad=st.booleans())
