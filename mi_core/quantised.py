"""Quantised checkpoints: recognised by their config or by how their tensors look, and refused with a way out.

What is read all the same is in `mi_core.dequantising`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.safetensors_header import TensorInfo

__all__ = ["FLOAT8", "KEYS", "refuse_quantised", "refuse_quantised_tensors", "stated_method"]

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
READ: Final = ("fp8", "mxfp4")
WAY_OUT: Final = (
    "Use the checkpoint that it was made from (its model card names it); quantise='int8' holds that one in eight bits."
)
PLAIN_COPY: Final = " Or save a copy with plain weights: transformers' model.dequantize(), then model.save_pretrained."
"""What transformers can do for bitsandbytes alone. Source: transformers 5.24, quantizers/: `_dequantize`."""


def stated_method(config: Config) -> tuple[str, Mapping[str, Any]]:
    """The method by which the config says that weights are quantised, and all that it says of it; empty for none."""
    for key in KEYS:
        found = config.get(key) if key in config else None
        if found is not None:
            stated = found if isinstance(found, dict) else {}
            old = "bitsandbytes" if stated.keys() & {"load_in_4bit", "load_in_8bit"} else repr(found)
            return str(stated.get("quant_method", old)), stated
    return "", {}


def refuse_quantised(config: Config) -> None:
    """Quantised weights are other numbers than the config's dtype says.

    Raises:
        BadConfig: the config says so, of a method that is not read; the message names it.
    """
    method, stated = stated_method(config)
    if method and method not in READ:
        raise BadConfig(
            f"{config.where}: the checkpoint is quantised ({method!r}), which is not read. {way_out(method)}",
            method=method,
            value=stated,
            path=config.where,
        )


def way_out(method: str) -> str:
    """What to do instead."""
    return WAY_OUT + (PLAIN_COPY if method == "bitsandbytes" else "")


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
        f"{where}: the checkpoint is quantised ({method}: {name!r}), though its config does not say so. "
        f"{way_out(method)}",
        value=name,
        path=where,
    )
