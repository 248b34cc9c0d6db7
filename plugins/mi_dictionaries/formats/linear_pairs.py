"""Two linear layers of torch and a ReLU between: what several groups publish as one ``.pt`` file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mi_core.files import Files
from mi_core.formats import Asked
from mi_dictionaries.about import About
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored

__all__ = ["LinearPair", "the_file"]


def the_file(files: Files, asked: Asked, pattern: re.Pattern[str]) -> str | None:
    """The file that was named, or the only one of a folder, if it is called as a format calls its files."""
    if asked.file is not None:
        return asked.file if pattern.fullmatch(asked.file) and files.has(asked.file) else None
    found = [name for name in files.names() if pattern.fullmatch(name)]
    if asked.layer is not None and "layer" in pattern.groupindex:
        found = [name for name in found if (match := pattern.fullmatch(name)) and match["layer"] == str(asked.layer)]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class LinearPair:
    """Encoder and decoder with their biases, as torch's Linear stores them, at a layer's output; nothing is centred."""

    format: str
    file: re.Pattern[str]
    """How a file is called, with the groups ``model`` and ``layer``."""
    owner: str
    """Whose model it is, on the Hub."""
    encoder: str
    decoder: str

    def read(self, files: Files, asked: Asked) -> SparseDictionary | None:
        """The dictionary of a file of this kind; None: of another."""
        name = the_file(files, asked, self.file)
        match = name and self.file.fullmatch(name)
        if not name or not match:
            return None
        stored = Stored.torch(files, name)
        if f"{self.encoder}.weight" not in stored:
            return None
        weights: dict[str, Any] = {
            "W_enc": stored.take(f"{self.encoder}.weight", "d_sae d_in").T,
            "b_enc": stored.take(f"{self.encoder}.bias", "d_sae"),
            "W_dec": stored.take(f"{self.decoder}.weight", "d_in d_sae").T,
            "b_dec": stored.take(f"{self.decoder}.bias", "d_in"),
        }
        stored.finish()
        about = About(
            format=self.format,
            model=f"{self.owner}/{match['model']}",
            conventions=("b_dec is not subtracted before encoding", "ReLU"),
        )
        return SparseDictionary(reads=(f"blocks.{match['layer']}.hook_resid_post",), about=about, **weights)
