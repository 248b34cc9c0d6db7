"""Maps of patches are our sweeps', under TransformerLens' names."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest
import torch
from small_models import close, small
from torch import Tensor

import mi_core as mi
from mi_core.compat.transformer_lens import HookedTransformer, patching
from mi_core.errors import MiError, SelectorError

CLEAN, CORRUPT = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[1, 9, 3, 4], [5, 6, 2, 8]])


def metric(logits: Tensor) -> Tensor:
    return (logits[:, -1, 3] - logits[:, -1, 5]).mean()


@cache
def given() -> tuple[HookedTransformer, Any]:
    model = HookedTransformer(small())
    return model, model.run_with_cache(CLEAN)[1]


def swept(point: str, *each: str) -> Tensor:
    """The same map by a sweep."""
    grid = mi.patch_grid(point, source=CLEAN, each=each)
    found: Tensor = small().sweep(CORRUPT, grid, metric=lambda logits: logits[:, 3] - logits[:, 5]).mean("batch").values
    return found


MAPS = {
    "resid_pre": ("blocks.*.hook_resid_pre", ("layer", "pos")),
    "resid_post": ("blocks.*.hook_resid_post", ("layer", "pos")),
    "mlp_out": ("blocks.*.hook_mlp_out", ("layer", "pos")),
    "attn_head_out_by_pos": ("blocks.*.attn.hook_z", ("layer", "pos", "head")),
    "attn_head_out_all_pos": ("blocks.*.attn.hook_z", ("layer", "head")),
    "attn_head_q_all_pos": ("blocks.*.attn.hook_q", ("layer", "head")),
    "attn_head_v_by_pos": ("blocks.*.attn.hook_v", ("layer", "pos", "kv_head")),
    "attn_head_pattern_all_pos": ("blocks.*.attn.hook_pattern", ("layer", "head")),
    "attn_head_pattern_by_pos": ("blocks.*.attn.hook_pattern", ("layer", "head", "query_pos")),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_the_sweep_s(name: str) -> None:
    model, clean = given()
    found = getattr(patching, f"get_act_patch_{name}")(model, CORRUPT, clean, metric)
    point, each = MAPS[name]
    close(found, swept(point, *each))


def test_standing_hooks_are_under_every_patch() -> None:
    model, clean = HookedTransformer(small()), given()[1]
    with model.hooks([("blocks.0.hook_mlp_out", lambda value, hook: value * 0)]):
        found = patching.get_act_patch_resid_pre(model, CORRUPT, clean, metric)
    # behind layer 0 the whole stream comes from the clean run at that position
    edit = mi.intervene("blocks.0.hook_mlp_out", mi.Zero())
    run = small().run(CLEAN, mi.capture("blocks.2.hook_resid_pre"))
    patch = mi.intervene("blocks.2.hook_resid_pre", mi.Replace(run)).at(pos=1)
    close(found[2, 1], metric(small().run(CORRUPT, edit + patch).logits))


def test_cells_may_be_given_and_are_returned_as_a_data_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas", reason="data frames need pandas")
    model, clean = given()
    ask = (model, CORRUPT, clean, metric, patching.layer_pos_patch_setter, "resid_pre")
    whole, cells = patching.generic_activation_patch(*ask, ("layer", "pos"), return_index_df=True)
    assert list(cells.columns) == ["layer", "pos"]
    some = pd.DataFrame([(2, 1), (0, 3)], columns=["layer", "pos"])
    flat, same = patching.generic_activation_patch(*ask, index_df=some, return_index_df=True)
    close(flat, torch.stack((whole[2, 1], whole[0, 3])))
    assert same is some
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MiError, match=r"mi-core\[frame\]"):
        patching.generic_activation_patch(*ask, ("layer", "pos"), return_index_df=True)


def test_what_says_no_cells_is_refused() -> None:
    model, clean = given()
    ask = (model, CORRUPT, clean, metric, patching.layer_pos_patch_setter, "resid_pre")
    with pytest.raises(SelectorError, match="either index_axis_names or index_df"):
        patching.generic_activation_patch(*ask)
    with pytest.raises(SelectorError, match="'expert' is no axis of cells"):
        patching.generic_activation_patch(*ask, ("layer", "expert"))
