"""Direct logit attribution: which parts of the model write the answer onto the stream?

Reach for it to see who promotes an answer over another. Only the direct path counts: what a part writes at the last
position, through the final norm at the scale that it had in this run, to the unembedding. What a part does by way of
later layers is theirs: knock it out or patch it.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; the logit difference at a frozen final
norm as in Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.answers import answer_rows
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError, UnsupportedAnalysis
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.names import Point
from mi_core.results import Result, ResultProvenance

__all__ = ["DirectLogitAttribution", "direct_logit_attribution"]

NEEDS = ("hook_embed", "hook_resid_post", "hook_attn_out", "unembed.hook_out")
WRITERS = ("hook_embed", "hook_pos_embed", "hook_attn_out", "hook_mlp_out")
SUMS = ("sequential", "parallel")
FROZEN = ("ln_final.hook_scale", "ln1_post.hook_scale", "ln2_post.hook_scale")
"""Denominators that stay what they were: the final norm's, and those between heads or neurons and the stream."""


@dataclass(frozen=True, kw_only=True, eq=True)
class DirectLogitAttribution(Result):
    """What each part writes towards the answer, in logits (natural-log units), before any soft-cap.

    Invariant: the components of a row sum to its ``logit``.
    """

    component: Labelled
    """``component`` ("embed", "0.attn", "0.mlp", ..., "remainder") by ``batch``; the remainder is the biases'."""
    head: Labelled
    """Of each head: ``layer head batch``. A layer's heads sum to its attention, less the output projection's bias."""
    neuron: Labelled
    """Of each neuron: ``layer neuron batch``. A layer's sum to its MLP, less the output's bias. Dense layers."""
    logit: Labelled
    """Of the answer, or how far it is above the other: batch."""
    answer: tuple[str, ...]
    """The text of the answer, row by row."""
    wrong: tuple[str, ...]
    """The text of what it is compared with; empty where it is not."""
    pos: int

    title: ClassVar[str] = "Direct logit attribution"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.direct_logit_attribution_view"


def direct_logit_attribution(
    model: mi.Model,
    inputs: Any,
    answer: str | int | Sequence[str | int] | None = None,
    wrong: str | int | Sequence[str | int] | None = None,
    *,
    pos: int = -1,
    attention_mask: Any = None,
    position_ids: Any = None,
) -> DirectLogitAttribution:
    """Which parts of the model write the answer onto the stream?

    Args:
        model: any model whose stream is the sum of what its layers write.
        inputs: as in `Model.run`.
        answer: a token, by its text or id, or one for each row; None: what the model says next.
        wrong: what the answer is compared with, likewise; None: nothing, the logit itself is taken apart.
        pos: the position, counted on real tokens.
        attention_mask: as in `Model.run`.
        position_ids: as in `Model.run`.

    Raises:
        UnsupportedAnalysis: the model lacks a site, or its stream is no plain sum; the message says why.
        SelectorError: no such position, or more answers than rows.
        NotSingleToken: an answer is several tokens.
    """
    require(model, NEEDS, "direct_logit_attribution")
    refuse_other_sums(model)
    if not isinstance(pos, int):
        raise SelectorError(f"pos={pos!r}: give one position as an integer, -1 for each row's last token.", pos=pos)
    every = model.hook_points()
    writers = [point for point in every if point.site.name in WRITERS]
    heads = [point for point in every if point.site.name.endswith(".hook_z") and "head" in point.site.dims]
    neurons = [point for point in every if point.site.name == "mlp.hook_post" and "d_mlp" in point.site.dims]
    last = f"blocks.{model.shape.n_layers - 1}.hook_resid_post"
    reads = mi.capture([*(point.name for point in (*writers, *heads, *neurons)), last, "unembed.hook_out"]).at(pos=pos)
    frozen = [point.name for point in every if point.site.name in FROZEN]
    whole = mi.intervene(frozen, mi.Detach()) + reads if frozen else reads
    run = model.run(inputs, whole, logits="last", grad=True, attention_mask=attention_mask, position_ids=position_ids)
    logits = run["unembed.hook_out"]
    right = answer_rows(model, logits.argmax(-1).tolist() if answer is None else answer, len(logits))
    other = [] if wrong is None else answer_rows(model, wrong, len(logits))
    asked = one_hot(logits, right) - (one_hot(logits, other) if other else 0)
    direction = run.vjp({"unembed.hook_out": asked}, [last])[last].detach().float()
    logit = (logits.detach().float() * asked).sum(-1)
    batch = tuple(range(len(logits)))
    return DirectLogitAttribution(
        provenance=ResultProvenance.of(model, run, whole, inputs),
        component=components(run, writers, direction, logit),
        head=shares(run, heads, "hook_attn_out", "head", direction),
        neuron=shares(run, neurons, "hook_mlp_out", "neuron", direction),
        logit=Labelled(logit, ("batch",), {"batch": batch}, "logit difference" if other else "logit", "logits"),
        answer=tuple(map(run.text_of, right)),
        wrong=tuple(map(run.text_of, other)),
        pos=pos,
    )


