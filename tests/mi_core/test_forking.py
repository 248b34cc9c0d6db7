from dataclasses import replace

import pytest
from small_models import small

import mi_core as mi
from mi_core.binding import bind
from mi_core.forking import fork_of
from mi_core.names import Points

MODEL = small()
RUN = MODEL.run([1, 2, 3, 4], resumable=True)


@pytest.mark.parametrize(("causal", "first"), [(True, 2), (False, 0)])
def test_a_fork_begins_where_something_is_written_unless_earlier_columns_see_it(causal, first):
    points = Points(MODEL.backend.sites(), replace(MODEL.shape, causal=causal))
    spec = mi.intervene("blocks.1.hook_resid_pre", mi.Zero().at(pos=2))
    bound = bind(spec, points, RUN.trunk.layout, RUN._prompts.rows)
    fork = fork_of(bound, bound)
    assert (fork.layer, fork.first.tolist()) == (1, [first])
