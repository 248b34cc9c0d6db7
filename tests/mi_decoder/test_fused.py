"""Parts of fused matrices are the rows that they should be, without a copy where that is possible."""

from __future__ import annotations

import torch

from mi_decoder.fused import EachExpert, of_each_group, of_each_head, side_by_side, transposed


def test_parts_side_by_side_are_views_of_weight_and_bias() -> None:
    weight, bias = torch.arange(40.0).view(10, 4), torch.arange(10.0)
    parts = side_by_side([5, 3, 2])
    assert torch.equal(torch.cat([part(weight) for part in parts]), weight)
    assert torch.equal(torch.cat([part(bias) for part in parts]), bias)
    assert [len(part(bias)) for part in parts] == [5, 3, 2]
    assert all(part(weight).untyped_storage().data_ptr() == weight.untyped_storage().data_ptr() for part in parts)


def test_matrices_stored_the_other_way_round_are_turned_first() -> None:
    stored, bias = torch.arange(40.0).view(4, 10), torch.arange(10.0)
    parts = side_by_side([6, 4], stored=transposed)
    assert torch.equal(parts[1](stored), stored[:, 6:].T)
    assert torch.equal(parts[1](bias), bias[6:])
    assert parts[1](stored).untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()


def test_parts_of_each_head_are_gathered_over_heads() -> None:
    n_heads, d_head, width = 3, 2, 4
    weight = torch.arange(n_heads * 3 * d_head * width).view(-1, width).float()
    for index, part in enumerate(of_each_head(n_heads, d_head)):
        rows = [head * 3 * d_head + index * d_head + dim for head in range(n_heads) for dim in range(d_head)]
        assert torch.equal(part(weight), weight[rows])
        assert torch.equal(part(weight[:, 0]), weight[rows, 0])


def test_parts_of_each_group_are_its_queries_then_a_key_then_a_value() -> None:
    n_kv_heads, n_heads, d_head, width = 2, 6, 2, 4
    weight = torch.arange((n_heads + 2 * n_kv_heads) * d_head * width).view(-1, width).float()
    rows: list[list[int]] = [[], [], []]
    for row in range(len(weight)):
        slot = row // d_head % (n_heads // n_kv_heads + 2)
        rows[max(0, slot - n_heads // n_kv_heads + 1)].append(row)
    for part, wanted in zip(of_each_group(n_kv_heads, n_heads, d_head), rows, strict=True):
        assert torch.equal(part(weight), weight[wanted])
        assert torch.equal(part(weight[:, 0]), weight[wanted, 0])


def test_each_expert_s_part_of_a_stack_is_a_view() -> None:
    stack = torch.arange(3 * 4 * 6.0).view(3, 4, 6)
    gate = EachExpert(lambda tensor: tensor[:, ::2].T)
    for expert in range(3):
        part = gate.of(expert)(stack)
        assert torch.equal(part, stack[expert, :, ::2].T)
        assert part.untyped_storage().data_ptr() == stack.untyped_storage().data_ptr()
    assert torch.equal(EachExpert().of(1)(stack), stack[1])
