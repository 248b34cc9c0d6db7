from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, small

import mi_core as mi
from mi_core.noise import mixed, picked_rows

POINT = "blocks.1.attn.hook_z"


def noisy(ids: object, seed: int, **options: object) -> torch.Tensor:
    spec = mi.intervene(POINT, mi.Replace(0.0)) + mi.intervene(POINT, mi.Noise(1.0, seed=seed)) + mi.capture(POINT)
    return small().run(ids, spec, **options)[POINT]  # type: ignore[arg-type]


@given(ROWS, LAYOUTS, SEEDS)
def test_noise_is_a_function_of_seed_row_and_position_only(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    whole = noisy(ids, seed, attention_mask=mask)
    assert torch.equal(whole, noisy(ids, seed, attention_mask=mask, batch_tokens=4))
    assert torch.equal(whole[mask], noisy(rows, seed)[torch.arange(max(map(len, rows))) < mask.sum(1)[:, None]])
    other = [[(token + 1) % 61 for token in row] for row in rows]
    assert torch.equal(whole[mask], noisy(other, seed)[torch.arange(max(map(len, rows))) < mask.sum(1)[:, None]])
    assert not torch.equal(whole, noisy(ids, seed + 1, attention_mask=mask))


@given(st.lists(st.integers(0, 60), min_size=2, max_size=6), SEEDS, st.data())
def test_noise_at_a_selection_is_a_part_of_the_noise(row: list[int], seed: int, data: st.DataObject) -> None:
    full = noisy([row, row], seed)
    assert not torch.equal(full[0], full[1])
    pos = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=3, unique=True))
    edit = mi.Noise(1.0, seed=seed).at(pos=pos, head=[2, 0], batch=1)
    spec = mi.intervene(POINT, mi.Zero()) + mi.intervene(POINT, edit) + mi.capture(POINT)
    part = small().run([row, row], spec)[POINT]
    wanted = torch.zeros_like(full)
    for p in pos:
        wanted[1, p, [0, 2]] = full[1, p, [0, 2]]
    assert torch.equal(part, wanted)


@given(st.lists(st.integers(0, 60), min_size=3, max_size=6), SEEDS)
def test_noise_goes_on_behind_a_memory(row: list[int], seed: int) -> None:
    whole = noisy([row], seed)
    memory = small().run([row[:2]], resumable=True).memory()
    assert torch.equal(noisy([row[2:]], seed, memory=memory), whole[:, 2:])


def test_noise_is_normal() -> None:
    drawn = noisy([list(range(60))] * 8, 5).flatten().double()
    assert abs(float(drawn.mean())) < 0.05
    assert abs(float(drawn.std()) - 1) < 0.05
    share = (drawn.abs() < 1).double().mean()
    assert abs(float(share) - math.erf(1 / math.sqrt(2))) < 0.02
    pairs = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]
    assert abs(float(pairs)) < 0.05


@given(SEEDS, st.integers(1, 9))
def test_rows_are_picked_by_seed_and_row_alone(seed: int, among: int) -> None:
    rows = torch.arange(20)
    picked = picked_rows(seed, rows, among)
    assert bool(((picked >= 0) & (picked < among)).all())
    assert torch.equal(picked_rows(seed, rows[[7, 3]], among), picked[[7, 3]])


def test_counters_do_not_collide() -> None:
    assert len(set(mixed(torch.arange(10000)).tolist())) == 10000


def test_std_scales() -> None:
    spec = mi.intervene(POINT, mi.Zero()) + mi.intervene(POINT, mi.Noise(2.5, seed=1)) + mi.capture(POINT)
    close(small().run([[1, 2, 3]], spec)[POINT], 2.5 * noisy([[1, 2, 3]], 1))
