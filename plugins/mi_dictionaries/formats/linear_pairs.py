"""Two linear layers of torch and a ReLU between: what several groups publish as one ``.pt`` file."""

from __future__ import annotations

import re
from typing import Any

from mi_core.files import Files
from mi_core.formats import Asked
from mi_dictionaries.about import About
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored

__all__ = ["relu_pair", "the_file"]


def the_file(files: Files, asked: Asked, pattern: re.Pattern[str]) -> str | None:
    """The file that was named, or the only one of a folder, if it is called as a format calls its files."""
    if asked.file is not None:
        return asked.file if pattern.fullmatch(asked.file) and files.has(asked.file) else None
    found = [name for name in files.names() if pattern.fullmatch(name)]
    if asked.layer is not None:
        found = [name for name in found if (match := pattern.fullmatch(name)) and match[1] == str(asked.layer)]
    return found[0] if len(found) == 1 else None


def relu_pair(stored: Stored, encoder: str, decoder: str, point: str, about: About) -> SparseDictionary:
    """Encoder and decoder with their biases, as torch's Linear stores them; nothing is centred."""
    weights: dict[str, Any] = {
        "W_enc": stored.take(f"{encoder}.weight", "d_sae d_in").T,
        "b_enc": stored.take(f"{encoder}.bias", "d_sae"),
        "W_dec": stored.take(f"{decoder}.weight", "d_in d_sae").T,
        "b_dec": stored.take(f"{decoder}.bias", "d_in"),
    }
    stored.finish()
    return SparseDictionary(reads=(point,), about=about, **weights)
