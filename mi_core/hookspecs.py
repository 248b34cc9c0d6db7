"""The whole plugin contract. An entry point names a module; the module implements the one hook of its group.

| entry-point group       | name of the entry point | hook              |
|-------------------------|-------------------------|-------------------|
| ``mi_core.families``    | Hugging Face model_type | `mi_family`       |
| ``mi_core.analyses``    | the analysis            | `mi_analysis`     |
| ``mi_core.formats``     | the dictionary format   | `mi_format`       |
| ``mi_core.tokenizers``  | the tokenizer           | `mi_tokenizer`    |
| ``mi_core.registry``    | the collection          | `mi_registry`     |
| ``mi_core.commands``    | the command             | `mi_command`      |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:  # names for the reader; pluggy looks at argument names only
    from mi_core.analyses import Analysis
    from mi_core.blueprint import Blueprint
    from mi_core.config import Config
    from mi_core.files import Files
    from mi_core.formats import Asked
    from mi_core.tensors import TensorIndex
    from mi_core.tokenizer import Tokenizer

hookspec = pluggy.HookspecMarker("mi_core")
hookimpl = pluggy.HookimplMarker("mi_core")


@hookspec
def mi_family(config: Config, tensors: TensorIndex | None) -> Blueprint:
    """Translate a config (and the checkpoint's tensor names and shapes) into a backend and its weight map.

    ``tensors`` is None when the model is made from the config alone (`mi.build`).
    """
    raise NotImplementedError


@hookspec
def mi_config(tensors: TensorIndex) -> Mapping[str, Any] | None:
    """What config.json would say of a checkpoint that has none, from its tensors; None: not of this family.

    A family whose checkpoints come without a config implements it; at most one may know a checkpoint.
    """
    raise NotImplementedError


@hookspec
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs that together turn on every option of the family; the kit and `mi.build` use them."""
    raise NotImplementedError


@hookspec
def mi_analysis() -> Analysis:
    """One analysis: what it needs and how it runs."""
    raise NotImplementedError


@hookspec
def mi_format(files: Files, asked: Asked) -> Any | None:
    """Read a sparse dictionary; None if these files are not of this format.

    ``asked`` says what the caller wants of them (one file, one layer, units); an implementation may leave it out.
    """
    raise NotImplementedError


@hookspec
def mi_tokenizer(files: Files, config: Config) -> Tokenizer | None:
    """Read a tokenizer; None if these files are not of this kind."""
    raise NotImplementedError


@hookspec
def mi_registry() -> Traversable:
    """A folder with one TOML page for each name, embedded weights beside it."""
    raise NotImplementedError


@hookspec
def mi_command() -> Callable[..., None]:
    """A typer function that becomes ``mi NAME``."""
    raise NotImplementedError
