"""An attribution graph in a terminal and on its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mi_core.labelled import visible
from mi_graphs import influence
from mi_graphs.graph import AttributionGraph
from mi_graphs.nodes import ERROR, FEATURE, LOGIT, Node

__all__ = ["page", "view"]

PATHS: Final = 8
FEATURES: Final = 8
DRAWN: Final = 20_000
"""Edges on a page, at most: those that carry most of the influence."""


def view(result: AttributionGraph) -> RenderableType:
    """What the graph is of, how far to trust it, the strongest paths, and the features that matter most."""
    shown = part_of(result)
    source = result.provenance
    where = ", ".join(each for each in (source.family, source.dtype, source.device) if each)
    head = Text.assemble(("attribution graph", "bold"), (f"  {visible(source.model)} ({where})", "dim"))
    parts: list[RenderableType] = [head if where else Text.assemble(("attribution graph", "bold"))]
    parts += [Text.assemble((f"{label:<9} ", "dim"), text) for label, text in lines(result, shown)]
    parts += [Text(), paths_table(shown), Text(), features_table(shown)]
    return Group(*parts)


def part_of(result: AttributionGraph) -> AttributionGraph:
    """The graph, pruned if it is whole."""
    return result.prune() if result.node_share == 1.0 else result


def lines(result: AttributionGraph, shown: AttributionGraph) -> list[tuple[str, str]]:
    """The prompt, what is explained, how much of the graph is kept, and the scores."""
    found = [("prompt", " ".join(map(visible, result.prompt_tokens))), ("logits", said(result))]
    count = {kind: int(shown.of_kind(kind).sum()) for kind in (FEATURE, ERROR)}
    kept = f"{count[FEATURE]} of {result.active} active features, {count[ERROR]} errors, {len(shown.edges())} edges"
    found.append(("kept", f"{kept}: {shown.node_share:.0%} of the influence, {shown.edge_share:.0%} of that of edges"))
    if math.isfinite(result.replacement):
        scores = f"replacement {result.replacement:.3f}, completeness {result.completeness:.3f}"
        found.append(("scores", f"{scores} (1: no errors)"))
    return found


def said(result: AttributionGraph) -> str:
    """The tokens that are explained."""
    texts, shares = result.probability.coords["logit"], result.probability.values.tolist()
    return "  ".join(f"{visible(text)} {share:.1%}" for text, share in zip(texts, shares, strict=True))


def paths_table(shown: AttributionGraph) -> Table:
    """The strongest paths."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
    table.add_column("share", justify="right")
    table.add_column("strongest paths, with the contribution of each step", overflow="fold")
    for path in shown.paths(PATHS):
        text = Text(shown.text(path.nodes[0]))
        for node, amount in zip(path.nodes[1:], path.contributions, strict=True):
            text.append(f"  {amount:+.2f} → ", "dim")
            text.append(shown.text(node))
        table.add_row(f"{path.share:.1%}", text)
    return table


def features_table(shown: AttributionGraph) -> Table:
    """The features that matter most."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
    for name in ("feature", "active", "influence"):
        table.add_column(name, justify="left" if name == "feature" else "right")
    table.add_column("promotes", overflow="fold")
    order = shown.cumulative.values.argsort(stable=True).tolist()
    for at in [at for at in order if shown.nodes[at].kind == FEATURE][:FEATURES]:
        node = shown.nodes[at]
        table.add_row(
            shown.text(node),
            f"{float(shown.activation.values[at]):.2f}",
            f"{float(shown.influence.values[at]):.3f}",
            " ".join(visible(token) for token, _ in top(shown, node)),
        )
    return table


def top(shown: AttributionGraph, node: Node) -> tuple[tuple[str, float], ...]:
    """The tokens that a feature promotes."""
    return shown.promoted.get(f"{node.layer}_{node.number}", ())


def page(result: AttributionGraph) -> Mapping[str, Any]:
    """The same for the page, with every node and edge."""
    shown = part_of(result)
    return {"lines": lines(result, shown)[1:], "tokens": shown.prompt_tokens, "data": data(shown)}


def data(shown: AttributionGraph) -> dict[str, Any]:
    """What the page draws."""
    adjacency, weights = shown.adjacency.values, shown.weights()
    found = influence.influence(adjacency, weights)
    scores = influence.shares(adjacency) * (found + weights)[:, None]
    targets, sources = adjacency.nonzero(as_tuple=True)
    order = scores[targets, sources].argsort(descending=True, stable=True)[:DRAWN]
    at = {node: place for place, node in enumerate(shown.nodes)}
    edges = [
        [source, target, rounded(float(adjacency[target, source])), rounded(float(scores[target, source]))]
        for source, target in zip(sources[order].tolist(), targets[order].tolist(), strict=True)
    ]
    return {
        "layers": shown.n_layers,
        "tokens": [visible(token) for token in shown.prompt_tokens],
        "share": shown.node_share,
        "nodes": [drawn(shown, place, node) for place, node in enumerate(shown.nodes)],
        "edges": edges,
        "paths": [[round(path.share, 5), [at[node] for node in path.nodes]] for path in shown.paths(PATHS)],
    }


def drawn(shown: AttributionGraph, at: int, node: Node) -> dict[str, Any]:
    """One node."""
    found: dict[str, Any] = {
        "id": node.id,
        "kind": node.kind,
        "layer": node.layer,
        "pos": node.pos,
        "name": shown.text(node),
    }
    if node.kind == LOGIT:
        number = sum(each.kind == LOGIT for each in shown.nodes[:at])
        share = float(shown.probability.values[number])
        return found | {"label": visible(shown.probability.coords["logit"][number]), "share": rounded(share)}
    cumulative = float(shown.cumulative.values[at])
    found["rank"] = rounded(cumulative) if math.isfinite(cumulative) else 1.0
    if node.kind == FEATURE:
        found["active"] = rounded(float(shown.activation.values[at]))
        found["number"] = node.number
        found["top"] = [[visible(token), rounded(value)] for token, value in top(shown, node)]
    return found


def rounded(value: float) -> float:
    """Enough digits for a picture."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0
