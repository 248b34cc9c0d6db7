"""Quantised checkpoints are refused, whether their config or only their tensors say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TINY, reference, save
from safetensors.torch import load_file, save_file

import mi_core as mi
from mi_core.errors import BadConfig

LAYER = "model.layers.0.self_attn.q_proj"
WEIGHT = torch.zeros(32, 32)
TENSORS: dict[str, dict[str, torch.Tensor]] = {
    "GPTQ or AWQ": {f"{LAYER}.qweight": WEIGHT.int(), f"{LAYER}.qzeros": WEIGHT.int(), f"{LAYER}.scales": WEIGHT},
    "bitsandbytes": {f"{LAYER}.weight": WEIGHT.byte(), f"{LAYER}.weight.absmax": WEIGHT[0]},
    "compressed-tensors": {f"{LAYER}.weight_packed": WEIGHT.int(), f"{LAYER}.weight_scale": WEIGHT[0]},
    "MXFP4": {"model.layers.0.mlp.experts.gate_up_proj_blocks": WEIGHT.byte()},
    "FP8": {f"{LAYER}.weight_scale_inv": WEIGHT[0]},
    "packed integers": {f"{LAYER}.weight": WEIGHT.byte()},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}},
    "torchao": {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {}}}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "fbgemm_fp8": {"quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}},
    "compressed-tensors": {"compression_config": {"quant_method": "compressed-tensors"}},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(reference({**TINY, "num_hidden_layers": 1}), tmp_path_factory.mktemp("plain"))


def copied(plain: Path, folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    stated = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, **config}))
    save_file({**load_file(plain / "model.safetensors"), **tensors}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("method", CONFIGS)
def test_a_config_that_says_so_is_refused_by_its_method(plain: Path, tmp_path: Path, method: str) -> None:
    words = rf"quantised \('{method}'\), which is not read.*that it was made from.*quantise='int8'"
    with pytest.raises(BadConfig, match=words) as caught:
        mi.load(copied(plain, tmp_path, CONFIGS[method], {}))
    # of these, transformers makes plain weights of one alone
    assert ("model.dequantize()" in str(caught.value)) == (method == "bitsandbytes")


@pytest.mark.parametrize("method", TENSORS)
def test_tensors_tell_what_the_config_does_not(plain: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(BadConfig, match=rf"quantised \({method}: '.*though its config does not say so.*made from"):
        mi.load(copied(plain, tmp_path, {}, TENSORS[method]))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_quantised_whatever_they_are_called(
    plain: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    with pytest.raises(BadConfig, match=r"FP8: 'model\.layers\.0\.self_attn\.q_proj\.weight'"):
        mi.load(copied(plain, tmp_path, {"dtype": "bfloat16"}, {f"{LAYER}.weight": WEIGHT.to(dtype)}))


def test_plain_weights_are_not(plain: Path, tmp_path: Path) -> None:
    assert mi.load(copied(plain, tmp_path, {"quantization_config": None}, {})).dtype == torch.float32
