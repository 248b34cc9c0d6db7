"""Graphs in files: our own exactly, circuit-tracer's as far as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from random_transcoders import transcoders
from small_models import close, small, talking

from mi_core.errors import BadConfig, InputError
from mi_graphs import AttributionGraph, attribution_graph, from_circuit_tracer, save_circuit_tracer, to_circuit_tracer
from mi_graphs.nodes import KINDS

THEIRS = Path(__file__).parent.parent / "data" / "circuit_tracer" / "graph.json"


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    model = small(7)
    return attribution_graph(model, [0, 3, 1, 4], transcoders(model, "cross-layer"), skip_positions=[0], logits=3)


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def test_our_own_json_keeps_everything(graph):
    for each in (graph, graph.prune(0.6)):
        assert AttributionGraph.from_json(each.to_json()) == each


def test_a_file_of_circuit_tracer_s_keeps_nodes_edges_and_what_it_says_of_them(graph):
    part = graph.prune(0.7, 0.9)
    back = from_circuit_tracer(to_circuit_tracer(part))
    assert set(back.nodes) <= set(part.nodes)
    assert [node for node in part.nodes if node.kind in ("token", "logit")] == list(back.nodes)[-7:]
    assert {(one, other): weight for one, other, weight in back.edges()} == {
        (one, other): weight for one, other, weight in part.edges()
    }
    at = [part.nodes.index(node) for node in back.nodes]
    assert equal(back.activation.values, part.activation.values[at])
    assert equal(back.cumulative.values[:-3], part.cumulative.values[at][:-3])
    assert (back.node_share, back.edge_share) == (0.7, 0.9)
    assert (back.replacement, back.completeness) == (part.replacement, part.completeness)
    assert back.probability == part.probability
    assert back.prompt_tokens == part.prompt_tokens
    assert back.provenance.ids == part.provenance.ids
    assert back.n_layers == part.n_layers
    assert to_circuit_tracer(back, scan="x") == to_circuit_tracer(part.only(at), scan="x")


def test_what_a_file_does_not_say_is_no_number(graph):
    back = from_circuit_tracer(to_circuit_tracer(graph.prune()))
    assert bool(back.total.values.isnan().all())
    assert bool(back.remainder.values.isnan().all())
    data = json.loads(to_circuit_tracer(graph.prune()))
    del data["metadata"]["info"], data["metadata"]["pruning_settings"]
    plain = from_circuit_tracer(json.dumps(data))
    assert str(plain.replacement) == "nan"
    assert plain.node_share == 0.8
    assert AttributionGraph.from_json(back.to_json()).nodes == back.nodes


def test_a_file_of_circuit_tracer_0_4_1_is_read_and_ours_has_its_keys(graph):
    theirs = json.loads(THEIRS.read_text(encoding="utf-8"))
    back = from_circuit_tracer(THEIRS)
    assert (len(back.nodes), len(back.edges())) == (31, 200)
    assert back.probability.coords["logit"][:2] == ("w47", "w94")
    assert back.prompt_tokens[:2] == ("<bos>", "w13")
    assert back.find(0, 6, 28).kind == "feature"
    links = {(link["source"], link["target"]): link["weight"] for link in theirs["links"]}
    assert float(back.adjacency.sel(target="0_28_6", source="E_64_6").item()) == pytest.approx(
        links["E_64_6", "0_28_6"]
    )
    assert back.paths(3)
    ours = json.loads(to_circuit_tracer(graph.prune()))
    assert ours.keys() == theirs.keys()
    assert ours["metadata"].keys() >= theirs["metadata"].keys()
    assert {tuple(node) for node in ours["nodes"]} == {tuple(node) for node in theirs["nodes"]}
    assert {node["feature_type"] for node in ours["nodes"]} == {node["feature_type"] for node in theirs["nodes"]}
    assert {tuple(link) for link in ours["links"]} == {tuple(link) for link in theirs["links"]}


def test_no_two_nodes_have_one_name(graph):
    nodes = json.loads(to_circuit_tracer(graph))["nodes"]
    assert len({node["node_id"] for node in nodes}) == len(nodes)
    features = {node["jsNodeId"] for node in nodes if node["feature_type"] == "cross layer transcoder"}
    others = [node["jsNodeId"] for node in nodes if node["feature_type"] != "cross layer transcoder"]
    assert len(set(others)) == len(others)
    assert not features & set(others)
    # a feature is one at all positions
    assert features == {f"{node.layer}_{node.number}-0" for node in graph.nodes if node.kind == "feature"}


def test_a_folder_for_the_local_server_lists_each_graph_once(graph, tmp_path):
    for slug in ("one", "two", "one"):
        path = save_circuit_tracer(graph.prune(), tmp_path / "graphs", slug=slug, scan="gemma-2-2b")
    assert path == tmp_path / "graphs" / "one.json"
    index = json.loads((tmp_path / "graphs" / "graph-metadata.json").read_text())
    assert [(each["slug"], each["scan"]) for each in index["graphs"]] == [("two", "gemma-2-2b"), ("one", "gemma-2-2b")]
    assert from_circuit_tracer(path).dictionary == "gemma-2-2b"


def test_texts_of_tokens_survive_quotes_and_line_breaks():
    model = talking()
    graph = attribution_graph(model, "ab", transcoders(model), targets=['"', "\n"])
    back = from_circuit_tracer(to_circuit_tracer(graph.prune()))
    assert back.probability.coords == graph.probability.coords
    assert back.prompt_tokens == graph.prompt_tokens
    close(back.probability.values, graph.probability.values)


def changed(graph: AttributionGraph, change: Any) -> str:
    data = json.loads(to_circuit_tracer(graph.prune()))
    change(data)
    return json.dumps(data)


def lose_a_node(data: dict[str, Any]) -> None:
    data["nodes"] = [node for node in data["nodes"] if node["node_id"] != data["links"][0]["source"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("links"), "holds no graph of circuit-tracer's"),
        (lambda data: data["nodes"].append(data["nodes"][0]), "1 names are two nodes' each"),
        (lambda data: data["nodes"][0].update(feature_type="lorsa"), r"types \['lorsa'\]"),
        (lambda data: data["nodes"][0].update(node_id="7_1"), "is no name of a feature of layer"),
        (lose_a_node, "a link ends at"),
    ],
)
def test_other_files_are_refused(graph, change, said):
    with pytest.raises(BadConfig, match=said):
        from_circuit_tracer(changed(graph, change))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json"):
        from_circuit_tracer(tmp_path / "nothing.json")


def test_kinds_are_in_the_order_of_a_graph(graph):
    order = [KINDS.index(node.kind) for node in graph.nodes]
    assert order == sorted(order)
