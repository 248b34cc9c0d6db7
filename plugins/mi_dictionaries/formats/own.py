"""Our own layout: ``dictionary.json`` names the objects of a dictionary, ``dictionary.safetensors`` holds numbers.

Only classes that are listed here are made, from fields that they have.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from mi_core.errors import BadConfig, MiError
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries import activations, transforms
from mi_dictionaries.about import About
from mi_dictionaries.matching_pursuit import MatchingPursuit
from mi_dictionaries.rows import Stacked
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored
from mi_dictionaries.temporal import Temporal, TemporalAttention
from mi_dictionaries.writing.own import DESCRIPTION, TENSORS, VERSION

__all__ = ["mi_format"]

KINDS: Final = (SparseDictionary, MatchingPursuit, Temporal, DictionarySet)
PARTS: Final = (
    About,
    Stacked,
    TemporalAttention,
    activations.AbsTopK,
    activations.Gated,
    activations.GroupMax,
    activations.JumpReLU,
    activations.ReLU,
    activations.TanhReLU,
    activations.TopK,
    transforms.Centred,
    transforms.ConstantNorm,
    transforms.LayerNorm,
    transforms.Scaled,
    transforms.Shifted,
    transforms.Whitened,
)
CLASSES: Final = {kind.__name__: kind for kind in (*KINDS, *PARTS)}


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """A folder of ours."""
    if not files.has(DESCRIPTION) or not files.has(TENSORS) or asked.file not in (None, DESCRIPTION, TENSORS):
        return None
    held = files.read_json(DESCRIPTION)
    if held.keys() != {"version", "dictionary"} or held["version"] != VERSION:
        raise BadConfig(
            f"{files.where}: {DESCRIPTION!r} is of version {held.get('version')!r}, with {sorted(held)}; {VERSION} "
            "is read.",
            where=files.where,
        )
    stored = Stored.safetensors(files, TENSORS)
    found = made(held["dictionary"], stored, files.where)
    if not isinstance(found, KINDS):
        raise BadConfig(f"{files.where}: {DESCRIPTION!r} holds a {type(found).__name__}, not a dictionary.")
    stored.finish()
    if asked.layer is None or not isinstance(found, DictionarySet):
        return found
    if asked.layer not in found:
        raise BadConfig(f"{files.where}: there is no layer {asked.layer}; it has {sorted(found)}.", layer=asked.layer)
    return found[asked.layer]


def made(data: Any, stored: Stored, where: str, *, free: bool = False) -> Any:
    """The value that the JSON describes; ``free``: inside details, where lists and mappings are what they are."""
    if isinstance(data, list):
        items = [made(each, stored, where, free=free) for each in data]
        return items if free else tuple(items)
    if not isinstance(data, dict):
        return data
    if "$tensor" in data:
        return tensor(data, stored, where)
    if data.keys() == {"$float"}:
        return float(data["$float"])
    if "$class" not in data:
        return {key: made(each, stored, where, free=True) for key, each in data.items()}
    kind = CLASSES.get(data["$class"]) if isinstance(data["$class"], str) else None
    fields = {key: each for key, each in data.items() if key != "$class"}
    if kind is None or fields.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise BadConfig(
            f"{where}: {data['$class']!r} with {sorted(fields)} is none of our objects.", kind=data["$class"]
        )
    values = {key: made(each, stored, where) for key, each in fields.items()}
    try:
        return kind(**values)
    except MiError:
        raise
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        raise BadConfig(f"{where}: {data['$class']!r} cannot be made of {sorted(fields)}: {error}.") from error


def tensor(data: dict[str, Any], stored: Stored, where: str) -> Any:
    """A tensor of the file, a view of it."""
    name = data["$tensor"]
    if not isinstance(name, str) or name not in stored:
        raise BadConfig(f"{where}: {DESCRIPTION!r} names the tensor {name!r}, which {TENSORS!r} lacks.", name=name)
    stored.drop(name)
    held = stored.tensors.tensor(name)
    return held.T if data.get("transposed") else held
