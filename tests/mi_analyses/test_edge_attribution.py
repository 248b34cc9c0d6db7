import json
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small, talking

import mi_core as mi
from mi_analyses import EdgeAttribution, edge_attribution
from mi_analyses.circuit_selection import Feeding, chosen_edges, connected
from mi_analyses.circuits import Circuit, names_in
from mi_analyses.graph_nodes import Edge, Graph
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis, ValueMismatch
from mi_core.labelled import Labelled
from mi_core.testing import subjects

METRIC = mi.logit_diff(3, 5)
CLEAN, CORRUPT = [[1, 2, 3, 4], [7, 8]], [[1, 6, 3, 9], [7, 5]]


@cache
def example(family):
    """A random model of a family."""
    return small() if family == "grouped" else subjects(family)[0].model


@cache
def result_of(family, noising=True, **options):
    """What is tested of the family's model."""
    return edge_attribution(example(family), CLEAN, CORRUPT, METRIC, noising=noising, **options)


def slope(model, place_of, change, spec, rows):
    """How the metric goes up as a change is added at some places, its mean over rows."""
    steps = [sum((place.write(mi.Add(sign * 1e-2 * change)) for place in place_of), spec) for sign in (1, -1)]
    ends = [METRIC.bound(model, len(rows)).of(model.run(rows, step)) for step in steps]
    return float((ends[0] - ends[1]).mean()) / 2e-2


@settings(max_examples=8)
@given(st.sampled_from(["grouped", "gpt2", "gptj", "gemma2", "hooked_transformer"]), st.booleans(), st.data())
def test_a_score_is_the_slope_of_the_metric_along_the_edge(family, noising, data):
    model, graph = example(family), Graph.of(example(family))
    result = result_of(family, noising)
    base, source = (CLEAN, CORRUPT) if noising else (CORRUPT, CLEAN)
    edge = data.draw(st.sampled_from(graph.edges))
    reads = mi.capture(graph.made_of(edge.sender).point)
    runs = [model.run(rows, reads) for rows in (source, base)]
    new, old = next(graph.written(model, runs, [edge.sender]))
    places = graph.inputs(edge.receiver)
    change = new - old
    if not places[0].selectors and edge.receiver.kind == "attn":
        # every head reads the same change
        change = change.unsqueeze(2)
    seen = result.score.sel(sender=str(edge.sender), receiver=str(edge.receiver)).item()
    assert seen == pytest.approx(slope(model, places, change, mi.HookSpec(), base), abs=3e-3, rel=1e-2)


@pytest.mark.parametrize("family", ["grouped", "gptj", "gemma2", "hooked_transformer"])
def test_there_is_a_score_for_every_edge_and_for_nothing_else(family):
    graph, score = Graph.of(example(family)), result_of(family).score
    found = {(one, other) for one in score.coords["sender"] for other in score.coords["receiver"]}
    edges = {(str(edge.sender), str(edge.receiver)) for edge in graph.edges}
    assert edges <= found
    for sender, receiver in found:
        assert score.sel(sender=sender, receiver=receiver).values.isnan() == ((sender, receiver) not in edges)


def test_attention_taken_as_one_node_is_the_sum_of_its_heads():
    heads, layers = result_of("grouped").score, result_of("grouped", heads=False).score
    senders = [name for name in heads.coords["sender"] if name.startswith("L0")]
    summed = sum(heads.sel(sender=name, receiver="logits").item() for name in senders)
    assert layers.sel(sender="attn 0", receiver="logits").item() == pytest.approx(summed, rel=1e-4)
    readers = [name for name in heads.coords["receiver"] if name.startswith("L1")]
    read = sum(heads.sel(sender="embed", receiver=name).item() for name in readers)
    assert layers.sel(sender="embed", receiver="attn 1").item() == pytest.approx(read, rel=1e-3)


