"""Dtypes: what bfloat16 gives lies close to float32, and every site comes in the dtype in which it is computed."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from mi_core.interventions import Replace
from mi_core.names import Point
from mi_core.run import Run
from mi_core.spec import HookSpec, capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal
from mi_core.testing.strategies import Prompt, prompts
from mi_core.testing.subject import Subject

__all__ = ["check_bfloat16_stays_close", "convertible"]

CLOSE: Final = 0.05
"""How far bfloat16 (8 bits of significand) may be from float32 behind a few layers, as a part of the largest logit."""
STREAM: Final = ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


def convertible(subject: Subject) -> bool:
    """Whether the weights can be put into another dtype."""
    return isinstance(subject.model.backend, nn.Module)


def check_bfloat16_stays_close(subject: Subject) -> None:
    """In bfloat16 logits stay within 5 % of the largest float32 logit, and sites come in their own dtype."""
    narrow = subject.in_dtype(torch.bfloat16)
    # the same weights, rounded the same way
    wide = narrow.in_dtype(torch.float32)

    def holds(prompt: Prompt) -> None:
        spec = capture("*")
        other = narrow.run(prompt, spec)
        one = wide.run(prompt, routed_like(other) + spec)
        call = f"{prompt.call(spec)} with the model in bfloat16"
        close = other.logits.float() - one.logits
        bound = CLOSE * float(one.logits.abs().max())
        expect(
            bool((close.abs() <= bound).all()),
            "the logits in bfloat16 are far from those in float32.",
            seen=f"{float(close.abs().max()):.3g} apart",
            wanted=f"at most {bound:.3g}",
            call=call,
        )
        plain = narrow.run(prompt, routed_like(other)).logits
        expect_equal(other.logits, plain, "capturing changed the logits in bfloat16", call=call, tolerance=CLOSE)
        for point in subject.points:
            if point.name in other:
                check_dtype(point, one, other, call, wide_stream=subject.model.shape.wide_stream)

    for_examples(holds, prompt=prompts(subject))


def routed_like(run: Run) -> HookSpec:
    """Routers' logits as in another run: rounding sends some token to another expert, which is no error of rounding."""
    routers = [name for name in run if name.endswith("mlp.hook_router_logits")]
    return intervene(routers, Replace(run)) if routers else HookSpec()


def check_dtype(point: Point, wide: Run, narrow: Run, call: str, *, wide_stream: bool) -> None:
    """The dtype of one site in each model."""
    seen, reference = narrow[point.name].dtype, wide[point.name].dtype
    if not seen.is_floating_point:
        expect(seen == reference, f"{point.name} has another dtype.", seen=seen, wanted=reference, call=call)
        return
    expect(
        reference == torch.float32,
        f"{point.name} is not float32 in a float32 model.",
        seen=reference,
        wanted=torch.float32,
        call=call,
    )
    narrow_only = point.site.name in STREAM and not wide_stream
    wanted = (torch.bfloat16,) if narrow_only else (torch.bfloat16, torch.float32)
    what = f"{point.name} comes in a dtype in which a bfloat16 model does not compute it."
    expect(seen in wanted, what, seen=seen, wanted=" or ".join(map(str, wanted)), call=call)
