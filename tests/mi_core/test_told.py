"""``.at(expert=17)`` is wherever expert 17 was chosen: written there and nowhere else, read as zero elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mi_core as mi
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.errors import MissingActivation, SelectorError, ValueMismatch

POST, INDICES = "blocks.0.mlp.experts.hook_post", "blocks.0.mlp.hook_expert_indices"
EXPERTS = st.one_of(st.integers(-6, 5), st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True))


@pytest.fixture(scope="module")
def model() -> mi.Model:
    config = plugins.plugin("mi_core.families", "qwen2_moe").call("mi_family_examples")[0]
    model = mi.build(config, trainable=False)
    initialise_randomly(model, 0)
    return model


def prompts(seed: int = 0) -> list[list[int]]:
    ids = torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(seed)).tolist()
    return [ids[0], ids[1][:5]]


def chosen(run: mi.Run, expert: int | list[int]) -> Tensor:
    wanted = [index % 6 for index in ([expert] if isinstance(expert, int) else expert)]
    return torch.isin(run[INDICES], torch.tensor(wanted))[..., None] & run.mask[..., None, None]


@given(expert=EXPERTS, seed=st.integers(0, 99), tokens=st.sampled_from([None, 1, 9]))
def test_reads_are_zero_where_another_expert_is(
    model: mi.Model, expert: int | list[int], seed: int, tokens: int | None
) -> None:
    whole = model.run(prompts(seed), mi.capture([POST, INDICES]))
    part = model.run(prompts(seed), mi.capture(POST).at(expert=expert), batch_tokens=tokens)
    torch.testing.assert_close(part[POST], whole[POST] * chosen(whole, expert), atol=1e-6, rtol=0)
    assert torch.equal(part.at(POST, expert=expert), part[POST])


@given(expert=EXPERTS, seed=st.integers(0, 99))
def test_writes_reach_the_slots_that_hold_the_expert(model: mi.Model, expert: int | list[int], seed: int) -> None:
    whole = model.run(prompts(seed), mi.capture([POST, INDICES]))
    step = torch.arange(1.0, 21.0)
    spec = mi.intervene(POST, mi.Add(step).at(expert=expert)) + mi.intervene(POST, mi.Scale(2.0).at(expert=expert))
    run = model.run(prompts(seed), spec + mi.capture(POST) + mi.capture(POST, before=True))
    wanted = torch.where(chosen(whole, expert), 2 * (whole[POST] + step), whole[POST])
    torch.testing.assert_close(run[POST], wanted)
    assert torch.equal(run.before[POST], whole[POST])


def test_other_selectors_narrow_it_further(model: mi.Model) -> None:
    whole = model.run(prompts(), mi.capture([POST, INDICES]))
    expert = int(whole[INDICES][1, 2, 1])
    run = model.run(prompts(), mi.intervene(POST, mi.Zero().at(expert=expert, pos=2, batch=1)) + mi.capture(POST))
    wanted = whole[POST].clone()
    wanted[1, 2, 1] = 0.0
    assert torch.equal(run[POST], wanted)


def test_routes_that_a_write_has_changed_are_those_that_count(model: mi.Model) -> None:
    logits = "blocks.0.mlp.hook_router_logits"
    send = mi.intervene(logits, mi.Replace(-50.0)) + mi.intervene(logits, mi.Replace(50.0).at(expert=4))
    run = model.run(prompts(), send + mi.intervene(POST, mi.Replace(1.0).at(expert=4)) + mi.capture([POST, INDICES]))
    assert (run[INDICES][run.mask][:, 0] == 4).all()
    assert (run[POST][run.mask][:, 0] == 1.0).all()


def test_sweeps_and_generations_give_what_runs_give(model: mi.Model) -> None:
    specs = {str(expert): mi.intervene(POST, mi.Zero().at(expert=expert)) for expert in range(6)}
    swept = model.sweep(prompts(), specs, mi.logit(3)).values
    for row, spec in zip(swept, specs.values(), strict=True):
        torch.testing.assert_close(row, model.run(prompts(), spec).last_logits[:, 3], atol=1e-5, rtol=0)
    for spec in specs.values():
        one, other = (model.generate(prompts()[0], spec, max_new_tokens=6, cache=cache) for cache in (True, False))
        assert one.tokens.tolist() == other.tokens.tolist()


def test_what_needs_to_know_its_entries_beforehand_is_refused(model: mi.Model) -> None:
    whole = model.run(prompts(), mi.capture(POST))
    for edit in (mi.Replace(whole), mi.Mean(), mi.Resample(whole, seed=0)):
        with pytest.raises(SelectorError, match="elsewhere"):
            model.run(prompts(), mi.intervene(POST, edit.at(expert=1)))
    with pytest.raises(MissingActivation, match="captured"):
        whole.at(POST, expert=1)
    with pytest.raises(SelectorError, match="out of range"):
        model.run(prompts(), mi.capture(POST).at(expert=6))
    with pytest.raises(SelectorError, match="no dim 'expert'"):
        model.run(prompts(), mi.capture(INDICES).at(expert=1))
    with pytest.raises(ValueMismatch):
        model.run(prompts(), mi.intervene(POST, mi.Add(torch.ones(19)).at(expert=1)))
