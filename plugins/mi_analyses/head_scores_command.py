"""``mi heads``: head scores from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Quantise, check_folders, deliver

__all__ = ["heads"]


def heads(
    model: ModelName,
    length: Annotated[int, typer.Option(help="Tokens of a sequence, which comes twice.")] = 24,
    sequences: Annotated[int, typer.Option(help="How many sequences.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the sequences.")] = 0,
    view: Annotated[
        str | None, typer.Option(help="Of recurrent layers' weights: absolute (default), signed, positive, share.")
    ] = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Which heads look at previous, duplicate or induced tokens?

    Prints each head's mean attention to the token before, to the same token before, and to the one that came after it.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.head_scores import head_scores

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    deliver(head_scores(loaded, length=length, sequences=sequences, seed=seed, view=view), html, json)
