"""Steering vectors: directions of a model's activations, with where they came from, saved as safetensors.

Source: Marks and Tegmark 2023, "The Geometry of Truth" (arXiv:2310.06824), and Rimsky et al. 2023, "Steering Llama 2
via Contrastive Activation Addition" (arXiv:2312.06681): the difference of means; Arditi et al. 2024, "Refusal in
Language Models Is Mediated by a Single Direction" (arXiv:2406.11717): removing a direction wherever it is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import mi_core as mi
from mi_core.errors import InputError, SelectorError, ValueMismatch

__all__ = ["SteeringVector", "steering_vectors", "stream_writes"]

FORMAT = "mi-core steering vector 1"
SUMS = ("sequential", "parallel")
"""Residual rules under which the stream is the sum of what is written to it."""


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector for one point of one model; ``steer`` and ``remove`` make specs of it."""

    vector: Float[Tensor, "*dims"]
    """In the dims of the site behind batch and position; not normalised: strength 1 adds it as it is."""
    point: str
    model: str
    """What was loaded: an embedded name, a folder, a Hub id."""
    family: str
    revision: str | None = None
    method: str = "given"
    pos: str = ""
    """Where it was read, as it would be written."""
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    @classmethod
    def given(cls, model: mi.Model, vector: Tensor, point: str) -> Self:
        """A vector from elsewhere, such as a row of a dictionary's decoder, for a point of a model.

        Raises:
            UnknownPoint: the model has no such point.
            ValueMismatch: the vector does not fit there.
        """
        found = model.hook_points([point])
        if len(found) != 1:
            raise SelectorError(f"{point!r} are {len(found)} points: a steering vector belongs to one.", point=point)
        source = model.provenance
        kept = vector.detach().float().cpu().clone()
        made = cls(kept, found[0].name, source.ref, source.family, source.revision)
        made.check(model)
        return made

    @property
    def norm(self) -> float:
        """Its length, residual units."""
        return float(self.vector.float().norm())

    def __repr__(self) -> str:
        return f"SteeringVector({self.point!r} of {self.model!r}, {self.method}, norm {self.norm:.3g})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return self.described() == other.described() and torch.equal(self.vector, other.vector)

    def __hash__(self) -> int:
        return hash((self.point, self.model, self.norm))

    def described(self) -> dict[str, Any]:
        """Everything but the numbers."""
        return {name: value for name, value in asdict(self).items() if name != "vector"}

    def check(self, model: mi.Model, *, other_model: bool = False) -> None:
        """Refuse a model that it was not made for.

        ``other_model=True`` lets another model of the same shape take it, such as a finetune of the one it is of.

        Raises:
            ValueMismatch: another model, or another width.
            UnknownPoint: the model has no such point.
        """
        source = model.provenance
        if not other_model and (source.ref, source.revision) != (self.model, self.revision):
            raise ValueMismatch(
                f"{self!r} is of {named(self.model, self.revision)}, not of {named(source.ref, source.revision)}: a "
                "direction of one model means nothing in another. other_model=True tries it in a model of its shape.",
                model=self.model,
            )
        site = model.hook_points([self.point])[0].site
        wanted = tuple(site.sizes.get(dim, 0) for dim in site.dims[2:])
        if site.dims[:2] != ("batch", "pos") or tuple(self.vector.shape) != wanted:
            raise ValueMismatch(
                f"a vector of shape {list(self.vector.shape)} does not fit {self.point!r} of {source.ref!r}: its dims "
                f"are {site.dims}, and behind batch and position they are {list(wanted)}.",
                shape=tuple(self.vector.shape),
            )

    def steer(
        self, model: mi.Model, strength: float = 1.0, *, pos: Any = slice(-1, None), other_model: bool = False
    ) -> mi.HookSpec:
        """Add it at its point; by default at every position that predicts a token of the answer."""
        self.check(model, other_model=other_model)
        return mi.intervene(self.point, mi.Add(self.vector, scale=strength).at(pos=pos))

    def remove(self, model: mi.Model, *, other_model: bool = False) -> mi.HookSpec:
        """Project its direction out of everything that is written to the stream, at every position.

        Raises:
            ValueMismatch: it is no direction of the stream.
        """
        self.check(model, other_model=other_model)
        if tuple(self.vector.shape) != (model.shape.d_model,):
            raise ValueMismatch(f"{self!r} is no direction of the residual stream, so it cannot be removed from it.")
        return mi.intervene(stream_writes(model), mi.ProjectOut(self.vector))

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, its provenance in the header. The same vector makes the same file."""
        content = json.dumps({"format": FORMAT, **self.described(), "norm": self.norm}, sort_keys=True)
        save_file({"vector": self.vector.contiguous()}, path, metadata={"steering_vector": content})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is not there, or holds no steering vector.
        """
        try:
            with safe_open(path, "pt") as file:
                content = json.loads((file.metadata() or {}).get("steering_vector", "{}"))
                vector = file.get_tensor("vector") if content.get("format") == FORMAT else None
        except (OSError, SafetensorError) as error:
            raise InputError(f"{str(path)!r} cannot be read as a steering vector: {error}", path=str(path)) from None
        if vector is None:
            raise InputError(
                f"{str(path)!r} holds no steering vector: write one with vector.save(path).", path=str(path)
            )
        known = {each.name for each in fields(cls)}
        described = {name: value for name, value in content.items() if name in known}
        texts = {name: tuple(described[name]) for name in ("positive", "negative")}
        return cls(vector, **(described | texts))


