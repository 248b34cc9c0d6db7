"""RWKV-4 is the one of transformers, on fresh random checkpoints."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from checkpoints import reference, save
from torch import Tensor

import mi_core as mi

CONFIG = {"model_type": "rwkv", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "layer_norm_epsilon": 1e-4}
# without rescaling: it halves the reference's stream, and what it returns of it
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": CONFIG | {"rescale_every": 0},
    "neurons": CONFIG | {"rescale_every": 0, "intermediate_size": 48},
    "tied": CONFIG | {"rescale_every": 0, "tie_word_embeddings": True},
}


@cache
def pair(name: str, dtype: str) -> tuple[Any, mi.Model]:
    theirs = reference(VARIANTS[name], seed=len(name), dtype=dtype)
    return theirs, mi.load(str(save(theirs, Path(mkdtemp()))))


def tokens(rows: int, columns: int) -> Tensor:
    return torch.randint(61, (rows, columns), generator=torch.Generator().manual_seed(rows))


# the reference keeps its recurrence in float32 whatever the dtype
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-6)])
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_streams_are_the_reference_s(name: str, dtype: str, bound: float) -> None:
    theirs, model = pair(name, dtype)
    ids = tokens(2, 45)
    with torch.no_grad():
        wanted = theirs(ids, use_cache=False, output_hidden_states=True)
    run = model.run(ids, mi.capture("blocks.*.hook_resid_post"))
    assert run.logits.dtype is getattr(torch, dtype)
    torch.testing.assert_close(run.logits, wanted.logits, rtol=0, atol=bound)
    streams = run.stack("hook_resid_post")
    torch.testing.assert_close(streams, torch.stack(wanted.hidden_states[: len(streams)]), rtol=0, atol=bound)


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_tokens_are_the_reference_s(name: str) -> None:
    theirs, model = pair(name, "float32")
    prompt = tokens(1, 6)  # with more rows the reference's single steps are wrong
    ids = prompt
    with torch.no_grad():
        for _ in range(12):
            ids = torch.cat((ids, theirs(ids, use_cache=False).logits[:, -1:].argmax(-1)), 1)
    made = model.generate(prompt, max_new_tokens=12, stop_at_eos=False)
    assert made.tokens.tolist() == ids.tolist()
