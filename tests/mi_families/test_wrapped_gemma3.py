"""Gemma 3's image-and-text files are read under both of their prefixes, and what they leave out is the reference's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import reference, reference_run, save
from safetensors.torch import load_file, save_file

import mi_core as mi
from mi_core.config import Config
from mi_core.errors import BadConfig, UnusedConfig
from mi_families.gemma3 import ABSENT, mi_family, mi_family_examples

EXAMPLE = mi_family_examples()[0]


def test_newer_files_call_the_decoder_model_language_model(tmp_path: Path) -> None:
    theirs = reference(EXAMPLE)
    save(theirs, tmp_path)
    tensors = {
        name.replace("language_model.model.", "model.language_model.")
        if name.startswith("language_model.")
        else f"model.{name}": tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(12)[None]
    difference = mi.load(str(tmp_path)).run(ids).logits - reference_run(theirs, ids).logits
    assert difference.abs().max() <= 1e-5


def test_sizes_that_published_files_leave_out_are_the_reference_s() -> None:
    from transformers import Gemma3TextConfig

    defaults = Gemma3TextConfig()
    assert {key: getattr(defaults, key) for key in ABSENT} == ABSENT
    published = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    backend = mi_family(Config({"text_config": published}), None).backend()
    assert (backend.shape.n_layers, backend.shape.d_vocab) == (34, 262208)
    assert backend.spec.layers[0].mixer.n_heads == 8


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [({"final_logit_softcapping": 3.0}, BadConfig, "softcapping"), ({"surprise": 1}, UnusedConfig, "surprise")],
)
def test_what_would_change_the_numbers_is_refused(
    changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        mi_family(Config({**EXAMPLE, "text_config": {**EXAMPLE["text_config"], **changes}}), None)
