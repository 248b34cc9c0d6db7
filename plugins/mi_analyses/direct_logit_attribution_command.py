"""``mi attribute``: direct logit attribution from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Prompt, Quantise, check_folders, deliver

__all__ = ["attribute"]


def attribute(
    model: ModelName,
    text: Prompt,
    answer: Annotated[
        str | None, typer.Option(help="The token, such as ' Paris'; by default what the model says next.")
    ] = None,
    wrong: Annotated[str | None, typer.Option(help="Take the difference to this token's logit apart.")] = None,
    pos: Annotated[int, typer.Option(help="Position on the prompt's tokens, -1 for the last.")] = -1,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Which parts of the model write the answer onto the stream?

    Prints what embedding, layers and heads write towards the answer's logit, or towards a difference of two.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.direct_logit_attribution import direct_logit_attribution

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    deliver(direct_logit_attribution(loaded, text, answer, wrong, pos=pos), html, json)
