"""Checkpoints that store matrices in few bits with tables of scales, read as the plain matrices that these stand for.

Two methods say all that is needed in their tensors: FP8 with a scale for each block (DeepSeek's), and MXFP4 with a
power of two for each 32 numbers (gpt-oss's). Families see an index of plain tensors under their plain names; each is
made when it is read. Only weights are read so: activations, which the writers' kernels quantise too, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.fill import number
from mi_core.quantised import FLOAT8, stated_method
from mi_core.safetensors_header import TensorInfo
from mi_core.tensors import TensorIndex

__all__ = ["Dequantised", "from_blocks", "from_mxfp4", "plain_tensors"]

SCALES: Final = "_scale_inv"
ACTIVATIONS: Final = (".activation_scale", ".input_scale")
"""How names of scales end that only quantised activations need."""
E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""What four bits mean. Source: Open Compute Project, Microscaling Formats 1.0, section 5.3.3."""
HELD: Final = 2
"""Matrices that are kept once they are made: experts take their parts out of the same stacks one after another."""


@dataclass(frozen=True)
class Recipe:
    """One plain tensor: its shape, the stored tensors that it is made of, and how."""

    shape: tuple[int, ...]
    names: tuple[str, ...]
    make: Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True, repr=False)
class Dequantised(TensorIndex):
    """An index of plain tensors over one of stored ones."""

    stored: TensorIndex
    recipes: Mapping[str, Recipe]
    words: str
    """What was dequantised."""
    held: dict[str, Tensor] = field(default_factory=dict, compare=False)

    @classmethod
    def over(cls, stored: TensorIndex, recipes: Mapping[str, Recipe], words: str) -> Dequantised:
        """All that is stored, but with plain tensors in place of those that they are made of."""
        used = {name for recipe in recipes.values() for name in recipe.names}
        infos = {name: info for name, info in stored.infos.items() if name not in used}
        # bfloat16 is what the writers dequantise to; numbers come in more where they need more
        infos |= {name: TensorInfo(recipe.shape, torch.bfloat16, None) for name, recipe in recipes.items()}
        shared = (stored.memory, stored.where, stored.maps, stored.copied)
        return cls(infos, *shared, stored=stored, recipes=recipes, words=words)

    @property
    def bytes(self) -> int:
        """What the tensors take where they are stored."""
        return self.stored.bytes

    def tensor(self, name: str) -> Tensor:
        """The plain tensor."""
        recipe = self.recipes.get(name)
        if recipe is None:
            return super().tensor(name)
        if name not in self.held:
            made = recipe.make(*(self.stored.tensor(part) for part in recipe.names))
            while len(self.held) >= HELD:
                del self.held[next(iter(self.held))]
            self.held[name] = made
        return self.held[name]

    def anew(self) -> TensorIndex:
        """The same over mappings of its own."""
        return Dequantised.over(self.stored.anew(), self.recipes, self.words)


def plain_tensors(index: TensorIndex, config: Config) -> TensorIndex:
    """The index as families read it: dequantised where the config says that it is quantised in a way that is read.

    Raises:
        BadConfig: tensors that do not fit what the config says.
    """
    method, stated = stated_method(config)
    if method not in METHODS:
        return index
    read, ends = METHODS[method]
    recipes = dict(read(index, stated, config))
    used = {name for recipe in recipes.values() for name in recipe.names}
    left = [name for name, info in index.items() if name not in used and (info.dtype in FLOAT8 or name.endswith(ends))]
    if left or not recipes:
        seen = f"{left[0]!r} has no partner" if left else "no tensor has scales"
        raise BadConfig(
            f"{config.where}: the config says that the weights are quantised ({method!r}), but {seen}. Use the "
            "checkpoint that it was made from.",
            path=config.where,
            value=stated,
        )
    kept = {name: info for name, info in index.infos.items() if not name.endswith(ACTIVATIONS)}
    return Dequantised.over(
        replace(index, infos=kept), recipes, f"{number(recipes, 'tensor')} dequantised from {method}"
    )


