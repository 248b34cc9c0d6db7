"""A checkpoint whose tensors fit another family better is told so; one that nothing fits is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TINY, reference, save
from safetensors.torch import load_file, save_file

import mi_core as mi
from mi_core.errors import LoadError, MissingTensors, UnknownFamily, UnusedTensors

SMALL = {**TINY, "num_hidden_layers": 1}


def claimed(config: dict[str, Any], model_type: str, folder: Path, **changes: Any) -> str:
    """A checkpoint of one family whose config names another; null removes a key."""
    save(reference(config), folder)
    stated = json.loads((folder / "config.json").read_text()) | {"model_type": model_type} | changes
    stated = {key: value for key, value in stated.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(stated))
    return str(folder)


@pytest.mark.parametrize(
    ("true", "said", "removed", "error"),
    [
        ("qwen3", "llama", ("layer_types", "max_window_layers", "use_sliding_window"), UnusedTensors),
        ("llama", "qwen3", ("mlp_bias",), MissingTensors),
    ],
)
def test_the_family_that_fits_is_named(
    true: str, said: str, removed: tuple[str, ...], error: type[LoadError], tmp_path: Path
) -> None:
    folder = claimed({**SMALL, "model_type": true}, said, tmp_path, **dict.fromkeys(removed))
    with pytest.raises(error, match=r"This looks like .*'model_type'") as caught:
        mi.load(folder)
    assert true in caught.value.looks_like
    assert caught.value.family == said
    assert caught.value.names
    assert mi.load(folder, backend=true).provenance.family == true


def test_nothing_is_named_where_nothing_fits_better(tmp_path: Path) -> None:
    folder = claimed(SMALL, "llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "model.layers.0.odd.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UnusedTensors, match=r"odd\.weight") as caught:
        mi.load(folder)
    assert "looks like" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"vision_config": {"depth": 2}, "text_config": {"model_type": "mistral"}},
            r"more than text \(vision_config\).*'mistral', which is read where it ships alone",
        ),
        ({"audio_config": {}, "text_config": {"model_type": "odd"}}, r"\(audio_config\).*'odd': take a text-only"),
        ({"vision_config": {}}, r"\(vision_config\).*Its text part: take a text-only"),
    ],
)
def test_image_and_text_checkpoints_are_told_what_can_be_done(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "seeing99", **config}))
    with pytest.raises(UnknownFamily, match=words):
        mi.load(tmp_path)
