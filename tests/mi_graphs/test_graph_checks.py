"""What the graph says of a feature that is scaled, and what happens; and how both are shown."""

from __future__ import annotations

import json
import re
from io import StringIO

import pytest
import torch
from random_transcoders import transcoders
from rich.console import Console
from small_models import close, small
from typer import Typer
from typer.testing import CliRunner

import mi_core as mi
import mi_dictionaries as md
from mi_core.errors import InputError, SelectorError
from mi_graphs import AttributionGraph, GraphCheck, attribution_graph, check_graph, from_circuit_tracer
from mi_graphs.graph_command import mi_command

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def world() -> tuple[mi.Model, md.DictionarySet, AttributionGraph]:
    model, held = mi.load("tiny-world"), md.load("tiny-world/clt")
    return model, held, attribution_graph(model, PROMPT, held)


def printed(result: object) -> str:
    console = Console(width=120, file=StringIO())
    console.print(result)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["relu", "skip", "cross-layer-skip"])
@pytest.mark.parametrize("factor", [0.0, 2.0, -1.5])
def test_edges_are_what_happens_with_everything_held(kind, factor):
    model = small(7)
    held = transcoders(model, kind)
    graph = attribution_graph(model, [0, 3, 1, 4], held, logits=3)
    found = check_graph(graph, model, held, n=5, factor=factor, batch=2)
    assert float(found.deviation.values.max()) < 1e-4
    close(found.edge.values, found.frozen.values, atol=1e-4)
    assert found.edge.shape == (5, 3)


def test_with_nothing_held_it_is_a_splice_in_the_model(world):
    model, held, graph = world
    node = graph.nodes[3]
    found = check_graph(graph, model, held, features=[node])
    point = f"{held[node.layer].site_in}.hook_sae_acts_post"
    edit = md.splice(held) + mi.intervene(point, mi.Zero().at(pos=node.pos, feature=node.number))
    logits = [model.run(PROMPT, spec).last_logits[0] for spec in (None, edit)]
    seen = [each - each.mean() for each in logits]
    paris = model.tokenizer.single(" Paris")
    close(found.real.values[0, :1], (seen[1] - seen[0])[[paris]], atol=1e-4)
    assert found.edge.coords["feature"] == (graph.text(node),)


def test_along_paths_a_change_is_the_edge_and_all_detours():
    model = small(7)
    held = transcoders(model)
    graph = attribution_graph(model, [0, 3, 1, 4], held, logits=2)
    values, active = graph.adjacency.values.double(), graph.activation.values.double()
    relative = torch.where(active.isnan(), 0, 1 / active)
    total = torch.linalg.inv(torch.eye(len(values), dtype=torch.float64) - values * relative[None])
    node = graph.nodes[0]
    found = check_graph(graph, model, held, features=[node], factor=3.0)
    logits = graph.of_kind("logit")
    wanted = 2.0 * (total[logits] @ values[:, 0])
    close(found.along_paths.values[0], wanted.float(), atol=1e-4)


def test_a_graph_of_another_model_or_no_feature_is_refused(world):
    model, held, graph = world
    with pytest.raises(InputError, match="the graph is of another model, other transcoders"):
        check_graph(graph, model, md.load("tiny-world/transcoders"))
    with pytest.raises(SelectorError, match="are no features of this graph"):
        check_graph(graph, model, held, features=[graph.nodes[-1]])
    with pytest.raises(SelectorError, match=r"feature 5000 of layer 0 is no node at position 4; these are: \[21, "):
        graph.prune().find(0, 4, 5000)
    assert graph.find(0, 4, 324).id == "0_324_4"


def test_a_terminal_shows_paths_features_and_the_check(world):
    model, held, graph = world
    text = printed(graph)
    assert "32 of 285 active features" in text
    assert re.search(r"4 ·France +\+5\.57 → says ·Paris", text)
    assert "L2 #183 at 5 ·is" in text
    assert printed(graph.prune()) == text
    checked = check_graph(graph, model, held, n=3)
    text = printed(checked)
    assert "feature ablated" in text
    assert re.search(r"L0 #324 at 4 ·France +-1\.085 +-1\.085", text)
    assert GraphCheck.from_json(checked.to_json()) == checked
    assert "How logits change with each feature ablated." in checked.to_html()


def test_a_page_needs_no_network_and_trusts_no_token():
    model = small(7)
    graph = attribution_graph(model, [0, 3, 1], transcoders(model), logits=2)
    evil = '</script><img src=x onerror="alert(1)">'
    data = json.loads(graph.to_json())
    data["fields"]["provenance"]["$resultprovenance"]["tokens"] = [["a", evil, "b"]]
    page = AttributionGraph.from_json(json.dumps(data)).to_html()
    assert "<img" not in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert page.count("</script>") == 2
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    drawn = json.loads(found[1])
    part = graph.prune()
    assert [each["id"] for each in drawn["nodes"]] == [node.id for node in part.nodes]
    assert len(drawn["edges"]) == len(part.edges())
    assert drawn["tokens"][1] == evil.replace(" ", "·")
    source, target, weight, _ = drawn["edges"][0]
    assert weight == pytest.approx(float(part.adjacency.values[target, source]), rel=1e-3)


def test_a_shell_prints_and_writes(tmp_path):
    app = Typer()
    app.command()(mi_command())
    page, file = tmp_path / "graph.html", tmp_path / "france.json"
    arguments = [
        "tiny-world",
        PROMPT,
        "--dictionary",
        "tiny-world/clt",
        "--check",
        "2",
        "-o",
        str(page),
        "-o",
        str(file),
    ]
    done = CliRunner().invoke(app, [*arguments, "--target", " Paris", "--target", " Rome", "--nodes", "0.5"])
    assert done.exit_code == 0, done.output
    assert "strongest paths" in done.output
    assert "nothing held" in done.output
    graph = from_circuit_tracer(file)
    assert graph.probability.coords["logit"] == (" Paris", " Rome")
    assert graph.node_share == 0.5
    assert json.loads(file.read_text())["metadata"]["slug"] == "france"
    assert "Attribution graph" in page.read_text()
    for wrong in ("graph.txt", "nowhere/graph.html"):
        done = CliRunner().invoke(
            app, ["tiny-world", PROMPT, "--dictionary", "tiny-world/clt", "-o", str(tmp_path / wrong)]
        )
        assert done.exit_code == 2
