"""Parameters go back to where they were taken from, whatever moved them, and computed ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_core.assembling import assembled
from mi_core.blueprint import Weight
from mi_core.errors import NotSerialisable


def rows(start: int, stop: int, *, turned: bool = False) -> Callable[[Tensor], Tensor]:
    return lambda tensor: (tensor.T if turned else tensor)[start:stop]


def part(index: int, n_heads: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.view(n_heads, 3, -1, tensor.shape[-1])[:, index].reshape(-1, tensor.shape[-1])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Mapping[str, Weight], Mapping[str, tuple[int, ...]]]:
    """Weights, and the shapes of the checkpoint's tensors."""
    width, n_heads = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    total, turned = sum(sizes), draw(st.booleans())
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    side = {
        f"p{i}": Weight.of("side", view=rows(start, start + size, turned=turned))
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    }
    heads = {f"h{i}": Weight.of("heads", view=part(i, n_heads)) for i in range(3)}
    stacked = {"s": Weight.of(*(f"e.{i}" for i in range(total)), view=lambda *each: torch.stack(each).transpose(1, 2))}
    split = {
        f"x{i}": Weight.of("e.0x", "e.1x", view=lambda *each, i=i: torch.stack([one[:, i::2] for one in each]))
        for i in range(2)
    }
    plain = {"plain": Weight.of("plain")}
    found = {
        "side": (width, total) if turned else (total, width),
        "heads": (n_heads * 3 * 2, width),
        "plain": (5,),
        **dict.fromkeys((f"e.{i}" for i in range(total)), (3, width)),
        **dict.fromkeys(("e.0x", "e.1x"), (width, 6)),
    }
    return {**side, **heads, **stacked, **split, **plain}, found


@given(layouts())
def test_taking_apart_and_putting_together_changes_nothing(
    layout: tuple[Mapping[str, Weight], Mapping[str, tuple[int, ...]]],
) -> None:
    weights, sizes = layout
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in sizes.items()}
    parameters = {name: weight.view(*(tensors[key] for key in weight.names)) for name, weight in weights.items()}
    found = assembled(weights, parameters, "toy")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].is_contiguous() for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "view",
    [
        lambda tensor: tensor + 1,
        lambda tensor: tensor.float().exp(),
        lambda tensor: tensor[:2],
        lambda tensor: torch.cat((tensor[:2], tensor[:2])),
    ],
    ids=["adds", "exponentiates", "leaves rows out", "repeats rows"],
)
def test_what_changes_numbers_or_loses_them_is_refused(view: Callable[[Tensor], Tensor]) -> None:
    tensor = torch.arange(12.0).view(4, 3)
    parameters = {"w": view(tensor), "rest": tensor.clone()}
    weights = {"w": Weight.of("a", view=view), "rest": Weight.of("b")}
    if len(parameters["w"]) == 2:
        weights["rest"], parameters["rest"] = Weight.of("a", view=lambda whole: whole[3:]), tensor[3:]
    with pytest.raises(NotSerialisable, match="w comes from a"):
        assembled(weights, parameters, "toy")
