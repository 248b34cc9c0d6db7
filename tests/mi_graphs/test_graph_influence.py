"""Influence, pruning and paths of random graphs, against matrices and enumeration."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import SEEDS, close

from mi_core.errors import SelectorError, ValueMismatch
from mi_core.labelled import Labelled
from mi_core.results import ResultProvenance
from mi_graphs import AttributionGraph
from mi_graphs.influence import cumulative, influence, kept, partial_influence, shares

LAYERS, TOKENS = 3, ("a", " b")


def graph(seed: int, sparse: float = 0.4, features: int = 3) -> AttributionGraph:
    """Features and errors in three layers, two tokens, two logits, and random edges upwards."""
    draw = torch.Generator().manual_seed(seed)
    layers = range(LAYERS)
    places = [("feature", layer, 1, number) for layer in layers for number in range(features)]
    places += [("error", layer, pos, -1) for layer in layers for pos in range(len(TOKENS))]
    places += [("token", -1, pos, 7 + pos) for pos in range(len(TOKENS))]
    places += [("logit", LAYERS + 1, 1, token) for token in (3, 4)]
    layer = torch.tensor([place[1] for place in places])
    targets = torch.tensor([place[0] in ("feature", "logit") for place in places])
    allowed = (layer[:, None] > layer[None]) & targets[:, None]
    size = len(places)
    values = torch.randn(size, size, generator=draw) * allowed
    values *= torch.rand(size, size, generator=draw) > sparse
    names = tuple(str(at) for at in range(size))

    def by_node(numbers: torch.Tensor, name: str) -> Labelled:
        return Labelled(numbers, ("node",), {"node": names}, name)

    weights = torch.zeros(size)
    weights[-2:] = torch.tensor([0.6, 0.3])
    found = influence(values, weights)
    return AttributionGraph(
        provenance=ResultProvenance(model="none", family="none", prompts=("a b",), tokens=(TOKENS,), ids=((7, 8),)),
        adjacency=Labelled(values, ("target", "source"), {"target": names, "source": names}),
        total=by_node(values.sum(1), "total"),
        remainder=Labelled(torch.zeros(size, 2), ("node", "part"), {"node": names}),
        activation=by_node(torch.ones(size), "activation"),
        influence=by_node(found, "influence"),
        cumulative=by_node(cumulative(found), "cumulative"),
        probability=Labelled(torch.tensor([0.6, 0.3]), ("logit",), {"logit": (" x", " y")}),
        places=tuple(places),
        n_layers=LAYERS,
        active=LAYERS * features,
        dictionary="none",
        replacement=1.0,
        completeness=1.0,
    )


@given(SEEDS)
def test_influence_sums_all_powers_of_the_shares(seed):
    held = graph(seed)
    divided = shares(held.adjacency.values).double()
    inverse = torch.linalg.inv(torch.eye(len(divided), dtype=torch.float64) - divided)
    wanted = held.weights().double() @ inverse - held.weights().double()
    close(held.influence.values, wanted.float())


@given(SEEDS)
def test_influence_by_all_rows_is_the_influence(seed):
    held = graph(seed)
    rows = held.of_kind("feature", "logit").nonzero().flatten().flip(0)
    close(partial_influence(held.adjacency.values[rows], rows, held.probability.values), held.influence.values)
    # of the logits' rows alone: what they say themselves
    direct = shares(held.adjacency.values)[rows[:2]]
    found = partial_influence(held.adjacency.values[rows[:2]], rows[:2], held.probability.values)
    close(found, held.weights()[rows[:2]] @ direct)


@given(SEEDS, st.floats(0.3, 1.0), st.floats(0.3, 1.0))
def test_no_node_that_is_kept_hangs_loose(seed, node_share, edge_share):
    held = graph(seed)
    found = kept(
        held.adjacency.values,
        held.weights(),
        held.of_kind("feature", "error"),
        held.of_kind("feature"),
        node_share=node_share,
        edge_share=edge_share,
    )
    assert bool(found.nodes[held.of_kind("token", "logit")].all())
    assert bool((held.adjacency.values[found.edges] != 0).all())
    assert bool((found.edges <= (found.nodes[:, None] & found.nodes[None])).all())
    inner = found.nodes & held.of_kind("feature", "error")
    assert bool(found.edges.any(0)[inner].all())
    assert bool(found.edges.any(1)[inner & held.of_kind("feature")].all())


@given(SEEDS)
def test_a_larger_share_keeps_what_a_smaller_one_keeps(seed):
    held = graph(seed)
    small, large = ({node.id for node in held.prune(share, 1.0).nodes} for share in (0.5, 0.9))
    assert small <= large


@given(SEEDS)
def test_what_pruning_takes_from_a_row_goes_to_its_remainder(seed):
    held = graph(seed)
    part = held.prune(0.6, 0.7)
    rows = part.adjacency.values.sum(1) + part.remainder.values.sum(1)
    close(rows, part.total.values)
    assert part.total == held.total.at_places("node", [held.nodes.index(node) for node in part.nodes])


def ways(held: AttributionGraph, end: int) -> list[tuple[int, ...]]:
    """Every path from a token to a node."""
    if held.nodes[end].kind == "token":
        return [(end,)]
    sources = held.adjacency.values[end].nonzero().flatten().tolist()
    return [(*way, end) for source in sources for way in ways(held, source)]


@given(SEEDS)
def test_the_strongest_paths_are_those_of_all_paths(seed):
    held = graph(seed)
    divided, weights = shares(held.adjacency.values), held.weights()
    strengths = []
    for end in held.of_kind("logit").nonzero().flatten().tolist():
        for way in ways(held, end):
            along = torch.stack([divided[target, source] for source, target in pairwise(way)])
            strengths.append(float(weights[end] * along.prod()))
    strengths.sort(reverse=True)
    found = held.paths(6)
    assert [path.share for path in found] == pytest.approx(strengths[:6], rel=1e-5)
    for path in found:
        at = [held.nodes.index(node) for node in path.nodes]
        assert path.contributions == tuple(float(held.adjacency.values[b, a]) for a, b in pairwise(at))
    tokens = held.of_kind("token")
    assert sum(strengths) == pytest.approx(float(held.influence.values[tokens].sum()), rel=1e-4, abs=1e-6)


def test_paths_to_one_logit_end_there():
    held = graph(1)
    assert {path.nodes[-1].number for path in held.paths(50)} == {3, 4}
    assert {path.nodes[-1].number for path in held.paths(50, logit=" y")} == {4}
    assert {path.nodes[0].kind for path in held.paths(50, logit=3, errors=True)} == {"token", "error"}
    with pytest.raises(SelectorError, match=r"' z' is no target of this graph; these are: ' x', ' y'"):
        held.paths(logit=" z")


def test_circles_and_shares_beyond_one_are_refused():
    with pytest.raises(ValueMismatch, match="go round in a circle"):
        influence(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.0]))
    for shares_given in ((0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(SelectorError, match="above 0 and at most 1"):
            graph(0).prune(*shares_given)
