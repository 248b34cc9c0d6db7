"""A ``model_type`` that nobody claims: is there one model, and only one, that its config and tensors can mean?

Every installed family tries its own strict reading, and the readings are compared, never ranked: one model must come of
all that are possible. Neither tensors nor keys show all that changes the numbers (a gain stored as an offset from one,
the order of rotary pairs), so a lone reading is not believed too easily either: a family's own reasons for leaving a
key unread do not count; a switch that is off rules no family out that does not know it; and the config must state every
value that a family would otherwise take from its own defaults, unless the tensors or other keys settle it. Nothing is
inferred of a model_type that the registry knows, nor where some installed families may not be asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mi_core import plugins, registry
from mi_core.config import Config
from mi_core.errors import ModelNotFound, UnknownFamily
from mi_core.families import GROUP, beside_text, family_of
from mi_core.fill import folded, listing
from mi_core.quantised import refuse_quantised_tensors
from mi_core.readings import SHOWN, Reading, Trial, differences, same
from mi_core.tensors import TensorIndex

__all__ = ["family_for"]

KINDS: Final = ("full_attention", "sliding_attention")
"""What lists of layers hold. Source: transformers 5.24, PreTrainedConfig.validate_layer_type."""
ABSENT: Final[tuple[Any, ...]] = (True, False, 0, 1, 2, 0.5, [], [0], {"rope_type": "default", "rope_theta": 12345.0})
"""What is tried for a key whose absence a family asks about."""


def family_for(
    config: Config,
    tensors: Callable[[], TensorIndex],
    name: str | None = None,
    *,
    ignore_config: Collection[str] = (),
    ignore_tensors: Collection[str] = (),
) -> tuple[plugins.Plugin, str]:
    """Who reads this checkpoint? The family of its model_type, the one that is named, or the only one that can.

    With it comes how it was found, in words; empty where the config or the caller names it.

    Raises:
        UnknownFamily: nobody claims the model_type, and not exactly one model can be meant; the message says what
            stands in the way.
    """
    try:
        return family_of(config, name), ""
    except UnknownFamily as error:
        if name is not None:
            raise
        unknown = error
    try:
        found = tensors()
    except ModelNotFound:
        raise unknown from None  # there is nothing to read by
    refuse_quantised_tensors(found, found.where)
    if why := known(config["model_type"]) or unasked():
        raise UnknownFamily(f"{unknown} What it is, is not inferred: {why}", **unknown.data)
    trial = Trial(config.plain(), config.where, found, ignore_config, ignore_tensors)
    return automatic(trial, unknown, beside_text(config))


def known(model_type: str) -> str:
    """What the registry says of a model_type that no family reads here; empty where it says nothing."""
    for page in registry.pages().values():
        if page.data.get("model_type") == model_type:
            return f"the registry knows it ({page.data.get('summary', page.name)}); its family has to read it."
        if model_type in page.data.get("not_read", {}):
            return f"it is known, and not read ({page.data['not_read'][model_type]})."
    return ""


def unasked() -> str:
    """Why a lone reading would prove nothing: families that might read the checkpoint otherwise may not be imported."""
    hidden = plugins.hidden(GROUP)
    return f"MI_PLUGINS leaves out {listing(hidden)}, which might read it otherwise." if hidden else ""


def automatic(trial: Trial, unknown: UnknownFamily, advice: str) -> tuple[plugins.Plugin, str]:
    """The family whose reading is complete and the only one, and how it was found."""
    model_type = trial.values["model_type"]
    readings = [found for name in plugins.names(GROUP) if (found := trial.reading(name)) is not None]
    readings.sort(key=lambda found: likeness(found, model_type))
    possible = [found for found in readings if found.possible]
    start = f"{trial.where}: no installed family reads model_type {model_type!r}, and"
    data = {**unknown.data, "where": trial.where, "candidates": tuple(found.family.name for found in possible)}
    if all(found.unread for found in possible):
        closest = min(readings, key=lambda found: found.distance, default=None)
        if closest is None or closest.distance[0] >= len(folded(trial.tensors)):
            raise unknown
        raise UnknownFamily(
            f"{start} none has a place for all that this checkpoint has.{advice} Closest: {closest.family.name!r}, "
            f"but {obstacles(closest)}. Installed: {', '.join(plugins.names(GROUP))}.",
            **{**data, "closest": closest.family.name},
        )
    guesses = [assumptions(trial, found) for found in possible]
    whole = [found for found, guessed in zip(possible, guesses, strict=True) if not guessed]
    first = next((found for found in whole or possible if not found.unread), possible[0])
    name = first.family.name
    advice = f"If you know that it is one of these, say so: backend={name!r}."
    if all(found.unread for found in whole):
        guessed = guesses[possible.index(first)]
        raise UnknownFamily(
            f"{start} though {name!r} has a place for every tensor and key, the config leaves open what that family "
            f"takes by default: {', '.join(guessed)}. If you know that it is right, say so: backend={name!r}.",
            **{**data, "assumed": guessed},
        )
    if others := [found for found in whole if found is not first and not same(first.blueprint, found.blueprint)]:
        raise UnknownFamily(
            f"{start} its tensors and keys fit several that differ: {'; '.join(contrasts(first, others))}. {advice}",
            **data,
        )
    alike = [repr(found.family.name) for found in whole if found is not first]
    return first.family, (
        f"model_type {model_type!r} is nobody's; read as {name!r}{f' (as {listing(alike)} would)' if alike else ''}: "
        "every tensor and every config key has its place"
    )


def likeness(reading: Reading, model_type: str) -> float:
    """How far a family's name is from a word: for the choice of a name alone, where the models are the same."""
    return -difflib.SequenceMatcher(None, model_type, reading.family.name).ratio()


