"""The graph files of circuit-tracer and Neuronpedia, written and read.

Source: circuit-tracer 0.4.1, frontend/graph_models.py and utils/create_graph_files.py; Neuronpedia's graph server for
``info`` and ``pruning_settings`` in the metadata.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from mi_core.errors import BadConfig
from mi_core.labelled import Labelled
from mi_core.plain import read_json, write_json
from mi_core.results import ResultProvenance
from mi_graphs.graph import AttributionGraph
from mi_graphs.nodes import ERROR, FEATURE, KINDS, LOGIT, TOKEN, Node

__all__ = ["from_circuit_tracer", "save_circuit_tracer", "to_circuit_tracer"]

TYPES: Final = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    TOKEN: "embedding",
    LOGIT: "logit",
}
"""What each kind is called there; features of per-layer transcoders, too."""
SAID: Final = re.compile(r'^Output "(.*)" \(p=[\d.]+\)$', re.DOTALL)
INDEX: Final = "graph-metadata.json"


def to_circuit_tracer(
    graph: AttributionGraph, path: str | Path | None = None, *, slug: str = "graph", scan: str | None = None
) -> str:
    """A graph as circuit-tracer's frontend and Neuronpedia read it, written to ``path`` if one is given.

    Args:
        graph: as a rule a pruned one: every edge is written.
        path: a file.
        slug: what the graph is called there.
        scan: where dashboards of its features are, such as ``"gemma-2-2b"``; by default what transcoders are called.
    """
    edges = [{"source": source.id, "target": target.id, "weight": weight} for source, target, weight in graph.edges()]
    used = {end for edge in edges for end in (edge["source"], edge["target"])}
    nodes = [
        written(graph, at, node)
        for at, node in enumerate(graph.nodes)
        if node.id in used or node.kind in (TOKEN, LOGIT)
    ]
    query = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return write_json({"metadata": metadata(graph, slug, scan), "qParams": query, "nodes": nodes, "links": edges}, path)


def save_circuit_tracer(
    graph: AttributionGraph, folder: str | Path, *, slug: str = "graph", scan: str | None = None
) -> Path:
    """A graph in a folder that circuit-tracer's local server shows: its file, and its line in the folder's index."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    to_circuit_tracer(graph, place / f"{slug}.json", slug=slug, scan=scan)
    index = place / INDEX
    listed = read_json(index)["graphs"] if index.exists() else []
    others = [each for each in listed if each.get("slug") != slug]
    write_json({"graphs": [*others, metadata(graph, slug, scan)]}, index)
    return place / f"{slug}.json"


def metadata(graph: AttributionGraph, slug: str, scan: str | None) -> dict[str, Any]:
    """What is said of a graph as a whole."""
    made = {"name": "mi-core", "version": version("mi-core"), "url": ""}
    scores = {"replacement_score": graph.replacement, "completeness_score": graph.completeness}
    return {
        "slug": slug,
        "scan": graph.dictionary if scan is None else scan,
        "transcoder_list": [],
        "prompt_tokens": list(graph.prompt_tokens),
        "prompt": graph.provenance.prompts[0],
        "node_threshold": graph.node_share,
        "schema_version": 1,
        "pruning_settings": {"node_threshold": graph.node_share, "edge_threshold": graph.edge_share},
        "info": {"generator": made, **{name: value for name, value in scores.items() if math.isfinite(value)}},
    }


def written(graph: AttributionGraph, at: int, node: Node) -> dict[str, Any]:
    """One node."""
    numbers = {FEATURE: paired(node.layer, node.number), ERROR: -1, TOKEN: node.pos, LOGIT: node.number}
    found: dict[str, Any] = {
        "node_id": node.id,
        "feature": numbers[node.kind],
        "layer": "E" if node.kind == TOKEN else str(node.layer),
        "ctx_idx": node.pos,
        "feature_type": TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": shown(node),
        "clerp": "",
        "influence": None if node.kind == LOGIT else finite(graph.cumulative, at),
        "activation": finite(graph.activation, at),
    }
    if node.kind == LOGIT:
        number = sum(each.kind == LOGIT for each in graph.nodes[:at])
        share = float(graph.probability.values[number])
        text = graph.probability.coords["logit"][number]
        found |= {"token_prob": share, "is_target_logit": number == 0, "clerp": f'Output "{text}" (p={share:.3f})'}
    return found


def shown(node: Node) -> str:
    """What the frontend calls a node: a feature is one at all positions, an error is one at each."""
    if node.kind == FEATURE:
        return f"{node.layer}_{node.number}-0"
    first = {ERROR: str(node.layer), TOKEN: "E", LOGIT: "L"}[node.kind]
    return f"{first}_{node.number}-{node.pos}"


def paired(layer: int, number: int) -> int:
    """One number for two, as dashboards count features (Cantor's pairing).

    >>> paired(0, 17), paired(2, 5)
    (170, 33)
    """
    return (layer + number) * (layer + number + 1) // 2 + number


def finite(array: Labelled, at: int) -> float | None:
    """A number, or None where it is not known."""
    value = float(array.values[at])
    return value if math.isfinite(value) else None


