"""Activation patching as ``transformer_lens.patching`` does it: every cell of a map is a run with one thing replaced.

Each run goes on from the corrupted one at the layer that is patched. `mi_core.Model.sweep` packs cells together and
patches positions that are named, too; what is the same in both is equal. Source: TransformerLens 3.9, patching.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mi_core.compat.transformer_lens.act_names import get_act_name
from mi_core.compat.transformer_lens.hooked_transformer import HookedTransformer
from mi_core.errors import MiError, SelectorError
from mi_core.interventions import Apply
from mi_core.spec import intervene

__all__ = [
    "generic_activation_patch",
    "get_act_patch_attn_head_all_pos_every",
    "get_act_patch_attn_head_by_pos_every",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_k_by_pos",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_out_by_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "get_act_patch_attn_head_pattern_by_pos",
    "get_act_patch_attn_head_pattern_dest_src_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_q_by_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_v_by_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_post",
    "get_act_patch_resid_pre",
    "layer_head_dest_src_pos_pattern_patch_setter",
    "layer_head_pattern_patch_setter",
    "layer_head_pos_pattern_patch_setter",
    "layer_head_vector_patch_setter",
    "layer_pos_head_vector_patch_setter",
    "layer_pos_patch_setter",
]

Index = Sequence[int]
PatchMetric = Callable[[Tensor], Tensor]
"""From logits ``[batch pos d_vocab]`` to one number."""


class PatchSetter(Protocol):
    """Puts a part of the clean activation into a corrupted one."""

    def __call__(self, corrupted_activation: Tensor, index: Index, clean_activation: Tensor) -> Tensor:
        """The patched activation; ``index`` is what the cell stands for, the layer first."""
        ...


def generic_activation_patch(
    model: HookedTransformer,
    corrupted_tokens: Tensor,
    clean_cache: Mapping[Any, Tensor],
    patching_metric: PatchMetric,
    patch_setter: PatchSetter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: Any = None,
    return_index_df: bool = False,
) -> Any:
    """The metric of every patch: a dim for each axis, or one entry for each row of ``index_df`` (columns: the axes).

    Args:
        model: the model.
        corrupted_tokens: what is patched.
        clean_cache: where from.
        patching_metric: from logits to a number.
        patch_setter: what a cell does to the activation.
        activation_name: a short name, such as ``"resid_pre"``.
        index_axis_names: ``"layer"``, then any of ``"pos"``, ``"head"``, ``"head_index"``, ``"dest_pos"``,
            ``"src_pos"``.
        index_df: or the cells themselves, as a data frame whose first column is the layer.
        return_index_df: return the data frame of cells, too (needs pandas).

    Raises:
        SelectorError: neither or both of ``index_axis_names`` and ``index_df``, or no such axis.
    """
    if (index_axis_names is None) == (index_df is None):
        raise SelectorError("give either index_axis_names or index_df.")
    sizes: list[int] = []
    if index_df is None:
        names = [str(name) for name in index_axis_names or ()]
        sizes = [size_of(model, axis, corrupted_tokens, activation_name) for axis in names]
        cells: list[tuple[int, ...]] = list(product(*map(range, sizes)))
    else:
        names = list(index_df.columns)
        cells = [tuple(int(each) for each in row) for row in index_df.itertuples(index=False)]
    with torch.no_grad():
        values = list(
            patched(model, corrupted_tokens, clean_cache, patching_metric, patch_setter, activation_name, cells)
        )
    found = torch.tensor(values, device=model.cfg.device)
    found = found.view(sizes) if index_df is None else found
    return (found, data_frame(cells, names) if index_df is None else index_df) if return_index_df else found


def patched(
    model: HookedTransformer,
    tokens: Tensor,
    clean_cache: Mapping[Any, Tensor],
    metric: PatchMetric,
    setter: PatchSetter,
    activation: str,
    cells: Sequence[tuple[int, ...]],
) -> Iterator[float]:
    """The metric of each cell, from a run that goes on from the corrupted one."""
    base = model.resumable(tokens)
    for index in cells:
        name = get_act_name(activation, index[0])
        edit = partial(put, setter=setter, index=index, clean=clean_cache[name])
        yield float(metric(base.resume(intervene(name, Apply(edit))).logits))


def put(value: Tensor, setter: PatchSetter, index: Index, clean: Tensor) -> Tensor:
    """The patched activation."""
    return setter(value, index, clean)


def size_of(model: HookedTransformer, axis: str, tokens: Tensor, activation: str) -> int:
    """How many cells there are along an axis."""
    n_heads = model.cfg.n_key_value_heads if activation in ("k", "v") else model.cfg.n_heads
    columns = int(tokens.shape[-1])
    sizes = {"layer": model.cfg.n_layers, **dict.fromkeys(("pos", "src_pos", "dest_pos"), columns)}
    sizes |= dict.fromkeys(("head", "head_index"), n_heads or 0)
    if axis not in sizes:
        raise SelectorError(f"{axis!r} is no axis of cells; there are {', '.join(sizes)}.", axis=axis)
    return sizes[axis]


def data_frame(cells: Sequence[tuple[int, ...]], names: Sequence[str]) -> Any:
    """Cells as a data frame."""
    try:
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError as error:
        raise MiError("a data frame needs pandas, which is not installed: pip install 'mi-core[frame]'") from error
    return pd.DataFrame(cells, columns=list(names))


def layer_pos_patch_setter(corrupted_activation: Tensor, index: Index, clean_activation: Tensor) -> Tensor:
    """One position; ``index`` is layer, position."""
    _, pos = index
    corrupted_activation[:, pos] = clean_activation[:, pos]
    return corrupted_activation


def layer_pos_head_vector_patch_setter(corrupted_activation: Tensor, index: Index, clean_activation: Tensor) -> Tensor:
    """One head at one position; ``index`` is layer, position, head."""
    _, pos, head = index
    corrupted_activation[:, pos, head] = clean_activation[:, pos, head]
    return corrupted_activation


def layer_head_vector_patch_setter(corrupted_activation: Tensor, index: Index, clean_activation: Tensor) -> Tensor:
    """One head at all positions; ``index`` is layer, head."""
    _, head = index
    corrupted_activation[:, :, head] = clean_activation[:, :, head]
    return corrupted_activation


def layer_head_pattern_patch_setter(corrupted_activation: Tensor, index: Index, clean_activation: Tensor) -> Tensor:
    """One head's pattern; ``index`` is layer, head."""
    _, head = index
    corrupted_activation[:, head] = clean_activation[:, head]
    return corrupted_activation