def refuse_other_sums(model: mi.Model) -> None:
    """Refuse models whose stream is more than the sum of what is written to it."""
    for layer, rule in enumerate(model.shape.residual):
        if rule.kind not in SUMS:
            raise UnsupportedAnalysis(
                f"direct_logit_attribution needs a stream that is the sum of what layers write; layer {layer} of "
                f"{model.name!r} has the rule {rule.kind!r}{f': {rule.reason}' if rule.reason else ''}. Patch or knock "
                "out its parts instead.",
                layer=layer,
                kind=rule.kind,
            )


def one_hot(logits: Float[Tensor, "batch d_vocab"], ids: Sequence[int]) -> Float[Tensor, "batch d_vocab"]:
    """One at each row's token."""
    made = torch.zeros_like(logits, dtype=torch.float32).detach()
    made[range(len(ids)), list(ids)] = 1.0
    return made


def components(
    run: mi.Run,
    writers: Sequence[Point],
    direction: Float[Tensor, "batch d_model"],
    logit: Float[Tensor, "batch"],
) -> Labelled:
    """What each writer adds along the direction, and what is left: biases of norms and of the unembedding."""
    parts = [(run[point.name].detach().float() * direction).sum(-1).cpu() for point in writers]
    parts.append(logit.cpu() - torch.stack(parts).sum(0))
    names = (*(short(point) for point in writers), "remainder")
    return Labelled(torch.stack(parts), ("component", "batch"), {"component": names}, "attribution", "logits")


def short(point: Point) -> str:
    """A writer's name without what all of them share.

    >>> import mi_core as mi
    >>> short(mi.load("tiny-world").hook_points("blocks.2.hook_attn_out")[0])
    '2.attn'
    """
    part = point.site.name.removeprefix("hook_").removesuffix("_out")
    return part if point.layer is None else f"{point.layer}.{part}"


def shares(
    run: mi.Run, points: Sequence[Point], added: str, unit: str, direction: Float[Tensor, "batch d_model"]
) -> Labelled:
    """What each head (or neuron) adds along the direction.

    The direction goes back from what is added to the stream to what the output matrix multiplies, through any post-norm
    at its scale of this run: a linear map, so that the products are the heads' (or neurons') shares.
    """
    found: list[Tensor] = []
    for point in points:
        back = run.vjp({f"blocks.{point.layer}.{added}": direction}, [point.name])[point.name].detach().float()
        product = run[point.name].detach().float() * back
        found.append((product.sum(-1) if unit == "head" else product).T.cpu())
    if len({len(part) for part in found}) > 1:
        raise SelectorError(f"the layers have different numbers of {unit}s: {[len(part) for part in found]}.")
    values = torch.stack(found) if found else torch.zeros(0, 0, len(direction))
    coords: dict[str, Sequence[Label]] = {"layer": tuple(point.layer or 0 for point in points)}
    return Labelled(values, ("layer", unit, "batch"), coords, "attribution", "logits")


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about direct logit attribution."""
    return Analysis("Which parts of the model write the answer onto the stream?", NEEDS, direct_logit_attribution)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi attribute``."""
    from mi_analyses.direct_logit_attribution_command import attribute

    return attribute
