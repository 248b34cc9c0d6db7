"""Splices of what cannot be spliced in one pass: crosscoders, which write before the last point that they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import SpecError
from mi_core.protocols import Tap
from mi_dictionaries.splicing import POST, PRE, Splice, stacked

__all__ = ["precomputed_splice"]


def precomputed_splice(
    model: mi.Model,
    inputs: Any,
    dictionary: Dictionary,
    edits: mi.HookSpec | None = None,
    *,
    error: bool = True,
    name: str | None = None,
    **how: Any,
) -> mi.HookSpec:
    """A splice in two passes: this one reads and encodes, and the run of the spec that it returns writes.

    A crosscoder's features are known only behind the last point that it reads, where the points before it are past. So
    its features, and interventions on them, belong to a first run; in a second one, of the same inputs, what they say
    stands at every point that the dictionary writes, whatever the points before would have made of it. With the error
    term that is what stood there in the first run, plus the change of the reconstruction: nothing, bit for bit, where
    no feature was changed. Values are constants: gradients end at them.

    Args:
        model: reads the inputs now.
        inputs: those of the run that the spec is for. It is for no others, and for no generation.
        dictionary: with any reads and writes.
        edits: interventions at ``POINT.hook_sae_acts_pre`` and ``POINT.hook_sae_acts_post``, where ``POINT`` is the
            first point that it reads, or ``name``; others, in the model, are part of the first run as well.
        error: add what the reconstruction misses; without it the reconstruction stands in for what was there.
        name: where its points are.
        how: what `Model.run` takes.

    Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing", for the dictionary.
    """
    for option in ("logits", "grad", "resumable"):
        if option in how:
            raise SpecError(f"{option}= is of the run that the spec is for: give it there.", option=option)
    called = name or dictionary.site_in
    post = f"{called}.{POST}"
    wanted = mi.capture([*dict.fromkeys((*dictionary.reads, *dictionary.writes)), post])
    # behind the edits, so that what is read is what they left
    spec = (edits or mi.HookSpec()) + mi.insert(FeaturesOf(dictionary), called) + wanted
    run = model.run(inputs, spec, logits=None, **how)
    held: Any = dictionary
    x = stacked([run[point] for point in held.reads])
    clean = held.encode(x)
    features = clean.with_dense(run[post])
    if error:
        found = held.decode_change(features.with_values(features.values - clean.values))
    else:
        found = held.decode(features)
        skipped = held.skip(x) if hasattr(held, "skip") else None
        found = found if skipped is None else found + skipped
    parts = (found,) if len(held.writes) == 1 else found.unbind(-2)
    values = {point: part.to(run[point].dtype) for point, part in zip(held.writes, parts, strict=True)}
    if error:
        values = {point: run[point] + part for point, part in values.items()}
    return sum((mi.intervene(point, mi.Replace(value)) for point, value in values.items()), mi.HookSpec())


class FeaturesOf(Splice):
    """The first pass: features are points, and nothing is written."""

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        # read too what the second pass writes, so that its width is checked
        self.reads, self.writes = tuple(dict.fromkeys((*dictionary.reads, *dictionary.writes))), ()
        self.sites = tuple(site for site in self.sites if site.name in (PRE, POST))

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> dict[str, Tensor | mi.Intervention | None]:
        """Offer the features."""
        self._features(stacked([values[point] for point in self.dictionary.reads]), tap)
        return {}
