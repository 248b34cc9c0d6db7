"""Edges are what happens: each one against the same model with everything held and a source taken away."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from random_transcoders import KINDS, transcoders
from small_models import SEEDS, close, family_example, small

import mi_core as mi
import mi_dictionaries as md
from mi_core.errors import UnsupportedAnalysis
from mi_graphs import AttributionGraph, Node, attribution_graph
from mi_graphs.influence import influence

READS = ("mlp.hook_in", "hook_resid_mid", "ln2.hook_normalized")
PROMPTS = st.lists(st.integers(0, 60), min_size=2, max_size=5)


def held(model: mi.Model, ids: list[int], dictionaries: md.DictionarySet) -> mi.HookSpec:
    """Everything held by hand, MLPs but for the skip connections of their transcoders."""
    scales = [point.name for point in model.hook_points() if point.name.endswith("hook_scale")]
    names = [*scales, "blocks.*.attn.hook_pattern", "blocks.*.hook_mlp_out", *dictionaries.reads]
    clean = model.run([ids], mi.capture(list(dict.fromkeys(names))))
    spec = mi.intervene([*scales, "blocks.*.attn.hook_pattern"], mi.Replace(clean))
    for layer in range(model.shape.n_layers):
        output = f"blocks.{layer}.hook_mlp_out"
        skip = getattr(dictionaries.by_layer.get(layer), "W_skip", None)
        if skip is None:
            spec = spec + mi.intervene(output, mi.Replace(clean))
        else:
            spec = spec + mi.insert(ByHand(dictionaries[layer].site_in, output, clean, skip), f"by hand {layer}")
    return spec


class ByHand:
    sites = ()

    def __init__(self, read, write, clean, skip):
        self.reads, self.writes = (read,), (write,)
        self.before, self.stood, self.skip = clean[read], clean[write], skip

    def __call__(self, values, tap):
        return {self.writes[0]: self.stood + (values[self.reads[0]] - self.before) @ self.skip.T}


def without(graph: AttributionGraph, nodes: list[Node], dictionaries: md.DictionarySet, model: mi.Model) -> mi.HookSpec:
    """A source taken away in each row: what a feature writes, a token's embedding."""
    edits = []
    for row, node in enumerate(nodes):
        if node.kind == "token":
            edits.append(mi.intervene("hook_embed", mi.Zero().at(pos=node.pos, batch=row)))
            continue
        value = float(graph.activation.values[graph.nodes.index(node)])
        member = dictionaries[node.layer]
        written = member.decoder_rows(torch.tensor([node.number])).reshape(-1, model.shape.d_model)
        edits += [
            mi.intervene(point, mi.Add(each, scale=-value).at(pos=node.pos, batch=row))
            for point, each in zip(member.writes, written, strict=True)
        ]
    return sum(edits, mi.HookSpec())


def values_of(graph: AttributionGraph, run: mi.Run, dictionaries: md.DictionarySet) -> torch.Tensor:
    """``row node``: every feature's pre-activation, and every logit less the mean of all; zero of other nodes."""
    logits = run["unembed.hook_out"][:, -1]
    found = torch.zeros(len(logits), len(graph.nodes))
    pre = {layer: each.pre_activations(run[each.site_in]).dense() for layer, each in dictionaries.items()}
    for at, node in enumerate(graph.nodes):
        if node.kind == "feature":
            found[:, at] = pre[node.layer][:, node.pos, node.number]
        if node.kind == "logit":
            found[:, at] = logits[:, node.number] - logits.mean(1)
    return found


def check_edges(graph: AttributionGraph, model: mi.Model, ids: list[int], dictionaries: md.DictionarySet) -> None:
    """Take every feature and every token away, each in a row of its own."""
    nodes = [node for node in graph.nodes if node.kind in ("feature", "token")]
    seen = mi.capture([*dictionaries.reads, "unembed.hook_out"])
    before = values_of(graph, model.run([ids], seen), dictionaries)
    spec = held(model, ids, dictionaries) + without(graph, nodes, dictionaries, model)
    change = before - values_of(graph, model.run([ids] * len(nodes), spec + seen), dictionaries)
    edges = graph.adjacency.values[:, [graph.nodes.index(node) for node in nodes]].T
    assert float(edges.abs().max()) > 0.1
    # float32: what is taken away is a difference of large numbers
    close(change, edges, atol=1e-4 * max(1.0, float(before.abs().max())))


