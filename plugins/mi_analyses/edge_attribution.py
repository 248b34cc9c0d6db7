"""Edge attribution patching: how much does each edge between two parts of the model matter, to first order?

Reach for it to find a circuit: which head reads which other's output, as query, key or value. All edges are scored with
two forward passes and one backward pass. Where the gradient at one prompt misleads, ``steps`` average it on the way to
the other. Scores choose candidates; `circuit_faithfulness` says whether the circuit does what the model does.

Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery" (arXiv:2310.10348); Hanna et
al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), section 3 (EAP-IG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import mi_core as mi
from mi_analyses.activation_patching import gap_of
from mi_analyses.circuit_selection import Selection, chosen_edges
from mi_analyses.edge_scores import edge_scores, inputs_of, writes_of
from mi_analyses.first_order import Comparison
from mi_analyses.graph_nodes import Graph
from mi_analyses.prompt_pairs import check_lengths, two_sides
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Labelled
from mi_core.plain import write_json
from mi_core.results import Result, ResultProvenance

__all__ = ["EdgeAttribution", "edge_attribution"]

NEEDS = ("hook_embed", "hook_resid_pre", "hook_resid_post", "hook_attn_out")
Along = Literal["inputs", "activations"]
ALIGN = "Use prompts cut into as many tokens."


@dataclass(frozen=True, kw_only=True, eq=True)
class EdgeAttribution(Result):
    """What the metric would change by if one edge carried what it carries for the other prompt, to first order."""

    score: Labelled
    """Mean over pairs, in units of the metric: ``sender receiver``; NaN where there is no edge."""
    clean: Labelled
    """The metric of each clean run."""
    corrupt: Labelled
    """The metric of each corrupt run."""
    noising: bool
    """True: corrupt into the clean run; False: clean into the corrupt run."""
    steps: int
    """Gradients that were averaged; 0: the one of the run that is patched."""
    along: str
    """Between what: ``"inputs"`` (the embeddings) or ``"activations"`` (each sender's own output)."""
    clean_tokens: tuple[tuple[str, ...], ...]
    corrupt_tokens: tuple[tuple[str, ...], ...]

    title: ClassVar[str] = "Edge attribution"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.edge_attribution_view"

    def largest(self, n: int = 20) -> Labelled:
        """The ``n`` edges with the largest scores, whatever their sign, along an axis ``edge``."""
        values = self.score.values.flatten()
        order = values.nan_to_num(nan=0.0).abs().argsort(descending=True, stable=True)
        places = [place for place in order.tolist() if not bool(values[place].isnan())][:n]
        senders, receivers = self.score.coords["sender"], self.score.coords["receiver"]
        names = tuple(f"{senders[at // len(receivers)]} -> {receivers[at % len(receivers)]}" for at in places)
        return Labelled(values[places], ("edge",), {"edge": names}, "score", self.score.unit)

    def circuit(
        self, n: int | None = None, *, threshold: float | None = None, select: Selection = "top", prune: bool = True
    ) -> tuple[str, ...]:
        """The names of the edges of a circuit, in the model's order: what `circuit_faithfulness` takes.

        Args:
            n: how many edges.
            threshold: or, those whose score is at least so large, whatever its sign.
            select: ``"top"``: the largest of all; ``"greedy"``: from the logits back, always the largest edge into
                what the circuit has already.
            prune: leave out what no path from the embedding reaches, or what does not reach the logits.

        Raises:
            SelectorError: neither or both of ``n`` and ``threshold``.
        """
        return chosen_edges(self.score, n, threshold, select, prune)

    def save_circuit(self, path: str | Path, n: int | None = None, **options: Any) -> tuple[str, ...]:
        """Write the edges of a circuit to a JSON file, as ``circuit`` chooses them; returns them, too."""
        edges = self.circuit(n, **options)
        write_json({"edges": list(edges), "model": self.provenance.model}, path)
        return edges


def edge_attribution(
    model: mi.Model,
    clean: Any,
    corrupt: Any,
    metric: mi.Metric | Callable[..., Any],
    *,
    steps: int = 0,
    along: Along = "inputs",
    noising: bool = True,
    heads: bool = True,
    attention_mask: Any = None,
) -> EdgeAttribution:
    """How much does each edge between two parts of the model matter, to first order?

    Senders are the embedding, heads and MLPs; receivers are heads' queries, keys and values, MLPs and the logits. Where
    heads do not add to the stream as they are (behind a post-norm) a layer's attention is one node.

    Args:
        model: any model whose stream is the sum of what its layers write, with inputs of their own for its readers.
        clean: a prompt, or several.
        corrupt: as many, cut into as many tokens; or a `HookSpec` that corrupts the clean ones at the embedding.
        metric: what is measured, such as ``mi.logit_diff(" Paris", " Rome")``; it must have a gradient.
        steps: average so many gradients on the way from the patched prompt to the other (EAP-IG); 0: one gradient.
        along: ``"inputs"``: between the embeddings; ``"activations"``: for each sender between its own outputs, which
            takes ``steps`` passes for each of them.
        noising: patch corrupt into clean, as in the papers; False: the other way round.
        heads: False takes each layer's attention as one node.
        attention_mask: as in `Model.run`, for both sides.

    Raises:
        UnsupportedAnalysis: the model lacks a site, or its stream is no plain sum; the message says why.
        SelectorError: the prompts of a pair are cut into different numbers of tokens.
        ValueMismatch: the metric has no gradient, or does not tell clean from corrupt in some pair.

    Source: Syed et al. 2023, equation 4; Hanna et al. 2024, equation 6. Their code (hannamw/EAP-IG, attribute.py) takes
    gradients at the beginnings of steps, we at their middles; for activations it gives every edge the mean over all
    senders' ways, we give it that over its own sender's.
    """
    require(model, NEEDS, "edge_attribution")
    if steps < 0 or along not in ("inputs", "activations"):
        raise SelectorError(
            f'steps={steps!r}, along={along!r}: take 0 or more steps, along "inputs" or "activations".', steps=steps
        )
    graph = Graph.of(model, heads=heads)
    base, source = two_sides(clean, corrupt, noising)
    compared = Comparison.of(model, (base, source), metric, attention_mask=attention_mask)
    writes = writes_of(graph)
    given = compared.run(source, [*writes, "hook_embed"])
    under = compared.run(base, [*writes, *inputs_of(graph)] if not steps else writes, grad=not steps)
    tokens = {base.name: under.text_tokens, source.name: given.text_tokens}
    check_lengths(tokens["clean"], tokens["corrupt"], ALIGN)
    compared = compared.bound(len(under.tokens))
    measured = {base.name: compared.measured(under), source.name: compared.measured(given)}
    gap_of(measured[base.name], measured[source.name])
    total = edge_scores(compared, graph, under, given, steps, along == "activations")
    names = {"sender": tuple(map(str, graph.senders)), "receiver": tuple(map(str, graph.receivers))}
    unit = measured[base.name].unit
    return EdgeAttribution(
        provenance=ResultProvenance.of(model, under, base.spec, base.inputs),
        score=Labelled(total / len(under.tokens), ("sender", "receiver"), names, "score", unit),
        **{name: measured[name] for name in ("clean", "corrupt")},
        noising=noising,
        steps=steps,
        along=along,
        clean_tokens=tuple(map(tuple, tokens["clean"])),
        corrupt_tokens=tuple(map(tuple, tokens["corrupt"])),
    )


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about edge attribution."""
    return Analysis("How much does each edge between two parts of the model matter?", NEEDS, edge_attribution)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi eap``."""
    from mi_analyses.edge_attribution_command import eap

    return eap
