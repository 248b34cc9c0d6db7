"""``mi atp``: attribution patching from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import (
    Answer,
    CleanPrompt,
    CorruptPrompt,
    Device,
    DType,
    Html,
    Json,
    ModelName,
    Quantise,
    Wrong,
    answer_metric,
    check_folders,
    deliver,
    listed,
)

__all__ = ["atp"]


def atp(
    model: ModelName,
    clean: CleanPrompt,
    corrupt: CorruptPrompt,
    answer: Answer,
    wrong: Wrong = None,
    site: Annotated[
        str, typer.Option(help="Where: hook_resid_pre, attn.hook_z, mlp.hook_post, attn.hook_q, ...")
    ] = "hook_resid_pre",
    each: Annotated[
        str | None, typer.Option(help="The axes, such as layer,pos,head; by default heads where the site has them.")
    ] = None,
    noising: Annotated[bool, typer.Option("--noising", help="Patch corrupt activations into the clean run.")] = False,
    steps: Annotated[int, typer.Option(help="Average so many gradients on the way between the prompts.", min=0)] = 0,
    qk_fix: Annotated[
        bool, typer.Option("--qk-fix", help="For queries and keys: compute the softmax anew (AtP*).")
    ] = False,
    grad_drop: Annotated[
        bool, typer.Option("--grad-drop", help="Leave one layer after another out of the gradient (AtP*).")
    ] = False,
    screen: Annotated[int, typer.Option(help="Run so many of the largest cells exactly.", min=0)] = 0,
    sample: Annotated[int | None, typer.Option(help="And so many drawn at random; by default as many.", min=0)] = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """What would each patch do, to first order, for all of them at once?

    Estimates from one gradient what patching every part of one prompt's run into the other's would bring.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.attribution_patching import attribution_patching

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    result = attribution_patching(
        loaded,
        clean,
        corrupt,
        answer_metric(answer, wrong),
        site=site,
        each=None if each is None else listed(each),
        noising=noising,
        steps=steps,
        qk_fix=qk_fix,
        grad_drop=grad_drop,
        screen=screen,
        sample=sample,
    )
    deliver(result, html, json)