def named(model: str, revision: str | None) -> str:
    """A model and its revision.

    >>> named("tiny-world", None)
    "'tiny-world'"
    """
    return repr(model) + (f" at {revision[:8]}" if revision else "")


def stream_writes(model: mi.Model) -> list[str]:
    """The points at which something is written to the stream: what to edit so that it never holds a direction.

    Where the stream is no sum of what is written to it (norms on the stream), the stream itself behind each of them.
    """
    have = {point.site.name for point in model.hook_points()}
    plain = all(rule.kind in SUMS for rule in model.shape.residual)
    inside = ("hook_attn_out", "hook_mlp_out") if plain else ("hook_resid_mid", "hook_resid_post")
    written = [name for name in ("hook_embed", "hook_pos_embed") if name in have]
    return written + [f"blocks.*.{name}" for name in inside if name in have]


def steering_vectors(
    model: mi.Model,
    positive: Sequence[Any],
    negative: Sequence[Any],
    *,
    site: str = "hook_resid_post",
    layers: Any = None,
    pos: Any = -1,
    batch_tokens: int | None = None,
) -> dict[int, SteeringVector]:
    """In which direction do activations differ between two kinds of prompts? One vector for each layer.

    Each is the mean over the positive prompts minus the mean over the negative ones, at one position of each.

    Args:
        model: any model with the site.
        positive: prompts that have what the vector should stand for.
        negative: prompts that do not.
        site: where, without the layer.
        layers: which layers; None: all that have the site.
        pos: one position of each prompt.
        batch_tokens: as in `Model.run`.

    Raises:
        UnknownPoint: the model has no such site.
        InputError: no prompts on one side.
        SelectorError: ``pos`` selects several positions of a prompt.
    """
    texts = {"positive": texts_of(positive, "positive"), "negative": texts_of(negative, "negative")}
    where = {"pos": pos} | ({} if layers is None else {"layer": layers})
    spec = mi.capture(f"blocks.*.{site}").at(**where)
    runs = [model.run(list(given), spec, logits=None, batch_tokens=batch_tokens) for given in (positive, negative)]
    source, made = model.provenance, {}
    for name in runs[0]:
        point = model.hook_points([name])[0]
        values = [run[name] for run in runs]
        if values[0].ndim != len(point.site.dims) - 1:
            raise SelectorError(
                f"pos={pos!r} selects several positions of a prompt: a mean over prompts takes one of each, like -1.",
                dim="pos",
            )
        vector = (values[0].float().mean(0) - values[1].float().mean(0)).cpu()
        assert point.layer is not None
        made[point.layer] = SteeringVector(
            vector, name, source.ref, source.family, source.revision, "difference of means", repr(pos), **texts
        )
    return made


def texts_of(prompts: Sequence[Any], what: str) -> tuple[str, ...]:
    """Prompts as they would be written, refusing none."""
    if isinstance(prompts, str) or len(prompts) == 0:
        raise InputError(f"{what}={prompts!r}: give a list of at least one prompt.")
    return tuple(prompt if isinstance(prompt, str) else repr(prompt) for prompt in prompts)