def layer_head_pos_pattern_patch_setter(corrupted_activation: Tensor, index: Index, clean_activation: Tensor) -> Tensor:
    """One head's pattern at one query; ``index`` is layer, head, query."""
    _, head, query = index
    corrupted_activation[:, head, query] = clean_activation[:, head, query]
    return corrupted_activation


def layer_head_dest_src_pos_pattern_patch_setter(
    corrupted_activation: Tensor, index: Index, clean_activation: Tensor
) -> Tensor:
    """One entry of one head's pattern; ``index`` is layer, head, query, key."""
    _, head, query, key = index
    corrupted_activation[:, head, query, key] = clean_activation[:, head, query, key]
    return corrupted_activation


def over(activation: str, setter: PatchSetter, *axes: str) -> Callable[..., Any]:
    """``f(model, corrupted_tokens, clean_cache, patching_metric)`` over these axes."""
    return partial(
        generic_activation_patch, patch_setter=setter, activation_name=activation, index_axis_names=("layer", *axes)
    )


get_act_patch_resid_pre = over("resid_pre", layer_pos_patch_setter, "pos")
get_act_patch_resid_mid = over("resid_mid", layer_pos_patch_setter, "pos")
get_act_patch_resid_post = over("resid_post", layer_pos_patch_setter, "pos")
get_act_patch_attn_out = over("attn_out", layer_pos_patch_setter, "pos")
get_act_patch_mlp_out = over("mlp_out", layer_pos_patch_setter, "pos")
get_act_patch_attn_head_out_by_pos = over("z", layer_pos_head_vector_patch_setter, "pos", "head")
get_act_patch_attn_head_q_by_pos = over("q", layer_pos_head_vector_patch_setter, "pos", "head")
get_act_patch_attn_head_k_by_pos = over("k", layer_pos_head_vector_patch_setter, "pos", "head")
get_act_patch_attn_head_v_by_pos = over("v", layer_pos_head_vector_patch_setter, "pos", "head")
get_act_patch_attn_head_pattern_by_pos = over("pattern", layer_head_pos_pattern_patch_setter, "head_index", "dest_pos")
get_act_patch_attn_head_pattern_dest_src_pos = over(
    "pattern", layer_head_dest_src_pos_pattern_patch_setter, "head_index", "dest_pos", "src_pos"
)
get_act_patch_attn_head_out_all_pos = over("z", layer_head_vector_patch_setter, "head")
get_act_patch_attn_head_q_all_pos = over("q", layer_head_vector_patch_setter, "head")
get_act_patch_attn_head_k_all_pos = over("k", layer_head_vector_patch_setter, "head")
get_act_patch_attn_head_v_all_pos = over("v", layer_head_vector_patch_setter, "head")
get_act_patch_attn_head_pattern_all_pos = over("pattern", layer_head_pattern_patch_setter, "head_index")


