from __future__ import annotations

import pytest
import torch
from hypothesis import given
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, small

import mi_core as mi
from mi_core.comparing import divergence
from mi_core.errors import ValueMismatch

EDIT = mi.intervene("blocks.1.hook_mlp_out", mi.Scale(4.0))


@given(ROWS, LAYOUTS, SEEDS)
def test_a_comparison_is_the_divergence_at_each_token(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    base, run = small().run(ids, attention_mask=mask), small().run(ids, EDIT, attention_mask=mask)
    seen = run.compare(base)
    wanted = torch.nn.functional.kl_div(
        run.logits.log_softmax(-1), base.logits.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    close(seen.kl, wanted * mask)
    close(seen.kl_last(), torch.stack([wanted[i][mask[i]][-1] for i in range(len(rows))]))
    assert seen.largest_logit_difference == float((run.logits - base.logits).abs().max())
    for number, changes in enumerate(seen.changes):
        assert len(changes) == 5
        for change in changes:
            assert abs(change.before - float(base.last_logits[number].softmax(-1)[change.id])) < 1e-6
            assert abs(change.after - float(run.last_logits[number].softmax(-1)[change.id])) < 1e-6
        sizes = [abs(change.after - change.before) for change in changes]
        assert sizes == sorted(sizes, reverse=True)
    assert "nats" in repr(seen)
    assert not base.compare(base).kl.any()


def test_runs_of_other_layouts_are_not_compared() -> None:
    with pytest.raises(ValueMismatch, match="different layouts"):
        small().run([[1, 2]]).compare(small().run([[1, 2, 3]]))
    with pytest.raises(ValueMismatch, match="different layouts"):
        small().run([[1, 2], [1]]).compare(small().run([[1], [1, 2]]))


def test_tokens_that_are_never_said_count_nothing() -> None:
    never = torch.tensor([0.5, 0.5, 0.0]).log()
    close(divergence(never, torch.tensor([0.25, 0.25, 0.5]).log()), torch.tensor(2.0).log())
    assert divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()).isposinf()
