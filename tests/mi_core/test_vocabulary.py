from __future__ import annotations

import pytest
from small_models import small

from mi_core.names import Points
from mi_core.vocabulary import ACCEPTED_DIMS, LOOKALIKES, STANDARD, site


@pytest.mark.parametrize("name", STANDARD)
def test_every_row_makes_a_site_that_says_what_it_is(name: str) -> None:
    row = STANDARD[name]
    made = site(name, range(2) if row.in_layer else None, head=4)
    assert (made.name, made.dims) == (name, row.dims)
    assert (made.layers is not None) == row.in_layer
    assert len(row.meaning) > 10
    assert row.dims[0] == "batch"
    assert name.rpartition(".")[2].startswith("hook_")


def test_a_norms_denominator_is_one_number() -> None:
    assert site("ln1.hook_scale", (0,)).sizes["one"] == 1
    assert "one" not in site("hook_embed", d_model=3).sizes


def test_lookalikes_and_accepted_dims_are_in_the_table() -> None:
    assert {name for one, other, _ in LOOKALIKES for name in (one, other)} <= set(STANDARD)
    assert all(len(what.split(" / ")) == 2 for _, _, what in LOOKALIKES)
    dims = {dim for row in STANDARD.values() for dim in row.dims}
    assert {*ACCEPTED_DIMS, *ACCEPTED_DIMS.values()} <= dims


def test_the_table_is_in_the_order_in_which_a_model_fires() -> None:
    order = list(STANDARD)
    layer = [point.site.name for point in small().points if point.layer in (None, 0)]
    assert layer == sorted(layer, key=order.index)


def test_sites_say_which_of_the_tables_rules_hold() -> None:
    points: Points = small().points
    for point in points:
        row = STANDARD[point.site.name]
        assert (point.site.on_demand, point.site.replaces_kernel) == (row.on_demand, row.replaces_kernel)
        assert point.site.keeps_masked == row.keeps_masked
        assert point.site.dims == row.dims
