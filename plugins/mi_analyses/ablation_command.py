"""``mi ablate``: ablation from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Prompt, Quantise, check_folders, deliver, listed

__all__ = ["ablate"]


def ablate(
    model: ModelName,
    prompt: Prompt,
    answer: Annotated[str, typer.Option(help="What the prompt says next, such as ' Paris'.", show_default=False)],
    wrong: Annotated[
        str | None, typer.Option(help="What it is compared with; without it the answer's logit is measured.")
    ] = None,
    site: Annotated[
        str, typer.Option(help="attn.hook_z for heads, mlp.hook_post for neurons, hook_attn_out, ...")
    ] = "attn.hook_z",
    how: Annotated[str, typer.Option(help="zero, or mean / resample over --reference prompts.")] = "zero",
    reference: Annotated[
        list[str] | None, typer.Option(help="A prompt of as many tokens; give the option once for each.")
    ] = None,
    each: Annotated[str | None, typer.Option(help="The axes, such as layer,head or layer,d_mlp.")] = None,
    window: Annotated[int, typer.Option(help="How many layers are ablated together.", min=1)] = 1,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Which heads, neurons or layers does an answer need?

    Takes out one part at a time, and prints how the metric changes.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.ablation import ablation

    result = ablation(
        mi.load(model, device=device, dtype=dtype, quantise=quantise),
        prompt,
        mi.logit(answer) if wrong is None else mi.logit_diff(answer, wrong),
        site=site,
        how=how,
        reference=reference or None,
        each=None if each is None else listed(each),
        window=window,
    )
    deliver(result, html, json)
