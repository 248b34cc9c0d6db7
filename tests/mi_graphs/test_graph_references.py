"""Graphs, pruning, scores, files and interventions against circuit-tracer's own, on tiny models of three kinds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_data import reference_folder
from safetensors.torch import load_file
from small_models import close

import mi_core as mi
import mi_dictionaries as md
from mi_core.errors import BadConfig
from mi_graphs import AttributionGraph, attribution_graph, from_circuit_tracer, to_circuit_tracer
from mi_graphs.influence import kept

CASES = ("llama_plt_relu", "llama_clt_relu", "gemma2_plt_jumprelu")


@dataclass(frozen=True, eq=False)
class Case:
    folder: Path

    @cached_property
    def model(self) -> mi.Model:
        return mi.load(str(self.folder / "hf_model"), device="cpu")

    @cached_property
    def transcoders(self) -> md.DictionarySet:
        return md.load(self.folder / "transcoders")

    @cached_property
    def wanted(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "reference.safetensors")

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text())

    @cached_property
    def ids(self) -> list[int]:
        return self.wanted["input_ids"].tolist()

    def graph(self, **options: Any) -> AttributionGraph:
        return attribution_graph(self.model, self.ids, self.transcoders, skip_positions=[0], **options)

    @cached_property
    def whole(self) -> AttributionGraph:
        return self.graph()


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(reference_folder("graphs", request.param))


def test_every_edge_is_circuit_tracer_s(case):
    wanted, graph = case.wanted, case.whole
    places = torch.tensor([[node.layer, node.pos, node.number] for node in graph.nodes if node.kind == "feature"])
    assert torch.equal(places, wanted["active_features"])
    assert [node.number for node in graph.nodes if node.kind == "logit"] == wanted["logit_ids"].tolist()
    close(graph.probability.values, wanted["logit_probs"])
    close(graph.activation.values[: len(places)], wanted["activation_values"])
    close(graph.total.values[: len(places)], wanted["preact_values"] - wanted["b_enc_values"])
    close(graph.adjacency.values, wanted["adjacency"], atol=1e-5 * float(wanted["adjacency"].abs().max()))


def test_influence_scores_and_pruning_are_circuit_tracer_s(case):
    wanted, graph = case.wanted, case.whole
    close(graph.influence.values, wanted["node_influence"])
    close(graph.cumulative.values, wanted["prune_cumulative"])
    close(torch.tensor([graph.replacement, graph.completeness]), wanted["scores"])
    masks = graph.of_kind("feature", "error"), graph.of_kind("feature")
    found = kept(wanted["adjacency"], graph.weights(), *masks)
    assert torch.equal(found.nodes, wanted["prune_node_mask"])
    assert torch.equal(found.edges, wanted["prune_edge_mask"])


def test_the_features_that_matter_most_are_chosen_in_the_same_rounds(case):
    meta = case.meta
    batch, refresh = meta["batch_size_top"], meta["update_interval_top"]
    graph = case.graph(max_features=meta["max_feature_nodes_top"], batch=batch, refresh=refresh)
    wanted = [case.whole.nodes[at] for at in case.wanted["top_selected_features"].tolist()]
    assert [node for node in graph.nodes if node.kind == "feature"] == wanted
    size = float(case.wanted["top_adjacency"].abs().max())
    close(graph.adjacency.values, case.wanted["top_adjacency"], atol=1e-5 * size)


def renamed(data: dict[str, Any]) -> dict[str, Any]:
    """An older file with the names that errors have now; where names met, its links cannot be told apart."""
    errors = {node["node_id"] for node in data["nodes"] if node["feature"] == -1}
    assert not errors & {node["node_id"] for node in data["nodes"] if node["feature"] != -1}
    names = {f"0_{node['layer']}_{node['ctx_idx']}": f"{node['layer']}_-1_{node['ctx_idx']}" for node in data["nodes"]}
    for node in data["nodes"]:
        if node["feature"] == -1:
            node |= {"node_id": names[node["node_id"]], "jsNodeId": f"{node['layer']}_-1-{node['ctx_idx']}"}
    for link in data["links"]:
        link["source"] = names[link["source"]] if link["source"] in errors else link["source"]
    return data


def test_files_are_circuit_tracer_s(case):
    data = renamed(json.loads((case.folder / "graph.json").read_text()))
    ours = json.loads(to_circuit_tracer(case.whole.prune(), slug="tiny", scan="local/tiny"))
    assert ours["qParams"] == data["qParams"]
    assert ours["metadata"].items() >= {k: v for k, v in data["metadata"].items() if k != "prompt"}.items()
    seen = {node["node_id"]: node for node in ours["nodes"]}
    assert seen.keys() == {node["node_id"] for node in data["nodes"]}
    for node in data["nodes"]:
        assert {name: pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
                for name, value in node.items()} == seen[node["node_id"]]  # fmt: skip
    weights = {(link["source"], link["target"]): link["weight"] for link in ours["links"]}
    assert {(link["source"], link["target"]) for link in data["links"]} == weights.keys()
    assert all(link["weight"] == pytest.approx(weights[link["source"], link["target"]], abs=1e-5)
               for link in data["links"])  # fmt: skip


def test_its_files_are_read(case):
    data = json.loads((case.folder / "graph.json").read_text())
    graph = from_circuit_tracer(case.folder / "graph.json")
    assert (len(graph.nodes), len(graph.edges())) == (len(data["nodes"]), len(data["links"]))
    close(graph.prune(1.0, 1.0).adjacency.values, graph.adjacency.values)
    data["nodes"].append(data["nodes"][0])
    with pytest.raises(BadConfig, match=r"1 names are two nodes' each: 0_\d+_\d+"):
        from_circuit_tracer(json.dumps(data))


@pytest.mark.parametrize("name", ["iv0", "iv1", "iv2"])
def test_interventions_are_circuit_tracer_s(case, name):
    about, model = case.meta["interventions"][name], case.model
    edits = []
    for layer, pos, number, value in about["interventions"]:
        point = f"{case.transcoders[layer].site_in}.hook_sae_acts_post"
        edits.append(mi.intervene(point, mi.Replace(value).at(pos=pos, feature=number)))
    scales = [point.name for point in model.hook_points() if point.name.endswith("hook_scale")]
    held = ["blocks.*.attn.hook_pattern"] if about["freeze_attention"] else []
    held += [*scales, *case.transcoders.writes] if about["constrained_layers"] else []
    frozen = mi.HookSpec()
    if held:
        frozen = mi.intervene(held, mi.Replace(model.run(case.ids, mi.capture(held))))
    spec = sum(edits, frozen + md.splice(case.transcoders)) + mi.capture(list(case.transcoders.reads))
    run = model.run(case.ids, spec)
    close(run.logits[0], case.wanted[f"{name}_logits"], atol=2e-5)
    for at, (layer, member) in enumerate(case.transcoders.items()):
        assert at == layer
        seen = member.pre_activations(run[member.site_in]).dense()[0, 1:]
        close(seen, case.wanted[f"{name}_preacts"][layer, 1:], atol=5e-5)
