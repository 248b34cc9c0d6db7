from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from small_models import LAYOUTS, ROWS, SEEDS, laid_out, small, talking

import mi_core as mi
from mi_core.errors import LoadError, MissingActivation

RESID, Z = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"
SPEC = (
    mi.capture([RESID, "blocks.0.attn.hook_pattern", "hook_embed"])
    + mi.capture(Z).at(pos=slice(-2, None), head=1)
    + mi.intervene(RESID, mi.Scale(2.0))
    + mi.capture(RESID, before=True)
)


@given(ROWS, LAYOUTS, SEEDS)
def test_a_run_comes_back_as_it_was(rows: list[list[int]], layout: str, seed: int) -> None:
    from tempfile import TemporaryDirectory

    ids, mask = laid_out(rows, layout, seed)
    run = small().run(ids, SPEC, attention_mask=mask)
    with TemporaryDirectory() as folder:
        run.save(Path(folder) / "run.safetensors")
        back = mi.Run.load(Path(folder) / "run.safetensors")
    assert list(back) == list(run)
    assert list(back.before) == list(run.before)
    for name in run:
        assert torch.equal(back[name], run[name])
    assert torch.equal(back.before[RESID], run.before[RESID])
    for what in ("logits", "tokens", "mask", "positions", "token_losses"):
        assert torch.equal(getattr(back, what), getattr(run, what))
    assert back.receipt == run.receipt
    assert torch.equal(back.at(RESID, pos=-1), run.at(RESID, pos=-1))
    assert torch.equal(back.at(Z), run.at(Z))
    assert torch.equal(back.stack("hook_resid_post"), run.stack("hook_resid_post"))
    spec = mi.intervene(RESID, mi.Replace(back)) + mi.capture(RESID)
    assert torch.equal(small().run(ids, spec, attention_mask=mask)[RESID], run[RESID])


def test_a_saved_run_knows_its_text(tmp_path: Path) -> None:
    run = talking().run(["The capital of France", "Italy"], mi.capture(RESID).at(pos=-1), logits="last")
    run.save(tmp_path / "run")
    back = mi.Run.load(tmp_path / "run")
    assert back.text_tokens == run.text_tokens
    assert torch.equal(back[RESID], run[RESID])
    assert torch.equal(back.logits, run.logits)
    full = talking().run(["The capital of France"], mi.capture(RESID))
    full.save(tmp_path / "full")
    span = mi.Span("France")
    assert torch.equal(mi.Run.load(tmp_path / "full").at(RESID, pos=span), full.at(RESID, pos=span))
    with pytest.raises(MissingActivation, match="did not capture 'hook_embed'"):
        back["hook_embed"]
    with pytest.raises(MissingActivation, match="in no layer"):
        back.stack("attn.hook_z")
    assert "hook_embed" not in back


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.unlink(), "is no saved run"),
        (lambda p: p.write_bytes(b"x"), "is no saved run"),
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "is no saved run"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"mi-core run 1", b"mi-core run 9")), "format is not"),
    ],
)
def test_a_damaged_file_is_refused(spoil: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    small().run([[1, 2]], mi.capture(RESID)).save(path)
    spoil(path)
    with pytest.raises(LoadError, match=said):
        mi.Run.load(path)


def test_the_receipt_survives_json() -> None:
    receipt = small().run([[1, 2]], SPEC).receipt
    assert type(receipt).from_json(json.loads(json.dumps(receipt.to_json()))) == receipt
