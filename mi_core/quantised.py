"""Quantised checkpoints: recognised by their config or by how their tensors look, and refused with a way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.safetensors_header import TensorInfo

__all__ = ["refuse_quantised", "refuse_quantised_tensors"]

KEYS: Final = ("quantization_config", "compression_config", "quantization")
MARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "GPTQ or AWQ": (".qweight", ".qzeros", ".g_idx"),
    "bitsandbytes": (".weight.absmax", ".weight.quant_map", ".bitsandbytes__nf4", ".bitsandbytes__fp4", ".SCB"),
    "compressed-tensors": (".weight_packed", ".weight_zero_point"),
    "MXFP4": ("_proj_blocks", "_proj_scales"),
    "FP8": (".weight_scale_inv", ".weight_scale", ".input_scale"),
}
"""Method -> how names of its tensors end. Source: the methods' writers; transformers 5.24, quantizers/."""
FLOAT8: Final = (torch.float8_e4m3fn, torch.float8_e5m2)
INTEGERS: Final = (torch.int8, torch.uint8, torch.int32)
WAY_OUT: Final = (
    "Use the checkpoint that it was made from (its model card names it), or save a copy with plain weights: "
    "transformers' model.dequantize(), then model.save_pretrained(folder)."
)


def refuse_quantised(config: Config) -> None:
    """Quantised weights are other numbers than the config's dtype says.

    Raises:
        BadConfig: the config says so; the message names the method.
    """
    for key in KEYS:
        if key in config and config[key] is not None:
            found = config[key]
            method = found.get("quant_method", found) if isinstance(found, dict) else found
            raise BadConfig(
                f"{config.where}: the checkpoint is quantised ({key}: {method!r}), which is not read. {WAY_OUT}",
                key=key,
                value=found,
                path=config.where,
            )


def refuse_quantised_tensors(tensors: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse what a config keeps quiet about: older tools wrote it into a file of their own, or nowhere.

    Raises:
        BadConfig: tensors are named or stored as a quantisation does; the message names the method and one of them.
    """
    for method, ends in MARKS.items():
        for name in tensors:
            if name.endswith(ends):
                raise refused(method, name, where)
    for name, info in tensors.items():
        if info.dtype in FLOAT8:
            raise refused("FP8", name, where)
        if info.dtype in INTEGERS and len(info.shape) > 1 and name.endswith("weight"):
            raise refused("packed integers", name, where)


def refused(method: str, name: str, where: str) -> BadConfig:
    """The error for one tensor."""
    return BadConfig(
        f"{where}: the checkpoint is quantised ({method}: {name!r}), though its config does not say so. {WAY_OUT}",
        value=name,
        path=where,
    )
