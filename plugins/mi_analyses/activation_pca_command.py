"""``mi pca``: PCA of activations from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Quantise, check_folders, deliver, place

__all__ = ["pca"]


def pca(
    model: ModelName,
    prompts: Annotated[Path, typer.Argument(help="A file with one prompt on each line.", exists=True, dir_okay=False)],
    site: Annotated[str, typer.Option(help="Where, without the layer.")] = "hook_resid_post",
    layer: Annotated[list[int] | None, typer.Option(help="A layer; give the option once for each.")] = None,
    pos: Annotated[str, typer.Option(help="One position: -1, or a text of every prompt.")] = "-1",
    components: Annotated[int, typer.Option(help="How many.", min=1)] = 3,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Along which few directions do the activations of prompts differ?

    Prints how much of the variance each component holds, layer by layer; the page draws where each prompt lies.
    """
    check_folders(html, json)
    texts = [line for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]

    import mi_core as mi
    from mi_analyses.activation_pca import activation_pca

    result = activation_pca(
        mi.load(model, device=device, dtype=dtype, quantise=quantise),
        texts,
        site=site,
        layers=layer or None,
        pos=place(pos),
        n_components=components,
    )
    deliver(result, html, json)
