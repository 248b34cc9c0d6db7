from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, laid_out, small

import mi_core as mi
from mi_core.errors import SelectorError, SpecError
from mi_core.metering import Meter

POINT, IDS = "blocks.1.hook_resid_post", [[3, 4, 5, 6], [7, 8, 9, 10]]


@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([torch.bfloat16, torch.float16, torch.float64]), st.booleans())
def test_a_capture_in_another_dtype_is_the_capture_rounded(
    rows: list[list[int]], layout: str, seed: int, dtype: torch.dtype, before: bool
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    edit = mi.intervene(POINT, mi.Scale(1.5))
    plain = small().run(ids, edit + mi.capture(POINT, before=before), attention_mask=mask)
    placed = small().run(ids, edit + mi.capture(POINT, before=before, dtype=dtype), attention_mask=mask)
    one, other = (run.before[POINT] if before else run[POINT] for run in (plain, placed))
    assert other.dtype == dtype
    assert torch.equal(one.to(dtype), other)
    assert torch.equal(plain.logits, placed.logits)


def test_only_the_selected_part_is_moved() -> None:
    moved: list[tuple[int, ...]] = []

    class Watch(Meter):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
                moved.append(tuple(args[0].shape))
            return super().__torch_dispatch__(func, types, args, kwargs)

    with Watch():
        small().run(IDS, mi.capture(POINT, dtype="bfloat16").at(pos=-1))
    assert moved == [(2, 16)]


def test_integers_keep_their_dtype() -> None:
    from mi_core.placing import Placement

    assert Placement(dtype="float16").put(torch.tensor([300])).dtype == torch.long


@pytest.mark.parametrize("inside", [{"batch_tokens": 4}, {"grad": True}])
def test_chunks_and_gradients_keep_the_placement(inside: dict[str, object]) -> None:
    run = small().run(IDS, mi.capture(POINT, device="host", dtype="float64"), **inside)
    assert run[POINT].dtype == torch.float64
    plain = small().run(IDS, mi.capture(POINT))
    assert torch.allclose(run[POINT].float(), plain[POINT], atol=1e-5)


def test_gradients_are_those_of_the_activation() -> None:
    plain, placed = (
        small().run(IDS, mi.capture(POINT, dtype=dtype), grad=True).grad(mi.logit(3).bound(small(), 2).function, POINT)
        for dtype in (None, "float64")
    )
    assert torch.equal(plain[POINT], placed[POINT].float())


def test_generations_and_resumed_runs_keep_the_placement() -> None:
    spec = mi.capture(POINT, device="host", dtype="bfloat16")
    made = small().generate(IDS, spec, max_new_tokens=2)
    assert made[POINT].dtype == torch.bfloat16
    assert made[POINT].shape == (2, 6, 16)
    assert small().run(IDS, resumable=True).resume(spec)[POINT].dtype == torch.bfloat16


def test_specs_remember_where_captures_go(tmp_path: Path) -> None:
    placed = mi.capture(POINT, device="host", dtype=torch.float16).at(pos=-1)
    placed.save(tmp_path / "spec.json")
    assert mi.HookSpec.load(tmp_path / "spec.json") == placed
    assert repr(placed) == f"capture({POINT!r}, device='cpu', dtype='float16').at(pos=-1)"
    assert placed != mi.capture(POINT).at(pos=-1)
    assert mi.capture(POINT, device="host") == mi.capture(POINT, device=torch.device("cpu"))


@pytest.mark.parametrize("device", ["nowhere", "meta", 1.5])
def test_what_is_no_place_is_refused(device: object) -> None:
    with pytest.raises(SpecError, match=r'give "host"'):
        mi.capture(POINT, device=device)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["int8", torch.bool, "large", "nn"])
def test_what_is_no_dtype_of_activations_is_refused(dtype: object) -> None:
    with pytest.raises(SpecError, match="floating-point"):
        mi.capture(POINT, dtype=dtype)  # type: ignore[arg-type]


def test_a_device_that_is_not_here_is_refused_before_anything_runs() -> None:
    with pytest.raises(SpecError, match=r"cannot be kept on device='cuda:99'"):
        small().plan(IDS, mi.capture(POINT, device="cuda:99"))


def test_one_point_is_kept_in_one_way() -> None:
    with pytest.raises(SelectorError, match="in different ways"):
        small().run(IDS, mi.capture(POINT) + mi.capture(POINT, dtype="float16"))