def stacked(maps: Sequence[Callable[..., Tensor]], *given: Any) -> Tensor:
    """Several maps in one; shared key heads are fewer, and what they lack is zero."""
    found = [each(*given) for each in maps]
    heads = max(each.shape[-1] for each in found)
    return torch.stack([pad(each, (0, heads - each.shape[-1])) for each in found])


def get_act_patch_attn_head_all_pos_every(
    model: HookedTransformer, corrupted_tokens: Tensor, clean_cache: Mapping[Any, Tensor], metric: PatchMetric
) -> Float[Tensor, "kind layer head"]:
    """Of every head: its output, query, key, value and pattern, at all positions."""
    maps = (
        get_act_patch_attn_head_out_all_pos,
        get_act_patch_attn_head_q_all_pos,
        get_act_patch_attn_head_k_all_pos,
        get_act_patch_attn_head_v_all_pos,
        get_act_patch_attn_head_pattern_all_pos,
    )
    return stacked(maps, model, corrupted_tokens, clean_cache, metric)


def get_act_patch_attn_head_by_pos_every(
    model: HookedTransformer, corrupted_tokens: Tensor, clean_cache: Mapping[Any, Tensor], metric: PatchMetric
) -> Float[Tensor, "kind layer pos head"]:
    """Of every head: its output, query, key, value and pattern, position by position."""

    def patterns(*given: Any) -> Tensor:
        found: Tensor = get_act_patch_attn_head_pattern_by_pos(*given)
        return found.mT

    maps = (
        get_act_patch_attn_head_out_by_pos,
        get_act_patch_attn_head_q_by_pos,
        get_act_patch_attn_head_k_by_pos,
        get_act_patch_attn_head_v_by_pos,
        patterns,
    )
    return stacked(maps, model, corrupted_tokens, clean_cache, metric)


def get_act_patch_block_every(
    model: HookedTransformer, corrupted_tokens: Tensor, clean_cache: Mapping[Any, Tensor], metric: PatchMetric
) -> Float[Tensor, "kind layer pos"]:
    """The stream before each layer, attention's output and the MLP's, position by position."""
    maps = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
    return stacked(maps, model, corrupted_tokens, clean_cache, metric)
