"""What the config of an original ``.pth`` file would say: such files have none, and their tensors tell everything."""

from __future__ import annotations

import re
from typing import Any

from mi_core.errors import BadConfig
from mi_core.tensors import TensorIndex
from mi_recurrent.checkpoints import OLD, shape_of, version_of
from mi_recurrent.layouts import ORIGINAL, is_original

__all__ = ["head_size_of", "sizes_of"]


def sizes_of(tensors: TensorIndex, version: str) -> dict[str, Any] | None:
    """Width, depth, vocabulary and neurons under the names of config.json; None if it is no such file.

    Raises:
        BadConfig: the file is of a version that is not computed; the message names it.
    """
    if not is_original(tensors):
        return None
    seen = version_of(tensors)
    if seen == OLD:
        raise BadConfig(
            f"{tensors.where}: the tensors are {OLD}, which is not computed; 4, 5.2, 6 and 7 are.",
            path=tensors.where,
            version=seen,
        )
    if seen != version:
        return None
    d_vocab, d_model = shape_of(tensors, ORIGINAL.name("embed_weight"))
    numbers = (re.match(r"blocks\.(\d+)\.", name) for name in tensors)
    return {
        "vocab_size": d_vocab,
        "hidden_size": d_model,
        "num_hidden_layers": 1 + max(int(found[1]) for found in numbers if found),
        "intermediate_size": shape_of(tensors, ORIGINAL.name("blocks.0.channel.key_weight"))[0],
    }


def head_size_of(tensors: TensorIndex, parameter: str) -> int:
    """The size of a head, from a parameter that is ``[head d_head]``."""
    return shape_of(tensors, ORIGINAL.name(f"blocks.0.mixer.{parameter}"))[-1]
