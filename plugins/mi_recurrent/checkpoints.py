"""From a recurrent model and its checkpoint names to a blueprint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import Generator, Tensor, nn

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BadConfig, MissingTensors
from mi_core.protocols import Backend
from mi_core.tensors import TensorIndex

__all__ = ["blueprint", "initialise", "refuse_other_versions", "shape_of"]

OLD = "RWKV-5.0 or 5.1"
OTHER = "RWKV-6 in the layout of flash-linear-attention"
MARKS: Mapping[str, tuple[str, ...]] = {
    "RWKV-7": (".r_k",),
    "RWKV-6": (".time_maa_x",),
    "RWKV-5.2": (".time_faaaa", ".gate.weight"),
    OLD: (".ln_x.",),
    "RWKV-4": (".time_first", ".time_mix_k"),
    OTHER: (".x_proj.", ".r_proj."),
}
"""Names by which a version is told; the first that fits decides. Source: the checkpoints' own layouts."""


def version_of(tensors: TensorIndex) -> str | None:
    """The version whose tensors these are; ``model_type`` and ``architectures`` are not always right."""
    first = [name for name in tensors if ".0." in name]
    found = (version for version, marks in MARKS.items() if all(any(mark in name for name in first) for mark in marks))
    version = next(found, None)
    # 5.1 has a gate too, and one decay for each head
    per_head = numbers_in(tensors, ".time_decay") < numbers_in(tensors, ".ln_x.weight")
    return OLD if version == "RWKV-5.2" and per_head else version


def numbers_in(tensors: TensorIndex, leaf: str) -> int:
    """How many numbers the first layer's tensor of this name holds; 0 if there is none."""
    return next((math.prod(tensors[name].shape) for name in tensors if ".0." in name and name.endswith(leaf)), 0)


def refuse_other_versions(tensors: TensorIndex | None, version: str, config: Config) -> None:
    """Refuses a checkpoint whose tensors are of another version than its config says.

    Raises:
        BadConfig: the message names both.
    """
    seen = None if tensors is None else version_of(tensors)
    if tensors is not None and seen != version:
        advice = "Set the model_type that belongs to them." if seen else "Is this a checkpoint of another library?"
        if seen in (OLD, OTHER):
            advice = "They are not computed; 4, 5.2, 6 and 7 are, as their authors and Hugging Face lay them out."
        raise BadConfig(
            f"{config.where}: model_type {config.get('model_type')!r} is {version}, the tensors are "
            f"{seen or 'of no version that is known'}. {advice}",
            path=config.where,
            version=seen,
        )


def shape_of(tensors: TensorIndex, name: str) -> tuple[int, ...]:
    """The shape of a tensor from which a size is read.

    Raises:
        MissingTensors: the checkpoint lacks it.
    """
    if name not in tensors:
        raise MissingTensors(
            f"{tensors.where}: the checkpoint has no {name!r}, from whose shape the sizes of the layer are read.",
            names=(name,),
        )
    return tuple(tensors[name].shape)


def blueprint(
    backend: Callable[[], Backend],
    names: Callable[[str], str | Weight],
    tensors: TensorIndex | None,
    *,
    tied: bool = False,
    inert: Mapping[str, str] | None = None,
    dropped: Mapping[str, str] | None = None,
) -> Blueprint:
    """``names`` gives each parameter's checkpoint tensor; one of another shape and the same size is reshaped."""
    module = backend()
    assert isinstance(module, nn.Module)
    weights: dict[str, Weight] = {}
    for parameter, place in module.named_parameters():
        source = names(parameter)
        if isinstance(source, str):
            same = tensors is None or source not in tensors or tuple(tensors[source].shape) == tuple(place.shape)
            fits = same or math.prod(tensors[source].shape) != place.numel()  # type: ignore[index]
            source = Weight.of(source) if fits else Weight.of(source, view=partial(reshaped, shape=tuple(place.shape)))
        weights[parameter] = source
    tie = {}
    if tied and (tensors is None or weights["unembed_weight"].names[0] not in tensors):
        del weights["unembed_weight"]
        tie = {"unembed_weight": "embed_weight"}
    return Blueprint(backend, weights, dropped or {}, inert or {}, tie, initialise)


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers: checkpoints write vectors as ``[C]``, ``[1 1 C]`` or by heads."""
    return tensor.reshape(shape)


def initialise(backend: Backend, generator: Generator, std: float = 0.02) -> None:
    """Fills fresh parameters in place: matrices normal, biases zero, gains one, mixes and decays spread evenly."""
    assert isinstance(backend, nn.Module)
    for name, parameter in backend.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf.startswith(("x_", "mix_", "time_mix", "time_maa_")) and parameter.shape[0] == 1:
            nn.init.uniform_(parameter, 0.0, 1.0, generator=generator)
        elif leaf in ("time_decay", "w_up_bias"):
            nn.init.uniform_(parameter, -6.0, 0.0, generator=generator)
        elif leaf.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=std, generator=generator)
