"""Attribution graphs: which features made which others, from the prompt's tokens to the next token's logits?

Reach for it when the question is how an answer came about, step by step. The MLPs are replaced by transcoders, or a
cross-layer transcoder, whose features are few and tend to mean something; attention patterns and norms are held as they
were, so that what a feature adds to another is one number, and exact. What the transcoders miss is in the graph, too,
as nodes of errors: look at ``replacement`` and ``completeness`` before you read on. `check_graph` compares with what
really happens without a feature.

Source: Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models"; circuit-tracer 0.4.1
(github.com/safety-research/circuit-tracer), attribution/attribute_transformerlens.py, ``attribute``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_core.analyses import Analysis, require
from mi_core.budget import free_bytes
from mi_core.dictionaries import Dictionary
from mi_core.errors import InputError, SelectorError, UnsupportedAnalysis
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Labelled
from mi_core.results import ResultProvenance
from mi_dictionaries import DictionarySet, logit_effects
from mi_graphs import influence
from mi_graphs.effects import DirectEffects, Target
from mi_graphs.graph import AttributionGraph
from mi_graphs.logits import Logits, salient
from mi_graphs.nodes import ERROR, FEATURE, LOGIT, TOKEN, Node
from mi_graphs.replacement import OUT, LocalReplacement
from mi_graphs.sources import Sources
from mi_graphs.transcoders import Transcoders

__all__ = ["attribution_graph"]

NEEDS = ("hook_embed", "attn.hook_pattern", "hook_mlp_out", "unembed.hook_in")
PARTS = ("left out", "biases and skipped positions")


def attribution_graph(
    model: mi.Model,
    prompt: Any,
    dictionary: Dictionary | DictionarySet,
    *,
    max_features: int | None = None,
    targets: Sequence[str | int] | None = None,
    logits: int = 10,
    probability: float = 0.95,
    batch: int = 64,
    refresh: int = 4,
    skip_positions: Collection[int] | None = None,
    tokens: int = 5,
) -> AttributionGraph:
    """Which features made which others, from the prompt's tokens to the next token's logits?

    Args:
        model: any model whose layers attend, and whose stream is the sum of what they write.
        prompt: one, of at least two tokens.
        dictionary: transcoders, a cross-layer transcoder, or one transcoder: from what an MLP reads to what it writes.
            A layer without one is all error.
        max_features: how many features become nodes: those of the largest influence, found in rounds; None for every
            active one.
        targets: the tokens whose logits are explained; by default the likeliest.
        logits: of these at most so many.
        probability: or so many that together have this probability.
        batch: targets that one backward pass serves.
        refresh: batches after which features are ranked anew.
        skip_positions: where only the embedding counts; by default the begin-of-text token, at which activations are
            large and mean little. circuit-tracer always skips the first position.
        tokens: how many promoted tokens are kept of each feature that pruning keeps; 0 for none.

    Raises:
        UnsupportedAnalysis: the dictionary is none of transcoders, a layer mixes positions without attention patterns,
            or the model is not linear once they are held; the message says which.
        InputError: several prompts, one of a single token, or more than the memory has room for.
    """
    require(model, NEEDS[:1], "attribution_graph")
    check_numbers(max_features=max_features, logits=logits, batch=batch, refresh=refresh)
    held = LocalReplacement.of(model, prompt, Transcoders.of(model, dictionary))
    skipped = begin_of_text(model, held.ids) if skip_positions is None else places(skip_positions, held.n_pos)
    with torch.no_grad():
        sources = Sources.of(held, skipped)
        explained = salient(model, held.clean, targets, logits, probability)
    n = min(sources.n_features if max_features is None else max_features, sources.n_features)
    check_matrix(sources, n, len(explained))
    effects = DirectEffects(held, sources, min(batch, max(n, len(explained), 1)))
    effects.check_linear()
    rows, chosen, given = all_rows(effects, explained, n, refresh)
    graph = assembled(held, sources, explained, rows, chosen, given, name_of(dictionary))
    return with_promoted(graph, model, held.transcoders, tokens)


def check_numbers(**given: int | None) -> None:
    """Refuse counts below one."""
    for name, number in given.items():
        if number is not None and number < 1:
            raise SelectorError(f"{name}={number}: at least 1.", **{name: number})


def begin_of_text(model: mi.Model, ids: tuple[int, ...]) -> frozenset[int]:
    """The first position, where it holds the begin-of-text token."""
    bos = None if model.tokenizer is None else model.tokenizer.bos
    return frozenset({0} if bos is not None and ids[0] == bos else ())


def places(given: Collection[int], n_pos: int) -> frozenset[int]:
    """Positions counted from the front."""
    if wrong := [pos for pos in given if not -n_pos <= pos < n_pos]:
        raise SelectorError(f"skip_positions={wrong}: the prompt has {n_pos} tokens.", positions=tuple(wrong))
    return frozenset(pos % n_pos for pos in given)


def name_of(dictionary: Any) -> str:
    """What the transcoders are called: where their dashboards are; else by the model and the format of their files."""
    about = getattr(dictionary, "about", None)
    if scan := getattr(about, "details", {}).get("scan"):
        return str(scan)
    known = [str(each) for each in (getattr(about, "model", None), getattr(about, "format", None)) if each]
    return " ".join(known) or type(dictionary).__name__


def check_matrix(sources: Sources, n: int, n_logits: int) -> None:
    """Refuse, before anything is attributed, a matrix that the memory has no room for."""
    columns = len(sources) + n_logits
    needed = 4 * (2 * (n + n_logits) * columns + 2 * (n + columns - sources.n_features) ** 2)
    free = free_bytes(torch.device("cpu"))
    if needed > free:
        fits = int((free / 16) ** 0.5 / 2)
        raise InputError(
            f"{sources.n_features:,} features are active, and a graph of {n:,} of them takes {needed / 2**30:.1f} GiB; "
            f"{free / 2**30:.1f} GiB are free. Give max_features={fits} or fewer.",
            active=sources.n_features,
            needed=needed,
        )


def all_rows(
    effects: DirectEffects, explained: Logits, n: int, refresh: int
) -> tuple[Float[Tensor, "row source"], Int[Tensor, "n"], Float[Tensor, "row"]]:
    """The rows of the features that are nodes, in their order, and of the logits; which features; their values.

    Where not all are, those come first that have the largest influence by what is known of the rows so far.
    """
    sources, found = effects.sources, []
    last = [Target(OUT, -1, direction) for direction in explained.directions]
    rows, given = effects.of(last), effects.values(last)[0]
    columns = len(sources) + len(explained)
    known = torch.zeros(n + len(last), columns)
    nodes = torch.zeros(n + len(last), dtype=torch.long)
    known[: len(last), : len(sources)], nodes[: len(last)] = rows, torch.arange(len(sources), columns)
    values = torch.zeros(n + len(last))
    values[: len(last)] = given
    at, waiting = len(last), torch.ones(sources.n_features, dtype=torch.bool)
    while at < len(known):
        queue = torch.arange(sources.n_features)
        if n < sources.n_features:
            ranked = influence.partial_influence(known[:at], nodes[:at], explained.probability)
            queue = ranked[: sources.n_features].argsort(descending=True)
            queue = queue[waiting[queue]][: min(refresh * effects.batch, len(known) - at)]
        own = effects.features(queue)
        end = at + len(queue)
        known[at:end, : len(sources)], nodes[at:end] = effects.of(own), queue
        values[at:end] = effects.values(own)[0]
        waiting[queue] = False
        found.append(queue)
        at = end
    order = nodes.argsort()
    chosen = torch.cat(found).sort().values if found else torch.zeros(0, dtype=torch.long)
    return known[order, : len(sources)], chosen, values[order]


def assembled(
    held: LocalReplacement,
    sources: Sources,
    explained: Logits,
    rows: Float[Tensor, "row source"],
    chosen: Int[Tensor, "n"],
    given: Float[Tensor, "row"],
    dictionary: str,
) -> AttributionGraph:
    """The graph of the chosen features."""
    every, n = sources.nodes(held.ids), len(chosen)
    nodes = [every[at] for at in chosen.tolist()] + every[sources.n_features :]
    top = held.model.shape.n_layers + 1
    nodes += [Node(LOGIT, top, held.n_pos - 1, token) for token in explained.tokens]
    size, n_logits = len(nodes), len(explained)
    targets = torch.cat([torch.arange(n), torch.arange(size - n_logits, size)])
    columns = torch.cat([chosen, torch.arange(sources.n_features, len(sources))])
    adjacency = torch.zeros(size, size)
    adjacency[targets, : len(columns)] = rows[:, columns]
    total, activation = torch.full((2, size), torch.nan)
    total[targets], activation[:n] = given, sources.value[chosen]
    remainder = torch.zeros(size, 2)
    remainder[targets, 0] = rows.sum(1) - rows[:, columns].sum(1)
    remainder[targets, 1] = given - rows.sum(1)
    weights = torch.zeros(size)
    weights[-n_logits:] = explained.probability
    kinds = {kind: torch.tensor([node.kind == kind for node in nodes]) for kind in (FEATURE, ERROR, TOKEN)}
    found = influence.influence(adjacency, weights)
    names = tuple(node.id for node in nodes)
    own = {"node": names}
    spec = mi.capture([*held.transcoders.reads.values(), *held.transcoders.outputs.values()])
    return AttributionGraph(
        provenance=ResultProvenance.of(held.model, held.clean, spec),
        adjacency=Labelled(adjacency, ("target", "source"), {"target": names, "source": names}, "contribution"),
        total=Labelled(total, ("node",), own, "total"),
        remainder=Labelled(remainder, ("node", "part"), {**own, "part": PARTS}, "remainder"),
        activation=Labelled(activation, ("node",), own, "activation"),
        influence=Labelled(found, ("node",), own, "influence"),
        cumulative=Labelled(influence.cumulative(found), ("node",), own, "cumulative influence"),
        probability=Labelled(explained.probability, ("logit",), {"logit": explained.texts}, "probability"),
        places=tuple((node.kind, node.layer, node.pos, node.number) for node in nodes),
        n_layers=held.model.shape.n_layers,
        active=sources.n_features,
        dictionary=dictionary,
        replacement=influence.replacement(found, kinds[ERROR], kinds[TOKEN]),
        completeness=influence.completeness(adjacency, found, weights, kinds[ERROR]),
    )


def with_promoted(graph: AttributionGraph, model: mi.Model, held: Transcoders, k: int) -> AttributionGraph:
    """The graph with the tokens that features promote, of those that pruning keeps; where effects are linear."""
    promoted: dict[str, tuple[tuple[str, float], ...]] = {}
    kept = [node for node in graph.prune().nodes if node.kind == FEATURE] if k else []
    for layer in sorted({node.layer for node in kept}):
        features = sorted({node.number for node in kept if node.layer == layer})
        try:
            effects = logit_effects(model, held.by_layer[layer], torch.tensor(features))
        except UnsupportedAnalysis:
            return graph
        best = effects.topk(min(k, model.shape.d_vocab))
        for feature, values, tokens in zip(features, best.values.tolist(), best.indices.tolist(), strict=True):
            texts = [str(token) if model.tokenizer is None else model.tokenizer.text(token) for token in tokens]
            promoted[f"{layer}_{feature}"] = tuple(zip(texts, values, strict=True))
    return replace(graph, promoted=promoted)


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about attribution graphs."""
    return Analysis("Which features made which others, from tokens to logits?", NEEDS, attribution_graph)