@settings(max_examples=8, phases=[Phase.generate])  # each takes every source away; shrinking takes minutes
@given(seed=SEEDS, kind=st.sampled_from(KINDS), reads=st.sampled_from(READS), ids=PROMPTS, draw=st.data())
def test_taking_a_source_away_changes_each_target_by_its_edge(seed, kind, reads, ids, draw):
    model = small(7)
    missing = draw.draw(st.sampled_from([(), (1,)])) if not kind.startswith("cross-layer") else ()
    dictionaries = transcoders(model, kind, seed=seed % 1000, n=6, reads=reads, missing=missing)
    graph = attribution_graph(model, ids, dictionaries, skip_positions=[0], logits=4, tokens=0)
    check_edges(graph, model, ids, dictionaries)


@pytest.mark.parametrize("kind", KINDS)
def test_without_biases_and_skipped_positions_contributions_sum_to_the_value(kind):
    ids = [3, 1, 4, 1]
    model = small(8, attention_bias=False, mlp_bias=False)
    dictionaries = transcoders(model, kind, biased=False)
    graph = attribution_graph(model, ids, dictionaries, skip_positions=(), logits=3, tokens=0)
    targets, rows = graph.total.values.isfinite(), graph.adjacency.values
    assert int(targets.sum()) == int(graph.of_kind("feature", "logit").sum())
    close(rows.sum(1)[targets], graph.total.values[targets], atol=1e-5 * max(1.0, float(rows.abs().sum(1).max())))


def test_what_no_source_contributes_is_the_remainder():
    model = small(7)
    graph = attribution_graph(model, [3, 1, 4, 1], transcoders(model), skip_positions=[0], max_features=8, batch=2)
    targets = graph.total.values.isfinite()
    rows = graph.adjacency.values.sum(1) + graph.remainder.values.sum(1)
    close(rows[targets], graph.total.values[targets])
    left_out, biases = graph.remainder.values[targets].T
    assert bool((biases != 0).all())
    assert int((left_out != 0).sum()) > 5


@pytest.mark.parametrize(("batch", "refresh"), [(1, 1), (2, 3), (64, 4)])
def test_the_features_that_are_chosen_are_the_next_best_by_what_is_known(batch, refresh):
    model, ids, n = small(7), [3, 1, 4, 1], 11
    whole = attribution_graph(model, ids, transcoders(model), logits=3, tokens=0)
    graph = attribution_graph(
        model, ids, transcoders(model), logits=3, tokens=0, max_features=n, batch=batch, refresh=refresh
    )
    features = int(whole.of_kind("feature").sum())
    rows = whole.of_kind("logit").nonzero().flatten().tolist()
    weights, chosen = whole.weights(), []
    while len(chosen) < n:
        known = torch.zeros_like(whole.adjacency.values)
        known[[*rows, *chosen]] = whole.adjacency.values[[*rows, *chosen]]
        order = influence(known, weights)[:features].argsort(descending=True).tolist()
        chosen += [at for at in order if at not in chosen][: min(n - len(chosen), batch * refresh)]
    kept = [*sorted(chosen), *range(features, len(whole.nodes))]
    assert [whole.nodes[at] for at in kept] == list(graph.nodes)
    wanted = whole.adjacency.values[kept][:, kept]
    close(graph.adjacency.values, wanted)
    assert graph.active == features


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_change_nothing(batch):
    model = small(7)
    dictionaries = transcoders(model, "cross-layer")
    graph = attribution_graph(model, [3, 1, 4, 1], dictionaries, batch=batch)
    close(graph.adjacency.values, attribution_graph(model, [3, 1, 4, 1], dictionaries, batch=7).adjacency.values)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox", "mixtral", "gpt_oss", "cohere", "granite", "olmo2"])
def test_every_family_whose_layers_attend_has_exact_edges(family):
    model, ids = family_example(family), [1, 2, 3, 4]
    dictionaries = transcoders(model, n=6)
    graph = attribution_graph(model, ids, dictionaries, skip_positions=(), logits=2, tokens=0)
    check_edges(graph, model, ids, dictionaries)


@pytest.mark.parametrize("family", ["rwkv", "rwkv7"])
def test_recurrent_layers_are_refused(family):
    model = family_example(family)
    with pytest.raises(UnsupportedAnalysis, match=r"mix positions in another way \(a recurrence"):
        attribution_graph(model, [1, 2, 3], transcoders(model))


@pytest.mark.parametrize("family", ["olmo", "deepseek_v3", "minicpm3", "afmoe", "gemma4_text"])
def test_gates_clips_and_inner_norms_are_refused(family):
    model = family_example(family)
    with pytest.raises(UnsupportedAnalysis, match="is not linear in its embeddings"):
        attribution_graph(model, [1, 2, 3, 4], transcoders(model), skip_positions=())
