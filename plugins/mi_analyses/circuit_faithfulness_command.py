"""``mi circuit``: circuit faithfulness and circuit curves from a shell."""

from __future__ import annotations

from pathlib import Path
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

__all__ = ["circuit"]


def circuit(
    model: ModelName,
    clean: CleanPrompt,
    corrupt: CorruptPrompt,
    answer: Answer,
    wrong: Wrong = None,
    nodes: Annotated[
        str | None, typer.Option(help="The circuit: embed,L1H0,'mlp 3', or edges: 'embed -> L1H0.q', with commas.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The circuit, from a JSON file.", exists=True, dir_okay=False)
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of scores by node or edge: circuits of every size.", exists=True, dir_okay=False
        ),
    ] = None,
    ablation: Annotated[str, typer.Option(help="counterfactual (the corrupt prompt) or zero.")] = "counterfactual",
    removed: Annotated[int, typer.Option(help="Random halves that are taken away: completeness.", min=0)] = 0,
    minimality: Annotated[bool, typer.Option("--minimality", help="Take each member away too.")] = False,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Does a part of the model do what the whole does?

    Ablates everything outside of a circuit, and prints how much of the difference between the prompts is left.
    """
    check_folders(html, json)
    if sum(given is not None for given in (nodes, file, scores)) != 1:
        raise typer.BadParameter("give the circuit as --nodes or --file, or --scores for circuits of every size")

    import mi_core as mi
    from mi_analyses.circuit_curve import circuit_curve
    from mi_analyses.circuit_faithfulness import circuit_faithfulness
    from mi_core.plain import read_json

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    metric = answer_metric(answer, wrong)
    prompts = (clean, None if ablation == "zero" else corrupt)
    if scores is not None:
        curve = circuit_curve(loaded, *prompts, metric, read_json(scores), ablation=ablation)  # type: ignore[arg-type]
        return deliver(curve, html, json)
    chosen = file if nodes is None else listed(nodes)
    assert chosen is not None
    result = circuit_faithfulness(
        loaded,
        *prompts,
        metric,
        chosen,
        ablation=ablation,  # type: ignore[arg-type]
        removed=removed,
        minimality=minimality,
    )
    return deliver(result, html, json)