def fp8_recipes(index: TensorIndex, stated: Mapping[str, Any], config: Config) -> Iterator[tuple[str, Recipe]]:
    """Each matrix with its scales.

    Source: DeepSeek-V3, inference/kernel.py (`weight_dequant`); transformers 5.24, `Fp8Dequantize`.
    """
    block = stated.get("weight_block_size")
    for scales in [name for name in index if name.endswith(SCALES)]:
        name = scales.removesuffix(SCALES)
        if name not in index or index[name].dtype not in FLOAT8:
            continue
        rows, columns = index[name].shape[-2:]
        grid = index[scales].shape[-2:] if len(index[scales].shape) > 1 else (1, 1)
        size = (rows, columns) if block is None else tuple(block)
        if grid != (-(-rows // size[0]), -(-columns // size[1])):
            raise BadConfig(
                f"{config.where}: {scales!r} is {list(index[scales].shape)}, which does not fit "
                f"{list(index[name].shape)} in blocks of {list(size)} (weight_block_size).",
                path=config.where,
                name=scales,
            )

        def make(matrix: Tensor, scales: Tensor, size: tuple[int, int] = size) -> Tensor:
            return from_blocks(matrix, scales, size)

        yield name, Recipe(index[name].shape, (name, scales), make)


def mxfp4_recipes(index: TensorIndex, _stated: Mapping[str, Any], _config: Config) -> Iterator[tuple[str, Recipe]]:
    """Each stack of experts with its scales, as ``[expert, in, out]``."""
    for blocks in [name for name in index if name.endswith("_blocks")]:
        name = blocks.removesuffix("_blocks")
        if f"{name}_scales" in index:
            experts, rows, groups, half = index[blocks].shape
            yield name, Recipe((experts, groups * half * 2, rows), (blocks, f"{name}_scales"), transposed_mxfp4)


METHODS: Final[Mapping[str, tuple[Callable[..., Iterator[tuple[str, Recipe]]], tuple[str, ...]]]] = {
    "fp8": (fp8_recipes, (SCALES, ".weight_scale")),
    "mxfp4": (mxfp4_recipes, ("_blocks", "_scales")),
}
"""Method -> what it makes of an index, and how names end that then must be gone."""


def from_blocks(
    matrix: Float[Tensor, "*stack row column"], scales: Tensor, block: tuple[int, int]
) -> Float[Tensor, "*stack row column"]:
    """Numbers times the scale of their block, in float32; blocks at the end may be shorter.

    >>> from_blocks(torch.ones(2, 3), torch.tensor([[2.0, 5.0]]), (2, 2))
    tensor([[2., 2., 5.],
            [2., 2., 5.]])
    """
    rows, columns = matrix.shape[-2:]
    # whole numbers are exponents (E8M0). Source: Open Compute Project, Microscaling Formats 1.0, section 5.4.1
    wide = scales.float() if scales.is_floating_point() else (scales.float() - 127).exp2()
    wide = wide.reshape(*matrix.shape[:-2], -(-rows // block[0]), -(-columns // block[1]))
    each = wide.repeat_interleave(block[0], -2)[..., :rows, :].repeat_interleave(block[1], -1)[..., :columns]
    return matrix.float() * each


def from_mxfp4(
    blocks: UInt8[Tensor, "*rows group byte"], scales: UInt8[Tensor, "*rows group"]
) -> Float[Tensor, "*rows column"]:
    """Two numbers of four bits in each byte, the lower half first, times a power of two; exact in bfloat16.

    >>> from_mxfp4(torch.tensor([[0x21, 0xF0]], dtype=torch.uint8), torch.tensor([128], dtype=torch.uint8))
    tensor([  1.,   2.,   0., -12.], dtype=torch.bfloat16)

    Source: transformers 5.24, integrations/mxfp4.py, `convert_moe_packed_tensors`.
    """
    table = torch.tensor(E2M1, dtype=torch.bfloat16, device=blocks.device)
    pairs = torch.stack((table[(blocks & 15).int()], table[(blocks >> 4).int()]), -1).flatten(-2)
    return torch.ldexp(pairs, scales.int().unsqueeze(-1) - 127).to(torch.bfloat16).flatten(-2)


def transposed_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """A stack of matrices that is stored ``[expert, out, in]`` and named as ``[expert, in, out]``."""
    return from_mxfp4(blocks, scales).transpose(1, 2)
