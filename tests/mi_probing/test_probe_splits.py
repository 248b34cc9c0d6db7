"""Groups never leak, parts have every class, and what cannot be split is said."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import InputError
from mi_probing.code_length import OnlineCode
from mi_probing.controls import control_labels, seen_types, shuffled
from mi_probing.splits import folds_of, split_of

SEEDS = st.integers(0, 2**31)


def grouped(seed: int, groups: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups of one to four examples, each group of one class, several groups of each class."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 5, (groups,), generator=draw)
    member = torch.repeat_interleave(torch.arange(groups), sizes)
    order = torch.randperm(len(member), generator=draw)
    return member[order], (torch.arange(groups) % classes)[member][order]


@given(SEEDS, st.integers(24, 60), st.integers(2, 3), SEEDS)
def test_no_group_is_in_two_parts(seed, groups, classes, split_seed):
    member, labels = grouped(seed, groups, classes)
    split = split_of(member, labels, (0.5, 0.2, 0.3), seed=split_seed)
    parts = [set(member[mask].tolist()) for mask in (split.train, split.validation, split.test)]
    assert set.union(*parts) == set(range(groups))
    assert sum(map(len, parts)) == groups
    assert all(
        set(labels[mask].tolist()) == set(range(classes)) for mask in (split.train, split.validation, split.test)
    )
    assert abs(float(split.test.float().mean()) - 0.3) < 0.15


@given(SEEDS, st.integers(20, 50), st.integers(2, 5), SEEDS)
def test_no_group_is_in_two_folds(seed, groups, count, split_seed):
    member, labels = grouped(seed, groups, 2)
    used = member % 5 != 0
    folds = folds_of(member, labels, used, count, seed=split_seed)
    assert torch.equal(folds < 0, ~used)
    for group in range(groups):
        assert len(set(folds[member == group].tolist())) == 1
    assert set(folds[used].tolist()) == set(range(count))


def test_another_seed_splits_otherwise_and_the_same_does_not():
    member, labels = grouped(0, 40, 2)
    one, again, other = (split_of(member, labels, seed=seed).test for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_class_in_one_group_cannot_be_split():
    member = torch.tensor([0, 0, 1, 2, 3, 4])
    labels = torch.tensor([1, 1, 0, 0, 0, 0])
    with pytest.raises(InputError, match=r"part has no example of class .*: its examples are in too few groups"):
        split_of(member, labels, (0.5, 0.0, 0.5))


@pytest.mark.parametrize(
    ("count", "groups", "message"),
    [(1, 8, "folds=1 of 8 groups"), (9, 8, "folds=9 of 8 groups .* give 2 to 8 folds"), (2, 1, "of 1 groups")],
)
def test_fewer_groups_than_folds_are_refused(count, groups, message):
    member = torch.arange(8) % groups
    with pytest.raises(InputError, match=message):
        folds_of(member, torch.arange(8) % 2, torch.ones(8, dtype=torch.bool), count)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.8, -0.1, 0.3)])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(InputError, match="those of train, validation and test"):
        split_of(torch.arange(8), torch.arange(8) % 2, shares)


@given(SEEDS, st.integers(8, 30))
def test_a_control_task_labels_types_and_keeps_the_shares(seed, groups):
    member, labels = grouped(seed, groups, 2)
    made = control_labels(member, labels, seed=seed)
    for one in range(groups):
        assert len(set(made[member == one].tolist())) == 1
    of_types = torch.stack([made[member == one][0] for one in range(groups)]).float().mean()
    assert abs(of_types - labels.float().mean()) < 0.3
    out = seen_types(member, torch.ones_like(member, dtype=torch.bool), 0.25, seed=seed)
    assert set(member[out].tolist()) <= set(member[~out].tolist())


def test_a_control_task_without_repeated_types_is_refused():
    with pytest.raises(InputError, match="every type has one"):
        seen_types(torch.arange(5), torch.ones(5, dtype=torch.bool), 0.25)


@given(SEEDS, st.integers(8, 30))
def test_shuffling_keeps_what_goes_together(seed, groups):
    member, labels = grouped(seed, groups, 2)
    made = shuffled(labels, member, seed=seed)
    for one in range(groups):
        assert len(set(made[member == one].tolist())) == 1
    mixed = torch.arange(len(member)) % 2
    if any(len(set(mixed[member == one].tolist())) > 1 for one in range(groups)):
        assert torch.equal(shuffled(mixed, member, seed=seed).sort().values, mixed.sort().values)


@given(SEEDS, st.integers(8, 40), st.integers(2, 3))
def test_blocks_of_a_code_hold_whole_groups_and_begin_with_every_class(seed, groups, classes):
    member, labels = grouped(seed, groups, classes)
    code = OnlineCode.of(member, labels, classes, seed=seed)
    for one in range(groups):
        assert len(set(code.block[member == one].tolist())) == 1
    assert set(labels[code.block == 0].tolist()) == set(range(classes))
    assert set(code.block.tolist()) == set(range(code.blocks))


def test_each_block_is_foretold_from_those_before_it_alone():
    member, labels = grouped(4, 30, 2)
    code = OnlineCode.of(member, labels, 2)
    weights = code.tasks(labels, 2, torch.ones(1)).weights
    for number, used in enumerate(weights, start=1):
        assert torch.equal(used > 0, code.block < number)


def test_a_code_of_guesses_is_the_uniform_code():
    member, labels = grouped(3, 30, 2)
    code = OnlineCode.of(member, labels, 2)
    guesses = torch.full((1, code.blocks - 1, len(labels)), 0.6931471805599453)
    assert float(code.bits(guesses, 2)) == pytest.approx(len(labels), rel=1e-5)
    assert float(code.bits(0 * guesses, 2)) == int((code.block == 0).sum())
