"""``mi state``: what recurrent layers keep, from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Prompt, Quantise, check_folders, deliver

__all__ = ["state"]


def state(
    model: ModelName,
    text: Prompt,
    threshold: Annotated[float, typer.Option(help="KL in nats from which on a token's write counts as missed.")] = 0.01,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """What does a recurrent layer keep of what it has read, and for how long?

    Prints the size and rank of the states behind the prompt, the half-lives of their channels, what each token wrote
    and how much of that is left, and what the model would say without it.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.recurrent_state import recurrent_state

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    deliver(recurrent_state(loaded, text, threshold=threshold), html, json)
