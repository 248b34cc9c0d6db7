"""Dunefsky, Chlenski and Nanda's transcoders: ``.pt`` or ``.pkl.gz`` with ``cfg`` and ``state_dict``.

``b_dec`` is subtracted from the input and never added; ``b_dec_out`` is added to the output.
Source: Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", sae_training/sparse_autoencoder.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.formats.linear_pairs import the_file
from mi_dictionaries.reading.torch_files import read_gzipped_pickle, read_torch, tensors_of
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Sizes, Stored

__all__ = ["mi_format"]

FILE: Final = re.compile(r"(.+)\.(?:pt|pkl\.gz)")
RECORDS: Final = (
    "sae_training.config.LanguageModelSAERunnerConfig",
    "sae_training.config.CacheActivationsRunnerConfig",
)
"""Classes of the training library whose attributes are read; nothing of theirs runs."""


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One file."""
    name = the_file(files, asked, FILE)
    if (
        name is None
        or files.has("config.json")
        or files.has("cfg.json")
        or files.has(f"{name.removesuffix('.pt')}_cfg.json")
    ):
        return None
    if re.fullmatch(r"layer\d+\.sae\.pt|(?:Llama|DeepSeek)-.*-SAE-l\d+\.pt", name):
        return None  # other formats' names, whose files need not be read twice
    path = files.path(name)
    held = (read_torch if name.endswith(".pt") else read_gzipped_pickle)(path, RECORDS)
    if not isinstance(held, Mapping) or not {"cfg", "state_dict"} <= held.keys():
        return None
    where = f"{files.where}: {name!r}"
    config = Config(plain(held["cfg"]), where=where)
    stored = Stored.of(tensors_of(held["state_dict"], path), Sizes(where), where)
    return transcoder(config, stored)


def plain(config: Any) -> dict[str, Any]:
    """The settings of a training run, from the record of their object or a mapping."""
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    return {str(key): value for key, value in values.items()}


def transcoder(config: Config, stored: Stored) -> SparseDictionary:
    """Between two points; an autoencoder of the same library where it has one."""
    reads = config["hook_point"]
    transcodes = "b_dec_out" in stored
    if bool(config.get("is_transcoder", transcodes)) != transcodes:
        raise BadConfig(f"{config.where}: 'is_transcoder' is {not transcodes}, and the weights say {transcodes}.")
    writes = config["out_hook_point"] if transcodes else reads
    out = "d_out" if transcodes else "d_in"
    bias = stored.take("b_dec", "d_in")
    weights: dict[str, Any] = {
        "W_enc": stored.take("W_enc", "d_in d_sae"),
        "b_enc": stored.take("b_enc", "d_sae"),
        "W_dec": stored.take("W_dec", f"d_sae {out}"),
        "b_dec": stored.take("b_dec_out", out) if transcodes else bias,
    }
    stored.finish()
    for key, size in (("d_in", "d_in"), ("d_sae", "d_sae"), ("d_out", out)):
        if config.get(key) is not None:
            stored.sizes.agree(size, config.size(key), f"cfg.{key}")
    if not isinstance(reads, str) or not isinstance(writes, str):
        raise BadConfig(
            f"{config.where}: 'hook_point' is {reads!r} and 'out_hook_point' {writes!r}; points are needed."
        )
    about = About(
        format="dunefsky",
        model=config.get("model_name"),
        conventions=(
            "b_dec is subtracted before encoding" + (" and not added; b_dec_out is added" if transcodes else ""),
            "ReLU",
        ),
        details={
            key: value for key, value in config.plain().items() if isinstance(value, str | int | float | bool | None)
        },
    )
    return SparseDictionary(reads=(reads,), writes=(writes,), b_in=bias, about=about, **weights)
