"""``mi patch``: activation patching from a shell."""

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

__all__ = ["patch"]


def patch(
    model: ModelName,
    clean: CleanPrompt,
    corrupt: CorruptPrompt,
    answer: Answer,
    wrong: Wrong = None,
    site: Annotated[
        str, typer.Option(help="Where: hook_resid_pre, hook_attn_out, attn.hook_z, ..., or carried (recurrent).")
    ] = "hook_resid_pre",
    each: Annotated[
        str | None, typer.Option(help="The axes, such as layer,pos; by default heads where the site has them.")
    ] = None,
    window: Annotated[int, typer.Option(help="How many layers are patched together.", min=1)] = 1,
    noising: Annotated[bool, typer.Option("--noising", help="Patch corrupt activations into the clean run.")] = False,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Which activations carry the difference between two prompts?

    Patches one part at a time of one prompt's run into the other's, and prints how much of the difference each brings.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.activation_patching import activation_patching

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    result = activation_patching(
        loaded,
        clean,
        corrupt,
        answer_metric(answer, wrong),
        site=site,
        each=None if each is None else listed(each),
        window=window,
        noising=noising,
    )
    deliver(result, html, json)
