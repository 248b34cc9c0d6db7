"""The stream: what is added to it, what norms make of it, what its end unembeds to."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mi_core.errors import CheckFailed
from mi_core.run import Run
from mi_core.spec import capture
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal
from mi_core.testing.strategies import Prompt, prompts
from mi_core.testing.subject import Subject

__all__ = [
    "check_norms_divide_by_their_scale",
    "check_residual_equations",
    "check_unembedding_the_last_stream_gives_the_logits",
]


def check_residual_equations(subject: Subject) -> None:
    """The stream starts as the embedding, and each layer adds to it by its own rule."""

    def holds(prompt: Prompt) -> None:
        spec = capture("*")
        run, call = subject.run(prompt, spec), prompt.call(spec)

        def equal(seen: Tensor, wanted: Tensor, equation: str) -> None:
            what = f"the equation {equation} does not hold"
            expect_equal(seen, wanted, what, call=call, tolerance=subject.tolerance)

        if subject.depth:
            start = run["hook_embed"] + (run["hook_pos_embed"] if "hook_pos_embed" in run.receipt.fired else 0)
            equal(run["blocks.0.hook_resid_pre"], start, "resid_pre[0] = embed (+ pos_embed)")
        for layer in range(subject.depth):
            if layer:
                seen, wanted = run[f"blocks.{layer}.hook_resid_pre"], run[f"blocks.{layer - 1}.hook_resid_post"]
                equal(seen, wanted, f"resid_pre[{layer}] = resid_post[{layer - 1}]")
            for site, (value, equation) in expected(subject, run, layer).items():
                equal(run[f"blocks.{layer}.{site}"], value, f"blocks.{layer}.{site} = {equation}")

    for_examples(holds, prompt=prompts(subject))


def expected(subject: Subject, run: Run, layer: int) -> Mapping[str, tuple[Tensor, str]]:
    """What a layer's rule says that its sites must be."""
    rule, head = subject.rule(layer), f"blocks.{layer}."
    here = {name.removeprefix(head): run[name] for name in run if name.startswith(head)}
    if rule.kind == "own":
        if rule.formula is None or not rule.reason:
            raise CheckFailed(
                f"layer {layer} has a residual rule of its own, without a formula or a reason: give both, "
                "Residual('own', reason=..., formula=...)."
            )
        return {site: (value, rule.reason) for site, value in rule.formula(here).items()}
    pre, added = here["hook_resid_pre"], [site for site in ("hook_attn_out", "hook_mlp_out") if site in here]
    if rule.kind == "parallel":
        total = pre + sum(here[site] for site in added)
        return {"hook_resid_post": (total, f"resid_pre + {' + '.join(added)}")}
    if rule.kind == "post_norm":
        # the norms' inputs and gains are tied to the stream by the checks of norms and of weights
        return {}
    if rule.kind != "sequential":
        kinds = "'sequential', 'parallel', 'post_norm' or 'own'"
        raise CheckFailed(f"layer {layer} has the residual rule {rule.kind!r}; there are {kinds}.")
    result = {}
    middle = pre + here["hook_attn_out"] if "hook_attn_out" in here else pre
    if "hook_resid_mid" in here:
        result["hook_resid_mid"] = (middle, "resid_pre + attn_out")
    result["hook_resid_post"] = (middle + here.get("hook_mlp_out", 0), "resid_mid + mlp_out")
    return result


def norm_inputs(subject: Subject, layer: int, site: str, run: Run) -> Tensor | None:
    """What a norm reads, as far as a captured point says; None where none does."""
    head = f"blocks.{layer}."
    rule = subject.rule(layer).kind

    def at(name: str) -> Tensor | None:
        return run[head + name] if head + name in run.receipt.fired else None

    if rule == "post_norm":
        pre, out = {
            "ln1_post": ("hook_resid_pre", "hook_attn_out"),
            "ln2_post": ("hook_resid_mid", "hook_mlp_out"),
        }.get(site, ("", ""))
        first, second = at(pre), at(out)
        return None if first is None or second is None else first + second
    names = {
        "ln1": "hook_resid_pre",
        "ln2": "hook_resid_pre" if rule == "parallel" else "hook_resid_mid",
        "ln1_post": "attn.hook_out",
        "ln2_post": "mlp.hook_out",
    }
    return at(names[site]) if rule in ("sequential", "parallel") and site in names else None


def check_norms_divide_by_their_scale(subject: Subject) -> None:
    """A norm's output before gain and bias, times its denominator, is its input, centred or not."""

    def holds(prompt: Prompt) -> None:
        spec = capture("*")
        run, call = subject.run(prompt, spec), prompt.call(spec)
        for name in run:
            where, _, leaf = name.rpartition(".")
            if leaf != "hook_normalized" or f"{where}.hook_scale" not in run:
                continue
            if where == "ln_final":
                given = run[f"blocks.{subject.depth - 1}.hook_resid_post"] if subject.depth else None
            elif where == "embed_norm":
                given = run["embed_norm.hook_in"]
            else:
                given = norm_inputs(subject, int(where.split(".")[1]), where.split(".")[2], run)
            if given is None:
                continue
            product = run[name].double() * run[f"{where}.hook_scale"].double()
            plain, centred = given.double(), given.double() - given.double().mean(-1, keepdim=True)
            near = min((plain, centred), key=lambda wanted: float((product - wanted).abs().max()))
            what = f"{name} times {where}.hook_scale is not the norm's input, neither as it is nor centred"
            expect_equal(product, near, what, call=call, tolerance=subject.tolerance)
            # a denominator belongs to its position alone, and is positive
            positive = bool((run[f"{where}.hook_scale"][prompt.real] > 0).all())
            expect(positive, f"{where}.hook_scale is not positive.", seen="zero or less", wanted="positive", call=call)

    for_examples(holds, prompt=prompts(subject))


def check_unembedding_the_last_stream_gives_the_logits(subject: Subject) -> None:
    """``model.unembed`` of the stream behind the last layer gives the logits, with any leading dims."""
    last = f"blocks.{subject.depth - 1}.hook_resid_post" if subject.depth else "hook_embed"

    def holds(prompt: Prompt) -> None:
        run = subject.run(prompt, capture(last))
        stream, call = run[last], f"model.unembed(run[{last!r}]), run = {prompt.call(capture(last))}"
        wanted = run.logits[prompt.real]
        for what, seen in (
            ("[batch pos d_model]", subject.model.unembed(stream)[prompt.real]),
            ("[tokens d_model]", subject.model.unembed(stream[prompt.real])),
            ("[1 tokens 1 d_model]", subject.model.unembed(stream[prompt.real][None, :, None])[0, :, 0]),
        ):
            what = f"the unembedding of the last stream as {what} is not the logits"
            expect_equal(seen, wanted, what, call=call, tolerance=subject.tolerance)

    for_examples(holds, prompt=prompts(subject))
