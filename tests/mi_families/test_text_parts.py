"""Text parts of image-and-text checkpoints: under both prefixes, with the sizes that files leave out, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import reference, reference_run, save
from safetensors.torch import load_file, save_file

import mi_core as mi
from mi_core.config import Config
from mi_core.errors import BadConfig, UnknownFamily, UnusedConfig
from mi_decoder.examples import TINY
from mi_decoder.text_part import ABSENT
from mi_families.llava import mi_family, mi_family_examples

EXAMPLE = mi_family_examples()[0]


def test_newer_files_call_the_decoder_model_language_model(tmp_path: Path) -> None:
    theirs = reference(EXAMPLE)
    save(theirs, tmp_path)
    older = load_file(tmp_path / "model.safetensors")
    assert "language_model.model.norm.weight" in older
    newer = {name.replace("language_model.model.", "model.language_model."): t for name, t in older.items()}
    newer = {name.replace("language_model.lm_head", "lm_head"): t for name, t in newer.items()}
    newer = {f"model.{name}" if name.startswith(("vision", "multi")) else name: t for name, t in newer.items()}
    save_file(newer, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(12)[None]
    difference = mi.load(str(tmp_path)).run(ids).logits - reference_run(theirs, ids).logits
    assert difference.abs().max() <= 1e-5


def test_sizes_that_published_files_leave_out_are_the_reference_s() -> None:
    from transformers import LlamaConfig, MistralConfig

    for kind, defaults in (("llama", LlamaConfig()), ("mistral", MistralConfig())):
        assert {key: getattr(defaults, key) for key in ABSENT[kind]} == ABSENT[kind]
    backend: Any = mi_family(Config({"text_config": {"rms_norm_eps": 1e-5, "vocab_size": 32064}}), None).backend()
    assert (backend.shape.n_layers, backend.shape.d_model, backend.shape.d_vocab) == (32, 4096, 32064)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ({"model_type": "granite", **TINY, "logits_scaling": 2.0}, BadConfig, "scales or caps its logits"),
        ({"model_type": "granite99", **TINY}, UnknownFamily, "granite99"),
        ({"model_type": "llama", **TINY, "surprise": 1}, UnusedConfig, "surprise"),
    ],
)
def test_what_would_change_the_numbers_is_refused(text: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mi_family(Config({**EXAMPLE, "text_config": text}), None)