def obstacles(reading: Reading) -> str:
    """What stands in the way of a family."""
    keys = [f"{key} = {value!r}" for key, value in reading.unread.items()]
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return "; ".join([*reading.misplaced, *([f"it does not know {', '.join(keys[:SHOWN])}{more}"] if keys else [])])


def contrasts(first: Reading, others: Sequence[Reading]) -> Iterator[str]:
    """What tells the first candidate from each of the others; those that are the same are named together."""
    kinds: list[list[Reading]] = []
    for other in others:
        alike = next((kind for kind in kinds if same(kind[0].blueprint, other.blueprint)), None)
        kinds.append([other]) if alike is None else alike.append(other)
    for kind in kinds:
        names = " and ".join(repr(each.family.name) for each in kind)
        yield f"{first.family.name!r} and {names} in {contrast(first, kind[0])}"


def contrast(one: Reading, other: Reading) -> str:
    """In which parts of the model two readings differ."""
    if one.blueprint.spec is None or other.blueprint.spec is None:
        return "a way that cannot be compared"
    paths: dict[str, list[str]] = {}
    for path, values in differences(one.blueprint.spec, other.blueprint.spec):
        paths.setdefault(values, []).append(path)
    found = [f"{listing(where)} ({values})" for values, where in paths.items()]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more or "which tensors fill which parameters"


def assumptions(trial: Trial, reading: Reading) -> tuple[str, ...]:
    """Keys that the config lacks, whose value the family made up, and whose other values would be as possible.

    Another value is possible if the family then still has a place for every tensor; it matters if another model
    comes of it.
    """
    found = []
    for key, (value, options) in reading.config.assumed().items():
        path = key.split(".")
        if len(path) > 1 and not trial.values.get(path[0]):
            continue  # a mapping that is absent is a part of the model that is absent
        for other in alternatives(trial, value, options):
            changed = replace(trial, values=stated(trial.values, path, other)).reading(reading.family.name)
            if changed and not changed.misplaced and not same(changed.blueprint, reading.blueprint):
                found.append(f"{key} = {value!r}" if value is not None else key)
                break
    return tuple(found)


def alternatives(trial: Trial, value: Any, options: Sequence[str]) -> Sequence[Any]:
    """Other values that a key might have had."""
    if options:
        return [option for option in options if option != value]
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return value * 2, value // 2, value + 1
    if isinstance(value, float):
        return value * 2, value / 2, value + 0.5
    n_layers = trial.values.get("num_hidden_layers")
    return (*ABSENT, *([kind] * n_layers for kind in KINDS if isinstance(n_layers, int)))


def stated(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The config with one key set, in the mapping that it belongs to."""
    inner = values.get(path[0])
    own = value if len(path) == 1 else stated(inner if isinstance(inner, Mapping) else {}, path[1:], value)
    return {**values, path[0]: own}
