"""``mi lens``: the logit lens from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Prompt, Quantise, check_folders, deliver

__all__ = ["lens"]


def lens(
    model: ModelName,
    text: Prompt,
    top: Annotated[int, typer.Option(help="How many tokens to show for each layer.", min=1)] = 5,
    pos: Annotated[str, typer.Option(help="Position on the prompt's tokens, -1 for the last, or 'all'.")] = "-1",
    token: Annotated[
        list[str] | None, typer.Option(help="Follow this token as well, such as ' Rome'. May be repeated.")
    ] = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """What would the model say next if it stopped after this layer?

    Prints, layer by layer, the answer's probability and rank, entropy and KL in nats, and the likeliest tokens.
    """
    position = None if pos == "all" else whole(pos)
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.logit_lens import logit_lens

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    deliver(logit_lens(loaded, text, top=top, pos=position, tokens=tuple(token or ())), html, json)


def whole(pos: str) -> int:
    """A position as an int."""
    try:
        return int(pos)
    except ValueError:
        raise typer.BadParameter(f"{pos!r} is no position: give an integer or 'all'", param_hint="--pos") from None
