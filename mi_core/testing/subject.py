"""What is checked: a model, and what is known about it."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import nn

from mi_core import plugins
from mi_core.building import build, initialise_randomly
from mi_core.errors import BrokenPlugin
from mi_core.loading import load
from mi_core.model import Model
from mi_core.names import Point
from mi_core.protocols import Residual
from mi_core.run import Run
from mi_core.spec import HookSpec

if TYPE_CHECKING:
    from mi_core.testing.strategies import Prompt

__all__ = ["Source", "Subject", "is_family", "subjects"]

FAMILIES: Final = "mi_core.families"
SMALL: Final = 5_000_000
"""Parameters below which a model is run by one thread."""
LONGEST: Final = 10
"""The longest prompt that is drawn, where the model takes as many."""
TOLERANCES: Final = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@dataclass(frozen=True, eq=False)
class Subject:
    """One model under test; checks only read it, so all share it."""

    model: Model
    config: Mapping[str, Any]
    weights: int | None = None
    """The seed of its random weights; None where they are a checkpoint's."""
    name: str = "model"

    def __repr__(self) -> str:
        return f"Subject({self.name!r})"

    @functools.cached_property
    def sites(self) -> frozenset[str]:
        """The names of the sites that it lists."""
        return frozenset(point.site.name for point in self.model.points)

    def offers(self, *names: str) -> bool:
        """Whether it lists all of these sites, in some layer each."""
        return self.sites.issuperset(names)

    @property
    def points(self) -> list[Point]:
        """All points in firing order, those on demand included."""
        return self.model.hook_points()

    @functools.cached_property
    def writable(self) -> list[Point]:
        """The points that take a write of numbers."""
        return [point for point in self.points if not (point.site.read_only or point.site.replace_only)]

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return self.model.shape.n_layers

    @property
    def longest(self) -> int:
        """How many tokens a drawn prompt has at most."""
        return min(self.model.shape.n_ctx or LONGEST, LONGEST)

    @property
    def tolerance(self) -> float:
        """Rounding: how far equal values may lie apart, as a part of the largest."""
        return TOLERANCES[self.model.dtype]

    @contextmanager
    def threads(self) -> Iterator[None]:
        """One thread where tensors are tiny: several would only wait for each other."""
        before, backend = torch.get_num_threads(), self.model.backend
        count = sum(p.numel() for p in backend.parameters()) if isinstance(backend, nn.Module) else 0
        torch.set_num_threads(1 if count < SMALL else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def rule(self, layer: int) -> Residual:
        """How a layer adds to the stream."""
        rules = self.model.shape.residual
        return rules[layer] if rules else Residual()

    def one_of_each(self, points: Sequence[Point]) -> Iterator[Point]:
        """One point of every site, in changing layers: what is tried whatever else is drawn."""
        by_site: dict[str, list[Point]] = {}
        for point in points:
            by_site.setdefault(point.site.name, []).append(point)
        for turn, those in enumerate(by_site.values()):
            yield those[turn % len(those)]

    def slack(self, *points: Point) -> float:
        """How far a run may lie from one without these points: 0 (bit for bit), or rounding where kernels change."""
        return self.tolerance if any(p.site.replaces_kernel or p.site.on_demand for p in points) else 0.0

    def run(self, prompt: Prompt, spec: HookSpec | None = None, **options: Any) -> Run:
        """Run the model on a drawn prompt."""
        return self.model.run(prompt.ids, spec, attention_mask=prompt.mask, **options)

    @functools.cache  # noqa: B019  # a subject lives as long as the session that checks it
    def in_dtype(self, dtype: torch.dtype) -> Subject:
        """The same model in another dtype: a copy of its weights, rounded."""
        model = self.model
        if not isinstance(model.backend, nn.Module):
            raise TypeError(f"the backend of {self.name} is no nn.Module: its weights cannot be converted")
        backend: Any = copy.deepcopy(model.backend).to(dtype)
        return Subject(on(model, backend), self.config, self.weights, f"{self.name} in {dtype}")

    def around(self, backend: Any) -> Subject:
        """The same subject around another backend, such as a spying one."""
        return Subject(on(self.model, backend), self.config, self.weights, self.name)


def on(model: Model, backend: Any) -> Model:
    """The same model with another backend."""
    return Model(backend, name=model.name, config=model.config, provenance=model.provenance)


Source: TypeAlias = str | os.PathLike[str] | Model | Subject | Callable[[], Any]
"""A family, a folder or another reference to a checkpoint, a model, or a function that returns one."""


def is_family(name: object) -> bool:
    """Whether a family of this name is installed."""
    return isinstance(name, str) and name in plugins.names(FAMILIES)


def subjects(source: Source, *, seed: int = 0) -> list[Subject]:
    """Which models does a source stand for? A family gives one for each of its example configs.

    Raises:
        BrokenPlugin: the family has no `mi_family_examples`.
        LoadError: a reference that cannot be loaded.
    """
    if isinstance(source, Subject):
        return [source]
    if isinstance(source, Model):
        return [Subject(source, source.config, None, source.name)]
    if isinstance(source, str) and is_family(source):
        return examples_of(source, seed)
    if isinstance(source, str | os.PathLike):
        model = load(source, dtype="float32")
        return [Subject(model, model.config, None, Path(source).name)]
    made = source()
    return [made] if isinstance(made, Subject) else [Subject(made, made.config, None, made.name)]


def examples_of(family: str, seed: int) -> list[Subject]:
    """One subject for each example config of a family, its weights random: norms and biases too."""
    plugin = plugins.plugin(FAMILIES, family)
    configs = plugin.call("mi_family_examples") if plugin.implements("mi_family_examples") else ()
    if not configs:
        raise BrokenPlugin(
            f"the family {family!r}, from {plugin.distribution}, gives no example configs, so there is nothing to "
            "check: implement mi_family_examples, tiny configs that together turn on every option.",
            name=family,
            distribution=plugin.distribution,
        )
    found = []
    for index, config in enumerate(configs):
        model = build(config, seed=seed, trainable=False, device="cpu")
        initialise_randomly(model, seed + index)
        found.append(Subject(model, dict(config), seed + index, f"{family}-{index}"))
    return found
