"""``mi attention``: attention patterns from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Prompt, Quantise, check_folders, deliver

__all__ = ["attention"]


def attention(
    model: ModelName,
    text: Prompt,
    layer: Annotated[int | None, typer.Option(help="This layer only.")] = None,
    head: Annotated[int | None, typer.Option(help="This head only; with a layer its whole pattern is shown.")] = None,
    view: Annotated[
        str | None, typer.Option(help="Of recurrent layers' weights: absolute (default), signed, positive, share.")
    ] = None,
    span: Annotated[
        list[str] | None, typer.Option(help="A named part of the prompt, such as subject=France; once for each.")
    ] = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Where does each head look?

    Prints, for each head, the entropy of its attention, how far back it looks, and how much to the first token, the
    token itself and the one before. The page of --html shows every pattern.
    """
    check_folders(html, json)
    spans = named(span or [])

    import mi_core as mi
    from mi_analyses.attention_patterns import attention_patterns

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    layers = None if layer is None else [layer]
    deliver(attention_patterns(loaded, text, layer=layers, head=head, view=view, spans=spans or None), html, json)


def named(given: list[str]) -> dict[str, str]:
    """Spans as a shell says them.

    >>> named(["subject=France"])
    {'subject': 'France'}
    """
    spans = {}
    for each in given:
        name, mark, text = each.partition("=")
        if not (name and mark and text):
            raise typer.BadParameter(f"{each!r}: give a name and a text, such as subject=France", param_hint="--span")
        spans[name] = text
    return spans
