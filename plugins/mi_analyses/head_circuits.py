"""Head circuits: what do heads' weights alone say about what they copy, match and feed each other?

Reach for it before any prompt is run: which heads copy tokens, which look for the token that they stand on, and which
later head reads what an earlier one writes. Every product stays factored, so no matrix of the vocabulary's size squared
exists.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (transformer-circuits.pub): eigenvalues
of the OV circuit; Q-, K- and V-composition as in the section "Two-Layer Attention-Only Transformers".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.analyses import Analysis
from mi_core.errors import UnsupportedAnalysis
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["HeadCircuits", "head_circuits"]

NEEDS = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
KINDS = ("q", "k", "v")


@dataclass(frozen=True, kw_only=True, eq=True)
class HeadCircuits(Result):
    """What heads' weights say. Gains of norms are counted, their denominators, biases and positions are not."""

    copying: Labelled
    """Of each head's path from token to logits: the sum of its eigenvalues over the sum of their sizes, from -1 (says
    other tokens) to 1 (says what it reads): layer head."""
    matching: Labelled
    """The same of the path from the token of a query to the token of a key: 1 looks for the same token: layer head."""
    composition: Labelled
    """How much of what a reader's queries, keys or values read comes from a writer's output, as a part of the largest
    that their sizes allow: kind ("q", "k", "v") writer reader; NaN where the writer is not in an earlier layer."""

    title: ClassVar[str] = "Head circuits"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.head_circuits_view"


@dataclass(frozen=True)
class Heads:
    """The factors of one layer's heads; gains of norms are multiplied into what reads the stream."""

    layer: int
    q: Float[Tensor, "head d_model d_head"]
    k: Float[Tensor, "head d_model d_head"]
    v: Float[Tensor, "head d_model d_head"]
    o: Float[Tensor, "head d_head d_model"]


@torch.no_grad()
def head_circuits(model: mi.Model) -> HeadCircuits:
    """What do heads' weights alone say about what they copy, match and feed each other?

    Raises:
        UnsupportedAnalysis: no layer has ``W_Q``, ``W_K``, ``W_V`` and ``W_O``, or layers have other numbers of heads.
    """
    layers = heads_of(model)
    found = weights_of(model, ["embed.W_E", "unembed.W_U"], "ln_final.w")
    embed, unembed = (found[name].to(layers[0].q.device) for name in ("embed.W_E", "unembed.W_U"))
    if "ln_final.w" in found:
        unembed = found["ln_final.w"][:, None] * unembed
    # W_E and W_U meet once: all eigenvalues but d_head of each head are zero
    said, seen = unembed @ embed, embed.T @ embed
    copying = torch.stack([share(one.o @ said @ one.v) for one in layers])
    matching = torch.stack([share(one.k.transpose(1, 2) @ seen @ one.q) for one in layers])
    axes: dict[str, Sequence[Label]] = {"layer": tuple(one.layer for one in layers)}
    axes |= {"head": tuple(range(len(layers[0].q)))}
    names = tuple(f"L{layer}H{head}" for layer in axes["layer"] for head in axes["head"])
    return HeadCircuits(
        provenance=ResultProvenance.of_weights(model),
        copying=Labelled(copying.cpu(), ("layer", "head"), axes, "copying", "share of eigenvalues"),
        matching=Labelled(matching.cpu(), ("layer", "head"), axes, "matching", "share of eigenvalues"),
        composition=Labelled(
            composed(layers).cpu(),
            ("kind", "writer", "reader"),
            {"kind": KINDS, "writer": names, "reader": names},
            "composition",
            "share",
        ),
    )


def heads_of(model: mi.Model) -> list[Heads]:
    """The layers with attention heads, in float32, each key and value as its query heads receive it."""
    layers: list[Heads] = []
    for layer in range(model.shape.n_layers):
        matrices = [f"blocks.{layer}.attn.W_{name}" for name in "QKVO"]
        gain = f"blocks.{layer}.ln1.w"
        if any(name not in model.weights for name in matrices):
            continue
        found = weights_of(model, matrices, gain)
        *read, out = (found[name] for name in matrices)
        if gain in found:
            read = [found[gain][:, None] * matrix for matrix in read]
        q, k, v = read
        k, v = (matrix.repeat_interleave(len(q) // len(matrix), 0) for matrix in (k, v))
        layers.append(Heads(layer, q, k, v, out))
    if not layers or len({len(one.q) for one in layers}) > 1:
        seen = f"its layers have {sorted({len(one.q) for one in layers})} heads" if layers else "no layer has them"
        raise UnsupportedAnalysis(
            f"head_circuits needs W_Q, W_K, W_V and W_O of layers with as many heads each; in {model.name!r} {seen}. "
            "Score heads by what they do instead: head_scores, attention_patterns.",
            model=model.name,
        )
    return layers


def weights_of(model: mi.Model, names: Sequence[str], gain: str) -> dict[str, Tensor]:
    """Weights in float32, asked for together, and what a norm multiplies by where there is a norm with gains."""
    asked = [*names, gain] if gain in model.weights else names
    return {name: weight.float() for name, weight in model.weights.several(asked).items()}


def share(products: Float[Tensor, "head d_head d_head"]) -> Float[Tensor, "head"]:
    """The sum of eigenvalues over the sum of their sizes."""
    values: Tensor = torch.linalg.eigvals(products)
    return values.real.sum(-1) / values.abs().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)


def composed(layers: Sequence[Heads]) -> Float[Tensor, "3 writer reader"]:
    """``|A B| / (|A| |B|)`` in Frobenius norms, for the writer's OV circuit and the reader's QK or OV circuit.

    The norm of a product of factors is that of small matrices: ``|V X K^T|^2 = tr(X^T V^T V X K^T K)``.
    """
    q, k, v, o = (torch.cat([getattr(one, name) for one in layers]) for name in ("q", "k", "v", "o"))
    layer = torch.tensor([one.layer for one in layers for _ in one.q], device=q.device)
    inner = {"q": gram(q), "k": gram(k), "v": gram(v), "o": gram(o.transpose(1, 2))}
    written = norm(inner["v"], inner["o"])
    sizes = {"qk": norm(inner["q"], inner["k"]), "ov": written}
    found = []
    for reads, other, circuit in ((q, inner["k"], "qk"), (k, inner["q"], "qk"), (v, inner["o"], "ov")):
        rows = []
        for writer in range(len(o)):
            middle = o[writer] @ reads  # [reader, d_head of the writer, d_head of the reader]
            square = (inner["v"][writer] @ middle @ other * middle).sum((1, 2))
            rows.append(square.clamp_min(0).sqrt() / (written[writer] * sizes[circuit]))
        found.append(torch.stack(rows))
    earlier = layer[:, None] < layer[None]
    return torch.where(earlier, torch.stack(found), torch.nan)


def gram(matrices: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head d_head d_head"]:
    """Each factor with itself."""
    return matrices.transpose(1, 2) @ matrices


def norm(one: Float[Tensor, "head d_head d_head"], other: Float[Tensor, "head d_head d_head"]) -> Float[Tensor, "head"]:
    """The Frobenius norm of a product of two factors, from their inner products."""
    return (one * other.transpose(1, 2)).sum((1, 2)).clamp_min(0).sqrt()


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about head circuits."""
    return Analysis("What do heads' weights copy, match and feed each other?", NEEDS, head_circuits)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi head-circuits``."""
    from mi_analyses.head_circuits_command import head_circuits as command

    return command
