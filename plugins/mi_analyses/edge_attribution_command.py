"""``mi eap``: edge attribution from a shell."""

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
)

__all__ = ["eap"]


def eap(
    model: ModelName,
    clean: CleanPrompt,
    corrupt: CorruptPrompt,
    answer: Answer,
    wrong: Wrong = None,
    steps: Annotated[
        int, typer.Option(help="Average so many gradients on the way between the prompts (EAP-IG).", min=0)
    ] = 0,
    along: Annotated[str, typer.Option(help="Between what: inputs or activations.")] = "inputs",
    noising: Annotated[
        bool, typer.Option("--noising/--denoising", help="Corrupt into the clean run, or clean into the corrupt one.")
    ] = True,
    heads: Annotated[bool, typer.Option("--heads/--layers", help="Heads, or each attention as one node.")] = True,
    circuit: Annotated[Path | None, typer.Option(help="Write a circuit of edges as JSON.", dir_okay=False)] = None,
    edges: Annotated[int, typer.Option(help="How many edges the circuit has before pruning.", min=1)] = 100,
    greedy: Annotated[bool, typer.Option("--greedy", help="Choose them from the logits back.")] = False,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """How much does each edge between two parts of the model matter, to first order?

    Scores every edge by one gradient, prints the largest, and writes a circuit if asked for.
    """
    check_folders(html, json, circuit)

    import mi_core as mi
    from mi_analyses.edge_attribution import edge_attribution
    from mi_core.cli.console import output

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    metric = answer_metric(answer, wrong)
    result = edge_attribution(
        loaded,
        clean,
        corrupt,
        metric,
        steps=steps,
        along=along,  # type: ignore[arg-type]  # refused there if it is neither
        noising=noising,
        heads=heads,
    )
    deliver(result, html, json)
    if circuit is not None:
        kept = result.save_circuit(circuit, edges, select="greedy" if greedy else "top")
        said = f"wrote {len(kept)} edges to {circuit}"
        output().print(said, style="dim", markup=False, highlight=False, soft_wrap=True)
