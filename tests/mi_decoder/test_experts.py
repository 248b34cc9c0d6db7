"""A mixture of experts is the plain sum over experts, however its tokens are sorted, padded and looked at."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_decoder import Experts, GatedMLP
from mi_decoder.dispatch import Dispatch, tokens_of
from mi_decoder.experts import ClampedSwiglu, ExpertsModule
from mi_decoder.routing import TopK

SPEC = Experts(5, 6, TopK(2), shared=GatedMLP(3), shared_gate=True, bias=True, router_bias=True)


def filled(spec: Experts = SPEC, seed: int = 0) -> ExpertsModule:
    module, draw = spec.build(4), torch.Generator().manual_seed(seed)
    for path, parameter in list(module.named_parameters()):
        owner, _, name = path.rpartition(".")
        value = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        module.get_submodule(owner).register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module


def batch_of(lengths: list[int], columns: int) -> Batch:
    length = torch.tensor(lengths)
    ids = torch.zeros(len(lengths), columns, dtype=torch.long)
    return Batch(ids, torch.zeros_like(length), length, length, torch.arange(columns).expand_as(ids))


def draws(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(module: ExpertsModule, x: Tensor, weights: Tensor) -> Tensor:
    """Every expert on every token, weighted; and the shared one."""
    names = module.weights()

    def mlp(start: str, x: Tensor) -> Tensor:
        def product(name: str, x: Tensor) -> Tensor:
            return x @ names[f"{start}.W_{name}"] + names.get(f"{start}.b_{name}", 0.0)

        return product("out", torch.nn.functional.silu(product("gate", x)) * product("in", x))

    each = torch.stack([mlp(f"mlp.experts.{index}", x) for index in range(module.spec.n_experts)], -2)
    shared = torch.sigmoid(x @ names["mlp.shared.W_gate_out"]) * mlp("mlp.shared", x)
    return (each * weights[..., None]).sum(-2) + shared


class Writing(IdleTap):
    """Sees everything, and writes some of it."""

    def __init__(self, **written: Tensor) -> None:
        self.seen: dict[str, Tensor] = {}
        self.written = {f"mlp.hook_{name}": value for name, value in written.items()}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen[name] = value
        return self.written.get(name, value)

    def wants(self, *names: str) -> bool:
        return True

    def edits(self, *names: str) -> bool:
        return any(name in self.written for name in names)


@given(st.integers(0, 9999), st.integers(1, 3), st.integers(1, 7))
def test_chosen_experts_and_the_shared_one_sum_to_the_output(seed: int, rows: int, columns: int) -> None:
    module, x, tap = filled(seed=seed), draws(rows, columns, 4, seed=seed), Writing()
    batch = batch_of([columns] * rows, columns)
    out = module.transform(x, batch, tap)
    torch.testing.assert_close(out, written_out(module, x, tap.seen["mlp.hook_expert_weights"]))
    assert torch.equal(out, module.transform(x, batch, IDLE))
    assert [site.name for site in module.sites()] == list(tap.seen)


def test_a_weight_calls_an_expert_that_the_router_did_not_choose() -> None:
    module, x = filled(), draws(2, 3, 4)
    weights = draws(2, 3, 5, seed=2)
    weights[0, 0] = 0.0
    out = module.transform(x, batch_of([3, 3], 3), Writing(expert_weights=weights))
    torch.testing.assert_close(out, written_out(module, x, weights))


def test_router_logits_send_tokens_elsewhere() -> None:
    module, x = filled(), draws(1, 4, 4)
    logits = torch.tensor([[0.0, 1.0, 9.0, 2.0, 8.0]], dtype=torch.float64).expand(1, 4, 5)
    tap = Writing(router_logits=logits)
    module.transform(x, batch_of([4], 4), tap)
    assert (tap.seen["mlp.hook_expert_indices"] == torch.tensor([2, 4])).all()


def test_weights_of_experts_that_are_not_chosen_have_the_slope_of_what_those_would_write() -> None:
    module, x = filled(), draws(1, 2, 4)
    weights = torch.zeros(1, 2, 5, dtype=torch.float64, requires_grad=True)
    out = module.transform(x, batch_of([2], 2), Writing(expert_weights=weights))
    slope = torch.autograd.grad(out.sum(), weights)[0]
    ones = torch.eye(5, dtype=torch.float64)
    for expert in range(5):
        wanted = (written_out(module, x, ones[expert].expand(1, 2, 5)) - written_out(module, x, 0 * weights)).sum(-1)
        torch.testing.assert_close(slope[..., expert], wanted)


def test_columns_that_are_no_tokens_go_to_no_expert() -> None:
    module, x = filled(), draws(2, 4, 4)
    batch, tap = batch_of([4, 2], 4), Writing()
    out = module.transform(x, batch, tap)
    assert (tap.seen["mlp.experts.hook_out"][1, 2:] == 0).all()
    given = Writing(expert_weights=draws(2, 4, 5, seed=2))
    nothing = written_out(module, x, torch.zeros(2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(module.transform(x, batch, given)[1, 2:], nothing[1, 2:])
    other = x.clone()
    other[1, 2:] = 7.0
    assert torch.equal(out[1, :2], module.transform(other, batch, IDLE)[1, :2])
    assert torch.equal(out[0], module.transform(other, batch, IDLE)[0])


def test_kept_columns_are_told_from_padding() -> None:
    batch = dataclasses.replace(batch_of([4, 2], 4), keep=torch.tensor([[3], [3]]))
    kept = tokens_of(batch, 1)
    assert kept is not None
    assert kept.tolist() == [[True], [False]]
    assert tokens_of(batch_of([3, 3], 3), 3) is None


def test_pairs_are_sorted_by_expert_and_find_their_way_back() -> None:
    indices = torch.tensor([[[2, 0], [1, 2]]])
    dispatch = Dispatch.of_slots(indices, None)
    assert dispatch.spans == ((0, 0, 1), (1, 1, 2), (2, 2, 4))
    assert dispatch.token.tolist() == [0, 1, 0, 1]
    assert dispatch.laid(indices.flatten()[dispatch.place].double()[:, None])[..., 0].tolist() == indices.tolist()
    assert Dispatch.of_mask(torch.zeros(1, 2, 3, dtype=torch.bool)).spans == ()


def test_input_weights_multiply_what_experts_read() -> None:
    spec = Experts(3, 6, TopK(1, score="sigmoid"), weighs_input=True)
    module, x, tap = filled(spec), draws(1, 3, 4), Writing()
    out = module.transform(x, batch_of([3], 3), tap)
    weights, names = tap.seen["mlp.hook_expert_input_weights"], module.weights()
    for column in range(3):
        expert = int(tap.seen["mlp.hook_expert_indices"][0, column])
        read = x[0, column] * weights[0, column, expert]
        gate, linear, back = (names[f"mlp.experts.{expert}.W_{name}"] for name in ("gate", "in", "out"))
        torch.testing.assert_close(out[0, column], (torch.nn.functional.silu(read @ gate) * (read @ linear)) @ back)


@pytest.mark.parametrize(("gate", "linear"), [(9.0, 9.0), (-9.0, -9.0), (0.5, 0.25)])
def test_both_branches_are_clamped_and_the_linear_one_is_shifted(gate: float, linear: float) -> None:
    neurons = ClampedSwiglu(1.7, 2.0)(torch.tensor([gate]), torch.tensor([linear]))
    kept, up = min(gate, 2.0), min(max(linear, -2.0), 2.0)
    torch.testing.assert_close(neurons, torch.tensor([(up + 1) * kept / (1 + torch.e ** (-1.7 * kept))]))
