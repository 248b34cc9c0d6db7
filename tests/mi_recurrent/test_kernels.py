"""Every recurrence in chunks is the recurrence token by token: what is read, the states, and the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_recurrent.gated_linear import GatedLinear
from mi_recurrent.recurring import Kernel, states_of, stepwise
from mi_recurrent.wkv4 import WKV4
from mi_recurrent.wkv6 import WKV6
from mi_recurrent.wkv7 import WKV7

KERNELS: dict[str, Kernel] = {"4": WKV4(), "6": WKV6(), "7": WKV7(), "6 by head": WKV6(), "7 by head": WKV7()}
KERNELS |= {"state space": GatedLinear(), "state space by head": GatedLinear()}
"""By version; and where the state decays as a whole, as in gated delta nets and Mamba-2."""
SIZES = (2, 3, 8)
"""Rows, heads, channels of a head."""
DECAYS = {"usual": 1.0, "none": 0.0, "weak": 1e-3, "strong": 30.0, "very strong": 1000.0}


def draw(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(name: str, pos: int, decay: str, seed: int, parallel: bool) -> list[Tensor]:
    """Random inputs: decays of a strength, some tokens decaying a thousand times as fast, keys that nearly agree."""
    shape = (*SIZES[:2], pos, SIZES[2])
    r, k, v = (draw(shape, seed + i) for i in range(3))
    gate = torch.rand(*shape[:3], 1, generator=torch.Generator().manual_seed(seed)) * 2
    log_decay = -DECAYS[decay] * torch.rand(shape, generator=torch.Generator().manual_seed(seed + 5))
    if name.endswith("by head"):
        name, log_decay = name.removesuffix(" by head"), log_decay[..., :1]
    if parallel:
        k = draw((*SIZES[:2], 1, SIZES[2]), seed) + 1e-3 * k
    if name == "4":
        return [log_decay, 4 * k, v, 4 * k + draw(shape, seed + 7), gate.expand(shape)]
    if name == "6":
        return [r, log_decay, v, k * 0.3, k * gate]
    if name == "state space":
        return [r, log_decay, k * gate, v]
    # removal keeps a state from growing only if it is along a unit vector, with a share of at most one
    kk = torch.nn.functional.normalize(k, dim=-1)
    share = torch.ones(shape) if parallel else torch.rand(shape, generator=torch.Generator().manual_seed(seed + 8))
    return [r, log_decay, k * gate, v, -kk, kk * share]


def state_of(kernel: Kernel, name: str, inputs: Sequence[Tensor], seed: int, empty: bool) -> Tensor:
    state = kernel.empty(inputs[0], SIZES[2])
    if empty:
        return state
    drawn = draw(state.shape, seed + 11)
    return torch.cat((drawn[:, :, :1], drawn[:, :, 1:2].abs() + 0.5, drawn[:, :, 2:]), 2) if name == "4" else drawn


def near(seen: Tensor, wanted: Tensor, what: str, bound: float = 5e-5) -> None:
    seen, wanted = seen.detach(), wanted.detach()
    difference = float((seen - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    assert difference <= bound, f"{what}: {difference:.2e} of the largest, at most {bound:.0e} wanted"


def quotient(name: str, states: Tensor) -> Tensor:
    """States up to what is never read: of the fourth version's only numerator over denominator counts."""
    return states[..., 0, :] / states[..., 1, :] if name == "4" else states


@pytest.mark.parametrize("name", KERNELS)
@given(
    pos=st.integers(1, 75),
    decay=st.sampled_from(list(DECAYS)),
    seed=st.integers(0, 999),
    parallel=st.booleans(),
    empty=st.booleans(),
)
def test_chunks_are_the_steps(name: str, pos: int, decay: str, seed: int, parallel: bool, empty: bool) -> None:
    kernel = KERNELS[name]
    inputs = inputs_of(name, pos, decay, seed, parallel)
    state = state_of(kernel, name, inputs, seed, empty)
    results = []
    for chunked in (True, False):
        leaves = [x.clone().requires_grad_() for x in (*inputs, state)]
        if chunked:
            read, boundaries = kernel.chunked(leaves[:-1], leaves[-1])
            states = states_of(kernel, leaves[:-1], boundaries)
            near(quotient(name, boundaries[:, :, -1]), quotient(name, states[:, :, -1]), "the last boundary")
        else:
            read, states = stepwise(kernel, leaves[:-1], leaves[-1])
        kept = quotient(name, states)
        weight = draw(read.shape, seed + 20), draw(kept.shape, seed + 21)
        slopes = torch.autograd.grad((read * weight[0]).sum() + (kept * weight[1]).sum(), leaves)
        results.append((read, kept, *slopes))
    for index, (seen, wanted) in enumerate(zip(*results, strict=True)):
        what = ("what is read", "the states")[index] if index < 2 else f"the gradient of input {index - 2}"
        near(seen, wanted, what)


@pytest.mark.parametrize("name", KERNELS)
@given(pos=st.integers(1, 40), decay=st.sampled_from(["usual", "weak", "strong"]), seed=st.integers(0, 999))
def test_effective_attention_times_values_is_what_is_read(name: str, pos: int, decay: str, seed: int) -> None:
    kernel = KERNELS[name]
    inputs = inputs_of(name, pos, decay, seed, parallel=False)
    if name == "4":  # every channel is a head
        inputs = [x[:, :1] for x in inputs]
    read, _ = kernel.chunked(inputs, kernel.empty(inputs[0], SIZES[2]))
    pattern, values = kernel.pattern(inputs), inputs[{"4": 2, "6": 2, "7": 3, "s": 3}[name[0]]]
    product = torch.einsum("bcqk,bhkc->bhqc", pattern, values) if name == "4" else pattern @ values
    near(product, read, "weights times values")
    assert bool((pattern.triu(1) == 0).all())


@pytest.mark.parametrize("name", KERNELS)
@given(pos=st.integers(1, 40), real=st.integers(1, 40), seed=st.integers(0, 999))
def test_pads_leave_the_state_as_it_is(name: str, pos: int, real: int, seed: int) -> None:
    kernel, real = KERNELS[name], min(pos, real)
    inputs = inputs_of(name, pos, "usual", seed, parallel=False)
    pads = (torch.arange(pos) >= real).expand(SIZES[0], 1, pos)[..., None]
    start = kernel.empty(inputs[0], SIZES[2])
    _, padded = kernel.chunked(kernel.silenced(inputs, pads), start)
    _, alone = kernel.chunked([x[:, :, :real] for x in inputs], start)
    near(padded[:, :, -1], alone[:, :, -1], "the state behind the real tokens", 1e-5)
