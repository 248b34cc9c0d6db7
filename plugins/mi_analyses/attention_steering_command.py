"""``mi steer-attention``: attention steering from a shell."""

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
    numbers,
    place,
)

__all__ = ["steer_attention"]


def steer_attention(
    model: ModelName,
    text: Prompt,
    answer: Annotated[str, typer.Option(help="The token to follow, such as ' Paris'.", show_default=False)],
    from_: Annotated[
        str, typer.Option("--from", help="What is looked at: positions (0,3 or -1) or a text.", show_default=False)
    ],
    wrong: Annotated[str | None, typer.Option(help="Another token; without it the answer's probability.")] = None,
    to: Annotated[str, typer.Option(help="Who looks: positions or a text, or 'all'.")] = "-1",
    layers: Annotated[str | None, typer.Option(help="In these layers only, such as 1,2.")] = None,
    heads: Annotated[str | None, typer.Option(help="In these heads only, such as 0,3.")] = None,
    scales: Annotated[str | None, typer.Option(help="Factors of the weights, such as 0.5,2.")] = None,
    values: Annotated[str | None, typer.Option(help="Weights that the edges get, instead of factors.")] = None,
    share: Annotated[float | None, typer.Option(help="Find the dose that gives this share.")] = None,
    target: Annotated[float | None, typer.Option(help="Find the dose that gives this metric.")] = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """What does the model say when it looks more, or less, at something?

    Scales or sets attention weights; prints the share that the edges then have, and what becomes of the answer.
    """
    check_folders(html, json)
    in_layers, in_heads, factors, weights = (
        None if given is None else numbers(given, option)
        for given, option in ((layers, "--layers"), (heads, "--heads"), (scales, "--scales"), (values, "--values"))
    )

    import mi_core as mi
    from mi_analyses.attention_steering import attention_steering

    result = attention_steering(
        mi.load(model, device=device, dtype=dtype, quantise=quantise),
        text,
        mi.prob(answer) if wrong is None else mi.logit_diff(answer, wrong),
        key=place(from_),
        query=None if to == "all" else place(to),
        share=share,
        target=target,
        layers=None if in_layers is None else list(map(int, in_layers)),
        heads=None if in_heads is None else list(map(int, in_heads)),
        scales=factors,
        values=weights,
    )
    deliver(result, html, json)
