"""Weights rewritten so that the same probabilities come from simpler parts: a new model, the old one as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from mi_core.errors import UnsupportedAnalysis
from mi_core.model import Model
from mi_core.placed import placed_in
from mi_core.protocols import Backend

__all__ = ["Foldable", "folded"]


@runtime_checkable
class Foldable(Protocol):
    """A backend that can rewrite its weights."""

    def fold_obstacles(self) -> Mapping[str, str]:
        """Transformation -> why it would change this model's probabilities; those that keep them are not named."""
        ...

    def folded(self, transformations: Collection[str]) -> Backend:
        """A copy with these done."""
        ...


def folded(
    model: Model,
    *,
    norms: bool | None = None,
    value_biases: bool | None = None,
    center_writing: bool | None = None,
    center_unembed: bool | None = None,
) -> Model:
    """A model with other weights and the same log-probabilities; None does what keeps them, True insists.

    Args:
        model: it stays as it is.
        norms: gains and biases of norms go into the matrices that read them; what is left divides (and centres).
        value_biases: biases of values go into the bias of the mixer's output: attention sums to one, so that they add
            the same everywhere.
        center_writing: whatever writes to the stream writes with mean zero; norms that centre do not see the mean.
        center_unembed: the mean logit is zero; softmax does not see it.

    Raises:
        UnsupportedAnalysis: a transformation was insisted on that would change probabilities, and the message says why;
            or the weights are quantised.

    >>> import mi_core as mi
    >>> model = mi.load("tiny-world", device="cpu")
    >>> mi.folded(model).provenance.ref
    'tiny-world (folded: norms, value_biases, center_unembed)'

    Source: TransformerLens 3.9, weight_processing.py, for the four; exact conditions are this library's own.
    """
    asked = {
        "norms": norms,
        "value_biases": value_biases,
        "center_writing": center_writing,
        "center_unembed": center_unembed,
    }
    backend = model.backend
    if model.provenance.quantised:
        raise UnsupportedAnalysis(
            f"the weights of {model.provenance.ref} are quantised and cannot be rewritten: load it without quantise=.",
            quantised=model.provenance.quantised,
        )
    if placed_in(backend) is not None:
        raise UnsupportedAnalysis(
            f"{model.name} is placed by a device map, and nothing can be written to weights that come and go: fold it "
            "where it is loaded whole, without device_map=.",
            model=model.name,
        )
    if not isinstance(backend, Foldable):
        raise UnsupportedAnalysis(f"the weights of {model.name} cannot be folded: its backend has no rule for it.")
    obstacles = backend.fold_obstacles()
    for name, insisted in asked.items():
        if insisted and name in obstacles:
            raise UnsupportedAnalysis(
                f"{name}=True would change what {model.name} predicts: {obstacles[name]}. Leave it out.",
                transformation=name,
            )
    chosen = [name for name, wanted in asked.items() if (name not in obstacles if wanted is None else wanted)]
    return Model(
        backend.folded(chosen),
        name=model.name,
        config=model.config,
        tokenizer=model._tokenizer,
        provenance=replace(model.provenance, ref=f"{model.provenance.ref} (folded: {', '.join(chosen) or 'nothing'})"),
    )