@pytest.mark.parametrize("along", ["inputs", "activations"])
def test_gradients_are_averaged_on_the_way(along):
    model, graph = example("grouped"), Graph.of(example("grouped"))
    result = edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=2, along=along)
    edge = graph.edge("mlp 0 -> L2KV1.v")
    point = "hook_embed" if along == "inputs" else "blocks.0.hook_mlp_out"
    given_ = model.run(CORRUPT, mi.capture([point, "blocks.0.hook_mlp_out"]))
    under = model.run(CLEAN, mi.capture("blocks.0.hook_mlp_out"))
    change = given_["blocks.0.hook_mlp_out"] - under["blocks.0.hook_mlp_out"]
    edits = [mi.intervene(point, mi.Interpolate(given_, weight)) for weight in (0.25, 0.75)]
    slopes = [slope(model, graph.inputs(edge.receiver), change, edit, CLEAN) for edit in edits]
    assert result.score.sel(sender="mlp 0", receiver="L2KV1.v").item() == pytest.approx(
        sum(slopes) / 2, abs=2e-3, rel=1e-2
    )


def scores_of(edges):
    """An array with these scores."""
    named = {Edge.parse(name): value for name, value in edges.items()}
    senders = sorted({str(edge.sender) for edge in named}, key=lambda name: (name != "embed", name))
    receivers = sorted({str(edge.receiver) for edge in named}, key=lambda name: (name == "logits", name))
    values = torch.full((len(senders), len(receivers)), torch.nan)
    for edge, value in named.items():
        values[senders.index(str(edge.sender)), receivers.index(str(edge.receiver))] = value
    return Labelled(values, ("sender", "receiver"), {"sender": senders, "receiver": receivers})


CHAIN = {
    "embed -> L0H0.q": 5.0,
    "embed -> L0H1.v": -4.0,
    "L0H1 -> L1H0.k": 3.0,
    "L0H0 -> L1H1.q": 9.0,
    "L1H0 -> logits": 1.0,
    "embed -> logits": 0.5,
}


def test_the_largest_edges_are_chosen_and_what_leads_nowhere_is_pruned():
    scores = scores_of(CHAIN)
    everything = chosen_edges(scores, 3, None, "top", prune=False)
    assert set(everything) == {"embed -> L0H0.q", "L0H0 -> L1H1.q", "embed -> L0H1.v"}
    assert chosen_edges(scores, 3, None, "top", prune=True) == ()
    way = {"embed -> L0H1.v", "L0H1 -> L1H0.k", "L1H0 -> logits"}
    assert set(chosen_edges(scores, 5, None, "top", prune=True)) == way
    assert set(chosen_edges(scores, None, 0.6, "top", prune=True)) == way
    assert set(chosen_edges(scores, 3, None, "greedy", prune=True)) == way
    assert set(chosen_edges(scores, 99, None, "greedy", prune=False)) == way | {"embed -> logits"}
    assert set(chosen_edges(scores, None, 1.5, "greedy", prune=False)) == set()


def test_a_shared_key_feeds_every_head_that_shares_it():
    shared = {
        "embed -> L0KV1.k": 1.0,
        "embed -> L0KV0.k": 1.0,
        "L0H0 -> logits": 0.0,
        "L0H1 -> logits": 0.0,
        "L0H2 -> logits": 0.0,
        "L0H3 -> logits": 1.0,
    }
    kept = chosen_edges(scores_of(shared), None, 0.5, "top", prune=True)
    assert set(kept) == {"embed -> L0KV1.k", "L0H3 -> logits"}


