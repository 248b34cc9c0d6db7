"""Toy models are TransformerLens' own, from its configs and state dicts (tests/record_transformer_lens.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import close
from torch import Tensor

import mi_core as mi
from mi_core.errors import BadConfig, UnknownPoint, UnusedConfig
from mi_families.hooked_transformer import mi_family_examples

REFERENCE = Path(__file__).parents[1] / "data" / "hooked_transformer.safetensors"
with safe_open(REFERENCE, "pt") as reference:
    VERSION = reference.metadata()["transformer_lens"]
    CONFIGS: Mapping[str, Mapping[str, Any]] = json.loads(reference.metadata()["configs"])
TINY = mi_family_examples()[0]


def recorded(name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}/"): value for key, value in load_file(REFERENCE).items() if key.startswith(f"{name}/")
    }


def part(found: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}


def folder_of(name: str, where: Path) -> Path:
    """The state dict and every key of the config, as a checkpoint."""
    save_file(part(recorded(name), "state/"), where / "model.safetensors")
    (where / "config.json").write_text(json.dumps({"model_type": "hooked_transformer", **CONFIGS[name]}))
    return where


@pytest.mark.parametrize("name", CONFIGS)
def test_every_activation_of_its_state_dict_is_theirs(name: str, tmp_path: Path) -> None:
    found = recorded(name)
    model = mi.load(str(folder_of(name, tmp_path)), device="cpu")
    theirs = part(found, "cache/")
    run = model.run(found["tokens"], mi.capture(list(theirs)))
    close(run.logits, found["logits"])
    close(model.run(found["tokens"], logits="last").logits, found["logits"][:, -1:])
    assert len(theirs) >= 20
    for key, value in theirs.items():
        close(run[key], value, 2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_saved_in_their_layout_and_read_again(name: str, tmp_path: Path) -> None:
    found = recorded(name)
    model = mi.load(str(folder_of(name, tmp_path)), device="cpu")
    mi.save_model(model, tmp_path / "again")
    written = load_file(tmp_path / "again" / "model.safetensors")
    # masks and tables are computed, and positions that nothing reads are left out
    assert {"pos_embed.W_pos"} >= {key for key in part(found, "state/").keys() - written.keys() if not buffer(key)}
    for key, value in written.items():
        assert torch.equal(value, part(found, "state/")[key]), key
    again = mi.load(str(tmp_path / "again"), device="cpu")
    assert torch.equal(again.run(found["tokens"]).logits, model.run(found["tokens"]).logits)


def buffer(key: str) -> bool:
    return key.rpartition(".")[2] in ("mask", "IGNORE", "rotary_sin", "rotary_cos")


def test_attention_alone_has_no_points_of_mlps_and_says_why() -> None:
    model = mi.build("hooked_transformer", n_layers=2, d_model=16, n_heads=2, attn_only=True)
    sites = {point.site.name for point in model.hook_points("*")}
    assert {"hook_resid_pre", "hook_attn_out", "hook_resid_post", "attn.hook_pattern"} <= sites
    assert not [name for name in sites if "mlp" in name or "mid" in name or "ln2" in name]
    for name in ("mlp.hook_post", "hook_mlp_out", "hook_resid_mid", "ln2.hook_scale"):
        with pytest.raises(UnknownPoint, match="Its layers are attention alone"):
            model.run([1, 2], mi.capture(f"blocks.0.{name}"))


def test_fresh_weights_are_drawn_as_theirs_are() -> None:
    model = mi.build(dict(TINY, d_model=256, n_heads=4, d_head=64), seed=1)
    weight = model.weights["blocks.0.attn.W_Q"]
    assert weight.requires_grad
    assert weight.std().item() == pytest.approx(0.8 / 16, rel=0.02)
    assert not model.weights["blocks.0.attn.b_Q"].any()
    other = mi.build(dict(TINY, d_model=256, n_heads=4, d_head=64, initializer_range=0.3), seed=1)
    assert other.weights["blocks.0.attn.W_Q"].std().item() == pytest.approx(0.3, rel=0.02)


REFUSED = [
    ({"d_vocab_out": 5}, BadConfig, "logits of as many tokens"),
    ({"gated_mlp": True}, BadConfig, "gated_mlp"),
    ({"attention_dir": "bidirectional"}, BadConfig, "attention_dir"),
    ({"positional_embedding_type": "shortformer"}, BadConfig, "positional_embedding_type"),
    ({"act_fn": "solu_ln"}, BadConfig, "act_fn"),
    ({"n_heads": None, "d_head": None}, BadConfig, "give 'd_head' or 'n_heads'"),
    ({"num_experts": 4}, UnusedConfig, "num_experts"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_what_is_not_computed_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mi.build({**TINY, **changes})
