"""The local replacement model: for one prompt everything is held that is not linear in what features write.

Attention patterns, the denominators of norms and the outputs of MLPs are those of a clean run, written by an ordinary
spec. What is left is a sum: every activation is linear in the embeddings and in what stands at the MLPs' outputs.

Source: Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.errors import InputError, UnsupportedAnalysis, ValueMismatch
from mi_core.protocols import Site, Tap
from mi_graphs.transcoders import Transcoders

__all__ = ["OUT", "LocalReplacement"]

EMBED: Final = "hook_embed"
OUT: Final = "unembed.hook_in"
"""What the unembedding multiplies."""


@dataclass(frozen=True, eq=False)
class LocalReplacement:
    """A model, frozen at one prompt."""

    model: mi.Model
    transcoders: Transcoders
    ids: tuple[int, ...]
    clean: mi.Run

    @classmethod
    def of(cls, model: mi.Model, inputs: Any, transcoders: Transcoders) -> LocalReplacement:
        """Run the model once, and hold what that run has.

        Raises:
            UnsupportedAnalysis: a layer mixes positions by something else than an attention pattern.
            InputError: several prompts, or one of a single token.
            ValueMismatch: a transcoder is as wide as another model's.
        """
        check_attention(model)
        read = [EMBED, *transcoders.reads.values(), *transcoders.outputs.values(), OUT]
        clean = model.run(inputs, mi.capture([*dict.fromkeys(read), *constants(model)]), logits="last")
        if len(clean.tokens) != 1:
            raise InputError(f"an attribution graph is of one prompt; these are {len(clean.tokens)}.")
        ids = tuple(clean.tokens[0][clean.mask[0]].tolist())
        if len(ids) < 2:
            raise InputError(
                f"the prompt is one token ({clean.text_tokens[0][0]!r}): there is nothing that could have come from "
                "elsewhere. Give a longer one.",
                tokens=len(ids),
            )
        found = cls(model, transcoders, ids, clean)
        found.check_widths()
        return found

    def check_widths(self) -> None:
        """Refuse another model's transcoders."""
        for layer, member in self.transcoders.by_layer.items():
            seen = self.clean[self.transcoders.outputs[layer]].shape[-1]
            if (member.d_in, member.d_out) != (self.read_width(layer), seen):
                raise ValueMismatch(
                    f"the transcoder of layer {layer} takes {member.d_in} numbers and gives {member.d_out}; this model "
                    f"has {self.read_width(layer)} at {self.transcoders.reads[layer]!r} and {seen} at "
                    f"{self.transcoders.outputs[layer]!r}. It belongs to another model.",
                    layer=layer,
                )

    def read_width(self, layer: int) -> int:
        """The width of what a layer's transcoder reads."""
        return self.read(layer).shape[-1]

    def read(self, layer: int) -> Float[Tensor, "1 pos d"]:
        """What the transcoder of a layer read in the clean run, where its weights are."""
        return at_home(self.transcoders.by_layer[layer], self.clean[self.transcoders.reads[layer]])

    @property
    def n_pos(self) -> int:
        """The tokens of the prompt."""
        return len(self.ids)

    @cached_property
    def frozen(self) -> mi.HookSpec:
        """The spec that makes a run of the same prompt, in any number of rows, one of the replacement model.

        The outputs of MLPs are constants, but for skip connections.
        """
        skipping = {layer for layer in self.transcoders.by_layer if self.transcoders.skips(layer)}
        held = [*constants(self.model)]
        held += [point for layer, point in self.transcoders.outputs.items() if layer not in skipping]
        inserts = [mi.insert(Skipping(self, layer), f"skip.{layer}") for layer in sorted(skipping)]
        return sum(inserts, mi.intervene(held, mi.Replace(self.clean)))

    def run(self, rows: int, edit: mi.HookSpec | None = None, *, grad: bool = False) -> mi.Run:
        """The replacement model in several rows, with whatever a graph looks at captured, behind an edit."""
        spec = self.frozen if edit is None else self.frozen + edit
        reads = [EMBED, *self.transcoders.reads.values(), *self.transcoders.outputs.values(), OUT]
        return self.model.run(
            [list(self.ids)] * rows, spec + mi.capture(list(dict.fromkeys(reads))), grad=grad, logits=None
        )


class Skipping:
    """An insert that holds an MLP's output, but for the skip connection of its transcoder: that stays linear."""

    sites: tuple[Site, ...] = ()

    def __init__(self, replacement: LocalReplacement, layer: int) -> None:
        self.member: Any = replacement.transcoders.by_layer[layer]
        self.reads = (replacement.transcoders.reads[layer],)
        self.writes = (replacement.transcoders.outputs[layer],)
        self.constant = replacement.clean[self.writes[0]] - self.skipped(replacement.clean[self.reads[0]])

    def skipped(self, x: Tensor) -> Tensor:
        """What goes past the features, at the transcoder's own layer."""
        found: Tensor = self.member.skip(at_home(self.member, x)).to(x)
        return found[..., 0, :] if len(self.member.writes) > 1 else found

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor]:
        """What stands at the output."""
        return {self.writes[0]: self.constant + self.skipped(values[self.reads[0]])}


def at_home(member: Any, x: Tensor) -> Tensor:
    """Activations where a transcoder's weights are, which may be another device than the model's."""
    weight = getattr(member, "W_enc", None)
    return x.to(weight.device) if isinstance(weight, Tensor) else x


def constants(model: mi.Model) -> list[str]:
    """What is held beside the MLPs: attention patterns, and the denominators of norms."""
    kinds = ("attn.hook_pattern", "hook_scale")
    return [point.name for point in model.hook_points() if point.name.endswith(kinds)]


def check_attention(model: mi.Model) -> None:
    """Refuse what mixes positions without a pattern that could be held."""
    names = {point.name for point in model.hook_points()}
    wrong = [
        layer
        for layer in range(model.shape.n_layers)
        if f"blocks.{layer}.hook_attn_out" in names and f"blocks.{layer}.attn.hook_pattern" not in names
    ]
    if wrong or not {EMBED, OUT} <= names:
        what = f"the layers {wrong} mix positions" if wrong else "it reads and answers"
        raise UnsupportedAnalysis(
            f"an attribution graph holds attention patterns and the denominators of norms, so that all else is a sum. "
            f"In {model.provenance.ref!r} ({model.name}) {what} in another way (a recurrence, whose gates depend on "
            "what they carry, or no stream at all), and no such part can be held.",
            layers=tuple(wrong),
        )
