"""Sums over batches from which measures of a dictionary are made, all in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import mi_core as mi

__all__ = ["DENSE", "Behaviour", "Reconstruction", "Sparsity"]

DENSE = 0.1
"""A feature that is not zero at more than this share of tokens is called dense."""


@dataclass
class Sparsity:
    """How many features are active, and how strongly."""

    features: int
    tokens: int = 0
    total: float = 0.0
    fired: Float[Tensor, "feature"] = field(init=False)

    def __post_init__(self) -> None:
        self.fired = torch.zeros(self.features, dtype=torch.float64)

    def add(self, features: Any, tokens: int) -> None:
        """The features of so many tokens."""
        _, index, values = features.rows()
        self.fired += torch.bincount(index[values != 0], minlength=self.features).double().cpu()
        self.total += float(values.detach().double().abs().sum())
        self.tokens += tokens

    def density(self) -> Float[Tensor, "feature"]:
        """The share of tokens at which each feature is active."""
        return self.fired / max(self.tokens, 1)

    def measures(self) -> dict[str, float]:
        """By name."""
        density = self.density()
        return {
            "l0": float(density.sum()),
            "l1": self.total / max(self.tokens, 1),
            "dead": float((density == 0).sum()),
            "dense": float((density > DENSE).sum()),
        }


@dataclass
class Reconstruction:
    """How far a reconstruction is from what it stands for.

    ``explained_variance = 1 - E|x - y|^2 / (E|x|^2 - |E x|^2)``; ``mse = E|x - y|^2``, summed over the width;
    ``cosine = E cos(x, y)``; ``l2_ratio = E |y| / |x|``; ``bias = E|y|^2 / E[x.y]``.
    """

    tokens: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, x: Float[Tensor, "token d"], y: Float[Tensor, "token d"]) -> None:
        """Some tokens: what stood there, and what it was made to be."""
        x, y = x.detach().double(), y.detach().double()
        norm_x, norm_y, product = x.norm(dim=1), y.norm(dim=1), (x * y).sum(1)
        found = {
            "x": x.sum(0),
            "xx": norm_x.square().sum(),
            "yy": norm_y.square().sum(),
            "xy": product.sum(),
            "error": (x - y).square().sum(),
            # as torch's cosine similarity: a vector of zeros is at right angles to everything
            "cosine": (product / (norm_x.clamp(min=1e-8) * norm_y.clamp(min=1e-8))).sum(),
            "ratio": (norm_y / norm_x).nan_to_num(0.0, posinf=0.0).sum(),
        }
        self.sums = {name: self.sums.get(name, 0) + value.cpu() for name, value in found.items()}
        self.tokens += len(x)

    def measures(self) -> dict[str, float]:
        """By name."""
        n, of = self.tokens, self.sums
        variance = of["xx"] / n - (of["x"] / n).square().sum()
        return {
            "explained_variance": float(1 - of["error"] / n / variance),
            "mse": float(of["error"] / n),
            "cosine": float(of["cosine"] / n),
            "l2_ratio": float(of["ratio"] / n),
            "relative_reconstruction_bias": float(of["yy"] / of["xy"]),
        }


@dataclass
class Behaviour:
    """What the model predicts with a reconstruction in place, against itself and against zeros in that place."""

    predicted: int = 0
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, clean: mi.Run, spliced: mi.Run, ablated: mi.Run, keep: Bool[Tensor, "batch column"]) -> None:
        """One batch. A loss counts where the token that predicts does."""
        counts = keep[:, :-1] & clean.mask[:, 1:].to(keep.device)
        own = clean.logits.double().log_softmax(-1)[keep]
        found: dict[str, float] = {}
        for name, run in {"clean": clean, "spliced": spliced, "ablated": ablated}.items():
            found[f"ce_{name}"] = float(run.token_losses[:, 1:][counts].double().sum())
            if run is not clean:
                other = run.logits.double().log_softmax(-1)[keep]
                found[f"kl_{name}"] = float((own.exp() * (own - other)).sum())
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in found.items()}
        self.predicted += int(counts.sum())
        self.tokens += int(keep.sum())

    def measures(self) -> dict[str, float]:
        """By name: ``ce_recovered = (ablated - spliced) / (ablated - clean)``, the same for KL, whose clean is zero."""
        found = {
            name: value / max(self.predicted if name.startswith("ce") else self.tokens, 1)
            for name, value in self.sums.items()
        }
        ce = (found["ce_ablated"] - found["ce_spliced"]) / (found["ce_ablated"] - found["ce_clean"])
        kl = (found["kl_ablated"] - found["kl_spliced"]) / found["kl_ablated"]
        return {"ce_recovered": ce, "kl_recovered": kl, **found}
