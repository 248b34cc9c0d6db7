"""``mi knockout``: attention knockout from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import (
    Device,
    DType,
    Html,
    Json,
    ModelName,
    Prompt,
    Quantise,
    check_folders,
    deliver,
    listed,
    place,
)

__all__ = ["knockout"]


def knockout(
    model: ModelName,
    text: Prompt,
    answer: Annotated[
        str | None, typer.Option(help="The token to follow, such as ' Paris'; by default what the model says.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Cut what comes from here: positions (0,3 or -1) or a text; by default each."),
    ] = None,
    to: Annotated[str, typer.Option(help="Where it goes: positions or a text, or 'all'.")] = "-1",
    heads: Annotated[str | None, typer.Option(help="In these heads only, such as 0,3.")] = None,
    each: Annotated[str | None, typer.Option(help="The axes: layer, head, key_pos, query_pos.")] = None,
    window: Annotated[int, typer.Option(help="How many layers are cut together.", min=1)] = 1,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Which attention edges does an answer hang on?

    Cuts edges between positions, layer by layer, and prints what becomes of the answer: probability, rank, KL in nats.
    """
    check_folders(html, json)
    if heads is not None and not all(part.isdecimal() for part in listed(heads)):
        raise typer.BadParameter(f"{heads!r}: heads are numbers, such as 0,3", param_hint="--heads")

    import mi_core as mi
    from mi_analyses.attention_knockout import attention_knockout

    result = attention_knockout(
        mi.load(model, device=device, dtype=dtype, quantise=quantise),
        text,
        answer,
        query=None if to == "all" else place(to),
        key=place(from_),
        heads=None if heads is None else [int(part) for part in listed(heads)],
        each=None if each is None else listed(each),
        window=window,
    )
    deliver(result, html, json)
