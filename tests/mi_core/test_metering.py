from __future__ import annotations

import pytest
import torch
from measuring import operations_of, peak_of
from small_models import small

import mi_core as mi
from mi_core.metering import Meter

IDS = [[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]]


@pytest.mark.parametrize("spec", [mi.HookSpec(), mi.capture("*"), mi.intervene("blocks.*.attn.hook_z", mi.Zero())])
def test_it_counts_what_torch_counts(spec: mi.HookSpec) -> None:
    model = small()

    def run() -> object:
        return model.run(IDS, spec)

    with Meter() as meter:
        run()
    assert meter.cost().operations == operations_of(run) > 0
    assert meter.cost().peak == pytest.approx(peak_of(run), rel=0.02)


def test_what_is_freed_counts_no_longer() -> None:
    with Meter() as meter:
        first = torch.zeros(1000)
        del first
        second = torch.zeros(600)
        third = second * 2
    assert meter.cost().peak_bytes == {"cpu": 4800}
    assert len(third) == 600


def test_views_and_changes_in_place_take_nothing() -> None:
    given = torch.zeros(100, 10)
    with Meter() as meter:
        given.T.flatten(0)[:3].add_(1)
        given.view(-1).mul_(2)
    assert meter.cost().peak == 4000  # the copy of flatten


def test_nothing_costs_nothing() -> None:
    with Meter() as meter:
        pass
    assert meter.cost() == mi_cost(0)
    assert meter.cost().peak == 0


def mi_cost(operations: int) -> object:
    from mi_core.metering import Cost

    return Cost(operations)
