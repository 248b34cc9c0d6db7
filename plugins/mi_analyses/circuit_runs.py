"""What circuits of one model do on the same prompts, measured in one sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import mi_core as mi
from mi_analyses.ablated_streams import ABLATIONS, Ablation, AlignedPrompts, ablated_values
from mi_analyses.activation_patching import plain
from mi_analyses.circuit_specs import circuit_spec
from mi_analyses.circuits import Circuit
from mi_analyses.graph_nodes import Graph
from mi_analyses.prompt_pairs import check_lengths
from mi_core.errors import SelectorError, UnsupportedAnalysis, ValueMismatch
from mi_core.labelled import Label, Labelled

__all__ = ["CircuitRuns", "faithful"]

ROUNDING = 1e-5
"""What is closer together than this part is the same."""
EMPTY = "nothing"
"""The label of the empty circuit."""


@dataclass(frozen=True, eq=False)
class CircuitRuns:
    """A model whose parts are ablated unless they belong to a circuit."""

    model: mi.Model
    graph: Graph
    prompts: AlignedPrompts
    """The clean ones."""
    ablated: Mapping[str, Tensor]
    of_edges: bool
    metric: Any
    options: Mapping[str, Any]
    """Of `Model.sweep`."""

    @classmethod
    def of(
        cls,
        model: mi.Model,
        graph: Graph,
        clean: Any,
        corrupt: Any,
        metric: Any,
        ablation: Ablation,
        *,
        of_edges: bool,
        seed: int = 0,
        attention_mask: Any = None,
        **options: Any,
    ) -> CircuitRuns:
        """Run what parts are ablated to; ``corrupt`` may be None where everything outside is zero.

        Raises:
            UnsupportedAnalysis: of edges: a part's input cannot be written apart from the stream.
            SelectorError: no such ablation, or no prompts for it, or prompts of other lengths than the clean ones.
        """
        if ablation not in ABLATIONS:
            raise SelectorError(f"ablation={ablation!r}: give one of {', '.join(map(repr, ABLATIONS))}.")
        if corrupt is None and ablation != "zero":
            raise SelectorError(f'ablation="{ablation}" needs prompts to take activations from: give corrupt prompts.')
        if of_edges:
            refuse_hidden_inputs(graph)
        prompts = AlignedPrompts.of(model, clean, attention_mask)
        rows = len(prompts.ids)
        other = prompts
        if ablation != "zero":
            paired = ablation == "counterfactual"
            other = AlignedPrompts.of(model, corrupt, attention_mask if paired else None)
            texts = other.run.text_tokens if paired else [other.run.text_tokens[0]] * rows
            check_lengths(prompts.run.text_tokens, texts, "Use prompts cut into as many tokens.")
        ablated = ablated_values(model, graph, other, ablation, rows, edges=of_edges, seed=seed)
        return cls(model, graph, prompts, ablated, of_edges, metric, {"attention_mask": prompts.mask, **options})

    def everything(self) -> Circuit:
        """The model as a circuit."""
        return Circuit.of_members(self.graph, self.graph.edges if self.of_edges else self.graph.senders, self.of_edges)

    def measured(self, circuits: Mapping[Label, Circuit]) -> tuple[Labelled, Labelled, Labelled]:
        """The metric of each circuit (``circuit batch``), of the clean run, and of the empty circuit."""
        every = {EMPTY: Circuit((), self.of_edges), **circuits}
        specs = {label: self.spec(circuit) for label, circuit in every.items()}
        swept = self.model.sweep(self.prompts.ids, specs, self.metric, **self.options)
        assert swept.baseline is not None
        values = Labelled(swept.values, ("circuit", "batch"), {"circuit": tuple(every)}, swept.name, swept.unit)
        return values.at_places("circuit", range(1, len(every))), swept.baseline, plain(values.at_place("circuit", 0))

    def spec(self, circuit: Circuit) -> mi.HookSpec:
        """What ablates all that is outside of a circuit."""
        return circuit_spec(self.model, self.graph, circuit, self.ablated)


def refuse_hidden_inputs(graph: Graph) -> None:
    """Refuse edges where a mixer's input cannot be written apart from the stream."""
    for layer, here in enumerate(graph.layers):
        if here.attn and not here.attn_reads:
            raise UnsupportedAnalysis(
                f"{graph.name!r} is no graph of edges: what the mixer of layer {layer} reads cannot be written apart "
                "from the stream. Use a circuit of nodes.",
                layer=layer,
            )


def faithful(metric: Labelled, clean: Labelled, empty: Labelled) -> Labelled:
    """How much of what tells the clean run from the ablated one is there: ratios of means over pairs.

    Raises:
        ValueMismatch: nothing tells them apart.
    """
    low, high = empty.values.mean(), clean.values.mean()
    if bool((high - low).abs() <= ROUNDING * (high.abs() + low.abs())):
        raise ValueMismatch(
            f"the clean run and the ablated model have the same mean {metric.name or 'metric'}, {float(low):.4g}: "
            "nothing tells them apart that a circuit could be faithful to. Choose other answers or prompts."
        )
    mean = metric.mean("batch")
    return Labelled((mean.values - low) / (high - low), mean.dims, mean.coords, "faithfulness")
