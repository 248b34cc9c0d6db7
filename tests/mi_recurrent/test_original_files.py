"""Original ``.pth`` files: alone or in a folder, without a config, only on request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from original_checkpoints import DATA, VERSIONS, random_original, renamed
from torch import Tensor

import mi_core as mi
from mi_core.errors import BadConfig, CorruptCheckpoint, LoadError, MissingTensors, ModelNotFound, TensorMismatch

EVERY = pytest.mark.parametrize("version", VERSIONS)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def written(tensors: Any, path: Path) -> str:
    torch.save(tensors, path)
    return str(path)


def same(ours: mi.Model, theirs: mi.Model) -> None:
    # matrices that lie the other way round are multiplied in another order
    torch.testing.assert_close(ours.run(IDS).logits, theirs.run(IDS).logits, rtol=0, atol=2e-6)


@EVERY
def test_an_original_file_is_the_model_that_hugging_face_has_of_it(version: str, tmp_path: Path) -> None:
    theirs = mi.load(str(DATA / f"{version}-seed0"))
    for path in (tmp_path / "RWKV-x-1B5.pth", tmp_path):
        if path.suffix:
            written(renamed(version), path)
        ours = mi.load(str(path), allow_pickle=True)
        same(ours, theirs)
        assert ours.name == theirs.name


@EVERY
def test_it_becomes_a_hugging_face_checkpoint(version: str, tmp_path: Path) -> None:
    """Whatever the sizes: heads, ranks, depth, eps."""
    path = written(random_original(version, heads=3, d_head=4, layers=3), tmp_path / "model.pth")
    model = mi.load(path, allow_pickle=True)
    mi.save_model(model, tmp_path / "out")
    again = mi.load(str(tmp_path / "out"))
    same(again, model)


@EVERY
def test_half_precision_files_are_read_as_they_are(version: str, tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in random_original(version).items()}
    model = mi.load(written(half, tmp_path / "model.pth"), allow_pickle=True)
    assert model.dtype is torch.bfloat16
    assert bool(model.run(IDS).logits.isfinite().all())


def test_a_first_layer_may_hold_a_value_mix_that_nobody_uses(tmp_path: Path) -> None:
    tensors = random_original("rwkv7")
    plain = mi.load(written(tensors, tmp_path / "plain.pth"), allow_pickle=True)
    more = {f"blocks.0.att.v{digit}": tensors[f"blocks.1.att.v{digit}"] for digit in "012"}
    model = mi.load(written(tensors | more, tmp_path / "more.pth"), allow_pickle=True)
    assert torch.equal(model.run(IDS).logits, plain.run(IDS).logits)


def test_the_head_norm_of_the_seventh_version_does_not_follow_the_size_of_heads(tmp_path: Path) -> None:
    model = mi.load(written(random_original("rwkv7", d_head=4), tmp_path / "model.pth"), allow_pickle=True)
    assert model.config["head_norm_eps"] == 64e-5
    # nor with a config that leaves it out
    stated = {key: value for key, value in model.config.items() if key != "head_norm_eps"}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    model = mi.load(str(tmp_path), allow_pickle=True)
    assert [block.mixer.spec.eps for block in model.module.layers] == [64e-5, 64e-5]


# -- bad input ---------------------------------------------------------------------------------------


def test_a_pickle_is_read_on_request_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(random_original("rwkv4"), tmp_path / "model.pth")
    for ref in (path, str(tmp_path)):
        with pytest.raises(ModelNotFound, match=r"model\.pth.*allow_pickle=True"):
            mi.load(ref)
    monkeypatch.chdir(tmp_path)
    assert mi.load("model.pth", allow_pickle=True).name == "rwkv"


def test_a_file_alone_is_nothing_but_that_file(tmp_path: Path) -> None:
    written(random_original("rwkv4"), tmp_path / "a.pth")
    written(random_original("rwkv6"), tmp_path / "b.pth")
    (tmp_path / "config.json").write_text("{}")
    assert mi.load(str(tmp_path / "b.pth"), allow_pickle=True).name == "rwkv6"
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"several pickle files \(a\.pth, b\.pth\)"):
        mi.load(str(tmp_path), allow_pickle=True)


def test_no_code_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return (tmp_path.joinpath("harmed").mkdir, ())

    path = written({"emb.weight": Evil()}, tmp_path / "model.pth")
    with pytest.raises(CorruptCheckpoint, match="weights_only"):
        mi.load(path, allow_pickle=True)
    assert not (tmp_path / "harmed").exists()


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def without(*patterns: str) -> Change:
    return lambda tensors: {k: t for k, t in tensors.items() if not any(re.search(p, k) for p in patterns)}


def per_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t[:, 0] if k.endswith(("time_decay", "time_faaaa")) else t for k, t in tensors.items()}


def narrow(name: str) -> Change:
    return lambda tensors: {k: t[..., :-1] if k == name else t for k, t in tensors.items()}


BAD: dict[str, tuple[str, Change, type[LoadError], str]] = {
    "5.0": ("rwkv5", without("gate", "faaaa"), BadConfig, r"RWKV-5\.0 or 5\.1, which is not computed"),
    "5.1": ("rwkv5", per_head, BadConfig, r"RWKV-5\.0 or 5\.1, which is not computed"),
    "no version": ("rwkv4", without("time_first"), ModelNotFound, "no installed family knows its tensors"),
    "no map": ("rwkv7", without(r"1\.att\.a1"), MissingTensors, r"no 'blocks\.1\.att\.a1'"),
    "no bias": ("rwkv7", without(r"1\.att\.w0"), MissingTensors, r"blocks\.1\.att\.w0"),
    "no mix": ("rwkv6", without(r"0\.att\.time_maa_w2"), MissingTensors, r"no 'blocks\.0\.att\.time_maa_w2'"),
    "no layer": ("rwkv5", without(r"blocks\.0\.[af]"), ModelNotFound, "no installed family knows its tensors"),
    "no head": ("rwkv4", without("head"), MissingTensors, "head.weight"),
    "narrow matrix": (
        "rwkv6",
        narrow("blocks.1.att.key.weight"),
        TensorMismatch,
        r"blocks\.1\.att\.key\.weight is \[16, 15",
    ),
    "narrow map": (
        "rwkv7",
        narrow("blocks.1.att.g2"),
        TensorMismatch,
        r"g_up_weight needs \[16, 6\] and gets \[15, 6\]",
    ),
    "narrow norm": ("rwkv4", narrow("ln_out.bias"), TensorMismatch, r"ln_out\.bias is \[15\]"),
    "uneven heads": ("rwkv7", lambda t: t | {"blocks.0.att.r_k": torch.ones(3, 5)}, BadConfig, "3 heads do not divide"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_contradicts_itself_is_refused(case: str, tmp_path: Path) -> None:
    version, change, error, said = BAD[case]
    with pytest.raises(error, match=said):
        mi.load(written(change(random_original(version)), tmp_path / "model.pth"), allow_pickle=True)
