"""From a config to a backend: which plugin reads it, and what the plugin makes of it."""

from __future__ import annotations

from typing import Final

from torch import nn

from mi_core import plugins
from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import (
    BadConfig,
    BrokenPlugin,
    MiError,
    ModelNotFound,
    PluginConflict,
    PluginError,
    UnknownFamily,
    UnknownPlugin,
)
from mi_core.files import Files
from mi_core.fill import listing
from mi_core.protocols import Backend
from mi_core.quantised import refuse_quantised
from mi_core.tensors import TensorIndex

__all__ = ["blueprint_of", "config_of", "empty_backend", "family_of"]

GROUP: Final = "mi_core.families"
BESIDE_TEXT: Final = ("vision_config", "audio_config", "speech_config", "video_config", "vision_tower_config")
"""Keys of checkpoints that read images or sound too."""


def family_of(config: Config, name: str | None = None) -> plugins.Plugin:
    """The plugin that reads this config: the one of its model_type, or the one that is named.

    Raises:
        UnknownFamily: nobody reads that model_type; the message gives the closest and all that are installed.
        BadConfig: no model_type, or a quantised checkpoint.
    """
    if name is None:
        name = config["model_type"]
    if not isinstance(name, str):
        raise BadConfig(f"{config.where}: 'model_type' is {name!r}, it must be a word.", key="model_type", value=name)
    refuse_quantised(config)
    try:
        return plugins.plugin(GROUP, name)
    except UnknownPlugin as error:
        raise UnknownFamily(
            f"no installed family reads model_type {name!r}.{beside_text(config)} "
            f"{plugins.installed_instead(GROUP, name)}",
            model_type=name,
            installed=tuple(plugins.names(GROUP)),
            where=config.where,
        ) from error


def beside_text(config: Config) -> str:
    """What to do with a checkpoint that reads images or sound beside text; empty for one of text alone."""
    others = [key for key in BESIDE_TEXT if isinstance(config.get(key), dict)]
    if not others:
        return ""
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, dict) else None
    part = f" Its text part is a {kind!r}" if kind else " Its text part"
    known = ", which is read where it ships alone" if kind in plugins.names(GROUP) else ""
    return (
        f" It reads more than text ({', '.join(others)}), which is not computed here.{part}{known}: take a text-only "
        "checkpoint of that model, or one whose text part is read (mi models tells which)."
    )


def config_of(files: Files, tensors: TensorIndex, name: str | None = None) -> Config:
    """The config of a checkpoint that has none: what the family says that knows its tensors, or the one that is named.

    Raises:
        ModelNotFound: no family knows these tensors.
        PluginConflict: several do.
    """
    stated = {}
    for each in plugins.names(GROUP) if name is None else (name,):
        try:
            family = plugins.plugin(GROUP, each)
        except PluginError:
            if name is not None:
                raise
            continue  # a broken plugin hurts nobody else; `mi models` reports it
        found = family.call("mi_config", tensors=tensors) if family.implements("mi_config") else None
        if found is not None:
            stated[each] = found
    if not stated:
        who = "no installed family knows" if name is None else f"the family {name!r} does not know"
        raise ModelNotFound(
            f"{files.where}: no 'config.json', and {who} its tensors ({listing(tensors)}), so how to read them is not "
            f"known. It has: {', '.join(files.names())}.",
            where=files.where,
        )
    if len(stated) > 1:
        raise PluginConflict(
            f"{files.where}: no 'config.json', and the families {' and '.join(stated)} both know its tensors. Name one "
            "with backend=.",
            where=files.where,
            families=tuple(stated),
        )
    return Config(next(iter(stated.values())), where=f"{files.where} (no config.json: read from the tensors)")


def blueprint_of(family: plugins.Plugin, config: Config, tensors: TensorIndex | None) -> Blueprint:
    """What the family makes of a config.

    Raises:
        BrokenPlugin: the family failed, or returned something else.
    """
    blueprint = family.call("mi_family", config=config, tensors=tensors)
    if not isinstance(blueprint, Blueprint):
        raise BrokenPlugin(
            f"the family {family.name!r}, from {family.distribution}, returned {type(blueprint).__name__} from "
            "mi_family; it must be a Blueprint.",
            name=family.name,
            distribution=family.distribution,
        )
    return blueprint


def empty_backend(family: plugins.Plugin, blueprint: Blueprint) -> tuple[Backend, nn.Module]:
    """A fresh backend, as what it is to the core and as the module that holds its parameters.

    Raises:
        BrokenPlugin: it cannot be made, is no module, or holds numbers already.
    """
    who = f"the family {family.name!r}, from {family.distribution},"
    data = {"name": family.name, "distribution": family.distribution}
    try:
        backend = blueprint.backend()
    except MiError:
        raise
    except Exception as error:
        raise BrokenPlugin(
            f"{who} cannot make its backend: {type(error).__name__}: {error}.", cause=error, **data
        ) from error
    if not isinstance(backend, nn.Module):
        raise BrokenPlugin(f"{who} made a {type(backend).__name__}, which is no torch.nn.Module.", **data)
    for name, tensor in (*backend.named_parameters(), *backend.named_buffers()):
        if not tensor.is_meta:
            raise BrokenPlugin(
                f"{who} made {name!r} with numbers in it; parameters start on the meta device "
                "(mi_core.blueprint.empty) and computed buffers are not kept.",
                **data,
            )
    return backend, backend
