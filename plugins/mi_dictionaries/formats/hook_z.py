"""Attention autoencoders of Kissane, Krzyzanowski and others: ``X.pt`` with ``X_cfg.json``, at heads side by side.

Source: Kissane et al. 2024, "Interpreting Attention Layer Outputs with Sparse Autoencoders"; SAELens 6.54,
``connor_rob_hook_z_huggingface_loader``. They were likely trained on processed models; their files do not say so.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.formats.linear_pairs import the_file
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, read_config

__all__ = ["mi_format"]

FILE: Final = re.compile(r"(.+)\.pt")


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One file and the config beside it."""
    name = the_file(files, asked, FILE)
    if name is None or not files.has(beside := f"{name.removesuffix('.pt')}_cfg.json"):
        return None
    config = read_config(files, beside)
    stored = Stored.torch(files, name)
    point = config["act_name"]
    if not isinstance(point, str) or not re.fullmatch(r"blocks\.\d+\.\S+", point):
        raise BadConfig(f"{config.where}: 'act_name' is {point!r}; the point that it reads is needed.", act_name=point)
    bias = stored.take("b_dec", "d_in")
    weights: dict[str, Any] = {
        "W_enc": stored.take("W_enc", "d_in d_sae"),
        "b_enc": stored.take("b_enc", "d_sae"),
        "W_dec": stored.take("W_dec", "d_sae d_in"),
    }
    stored.finish()
    stored.sizes.agree("d_in", config.size("act_size", default=None), "act_size")
    stored.sizes.agree("d_sae", config.size("dict_size", default=None), "dict_size")
    heads = point.endswith("hook_z")
    said = ["b_dec is subtracted before encoding", "ReLU"]
    if heads:
        said.append("the heads of hook_z are put side by side before encoding, and taken apart again")
        said.append(
            "its files do not say whether the model was processed first; if its value biases were folded, pass it "
            "through mi_dictionaries.adapted(dictionary, model)"
        )
    about = About(format="hook_z", model=config.get("model_name"), conventions=tuple(said), details=config.plain())
    return SparseDictionary(reads=(point,), b_in=bias, b_dec=bias, heads=heads, about=about, **weights)
