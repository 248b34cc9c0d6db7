"""The model's norms as functions of any stream: recomputed at the end, or at the scale that they had in a run."""

from __future__ import annotations

import contextlib

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.model import Model

__all__ = ["at_scale", "final_normed", "norm_kind"]

SMALL = 1e-3


class Reached(Exception):
    """Nothing behind this place is needed."""


class Reading:
    """A tap for ``unembed`` that keeps what passes at some sites, and stops before the vocabulary is multiplied."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.names:
            self.seen[name] = value
        if name == "unembed.hook_in":
            raise Reached
        return value

    def wants(self, *names: str) -> bool:
        return any(name in self.names for name in names)

    def edits(self, *names: str) -> bool:
        return False

    def cut_edges(self) -> Tensor | None:
        return None


def read_at_the_end(model: Model, resid: Float[Tensor, "*batch d_model"], name: str) -> Tensor | None:
    """What a site of the final norm has for a stream; None where the model lacks it."""
    tap = Reading(name)
    with contextlib.suppress(Reached):
        model.backend.unembed(resid.to(device=model.device, dtype=model.dtype), tap)
    return tap.seen.get(name)


def final_normed(model: Model, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The final norm, gain and bias included, of any stream; the stream itself where there is no such norm."""
    seen = read_at_the_end(model, resid, "unembed.hook_in")
    return resid if seen is None else seen


def norm_kind(model: Model) -> str | None:
    """Does the model centre before it divides (``"LN"``), or not (``"RMS"``)? None without a final norm.

    Judged by the final norm of a constant vector: centred, nothing of it is left.
    """
    seen = read_at_the_end(model, torch.ones(1, model.shape.d_model), "ln_final.hook_normalized")
    if seen is None:
        return None
    return "LN" if float(seen.abs().max()) < SMALL else "RMS"


def at_scale(
    model: Model, stack: Float[Tensor, "..."], scale: Float[Tensor, "..."], norm: str, kind: str | None
) -> Float[Tensor, "..."]:
    """A part of a norm's input at the scale of a run, gain included and bias left out: parts sum to the whole.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": a norm at a fixed scale is linear.
    """
    centred = stack - stack.mean(-1, keepdim=True) if kind == "LN" else stack
    divided = centred / scale
    return divided * model.weights[f"{norm}.w"].to(divided) if f"{norm}.w" in model.weights else divided