def from_circuit_tracer(source: str | Path) -> AttributionGraph:
    """The graph in a file of circuit-tracer's, Neuronpedia's or ours; also from its JSON text.

    Such a file holds a pruned graph. What it does not say is NaN: totals, remainders, influence (it has the cumulative
    share), and scores where nobody wrote them.

    Raises:
        InputError: no such file, or no JSON.
        BadConfig: it holds no graph, or two of its nodes have one name, so that nobody can tell whose edges are whose.
    """
    data = read_json(source)
    if not isinstance(data, Mapping) or not {"metadata", "nodes", "links"} <= data.keys():
        raise BadConfig("this JSON holds no graph of circuit-tracer's: it needs 'metadata', 'nodes' and 'links'.")
    kinds = {name: kind for kind, name in TYPES.items()}
    if unknown := sorted({str(each.get("feature_type")) for each in data["nodes"]} - kinds.keys()):
        raise BadConfig(f"the graph has nodes of the types {unknown}; known are {sorted(kinds)}.", types=unknown)
    if repeated := [name for name, count in Counter(each["node_id"] for each in data["nodes"]).items() if count > 1]:
        raise BadConfig(
            f"{len(repeated)} names are two nodes' each: {', '.join(repeated[:5])}. Older circuit-tracers call the "
            "error of layer 2 at position 5 as they call feature 2 of layer 0 there. Write the graph anew.",
            names=tuple(repeated),
        )
    entries = sorted(data["nodes"], key=lambda each: KINDS.index(kinds[each["feature_type"]]))
    return read(data, entries, [node_of(each, kinds[each["feature_type"]]) for each in entries])


def node_of(entry: Mapping[str, Any], kind: str) -> Node:
    """A node by its entry."""
    parts = str(entry["node_id"]).split("_")
    layer = -1 if kind == TOKEN else int(entry["layer"])
    number = -1 if kind == ERROR or len(parts) != 3 else int(parts[1])
    if kind == FEATURE and (number < 0 or int(parts[0]) != layer):
        raise BadConfig(f"{entry['node_id']!r} is no name of a feature of layer {layer}: LAYER_NUMBER_POSITION is.")
    return Node(kind, layer, int(entry["ctx_idx"]), number)


def read(data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], nodes: Sequence[Node]) -> AttributionGraph:
    """The graph of some nodes and all links between them."""
    at = {entry["node_id"]: place for place, entry in enumerate(entries)}
    adjacency = torch.zeros(len(nodes), len(nodes))
    for link in data["links"]:
        if lost := [link[end] for end in ("source", "target") if link[end] not in at]:
            raise BadConfig(f"a link ends at {lost}, which are no nodes of the graph.", names=tuple(lost))
        adjacency[at[link["target"]], at[link["source"]]] = link["weight"]
    about = data["metadata"]
    info = about.get("info") or {}
    pruned = about.get("pruning_settings") or {"node_threshold": about.get("node_threshold")}
    names = tuple(node.id for node in nodes)
    unknown = torch.full((len(nodes),), torch.nan)
    logits = [entry for entry, node in zip(entries, nodes, strict=True) if node.kind == LOGIT]
    ids = {node.pos: node.number for node in nodes if node.kind == TOKEN}
    tokens = tuple(about["prompt_tokens"])
    top = max((node.layer for node in nodes if node.kind == LOGIT), default=1)

    def by_node(values: torch.Tensor, name: str) -> Labelled:
        return Labelled(values, ("node",), {"node": names}, name)

    def of(key: str) -> torch.Tensor:
        return torch.tensor([torch.nan if entry.get(key) is None else float(entry[key]) for entry in entries])

    return AttributionGraph(
        provenance=ResultProvenance(
            model=str(about.get("scan", "")),
            family="",
            prompts=(str(about.get("prompt", "".join(tokens))),),
            tokens=(tokens,),
            ids=(tuple(ids.get(pos, -1) for pos in range(len(tokens))),),
        ),
        adjacency=Labelled(adjacency, ("target", "source"), {"target": names, "source": names}, "contribution"),
        total=by_node(unknown, "total"),
        remainder=Labelled(torch.stack([unknown, unknown], 1), ("node", "part"), {"node": names}, "remainder"),
        activation=by_node(of("activation"), "activation"),
        influence=by_node(unknown, "influence"),
        cumulative=by_node(of("influence"), "cumulative influence"),
        probability=Labelled(
            torch.tensor([float(entry.get("token_prob", 0.0)) for entry in logits]),
            ("logit",),
            {"logit": tuple(said(entry, node) for entry, node in zip(logits, nodes[-len(logits) :], strict=True))},
            "probability",
        ),
        places=tuple((node.kind, node.layer, node.pos, node.number) for node in nodes),
        n_layers=top - 1,
        active=sum(node.kind == FEATURE for node in nodes),
        dictionary=str(about.get("scan", "")),
        replacement=float(info.get("replacement_score", math.nan)),
        completeness=float(info.get("completeness_score", math.nan)),
        node_share=float(pruned.get("node_threshold") or 1.0),
        edge_share=float(pruned.get("edge_threshold") or 1.0),
    )


def said(entry: Mapping[str, Any], node: Node) -> str:
    """The text of a logit's token."""
    found = SAID.match(entry.get("clerp") or "")
    return found[1] if found else f"<{node.number}>"
