"""What nodes write, and what the stream is, when every node is ablated.

Source: Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), section 2.1 (means over a reference
distribution, position by position); Hanna et al. 2024, arXiv:2403.17806, section 2.1 (values of a corrupt prompt).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import mi_core as mi
from mi_analyses.graph_nodes import Graph
from mi_core.errors import SelectorError

__all__ = ["ABLATIONS", "Ablation", "AlignedPrompts", "ablated_values"]

Ablation = Literal["counterfactual", "zero", "mean", "resample"]
ABLATIONS = ("counterfactual", "zero", "mean", "resample")


@dataclass(frozen=True, eq=False)
class AlignedPrompts:
    """Prompts as ids whose rows begin at the first column."""

    ids: Tensor
    mask: Tensor
    run: mi.Run
    """Of the prompts as they were given, up to the embedding: their tokens and texts."""

    @classmethod
    def of(cls, model: mi.Model, inputs: Any, attention_mask: Any = None) -> AlignedPrompts:
        """Read prompts; nothing but the embedding is run."""
        run = model.run(inputs, mi.capture("hook_embed"), logits=None, attention_mask=attention_mask)
        order = torch.argsort((~run.mask).int(), dim=1, stable=True)[:, : int(run.mask.sum(1).max())]
        return cls(run.tokens.gather(1, order), run.mask.gather(1, order), run)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [int(length) for length in self.mask.sum(1)]


def ablated_values(
    model: mi.Model, graph: Graph, prompts: AlignedPrompts, kind: Ablation, rows: int, *, edges: bool, seed: int = 0
) -> Mapping[str, Tensor]:
    """What stands at the nodes (``edges``: at their outputs, and at the streams that receivers read), row by row.

    Args:
        model: the model.
        graph: its nodes.
        prompts: the corrupt ones, those that a mean goes over, or (zero) the clean ones.
        kind: ``"counterfactual"``: of these prompts, pair by pair; ``"mean"`` over them; ``"resample"``: for each row
            all values of one of them, drawn by ``seed``; ``"zero"``: nothing is written but biases.
        rows: of the run in which nodes are ablated.
        edges: whether streams are wanted too.
        seed: of the draws.

    Raises:
        SelectorError: a mean of one prompt, or of prompts of different lengths; more or fewer pairs than rows.
    """
    made = {graph.made_of(sender).point for sender in graph.senders}
    places = {graph.output(sender).point for sender in graph.senders} if edges else made
    streams = {graph.stream(reader) for reader in graph.receivers} if edges else set()
    spec = mi.intervene(sorted(made), mi.Zero()) if kind == "zero" else mi.HookSpec()
    reads = mi.capture(sorted({*places, *streams}))
    run = model.run(prompts.ids, spec + reads, logits=None, attention_mask=prompts.mask)
    values = {name: run[name] for name in run}
    if kind in ("mean", "resample") and (len(set(prompts.lengths)) > 1 or (kind == "mean" and len(run.tokens) < 2)):
        raise SelectorError(
            f'ablation="{kind}" goes over the reference prompts position by position: give several of one length; '
            f"these have {prompts.lengths} tokens.",
            lengths=prompts.lengths,
        )
    if kind == "mean":
        return {name: value.mean(0, keepdim=True).expand(rows, *value.shape[1:]) for name, value in values.items()}
    if kind == "resample":
        drawn = torch.randint(len(run.tokens), (rows,), generator=torch.Generator().manual_seed(seed))
        return {name: value[drawn.to(value.device)] for name, value in values.items()}
    return values
