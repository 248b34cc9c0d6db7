"""Checkpoints that are stored in few bits are read as the reference dequantises them, or refused for what is odd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import reference, reference_run, save
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import mi_core as mi
from mi_core import plugins
from mi_core.dequantising import from_blocks, from_mxfp4
from mi_core.errors import BadConfig
from mi_core.fill import slots

BLOCK = (2, 2)
"""So small that every matrix has whole blocks only, which the reference needs."""
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(BLOCK), "fmt": "e4m3"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
SIZES = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 16}
"""Groups of 32 numbers, which MXFP4 has, for gpt-oss."""
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def in_blocks(matrix: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A matrix in FP8 with the scale of each block, as DeepSeek writes it."""
    rows, columns = matrix.shape
    grid = -(-rows // block[0]), -(-columns // block[1])
    padded = torch.zeros(grid[0] * block[0], grid[1] * block[1])
    padded[:rows, :columns] = matrix
    tiles = padded.view(grid[0], block[0], grid[1], block[1])
    scales = tiles.abs().amax((1, 3)).clamp(min=1e-6) / 448
    small = (tiles / scales[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
    return small.to(torch.float8_e4m3fn), scales


def quantise_fp8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "layers" in name and "gate.weight" not in name:
            found[name], found[f"{name}_scale_inv"] = in_blocks(tensor.float(), BLOCK)
        else:
            found[name] = tensor
    return found


def quantise_mxfp4(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stacks of experts as random blocks and scales: any bits are numbers."""
    draw = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, columns, rows = tensor.shape
            found[f"{name}_blocks"] = torch.randint(0, 256, (experts, rows, columns // 32, 16), generator=draw).byte()
            found[f"{name}_scales"] = torch.randint(121, 125, (experts, rows, columns // 32), generator=draw).byte()
        else:
            found[name] = tensor
    return found


def stored(folder: Path, name: str, method: Mapping[str, Any], dtype: str = "bfloat16", **changes: Any) -> Path:
    """A tiny checkpoint of the reference's, its matrices quantised."""
    example = plugins.plugin("mi_core.families", name).call("mi_family_examples")[0]
    save(reference({**example, **changes}, dtype=dtype), folder)
    tensors = load_file(folder / "model.safetensors")
    made = quantise_fp8(tensors) if method["quant_method"] == "fp8" else quantise_mxfp4(tensors)
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    return folder


CASES: dict[str, tuple[str, Mapping[str, Any], dict[str, Any]]] = {
    "llama": ("llama", FP8, {}),
    "experts one by one": ("deepseek_v3", FP8, {}),
    "stacked experts": ("gpt_oss", MXFP4, SIZES),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_reference_that_dequantises(case: str, dtype: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    name, method, changes = CASES[case]
    folder = stored(tmp_path, name, method, **changes)
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **EAGER).eval()
    logging.set_verbosity(before)
    model = mi.load(folder, dtype=dtype, device="cpu")
    expected = reference_run(theirs, IDS).logits.float()
    error = (model.run(IDS).logits.float() - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if dtype == "float32" else 3e-2)


@given(rows=st.integers(1, 4), groups=st.integers(1, 3), seed=st.integers(0, 99))
def test_mxfp4_is_what_the_reference_makes_of_it(rows: int, groups: int, seed: int) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    draw = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (2, rows, groups, 16), generator=draw).byte()
    scales = torch.randint(0, 256, (2, rows, groups), generator=draw).byte()
    expected = convert_moe_packed_tensors(blocks, scales)
    assert torch.equal(from_mxfp4(blocks, scales).transpose(1, 2), expected)


@given(grid=st.tuples(st.integers(1, 3), st.integers(1, 3)), block=st.tuples(st.integers(1, 4), st.integers(1, 4)))
@pytest.mark.parametrize("exponents", [False, True])
def test_whole_blocks_are_what_the_reference_makes_of_them(
    exponents: bool, grid: tuple[int, int], block: tuple[int, int]
) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    matrix = torch.randn(2, grid[0] * block[0], grid[1] * block[1]).to(torch.float8_e4m3fn)
    scales = torch.randint(100, 140, (2, *grid)).byte() if exponents else torch.rand(2, *grid)
    expected = Fp8Dequantize(None)._dequantize_one(matrix, scales, torch.float32)
    assert torch.equal(from_blocks(matrix, scales, block), expected)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 9),
)
def test_shorter_blocks_at_the_end_have_scales_of_their_own(
    shape: tuple[int, int], block: tuple[int, int], seed: int
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    small, scales = in_blocks(matrix, block)
    made = from_blocks(small, scales, block)
    for row in range(shape[0]):
        for column in range(shape[1]):
            assert made[row, column] == small[row, column].float() * scales[row // block[0], column // block[1]]
    # three bits of mantissa, and steps of 2 ** -9 below the least exponent
    step = scales.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]] * 2.0**-10
    assert bool(((made - matrix).abs() <= matrix.abs() / 16 + step * 1.01).all())


def test_what_was_dequantised_is_said_and_saved_as_plain_weights(tmp_path: Path) -> None:
    folder = stored(tmp_path / "small", "gpt_oss", MXFP4, **SIZES)
    model = mi.load(folder, device="cpu")
    words = "4 tensors dequantised from mxfp4"
    assert model.provenance.dequantised == words
    assert f"weights  {words}\n" in str(model.run(IDS).receipt)
    found = mi.inspect(folder)
    assert (found.problem, found.dequantised) == (None, words)
    assert found.stored == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    mi.save_model(model, tmp_path / "plain")
    again = mi.load(tmp_path / "plain", device="cpu")
    assert again.provenance.dequantised == ""
    assert torch.equal(again.run(IDS).logits, model.run(IDS).logits)


@pytest.mark.parametrize("case", ["llama", "stacked experts"])
def test_they_are_offloaded_and_quantised_anew_like_any_other(case: str, tmp_path: Path) -> None:
    name, method, changes = CASES[case]
    folder = stored(tmp_path, name, method, **changes)
    whole = mi.load(folder, device="cpu")
    split = mi.load(folder, device_map={"": "cpu", "blocks": "disk"})
    assert torch.equal(split.run(IDS).logits, whole.run(IDS).logits)
    anew = mi.load(folder, quantise="int8", device="cpu")
    assert anew.provenance.dequantised
    assert "int8" in anew.provenance.quantised
    for one, other in zip(slots(anew.module).values(), slots(whole.module).values(), strict=True):
        plain = one.dequantize() if hasattr(one, "held") else one
        assert (plain.float() - other.float()).abs().max() < 0.01 * other.float().abs().max()


def test_a_stack_of_experts_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(blocks: Tensor, scales: Tensor) -> Tensor:
        made.append(len(blocks))
        return from_mxfp4(blocks, scales)

    monkeypatch.setattr("mi_core.dequantising.from_mxfp4", counted)
    mi.load(stored(tmp_path, "gpt_oss", MXFP4, **SIZES), device="cpu")
    assert made == [6, 6, 6, 6]


def test_scales_of_activations_are_left_out(tmp_path: Path) -> None:
    folder = stored(tmp_path, "llama", FP8)
    expected = mi.load(folder, device="cpu").run(IDS).logits
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.activation_scale"] = torch.ones(())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(mi.load(folder, device="cpu").run(IDS).logits, expected)


NAME = "model.layers.0.mlp.down_proj.weight"
ODD: dict[str, tuple[Mapping[str, Any], str, dict[str, Tensor | None]]] = {
    "a scale without a matrix": (FP8, "has no partner", {NAME: None}),
    "a matrix without a scale": (FP8, "has no partner", {f"{NAME}_scale_inv": None}),
    "scales by another name": (FP8, "has no partner", {f"{NAME}_scale": torch.ones(1)}),
    "another grid": (
        FP8,
        r"\[3, 3\], which does not fit .* in blocks of \[2, 2\]",
        {f"{NAME}_scale_inv": torch.ones(3, 3)},
    ),
    "nothing quantised": (MXFP4, "no tensor has scales", {}),
}


@pytest.mark.parametrize("what", ODD)
def test_tensors_that_do_not_fit_what_the_config_says_are_refused(what: str, tmp_path: Path) -> None:
    method, words, changes = ODD[what]
    folder = stored(tmp_path, "llama", FP8)
    tensors: dict[str, Any] = {**load_file(folder / "model.safetensors"), **changes}
    if method is MXFP4:
        tensors = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith("_scale_inv")}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    with pytest.raises(BadConfig, match=words):
        mi.load(folder)
    assert isinstance(mi.inspect(folder).problem, BadConfig)
