"""``mi path``: path patching from a shell."""

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
    place,
)

__all__ = ["path"]


def path(
    model: ModelName,
    clean: CleanPrompt,
    corrupt: CorruptPrompt,
    answer: Answer,
    wrong: Wrong = None,
    to: Annotated[
        str, typer.Option(help="The receivers: logits, 'mlp 5', L5H2.q, L5KV1.k, with commas; 'all' for everybody.")
    ] = "logits",
    sender: Annotated[str | None, typer.Option(help="The senders; by default all that write before.")] = None,
    each: Annotated[bool, typer.Option("--each", help="One receiver at a time.")] = False,
    pos: Annotated[str | None, typer.Option(help="Where the sender is patched: -1, 0,3, or a text.")] = None,
    recompute_mlps: Annotated[
        bool, typer.Option("--recompute-mlps", help="Count paths through MLPs too, as in Wang et al.")
    ] = False,
    noising: Annotated[bool, typer.Option("--noising", help="Hand corrupt outputs to the clean run.")] = False,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """By which paths does what one node writes reach the answer?

    Hands each sender's output of one prompt to the receivers in the other's run, and prints what that brings.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.path_patching import path_patching

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    result = path_patching(
        loaded,
        clean,
        corrupt,
        answer_metric(answer, wrong),
        None if to == "all" else listed(to),
        senders=None if sender is None else listed(sender),
        each_receiver=each,
        pos=place(pos),
        mlps="recomputed" if recompute_mlps else "frozen",
        noising=noising,
    )
    deliver(result, html, json)