@settings(max_examples=8)
@given(st.data(), st.integers(0, 60), st.sampled_from(["top", "greedy"]))
def test_every_edge_of_a_pruned_circuit_lies_on_a_path(data, n, select):
    graph = Graph.of(example("grouped"))
    values = torch.rand(
        len(graph.senders), len(graph.receivers), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    there = torch.tensor([[graph.feeds(one, other) for other in graph.receivers] for one in graph.senders])
    coords = {"sender": tuple(map(str, graph.senders)), "receiver": tuple(map(str, graph.receivers))}
    scores = Labelled(values.masked_fill(~there, torch.nan), ("sender", "receiver"), coords)
    edges = {Edge.parse(name) for name in chosen_edges(scores, n, None, select, prune=True)}
    feeding = Feeding(graph.senders, graph.receivers)
    assert len(edges) <= n
    for edge in edges:
        onwards, back = [edge.receiver], [edge.sender]
        while onwards and not any(node.kind == "logits" for node in onwards):
            onwards = [e.receiver for node in onwards for e in edges if e.sender in feeding.outputs(node)]
        while back and not any(node.kind == "embed" for node in back):
            back = [e.sender for node in back for e in edges if node in feeding.outputs(e.receiver)]
        assert onwards
        assert back
    assert connected(edges, feeding) == edges


def test_a_circuit_goes_into_a_file_that_faithfulness_reads(tmp_path):
    result = result_of("grouped")
    edges = result.save_circuit(tmp_path / "circuit.json", 40)
    assert edges == result.circuit(40)
    assert tuple(names_in(tmp_path / "circuit.json")) == edges
    circuit = Circuit.of(Graph.of(example("grouped")), tmp_path / "circuit.json")
    assert tuple(map(str, circuit.members)) == edges
    largest = result.largest(3)
    sizes = result.score.values.abs().flatten().nan_to_num(nan=0.0).topk(3).values
    torch.testing.assert_close(largest.values.abs(), sizes)


def test_what_cannot_be_scored_or_chosen_is_refused():
    model, result = example("grouped"), result_of("grouped")
    for options in ({}, {"n": 2, "threshold": 1.0}, {"n": -1}):
        with pytest.raises(SelectorError, match="give the number of edges, or a threshold"):
            result.circuit(**options)
    with pytest.raises(SelectorError, match='by "top" or "greedy"'):
        result.circuit(3, select="best")
    with pytest.raises(SelectorError, match="along='edges'"):
        edge_attribution(model, CLEAN, CORRUPT, METRIC, along="edges")
    with pytest.raises(ValueMismatch, match="the same logit difference"):
        edge_attribution(model, CLEAN, CLEAN, METRIC)
    with pytest.raises(ValueMismatch, match="'rank' has no gradient"):
        edge_attribution(model, CLEAN, CORRUPT, mi.rank(3))
    with pytest.raises(SelectorError, match="Use prompts cut into as many tokens"):
        edge_attribution(talking(), "The capital of", "Of", mi.logit(7))
    with pytest.raises(UnsupportedAnalysis, match="more than the sum of what is written to it"):
        edge_attribution(example("openai-gpt"), CLEAN, CORRUPT, METRIC)


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = result_of("grouped")
    assert EdgeAttribution.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "eap.html")
    assert "sum of the sizes of all outgoing edges" in page
    assert "http" not in page.lower().replace("http-equiv", "")


def test_the_command_writes_the_circuit_of_tiny_world(capsys, tmp_path):
    data, circuit = tmp_path / "eap.json", tmp_path / "circuit.json"
    prompts = ["The capital of France is", "The capital of Italy is"]
    arguments = ["eap", "tiny-world", *prompts, "--answer", " Paris", "--wrong", " Rome", "--json", str(data)]
    assert main([*arguments, "--circuit", str(circuit), "--edges", "30", "--greedy"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "embed→L1KV1.v" in said
    assert "L1H3 -> logits" in json.loads(circuit.read_text(encoding="utf-8"))["edges"]
    assert EdgeAttribution.from_json(data).noising
    assert main([*arguments, "--denoising", "--steps", "2", "--layers"]) == 0
    assert "mean of 2 gradients between the embeddings, clean into corrupt" in capsys.readouterr().out.replace(
        "\n", " "
    )
    assert main([*arguments, "--along", "edges"]) == 2
