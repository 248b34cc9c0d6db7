"""One probe of one point: what it says of activations, the direction it reads along, and edits along that direction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import mi_core as mi
from mi_analyses.steering_vectors import SteeringVector
from mi_core.errors import InputError
from mi_probing.calibration import scale_of
from mi_probing.examples import check_count, numbered
from mi_probing.methods import probabilities
from mi_probing.scoring import chosen

__all__ = ["Probe"]

FORMAT = "mi-core probe 1"


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """A linear probe in the units of the activation, with the classes' means: standardisation is undone.

    Of two classes ``direction`` points from the first to the second; ``mi.Add(probe.direction, scale=probe.gap)`` moves
    one class's mean as far as the other's. Of several classes, ``probe.of("Asia")`` is that class against all others,
    and ``probe.of("Asia", "Europe")`` against one.
    """

    weight: Float[Tensor, "output d"]
    bias: Float[Tensor, "output"]
    class_means: Float[Tensor, "class d"]
    classes: tuple[str, ...]
    point: str
    selected: Mapping[str, int]
    """What of the point's dims it reads beside the position, such as ``{"head": 3}``."""
    pos: str
    """Where it was read, in words."""
    model: str
    family: str
    revision: str | None = None
    method: str = ""
    penalty: float = 0.0
    score: float = float("nan")
    """The accuracy on held-out groups."""
    examples: int = 0
    calibration: str = ""
    """What scaled its outputs, in words, if anything did."""

    # -- reading ---------------------------------------------------------------------------------

    def outputs(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows output"]:
        """The numbers that decide: of logistic probes logits."""
        return x.to(self.weight) @ self.weight.T + self.bias

    def probabilities(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows class"]:
        """How likely each class is, if outputs are logits."""
        return probabilities(self.outputs(x))

    def predict(self, x: Float[Tensor, "*rows d"]) -> Int[Tensor, "*rows"]:
        """The number of the class that is chosen."""
        return chosen(self.outputs(x))

    def calibrated(
        self, x: Float[Tensor, "example d"], labels: Sequence[Any] | Tensor, *, groups: Sequence[Any] | None = None
    ) -> Probe:
        """The probe with odds that fit held-out examples: what it chooses of several classes stays, its direction too.

        Of two classes outputs are scaled and shifted (Platt), of several scaled (a temperature), which makes odds of
        outputs that were none, such as a ridge probe's. `calibration` says what that is worth, over five folds.

        Args:
            x: activations at the probe's point that it was not fitted on.
            labels: their classes, by name.
            groups: what must not be on two sides of a fold; by default each example is one.

        Raises:
            InputError: numbers instead of classes, an unknown class, too few examples of one, or examples that say the
                opposite of the probe.
        """
        names = [str(label) for label in (labels.tolist() if isinstance(labels, Tensor) else labels)]
        check_count(names, len(x), "labels")
        if unknown := sorted(set(names) - set(self.classes)):
            raise InputError(f"labels {', '.join(unknown)}: the classes of {self!r} are {', '.join(self.classes)}.")
        numbers = torch.tensor([self.classes.index(name) for name in names])
        parts = torch.arange(len(x)) if groups is None else numbered(groups, len(x), "groups")
        found = scale_of(self.outputs(x).cpu(), numbers, parts, len(self.classes))
        bias = self.bias * found.factor + found.shift
        return self.changed(weight=self.weight * found.factor, bias=bias, calibration=str(found))

    # -- the direction ---------------------------------------------------------------------------

    @property
    def binary(self) -> Probe:
        """Itself, if it tells two classes apart.

        Raises:
            InputError: it has several directions.
        """
        if len(self.classes) != 2:
            raise InputError(
                f"{self!r} has a direction for each class: take probe.of({self.classes[-1]!r}) or "
                f"probe.of({self.classes[-1]!r}, {self.classes[0]!r})."
                if self.classes
                else f"{self!r} foretells numbers, so that there is no gap between classes."
            )
        return self

    def of(self, towards: str, away: str | None = None) -> Probe:
        """The probe of two classes: one against another, or against all others.

        Raises:
            InputError: no such class.
        """
        unknown = [name for name in (towards, away) if name is not None and name not in self.classes]
        if unknown or towards == away:
            raise InputError(f"of({towards!r}, {away!r}): the classes of {self!r} are {', '.join(self.classes)}.")
        to = self.classes.index(towards)
        others = [at for at in range(len(self.classes)) if at != to] if away is None else [self.classes.index(away)]
        rows, bias = self.weight, self.bias
        if len(rows) == 1:  # two classes: the first has the opposite sign
            rows, bias = torch.cat([-rows / 2, rows / 2]), torch.cat([-bias / 2, bias / 2])
        return self.changed(
            weight=(rows[to] - rows[others].mean(0))[None],
            bias=(bias[to] - bias[others].mean())[None],
            class_means=torch.stack([self.class_means[others].mean(0), self.class_means[to]]),
            classes=(away or f"not {towards}", towards),
        )

    @property
    def direction(self) -> Float[Tensor, "d"]:
        """The unit vector along which the probe reads, towards the second class."""
        weight = self.binary.weight[0]
        return torch.nn.functional.normalize(weight, dim=0)

    @property
    def gap(self) -> float:
        """How far the classes' means lie apart along the direction, in units of the activation: the natural dose."""
        return float((self.class_means[1] - self.class_means[0]) @ self.direction)

    def coefficients(self) -> tuple[float, float]:
        """Where the means of the first and of the second class lie along the direction."""
        first, second = (self.binary.class_means @ self.direction).tolist()
        return first, second

    # -- writing ---------------------------------------------------------------------------------

    def steer(
        self, model: mi.Model, gaps: float = 1.0, *, pos: Any = slice(-1, None), other_model: bool = False
    ) -> mi.HookSpec:
        """Move activations along the direction by so many gaps: 1 is from the first class's mean to the second's."""
        return self.edit(model, mi.Add(self.direction, scale=gaps * self.gap), pos, other_model)

    def remove(self, model: mi.Model, *, pos: Any = None, other_model: bool = False) -> mi.HookSpec:
        """Project the direction out, at its point; at every position unless ``pos`` says otherwise."""
        return self.edit(model, mi.ProjectOut(self.direction), pos, other_model)

    def clamp(
        self, model: mi.Model, towards: str, *, pos: Any = slice(-1, None), other_model: bool = False
    ) -> mi.HookSpec:
        """Put activations where a class's mean lies along the direction, whatever they were; all else stays."""
        if towards not in self.binary.classes:
            raise InputError(f"clamp({towards!r}): the classes of {self!r} are {', '.join(self.classes)}.")
        at = self.coefficients()[self.classes.index(towards)]
        return self.edit(model, mi.ClampAlong(self.direction, min=at, max=at), pos, other_model)

    def patch(self, model: mi.Model, source: mi.Run, *, pos: Any = -1, other_model: bool = False) -> mi.HookSpec:
        """Replace what lies along the direction by what another run has there; all else stays."""
        return self.edit(model, mi.Replace(source, within=self.direction), pos, other_model)

    def edit(self, model: mi.Model, edit: mi.Intervention, pos: Any, other_model: bool = False) -> mi.HookSpec:
        """An edit at the probe's point, of what it reads.

        Raises:
            ValueMismatch: the probe is of another model, or does not fit.
        """
        self.vector(model).check(model, other_model=other_model)
        where: dict[str, Any] = {**self.selected, **({} if pos is None else {"pos": pos})}
        return mi.intervene(self.point, edit.at(**where) if where else edit)

    def vector(self, model: mi.Model) -> SteeringVector:
        """Direction times gap as a steering vector: strength 1 is one gap. Zero outside what the probe reads."""
        held = self.direction * self.gap
        site = model.hook_points([self.point])[0].site
        for dim in reversed(site.dims[2:-1]):
            if dim in self.selected:
                wide = held.new_zeros(site.sizes.get(dim, self.selected[dim] + 1), *held.shape)
                wide[self.selected[dim]] = held
                held = wide
        return SteeringVector(held, self.point, self.model, self.family, self.revision, self.method, self.pos)

    # -- as a value ------------------------------------------------------------------------------

    def changed(self, **changes: Any) -> Probe:
        """The same with other fields."""
        return Probe(**({each.name: getattr(self, each.name) for each in fields(self)} | changes))

    def described(self) -> dict[str, Any]:
        """Everything but the tensors."""
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in kept.items() if not isinstance(value, Tensor)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Probe):
            return NotImplemented
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("weight", "bias", "class_means")]
        return repr(self.described()) == repr(other.described()) and all(torch.equal(*pair) for pair in pairs)

    def __hash__(self) -> int:
        return hash((self.point, self.model, self.method, self.classes))

    def __repr__(self) -> str:
        where = "".join(f", {dim} {at}" for dim, at in self.selected.items())
        said = (
            f"{self.classes[0]} -> {self.classes[1]}" if len(self.classes) == 2 else "/".join(self.classes) or "numbers"
        )
        return f"Probe({said}, {self.method}, {self.point!r}{where} at {self.pos} of {self.model!r})"

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, its provenance in the header. The same probe makes the same file."""
        content = json.dumps({"format": FORMAT, **self.described(), "selected": dict(self.selected)}, sort_keys=True)
        tensors = {name: getattr(self, name).contiguous() for name in ("weight", "bias", "class_means")}
        save_file(tensors, path, metadata={"probe": content})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is not there, or holds no probe.
        """
        try:
            with safe_open(path, "pt") as file:
                content = json.loads((file.metadata() or {}).get("probe", "{}"))
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{str(path)!r} cannot be read as a probe: {error}", path=str(path)) from None
        if content.pop("format", None) != FORMAT:
            raise InputError(f"{str(path)!r} holds no probe: write one with probe.save(path).", path=str(path))
        return cls(**held, **(content | {"classes": tuple(content["classes"])}))
