"""Which dictionaries an attribution graph can be made of, and where they stand in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import SpecError, UnsupportedAnalysis
from mi_dictionaries import DictionarySet, Gated

__all__ = ["Transcoders"]

OUTPUTS = ("hook_mlp_out", "mlp.hook_out")
"""What a transcoder may stand in for."""


@dataclass(frozen=True, eq=False)
class Transcoders:
    """Transcoders by the layer that they read, and the output of each layer's MLP.

    Layers may lack a transcoder: what their MLPs write is then all error.
    """

    by_layer: Mapping[int, Dictionary]
    reads: Mapping[int, str]
    """Layer -> the point that its transcoder reads."""
    outputs: Mapping[int, str]
    """Layer -> where its MLP's output stands, of every layer that has an MLP."""

    @classmethod
    def of(cls, model: mi.Model, dictionary: Dictionary | DictionarySet) -> Transcoders:
        """The transcoders of a set, or the one that there is, found in a model.

        Raises:
            UnsupportedAnalysis: it is none of transcoders; the message says what it is, and what to use.
            SpecError: it is no dictionary, such as a name that nobody loaded, or a set without any.
            UnknownPoint: the model lacks a point.
        """
        if not isinstance(dictionary, Dictionary | DictionarySet):
            raise SpecError(f"{dictionary!r:.200} is no dictionary: give what mi_dictionaries.load(...) returns.")
        members = dictionary.dictionaries if isinstance(dictionary, DictionarySet) else (dictionary,)
        if not members:
            raise SpecError("the set holds no transcoder, so that a graph would have no features.")
        by_layer: dict[int, Dictionary] = {}
        reads: dict[int, str] = {}
        outputs: dict[int, str] = {}
        for member in sorted(members, key=lambda each: model.points.find(each.site_in).layer or 0):
            check(member)
            read = model.points.find(member.site_in)
            assert read.layer is not None
            by_layer[read.layer], reads[read.layer] = member, read.name
            for name in member.writes:
                point = model.points.find(name)
                assert point.layer is not None
                if outputs.setdefault(point.layer, point.name) != point.name:
                    raise SpecError(
                        f"layer {point.layer} is written at {outputs[point.layer]!r} and at {point.name!r}: "
                        "an MLP has one output.",
                        point=point.name,
                    )
        for point in model.hook_points():
            if point.layer is not None and point.name.endswith(f".{OUTPUTS[0]}"):
                outputs.setdefault(point.layer, point.name)
        return cls(by_layer, reads, dict(sorted(outputs.items())))

    def written(self, layer: int) -> list[int]:
        """The layers that the transcoder of a layer writes to, in the order of its writes."""
        return [int(point.split(".")[1]) for point in self.by_layer[layer].writes]

    def skips(self, layer: int) -> bool:
        """Whether the transcoder of a layer has a skip connection."""
        return getattr(self.by_layer.get(layer), "W_skip", None) is not None


def check(member: Dictionary) -> None:
    """Refuse what is no transcoder."""
    held = f"the dictionary that reads {member.site_in!r}"
    if tuple(member.reads) == tuple(member.writes):
        raise UnsupportedAnalysis(
            f"{held} writes there, too: it is an autoencoder, which says what stands at a point and not how it came "
            "about. An attribution graph needs transcoders, which read what an MLP reads and write what it writes: "
            "load per-layer transcoders or a cross-layer transcoder. How much an autoencoder's features do is what "
            "attribution patching on a splice says.",
            point=member.site_in,
        )
    if len(member.reads) != 1 or not member.site_in.startswith("blocks."):
        raise UnsupportedAnalysis(
            f"{held} reads {list(member.reads)}; a transcoder reads one point of one layer.", reads=tuple(member.reads)
        )
    wrong = [name for name in member.writes if name.split(".", 2)[-1] not in OUTPUTS]
    if wrong:
        raise UnsupportedAnalysis(
            f"{held} writes {wrong}; what a graph replaces is the output of MLPs: {' or '.join(OUTPUTS)}.",
            writes=tuple(wrong),
        )
    if isinstance(getattr(member, "activation", None), Gated):
        raise UnsupportedAnalysis(
            f"the features of {held} have two pre-activations, a gate's and a magnitude's: no one number is what "
            "others contribute to."
        )
    if transforms := getattr(member, "transforms", ()):
        raise UnsupportedAnalysis(
            f"{held} transforms its input ({', '.join(type(each).__name__ for each in transforms)}), so that a "
            "feature reads in no one direction. Fold a scale in with mi_dictionaries.fold_scale."
        )
