"""Small models with grouped heads and biases, and batches in every layout: what the tests of the core run on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import tiny_tokenizers
import torch
from hypothesis import strategies as st
from torch import Tensor

import mi_core as mi
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "mlp_bias": True,
}


@cache
def small(seed: int = 0, dtype: str = "float32", trainable: bool = False, **changes: Any) -> mi.Model:
    """A model without a tokenizer; no weight is zero or one."""
    model = mi.build({**CONFIG, **changes}, trainable=trainable, dtype=dtype, device="cpu")
    initialise_randomly(model, seed)
    return model


@cache
def family_example(family: str) -> mi.Model:
    """The first of a family's examples, with random weights."""
    model = mi.build(plugins.plugin("mi_core.families", family).call("mi_family_examples")[0], trainable=False)
    initialise_randomly(model, 1)
    return model


@cache
def talking() -> mi.Model:
    """A model with a tokenizer, whose BOS is ``<s>``."""
    folder = tiny_tokenizers.save(Path(mkdtemp()), tiny_tokenizers.byte_level(), jinja=tiny_tokenizers.LLAMA_3)
    tokenizer = JsonTokenizer(Files(folder))
    model = mi.build({**CONFIG, "vocab_size": tokenizer.size}, trainable=False, device="cpu", tokenizer=tokenizer)
    initialise_randomly(model, 3)
    return model


ROWS = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), min_size=1, max_size=4)
LAYOUTS = st.sampled_from(["right", "left", "holes"])
SEEDS = st.integers(0, 2**31)


def laid_out(rows: list[list[int]], layout: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as ids ``[batch column]`` with their mask; pads hold ids that matter if they are looked at."""
    draw = torch.Generator().manual_seed(seed)
    width = max(map(len, rows)) + (2 if layout == "holes" else 0)
    ids = torch.randint(0, 61, (len(rows), width), generator=draw)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        if layout == "right":
            columns = torch.arange(len(row))
        elif layout == "left":
            columns = torch.arange(width - len(row), width)
        else:
            columns = torch.randperm(width, generator=draw)[: len(row)].sort().values
        ids[number, columns] = torch.tensor(row)
        mask[number, columns] = True
    return ids, mask


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(seen: Tensor, wanted: Tensor, atol: float = 1e-5) -> None:
    """Equal to rounding, shapes included."""
    assert seen.shape == wanted.shape, (seen.shape, wanted.shape)
    torch.testing.assert_close(seen, wanted, atol=atol, rtol=1e-5)
