"""``mi graph``: an attribution graph from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["graph", "mi_command"]

WRITTEN = (".html", ".json")


def graph(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    dictionary: Annotated[
        str, typer.Option(help="Transcoders: a name, a folder, a Hub reference.", show_default=False)
    ],
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="graph.html for a page, graph.json for circuit-tracer and Neuronpedia."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A token to explain, such as ' Paris'; may be repeated. Else the likeliest."),
    ] = None,
    logits: Annotated[int, typer.Option(help="Of the likeliest tokens at most so many.", min=1)] = 10,
    probability: Annotated[float, typer.Option(help="Or as many as have this probability together.")] = 0.95,
    max_features: Annotated[int, typer.Option(help="The most features that become nodes.", min=1)] = 7500,
    nodes: Annotated[float, typer.Option(help="The share of the influence that is kept of nodes.")] = 0.8,
    edges: Annotated[float, typer.Option(help="The share of the influence that is kept of edges.")] = 0.98,
    check: Annotated[int, typer.Option(help="Ablate so many features, and say what happens.", min=0)] = 0,
    batch: Annotated[int, typer.Option(help="Targets of one backward pass.", min=1)] = 64,
    scan: Annotated[str | None, typer.Option(help="In a .json: where dashboards of the features are.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")] = "auto",
    quantise: Annotated[str | None, typer.Option(help="Hold matrices in eight bits: int8 or float8.")] = None,
) -> None:
    """Which features made which others, from the prompt's tokens to the next token's logits?

    Prints the strongest paths and the features that matter most; with --out writes a page to look into, or a file.
    """
    files = out or []
    for path in files:
        if path.suffix not in WRITTEN:
            raise typer.BadParameter(f"{path.name!r}: give a name that ends in {' or '.join(WRITTEN)}")
        if not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")

    import mi_core as mi
    from mi_core.cli.console import output
    from mi_dictionaries import load
    from mi_graphs import attribution_graph, check_graph, to_circuit_tracer

    loaded, transcoders = mi.load(model, device=device, dtype=dtype, quantise=quantise), load(dictionary)
    whole = attribution_graph(
        loaded,
        prompt,
        transcoders,
        max_features=max_features,
        targets=target,
        logits=logits,
        probability=probability,
        batch=batch,
    )
    pruned = whole.prune(nodes, edges)
    output().print(pruned)
    if check:
        output().print()
        output().print(check_graph(whole, loaded, transcoders, n=check))
    for path in files:
        if path.suffix == ".html":
            pruned.to_html(path)
        else:
            to_circuit_tracer(pruned, path, slug=path.stem, scan=scan)
        output().print(f"wrote {path}", style="dim", markup=False, highlight=False, soft_wrap=True)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi graph``."""
    return graph
